"""scoped_session without remove(): each request thread ends with its session open."""

# expect: kind=orphaned library=sqlalchemy certain=yes count=3
# args: --owner-grace 0.5
# oracle: 3
import gc
import os
import threading
import time

from sqlalchemy import create_engine, text
from sqlalchemy.orm import scoped_session, sessionmaker

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
requests = []
Session = scoped_session(sessionmaker(engine))


def request(answers, path):
    requests.append(Session())
    answers.append(Session.execute(text("SELECT length(:path)"), {"path": path}).scalar_one())  # LEAK


def main():
    gc.disable()
    answers = []
    for path in ("/", "/cart", "/pay"):
        thread = threading.Thread(target=request, args=(answers, path))
        thread.start()
        thread.join()
    print(answers)
    time.sleep(2.2)
    print(f"ORACLE leaked={engine.pool.checkedout()}")


main()
