"""expire_on_commit=False: the template reads memory, and nothing is held while it is sent."""

# expect: nothing
# args: --fail --idle-in-transaction 0.5 --threshold 0.5
# oracle: 0
import os
import time

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]


def store(session, customer):
    order = Order(customer=customer)
    session.add(order)
    session.commit()
    return order


def render(order):
    return f"<p>{order.customer}</p>"


def main():
    Base.metadata.create_all(engine)
    with Session(engine, expire_on_commit=False) as session:
        print(render(store(session, "ann")))
        time.sleep(1.5)  # the template is sent to a slow client
        out = engine.pool.checkedout()
    engine.dispose()
    print(f"ORACLE leaked={out}")


main()
