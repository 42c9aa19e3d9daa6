"""An ORM session is open while a history writer asks the same engine for a second connection, before the flush."""

# expect: kind=nested_acquire library=sqlalchemy certain=no count=2
# oracle: 2
import os

from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
depths = []


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@event.listens_for(Session, "before_flush")
def write_history(session, context, instances):
    with engine.begin() as conn:  # LEAK
        depths.append(engine.pool.checkedout())
        conn.execute(text("SELECT 'history'"))


def rename(number, name):
    with Session(engine) as session, session.begin():
        session.get(Item, number).name = name


def main():
    Base.metadata.create_all(engine)
    with engine.begin() as conn:
        conn.execute(text("INSERT INTO items (name) VALUES ('tea'), ('milk')"))
    rename(1, "green tea")
    rename(2, "oat milk")
    with engine.connect() as conn:
        print(conn.execute(text("SELECT name FROM items ORDER BY name")).scalars().all())
    engine.dispose()
    print(f"ORACLE leaked={sum(depth > 1 for depth in depths)}")


main()
