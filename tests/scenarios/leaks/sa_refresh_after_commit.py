"""After commit() an expired attribute is read for the template: a new transaction begins, and stays idle."""

# expect: kind=idle_in_transaction library=sqlalchemy certain=no count=1 state=in_transaction
# allow: nested_acquire
# args: --idle-in-transaction 0.5
# oracle: 1
import os
import time

from sqlalchemy import create_engine, text
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
    return f"<p>{order.customer}</p>"  # LEAK


def main():
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        print(render(store(session, "ann")))
        time.sleep(2)  # the template is sent to a slow client
        with engine.connect() as conn:
            idle = conn.execute(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND state = 'idle in transaction'"
                )
            ).scalar_one()
    engine.dispose()
    print(f"ORACLE leaked={idle}")


main()
