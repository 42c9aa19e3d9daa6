"""Eight threads over a QueuePool of two and no overflow: they wait a little, but all of them are served."""

# expect: nothing
# args: --fail --threshold 2 --owner-grace 0.5
# oracle: 0
import os
import threading

from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

engine = create_engine(
    os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1),
    pool_size=2,
    max_overflow=0,
    pool_timeout=10,
)
Session = sessionmaker(engine)


def work(counts, name):
    for _ in range(25):
        with Session() as session:
            session.execute(text("SELECT upper(:name)"), {"name": name}).scalar_one()
            counts.append(name)


def main():
    counts = []
    threads = [threading.Thread(target=work, args=(counts, f"worker-{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(counts))
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
