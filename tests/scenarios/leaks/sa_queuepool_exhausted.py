"""QueuePool limit reached: two sessions that were never closed are named in the TimeoutError's notes."""

# expect: event=exhausted cause=pool held=2 capacity=2
# allow: nested_acquire
# notes-name-site: yes
# oracle: 2
import os

from sqlalchemy import create_engine, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import sessionmaker

engine = create_engine(
    os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1),
    pool_size=1,
    max_overflow=1,
    pool_timeout=0.7,
)
Session = sessionmaker(engine)
open_sessions = []


def dashboard(name):
    session = Session()
    open_sessions.append(session)
    return session.execute(text("SELECT upper(:name)"), {"name": name}).scalar_one()  # LEAK


def health():
    with engine.connect() as conn:
        return conn.execute(text("SELECT 'ok'")).scalar_one()


def main():
    print(dashboard("sales"), dashboard("stock"))
    try:
        print(health())
    except PoolTimeoutError as error:
        print(type(error).__name__)
        for note in getattr(error, "__notes__", ()):
            for line in note.splitlines():
                print("NOTE", line)
    out = engine.pool.checkedout()
    for session in open_sessions:
        session.close()
    engine.dispose()
    print(f"ORACLE leaked={out}")


main()
