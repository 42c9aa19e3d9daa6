"""The block for the transaction, and closing() around it for the connection."""

# expect: nothing
# needs: psycopg2-binary
# args: --fail
import os
from contextlib import closing

from psycopg2 import connect
from psycopg2.extras import RealDictConnection

DSN = os.environ["ZOO_DSN"]


def shout(word):
    with closing(connect(DSN, connection_factory=RealDictConnection)) as conn, conn, conn.cursor() as cursor:
        cursor.execute("SELECT upper(%s) AS loud", (word,))
        return cursor.fetchone()["loud"]


def main():
    print([shout(word) for word in ("one", "two", "three")])


main()
