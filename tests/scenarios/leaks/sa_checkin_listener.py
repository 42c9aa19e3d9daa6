"""A `checkin` listener that raises: SQLAlchemy never puts the connection back, and the pool has lost the slot."""

# expect: kind=lost_slot certain=yes count=1
# args: --owner-grace 0.5
# oracle: 1
import os
import time

from sqlalchemy import create_engine, event, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1), pool_size=3)  # LEAK
budget = {"left": 2}


@event.listens_for(engine, "checkin")
def account(dbapi_connection, record):
    budget["left"] -= 1
    if budget["left"] < 0:
        raise RuntimeError("over budget")


def ask(question):
    conn = engine.connect()  # LEAK
    answer = conn.execute(text("SELECT length(:q)"), {"q": question}).scalar_one()
    conn.close()
    return answer


def main():
    print(ask("why"), ask("how"))
    try:
        ask("when")
    except RuntimeError as error:
        print(error)
    budget["left"] = 100
    time.sleep(2.5)
    print(ask("where"))
    print(f"ORACLE leaked={engine.pool.checkedout()}")


main()
