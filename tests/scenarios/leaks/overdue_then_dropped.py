"""First held for too long, then forgotten for good: a suspicion, and later the proof."""

# expect: kind=overdue library=sqlalchemy certain=no count=1
# expect: kind=dropped library=sqlalchemy certain=yes count=1 healed=yes
# args: --threshold 0.5
import gc
import os
import time

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


class Editor:
    def __init__(self, document):
        self.conn = engine.connect()  # LEAK
        self.text = self.conn.execute(text("SELECT repeat(:d, 2)"), {"d": document}).scalar_one()
        self.conn.rollback()


def main():
    editor = Editor("la")
    print(editor.text)
    time.sleep(2)
    del editor
    gc.collect()
    time.sleep(0.2)
    engine.dispose()


main()
