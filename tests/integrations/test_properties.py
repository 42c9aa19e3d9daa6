"""Whatever happens to connections, the counts are exact and the verdicts right: real pools against a model of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from collections import Counter

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from psycopg_pool import ConnectionPool

from tests.integrations.support import in_thread, laboratory, steady, url_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

PROFILE = settings(
    max_examples=10,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],  # a step waits for real pools: shrinking would take minutes
)


class Held:
    """One hold of the model. `conn` is the only reference to the library's handle."""

    def __init__(self, conn, *, orphan=False):
        self.conn = conn
        self.orphan = orphan
        self.proven = False
        self.closed = False
        self.detached = False


class Machine(RuleBasedStateMachine):
    """The lab, the model's counts, and what is the same for every library."""

    dsn: str
    held: Bundle = Bundle("held")

    @initialize()
    def begin(self):
        self.laboratory = laboratory(threshold=None, idle_in_transaction=None)
        self.lab = self.laboratory.__enter__()
        self.acquired = self.released = self.leaked = 0
        self.open: list[Held] = []
        self.expected: Counter[str] = Counter()
        self.open_library()

    def teardown(self):
        if not hasattr(self, "lab"):
            return
        try:
            for held in list(self.open):
                self.give_back(held)
            self.check_accounts()
        finally:
            self.close_library()
            self.laboratory.__exit__(None, None, None)

    def open_library(self): ...

    def close_library(self): ...

    def acquire(self):
        raise NotImplementedError

    def give_back(self, held):
        raise NotImplementedError

    def full(self):
        return len(self.open) >= 5

    def take(self, conn, *, orphan=False):
        held = Held(conn, orphan=orphan)
        self.acquired += 1
        self.open.append(held)
        return held

    def drop(self, held):
        held.conn = None
        self.open.remove(held)
        self.leaked += 1
        if not held.proven:
            self.expected["dropped"] += 1
        self.lab.collect()

    def end(self, held):
        held.conn = None
        self.open.remove(held)
        self.released += 1

    @invariant()
    def check_accounts(self):
        if not hasattr(self, "lab"):
            return
        self.lab.collect()
        assert self.lab.counts() == (self.acquired, self.released, len(self.open), self.leaked)
        assert len(self.lab.tracker.holds()) == len(self.open)
        counted = Counter(self.lab.summary().leaks)
        counted.pop("nested_acquire", None)
        assert counted == self.expected
        assert self.lab.runtime.internal_errors == 0


class PoolMachine(Machine):
    """psycopg_pool: a dropped or closed checkout costs a slot for ever, so the pool is made anew when it is used up."""

    held = Bundle("held")

    def open_library(self):
        self.pool = ConnectionPool(self.dsn, min_size=0, max_size=6, open=True, timeout=5)
        self.lost = 0

    def close_library(self):
        self.pool.close()

    def full(self):
        return len(self.open) + self.lost >= 5

    @rule(target=held)
    def getconn(self):
        if self.full():
            return None
        return self.take(self.pool.getconn())

    @rule(target=held)
    def getconn_in_a_thread(self):
        if self.full():
            return None
        return self.take(in_thread(lambda: self.pool.getconn()), orphan=True)

    @rule(held=consumes(held))
    def putconn(self, held):
        if held:
            self.give_back(held)

    def give_back(self, held):
        self.pool.putconn(held.conn)
        self.end(held)

    @rule(held=consumes(held))
    def putconn_in_a_thread(self, held):
        if held:
            in_thread(lambda: self.pool.putconn(held.conn))
            self.end(held)

    @rule(held=consumes(held))
    def dropped(self, held):
        if held:
            self.lost += 1
            self.drop(held)

    @rule(held=held)
    def close(self, held):
        if held and held.conn is not None:
            held.conn.close()
            held.closed = True

    @rule(held=held)
    def use(self, held):
        if held and held.conn is not None and not held.closed:
            held.conn.execute("SELECT 1")
            held.orphan = False

    @rule()
    def wrong_putconn(self):
        with psycopg.connect(self.dsn) as foreign, pytest.raises(ValueError):
            self.pool.putconn(foreign)
        self.acquired += 1
        self.released += 1

    @rule()
    def wait(self):
        steady_out = len(self.open) + self.lost
        steady(self.pool, out=steady_out)
        self.lab.advance(6)
        for held in self.open:
            if not held.proven and (held.closed or held.orphan):
                held.proven = True
                self.expected["lost_slot" if held.closed else "orphaned"] += 1


class SQLAlchemyMachine(Machine):
    """SQLAlchemy's queue pool, which heals what is dropped."""

    held = Bundle("held")

    def open_library(self):
        self.engine = sa.create_engine(url_for(self.dsn, "psycopg"), pool_size=2, max_overflow=5, pool_timeout=5)

    def close_library(self):
        self.engine.dispose()

    @rule(target=held)
    def connect(self):
        return None if self.full() else self.take(self.engine.connect())

    @rule(target=held)
    def connect_in_a_thread(self):
        return None if self.full() else self.take(in_thread(lambda: self.engine.connect()), orphan=True)

    @rule(held=consumes(held))
    def close(self, held):
        if held and held.conn is not None:
            self.give_back(held)

    def give_back(self, held):
        held.conn.close()
        self.end(held)

    @rule(held=consumes(held))
    def dropped(self, held):
        if held and held.conn is not None:
            self.drop(held)

    @rule(held=held)
    def use(self, held):
        if held and held.conn is not None:
            held.conn.execute(sa.text("SELECT 1"))
            held.orphan = False

    @rule(held=consumes(held))
    def invalidate(self, held):
        if held and held.conn is not None and not held.detached:
            conn = held.conn
            conn.invalidate()
            self.end(held)
            conn.close()

    @rule(held=held)
    def detach(self, held):
        if held and held.conn is not None and not held.detached:
            held.conn.detach()
            held.detached = True

    @rule()
    def dispose(self):
        self.engine.dispose()

    @rule()
    def wait(self):
        self.lab.advance(6)
        for held in self.open:
            if held.orphan and not held.proven:
                held.proven = True
                self.expected["orphaned"] += 1


class DirectMachine(Machine):
    """Direct connections of psycopg."""

    held = Bundle("held")

    @rule(target=held)
    def connect(self):
        return None if self.full() else self.take(psycopg.connect(self.dsn))

    @rule(target=held)
    def connect_in_a_thread(self):
        return None if self.full() else self.take(in_thread(lambda: psycopg.connect(self.dsn)), orphan=True)

    @rule(held=consumes(held))
    def close(self, held):
        if held:
            self.give_back(held)

    def give_back(self, held):
        held.conn.close()
        self.end(held)

    @rule(held=consumes(held))
    def dropped(self, held):
        if held:
            self.drop(held)

    @rule(held=held)
    def use(self, held):
        if held and held.conn is not None:
            held.conn.execute("SELECT 1")
            held.orphan = False

    @rule(held=held)
    def lend(self, held):
        if held and held.conn is not None:
            in_thread(lambda: held.conn.execute("SELECT 1"))

    @rule(seconds=st.sampled_from([1, 6]))
    def wait(self, seconds):
        self.lab.advance(seconds)
        if seconds == 6:
            for held in self.open:
                if held.orphan and not held.proven:
                    held.proven = True
                    self.expected["orphaned"] += 1


class TaskMachine(Machine):
    """Async connections of psycopg, in tasks that end, are cancelled, or give back."""

    held = Bundle("held")

    def open_library(self):
        self.loop = asyncio.new_event_loop()

    def close_library(self):
        self.loop.close()

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    async def _task(self, body):
        return await asyncio.create_task(body())

    @rule(target=held)
    def connect_in_a_task(self):
        if self.full():
            return None

        async def body():
            return await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)

        return self.take(self.run(self._task(body)), orphan=True)

    @rule(held=consumes(held))
    def close(self, held):
        if held:
            self.give_back(held)

    def give_back(self, held):
        self.run(held.conn.close())
        self.end(held)

    @rule(held=consumes(held))
    def dropped(self, held):
        if held:
            self.drop(held)

    @rule()
    def cancelled_without_finally(self):
        async def work():
            conn = await psycopg.AsyncConnection.connect(self.dsn)
            await asyncio.sleep(30)
            await conn.close()

        self._cancel(work)
        self.acquired += 1
        self.leaked += 1
        self.expected["dropped"] += 1

    @rule()
    def cancelled_with_finally(self):
        async def work():
            async with await psycopg.AsyncConnection.connect(self.dsn):
                await asyncio.sleep(30)

        self._cancel(work)
        self.acquired += 1
        self.released += 1

    def _cancel(self, work):
        async def body():
            before = self.lab.counts()[0]
            task = asyncio.create_task(work())
            while self.lab.counts()[0] == before:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        self.run(body())
        gc.collect()

    @rule()
    def wait(self):
        self.lab.advance(7)
        for held in self.open:
            if held.orphan and not held.proven:
                held.proven = True
                self.expected["orphaned"] += 1


@pytest.mark.parametrize("machine", [PoolMachine, SQLAlchemyMachine, DirectMachine, TaskMachine])
def test_model(machine, dsn, caplog):
    """After every step: `acquired == released + held + leaked`, each of them as the model says, and every verdict."""
    # caplog keeps the records of "rolling back returned connection", and these keep the connection alive.
    caplog.set_level(logging.ERROR, "psycopg.pool")
    gc.collect()
    gc.freeze()  # each step collects: what was there before need not be looked at each time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            run_state_machine_as_test(type(machine.__name__, (machine,), {"dsn": dsn}), settings=PROFILE)
    finally:
        gc.unfreeze()
