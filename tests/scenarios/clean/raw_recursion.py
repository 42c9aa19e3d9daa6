"""The walk passes one connection down."""

# expect: nothing
# args: --fail
import os

import psycopg

TREE = {"root": ["a", "b"], "a": ["a1"], "b": [], "a1": []}


def size(conn, name):
    weight = conn.execute("SELECT length(%s)", (name,)).fetchone()[0]
    return weight + sum(size(conn, child) for child in TREE[name])


def main():
    with psycopg.connect(os.environ["ZOO_DSN"]) as conn:
        print("weight:", size(conn, "root"))


main()
