"""The history goes over a second engine, and sub-transactions share the session's connection."""

# expect: nothing
# args: --fail
# oracle: 0
import os

from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

URL = os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1)
engine = create_engine(URL)
history = create_engine(URL, pool_size=1)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@event.listens_for(Session, "before_flush")
def write_history(session, context, instances):
    with history.begin() as conn:
        conn.execute(text("SELECT 'history'"))


def rename(number, name):
    with Session(engine) as session, session.begin():
        session.get(Item, number).name = name
        with session.begin_nested():
            session.execute(text("SELECT 1"))
        with Session(session.connection()) as inner:
            inner.execute(text("SELECT 'on the same connection'"))


def main():
    Base.metadata.create_all(engine)
    with engine.begin() as conn:
        conn.execute(text("INSERT INTO items (name) VALUES ('tea'), ('milk')"))
    rename(1, "green tea")
    rename(2, "oat milk")
    with Session(engine) as session:
        print(session.execute(text("SELECT name FROM items ORDER BY name")).scalars().all())
    print(f"ORACLE leaked={engine.pool.checkedout() + history.pool.checkedout()}")
    engine.dispose()
    history.dispose()


main()
