"""closing() for the connection, the block of the connection for the transaction."""

# expect: nothing
# args: --fail
import sqlite3
from contextlib import closing


def remember(path, word):
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("CREATE TABLE IF NOT EXISTS words (word TEXT)")
        conn.execute("INSERT INTO words VALUES (?)", (word,))
        return conn.execute("SELECT count(*) FROM words").fetchone()[0]


def main():
    print([remember("words.db", word) for word in ("one", "two", "three")])


main()
