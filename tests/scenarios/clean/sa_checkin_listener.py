"""Listeners that raise where SQLAlchemy can take it: in `checkout`, in `reset`, and a ping that says disconnected."""

# expect: nothing
# args: --fail --owner-grace 0.5 --threshold 2
# oracle: 0
import logging
import os
import time

from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DisconnectionError

logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1), pool_size=3)
moods = []


@event.listens_for(engine, "checkout")
def gate(dbapi_connection, record, fairy):
    mood = moods.pop() if moods else "fine"
    if mood == "closed":
        raise PermissionError("closed for lunch")
    if mood == "gone":
        raise DisconnectionError("try another one")


@event.listens_for(engine, "reset")
def broken_reset(dbapi_connection, record, state):
    if "reset" in record.info:
        raise RuntimeError("reset failed")


def ask(question, *mood):
    moods.extend(mood)
    with engine.connect() as conn:
        if question == "reset":
            conn.connection.record_info["reset"] = True
        return conn.execute(text("SELECT length(:q)"), {"q": question}).scalar_one()


def main():
    for question, mood in (("why", ()), ("lunch", ("closed",)), ("again", ("gone",)), ("reset", ()), ("last", ())):
        try:
            print(question, ask(question, *mood))
        except PermissionError as error:
            print(error)
    time.sleep(1.2)
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
