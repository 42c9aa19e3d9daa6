"""Sessions that hold nothing may be dropped: never used, committed, rolled back, closed in __exit__."""

# expect: nothing
# args: --fail
# oracle: 0
import gc
import os

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Users:
    def __init__(self):
        self.session = Session(engine)
        self.myself = self

    def add(self, name):
        self.session.add(User(name=name))
        self.session.commit()

    def names(self):
        names = [user.name for user in self.session.scalars(select(User).order_by(User.name))]
        self.session.rollback()
        return names


def main():
    Base.metadata.create_all(engine)
    for name in ("ann", "bob"):
        Users().add(name)
    print(Users().names())
    Users()
    with Session(engine) as session:
        print(session.get(User, 1).name)
        nested = session.begin_nested()
        nested.rollback()
    gc.collect()
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
