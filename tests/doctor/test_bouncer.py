"""Through PgBouncer: the client's port leads to the backend, and the process id that the driver was told is ignored."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, closing

import psycopg
import pytest

from leakguard.incident.doctor import bouncer
from leakguard.incident.doctor.bouncer import ConsoleError
from tests.doctor.support import (
    PGBOUNCER,
    examined,
    hold_of,
    pgbouncer,
    pool_of,
    slot_of,
    snapshot_of,
    target_of,
    until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer"),
]


def backend_of(connection) -> int:
    """The real backend; asking for it makes a transaction, in which PgBouncer keeps them together."""
    (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    return pid


@pytest.mark.parametrize("mode", ["transaction", "session"])
class TestJoin:
    def test_from_the_client_to_the_backend(self, each_server, mode):
        """A hold, a pool's connection and a stranger, each at the backend that PgBouncer has linked it to."""
        with pgbouncer(each_server, mode=mode) as pooler, ExitStack() as stack:
            held, pooled, unseen = (stack.enter_context(closing(psycopg.connect(pooler.dsn("app")))) for _ in range(3))
            pids = [backend_of(connection) for connection in (held, pooled, unseen)]
            assert held.info.backend_pid not in pids
            snapshot = snapshot_of(hold_of(held), pools=[pool_of(pooled)])
            for dsn, console in ((pooler.dsn("leakguard"), None), (each_server.dsn(), pooler.console)):
                diagnosis = examined(dsn, snapshot, console=console)
                assert diagnosis.server is not None
                assert diagnosis.server.through_pooler is (console is None)
                first, second, third = (slot_of(diagnosis, pid) for pid in pids)
                assert (first.keeper, first.sure, first.through is not None) == ("hold", True, True)
                assert (second.keeper, second.sure, second.pool) == ("pool", True, "main")
                assert third.process is not None
                assert (third.keeper, third.process.pid) == ("process", os.getpid())
                assert diagnosis.joined.phantoms == ()
                assert diagnosis.joined.unmatched == 0

    def test_released(self, small, mode):
        """After its transaction a client of transaction pooling has no backend any more; of session pooling it has."""
        with pgbouncer(small, mode=mode) as pooler, closing(psycopg.connect(pooler.dsn("app"))) as held:
            pid = backend_of(held)
            held.commit()
            slot = slot_of(examined(small.dsn(), snapshot_of(hold_of(held)), console=pooler.console), pid)
        assert slot.keeper == ("hold" if mode == "session" else "pooler")


class TestPool:
    def test_exhausted(self, small):
        """Clients that wait for a pool of PgBouncer's are an exhaustion, though the server itself has room."""
        with pgbouncer(small, mode="transaction", size=2) as pooler, ExitStack() as stack:
            first, second, third = (stack.enter_context(closing(psycopg.connect(pooler.dsn("app")))) for _ in range(3))
            pids = [backend_of(first), backend_of(second)]
            waiter = threading.Thread(target=third.execute, args=("SELECT 1",))
            waiter.start()
            snapshot = snapshot_of(hold_of(first, proven=True), hold_of(second, proven=True))
            until(lambda: bool(examined(pooler.dsn("leakguard"), snapshot).shortages), "a client to have waited")
            diagnosis = examined(pooler.dsn("leakguard"), snapshot)
            (shortage,) = diagnosis.shortages
            assert (shortage.kind, shortage.used, shortage.limit, shortage.full) == ("pool", 2, 2, True)
            assert diagnosis.causes[0].kind == "leak"
            assert set(diagnosis.causes[0].pids) == set(pids)
            first.rollback()
            waiter.join(10)

    def test_healthy(self, small):
        """A pool that nobody waits for is no problem, however busy."""
        with pgbouncer(small, mode="transaction", size=2) as pooler, ExitStack() as stack:
            for _ in range(2):
                backend_of(stack.enter_context(closing(psycopg.connect(pooler.dsn("app")))))
            diagnosis = examined(pooler.dsn("leakguard"))
        assert (diagnosis.shortages, diagnosis.problem) == ((), False)


class TestConsole:
    def test_a_role_that_may_only_look(self, small):
        """One of stats_users is enough; what it may not see is said, by name."""
        with pgbouncer(small, mode="session") as pooler, closing(psycopg.connect(pooler.dsn("app"))) as held:
            pid = backend_of(held)
            console = pooler.dsn("stats", "pgbouncer")
            facts = bouncer.collect(target_of(console))
            slot = slot_of(examined(small.dsn(), snapshot_of(hold_of(held)), console=console), pid)
        assert slot.keeper == "hold"
        assert [socket.kind for socket in facts.sockets].count("S") == 1
        assert all(name.startswith("SHOW") or " of SHOW " in name for name in facts.missing)

    def test_a_role_that_may_not_enter(self, small):
        """Whoever the console refuses is told so, and the rest is told all the same."""
        with pgbouncer(small, mode="session") as pooler, closing(psycopg.connect(pooler.dsn("app"))) as held:
            pid = backend_of(held)
            diagnosis = examined(pooler.dsn("other"))
            assert any("--bouncer" in note or "console" in note for note in diagnosis.notes)
            assert slot_of(diagnosis, pid).hold is None

    def test_no_console(self, small):
        """A server that is no PgBouncer is said to be none."""
        with pytest.raises(ConsoleError, match="no console"):
            bouncer.collect(target_of(small.dsn()))

    def test_columns_of_another_version(self):
        """Columns are read by their names; those that are missing are named, and new ones do no harm."""
        row = {"new": 1, "type": "C", "ptr": "0x1", "port": "77", "addr": "10.0.0.1", "link": ""}
        assert bouncer.absent("SOCKETS", ("type", "ptr", "remote_pid"), row) == ["remote_pid of SHOW SOCKETS"]
        socket = bouncer.socket_of(row)
        assert (socket.kind, socket.port, socket.remote_pid) == ("C", 77, None)
