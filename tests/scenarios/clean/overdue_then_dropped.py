"""Held for less than the threshold, again and again, by one object: the clock starts anew with each checkout."""

# expect: nothing
# args: --fail --threshold 1
# oracle: 0
import os
import time

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1), pool_size=1)


class Editor:
    def read(self, document):
        self.conn = engine.connect()
        try:
            time.sleep(0.5)
            return self.conn.execute(text("SELECT repeat(:d, 2)"), {"d": document}).scalar_one()
        finally:
            self.conn.close()


def main():
    editor = Editor()
    for document in ("la", "li", "lu", "lo"):
        print(editor.read(document))
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
