"""A service object with a Session that is never closed; the unit of work keeps it in a cycle until gc runs."""

# expect: kind=dropped library=sqlalchemy certain=yes count=3 healed=yes
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

    def names(self):
        query = select(User).order_by(User.name)
        return [user.name for user in self.session.scalars(query)]  # LEAK


def main():
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all([User(name="ann"), User(name="bob")])
    for _ in range(3):
        print(Users().names())
    gc.collect()
    engine.dispose()


main()
