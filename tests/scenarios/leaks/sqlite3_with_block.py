"""`with sqlite3.connect(...)` commits and does not close: the most written leak of all."""

# expect: kind=dropped library=sqlite3 certain=yes count=3
# stderr-names-site: yes
import sqlite3
import sys

sys.unraisablehook = lambda unraisable: None


def remember(path, word):
    with sqlite3.connect(path) as conn:  # LEAK
        conn.execute("CREATE TABLE IF NOT EXISTS words (word TEXT)")
        conn.execute("INSERT INTO words VALUES (?)", (word,))
        return conn.execute("SELECT count(*) FROM words").fetchone()[0]


def main():
    print([remember("words.db", word) for word in ("one", "two", "three")])


main()
