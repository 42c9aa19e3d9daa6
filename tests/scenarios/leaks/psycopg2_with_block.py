"""`with psycopg2.connect(...)` ends a transaction, not the connection: what psycopg 3 does better."""

# expect: kind=dropped library=psycopg2 certain=yes count=3
# needs: psycopg2-binary
import os

from psycopg2 import connect
from psycopg2.extras import RealDictConnection

DSN = os.environ["ZOO_DSN"]


def shout(word):
    with connect(DSN, connection_factory=RealDictConnection) as conn, conn.cursor() as cursor:  # LEAK
        cursor.execute("SELECT upper(%s) AS loud", (word,))
        return cursor.fetchone()["loud"]


def main():
    print([shout(word) for word in ("one", "two", "three")])


main()
