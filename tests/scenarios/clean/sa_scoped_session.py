"""The same requests, with remove() at the end of each."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import os
import threading
import time

from sqlalchemy import create_engine, text
from sqlalchemy.orm import scoped_session, sessionmaker

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
Session = scoped_session(sessionmaker(engine))


def request(answers, path):
    try:
        answers.append(Session.execute(text("SELECT length(:path)"), {"path": path}).scalar_one())
    finally:
        Session.remove()


def main():
    answers = []
    for path in ("/", "/cart", "/pay"):
        thread = threading.Thread(target=request, args=(answers, path))
        thread.start()
        thread.join()
    print(answers)
    time.sleep(1.2)
    print(f"ORACLE leaked={engine.pool.checkedout()}")


main()
