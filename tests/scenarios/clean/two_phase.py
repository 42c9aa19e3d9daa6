"""Two-phase commit: psycopg's tpc_* on a direct connection, and SQLAlchemy sessions with twophase=True."""

# expect: nothing
# args: --fail
# oracle: 0
import os

import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

DSN = os.environ["ZOO_DSN"]
engine = create_engine(DSN.replace("postgresql://", "postgresql+psycopg://", 1))


def direct(allowed):
    with psycopg.connect(DSN) as conn:
        name = conn.info.dbname
        xid = conn.xid(1, f"zoo-{name}", "branch")
        conn.tpc_begin(xid)
        conn.execute("CREATE TABLE ledger(cents int)")
        if allowed:
            conn.tpc_prepare()
            conn.tpc_commit()
        else:
            conn.tpc_commit()
        return conn.execute("SELECT count(*) FROM ledger").fetchone()[0]


def session(allowed):
    with Session(engine, twophase=allowed) as session:
        session.execute(text("INSERT INTO ledger VALUES (100)"))
        session.commit()
        session.execute(text("INSERT INTO ledger VALUES (200)"))
        session.rollback()
        return session.execute(text("SELECT sum(cents) FROM ledger")).scalar_one()


def main():
    with psycopg.connect(DSN) as conn:
        allowed = int(conn.execute("SHOW max_prepared_transactions").fetchone()[0]) > 0
    print(direct(allowed), session(allowed))
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
