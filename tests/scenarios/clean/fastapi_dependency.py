"""FastAPI with yield dependencies, sync and async, a failing endpoint and a streamed response."""

# expect: nothing
# args: --fail --owner-grace 1
# needs: fastapi httpx
# oracle: 0
import gc
import os
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from psycopg import Connection
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

DSN = os.environ["ZOO_DSN"]
engine = create_engine(DSN.replace("postgresql://", "postgresql+psycopg://", 1))
SessionLocal = sessionmaker(engine)
pool = ConnectionPool(DSN, min_size=1, max_size=2, open=True)
app = FastAPI()


def get_session():
    with SessionLocal() as session:
        yield session


def get_conn():
    with pool.connection() as conn:
        yield conn


@app.get("/upper/{word}")
def upper(word: str, session: Annotated[Session, Depends(get_session)]):
    if word == "bad":
        raise HTTPException(418)
    return {"word": session.execute(text("SELECT upper(:w)"), {"w": word}).scalar_one()}


@app.get("/stream/{count}")
async def stream(count: int, conn: Annotated[Connection, Depends(get_conn)]):
    rows = conn.execute("SELECT generate_series(1, %s)", (count,)).fetchall()
    return StreamingResponse(str(row[0]) for row in rows)


def main():
    with TestClient(app) as client:
        for path in ("/upper/tea", "/upper/bad", "/stream/5", "/upper/milk"):
            print(path, client.get(path).status_code)
    gc.collect()
    pool.close()
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
