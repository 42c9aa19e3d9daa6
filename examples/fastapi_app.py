"""Find a FastAPI dependency that never gives its connection back.

`get_connection` hands out a connection of the pool and forgets it; `get_connection_mended` uses `yield`, and so is
told when the request is over.

Run it: python examples/fastapi_app.py        (needs: pip install fastapi httpx)

There the requests go straight into the application. With a server (needs: pip install fastapi uvicorn):

    export DATABASE_URL=postgresql://...
    leakguard run -- uvicorn --app-dir examples fastapi_app:app
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import httpx
import psycopg
from fastapi import Depends, FastAPI, Request
from psycopg_pool import ConnectionPool

import leakguard
from leakguard.demo.postgres import PostgresServer


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with ConnectionPool(os.environ["DATABASE_URL"], min_size=1, max_size=4, name="web") as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


def get_connection(request: Request) -> psycopg.Connection:
    return request.app.state.pool.getconn()  # LEAK


def get_connection_mended(request: Request) -> Iterator[psycopg.Connection]:
    with request.app.state.pool.connection() as connection:
        yield connection


@app.get("/orders")
def orders(connection: Annotated[psycopg.Connection, Depends(get_connection)]) -> list[int]:
    return [row[0] for row in connection.execute("SELECT generate_series(1, 3)")]


@app.get("/mended")
def mended(connection: Annotated[psycopg.Connection, Depends(get_connection_mended)]) -> list[int]:
    return [row[0] for row in connection.execute("SELECT generate_series(1, 3)")]


def on_leak(event: object) -> None:
    if isinstance(event, leakguard.Leak) and event.site:
        print(f"-> {event.kind} x{event.count}: {event.site.file}:{event.site.line}: {event.site.code}")
        print(f"   {event.reason}\n   {event.advice}")


async def get(path: str) -> list[int]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        return (await client.get(path)).json()


def main(dsn: str) -> None:
    with ConnectionPool(dsn, min_size=1, max_size=4, name="web") as pool:
        app.state.pool = pool
        with leakguard.watch(pool, on_leak=on_leak):
            for path in ("/mended", "/orders"):
                print("GET", path, asyncio.run(get(path)))
                print("leaks:", len(leakguard.check()))


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        main(os.environ.get("LEAKGUARD_EXAMPLE_DSN") or stack.enter_context(PostgresServer()).dsn())
