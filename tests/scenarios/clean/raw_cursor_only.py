"""The helper is a context manager around both."""

# expect: nothing
# args: --fail
import os
from contextlib import contextmanager

import psycopg
from psycopg.rows import dict_row


class LoggingCursor(psycopg.Cursor):
    statements = 0

    def execute(self, *args, **kwargs):
        type(self).statements += 1
        return super().execute(*args, **kwargs)


@contextmanager
def open_cursor():
    with (
        psycopg.connect(os.environ["ZOO_DSN"], row_factory=dict_row, cursor_factory=LoggingCursor) as conn,
        conn.cursor() as cur,
    ):
        yield cur


def main():
    for word in ("tea", "milk"):
        with open_cursor() as cur:
            cur.execute("SELECT upper(%s) AS word", (word,))
            print(cur.fetchone())
    print("statements:", LoggingCursor.statements)


main()
