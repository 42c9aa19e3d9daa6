"""The same for asyncio: pytest-asyncio in strict mode, and anyio's plugin."""

import asyncio
import os

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

DSN = os.environ["DSN"]
URL = DSN.replace("postgresql://", "postgresql+psycopg://")
KEPT = []


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of_module():
    async with await psycopg.AsyncConnection.connect(DSN) as connection:
        yield connection


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of_module_leaks():
    return await psycopg.AsyncConnection.connect(DSN)


@pytest_asyncio.fixture
async def of_function():
    async with await psycopg.AsyncConnection.connect(DSN) as connection:
        yield connection


@pytest.mark.asyncio(loop_scope="module")
async def test_module_fixture(of_module, of_module_leaks):
    await of_module.execute("SELECT 1")


@pytest.mark.asyncio
async def test_function_fixture(of_function):
    await of_function.execute("SELECT 1")


@pytest.mark.asyncio
async def test_closed():
    async with await psycopg.AsyncConnection.connect(DSN):
        pass


@pytest.mark.asyncio
async def test_leaks_by_keeping():
    KEPT.append(await psycopg.AsyncConnection.connect(DSN))


@pytest.mark.asyncio
async def test_engine():
    engine = create_async_engine(URL)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await engine.dispose()


@pytest.mark.asyncio
async def test_engine_leaks():
    engine = create_async_engine(URL)
    connection = await engine.connect()
    await connection.execute(text("SELECT 1"))
    KEPT.append(connection)


@pytest.mark.asyncio
async def test_in_a_thread():
    def work():
        with psycopg.connect(DSN):
            pass

    await asyncio.to_thread(work)


@pytest.mark.asyncio
async def test_in_a_task_leaks():
    async def work():
        KEPT.append(await psycopg.AsyncConnection.connect(DSN))

    await asyncio.create_task(work())


@pytest.mark.anyio
async def test_anyio():
    async with await psycopg.AsyncConnection.connect(DSN):
        pass


@pytest.mark.anyio
async def test_anyio_leaks():
    KEPT.append(await psycopg.AsyncConnection.connect(DSN))
