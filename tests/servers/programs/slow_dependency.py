"""A FastAPI application whose connection outlives the thread that acquired it, and is given back in the end."""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import anyio
import anyio._backends._asyncio as anyio_threads
import psycopg
from fastapi import Depends, FastAPI, Request
from psycopg_pool import ConnectionPool

anyio_threads.WorkerThread.MAX_IDLE_TIME = 0.1  # else ten seconds: so long a thread has to be idle until it ends


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with ConnectionPool(os.environ["DATABASE_URL"], min_size=1, max_size=4, name="web") as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


def get_connection(request: Request) -> Iterator[psycopg.Connection]:
    with request.app.state.pool.connection() as connection:
        yield connection


@app.get("/slow")
async def slow(connection: Annotated[psycopg.Connection, Depends(get_connection)]) -> str:
    # The thread that has acquired is idle first; so it is the first to be ended, by whoever looks for a thread later.
    async with anyio.create_task_group() as group:
        for seconds in (0.02, 0.1, 0.1, 0.1):
            group.start_soon(anyio.to_thread.run_sync, time.sleep, seconds)
    for _ in range(20):
        await anyio.sleep(0.05)
        await anyio.to_thread.run_sync(lambda: None)
    return await anyio.to_thread.run_sync(lambda: connection.execute("SELECT 'done'").fetchone()[0])
