"""A helper returns only the cursor; who closes the cursor has not closed the connection behind it."""

# expect: kind=dropped library=psycopg certain=yes count=2
import os

import psycopg
from psycopg.rows import dict_row


class LoggingCursor(psycopg.Cursor):
    statements = 0

    def execute(self, *args, **kwargs):
        type(self).statements += 1
        return super().execute(*args, **kwargs)


def open_cursor():
    conn = psycopg.connect(os.environ["ZOO_DSN"], row_factory=dict_row, cursor_factory=LoggingCursor)  # LEAK
    return conn.cursor()


def main():
    for word in ("tea", "milk"):
        with open_cursor() as cur:
            cur.execute("SELECT upper(%s) AS word", (word,))
            print(cur.fetchone())
    del cur
    print("statements:", LoggingCursor.statements)


main()
