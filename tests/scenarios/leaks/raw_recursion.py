"""A recursive tree walk opens a connection on every level; only the leaves close theirs."""

# expect: kind=dropped library=psycopg certain=yes count=3
import os

import psycopg

DSN = os.environ["ZOO_DSN"]
TREE = {"root": ["a", "b"], "a": ["a1"], "b": ["b1"], "a1": [], "b1": []}


def size(name):
    conn = psycopg.connect(DSN)  # LEAK
    weight = conn.execute("SELECT length(%s)", (name,)).fetchone()[0]
    children = TREE[name]
    if not children:
        conn.close()
        return weight
    return weight + sum(size(child) for child in children)


def main():
    print("weight:", size("root"))


main()
