"""What a server tells of itself: counts that are right for every role, and whoever waits for whom."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack, closing, contextmanager

import psycopg
import pytest

from leakguard.incident.doctor import doors
from leakguard.incident.doctor.examine import _facts
from tests.doctor.support import SLOTS, dsn_of, filled, target_of, until

SESSIONS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"


def facts_of(dsn):
    """The server's facts, as the examination has them."""
    entry = doors.enter(target_of(dsn))
    with entry.connection:
        return _facts(entry)


def connected(stack, dsn, **params):
    return stack.enter_context(closing(psycopg.connect(dsn, **params)))


@contextmanager
def blocked(connection, server, sql):
    """Run `sql` in a thread; inside, its backend waits for a lock, which the body has to give up."""
    pid = connection.info.backend_pid
    thread = threading.Thread(target=connection.execute, args=(sql,))
    thread.start()
    try:
        until(lambda: bool(_backend_of(server, pid).blocked_by), "it to wait")
        yield _backend_of(server, pid)
    finally:
        thread.join(10)


def _backend_of(server, pid):
    return next(backend for backend in facts_of(server.dsn()).backends if backend.pid == pid)


class TestCapacity:
    def test_numbers(self, each_server):
        """Limits, reserves and counts, without the doctor's own connection."""
        with ExitStack() as stack:
            for _ in range(3):
                connected(stack, dsn_of(each_server, "app"))
            connected(stack, dsn_of(each_server, "narrow"))
            connected(stack, dsn_of(each_server, "app", "small"))
            connected(
                stack, dsn_of(each_server, "rescue", replication="database"), autocommit=True, prepare_threshold=None
            )
            facts = facts_of(each_server.dsn())
        capacity = facts.capacity
        assert (capacity.max_connections, capacity.ordinary, capacity.used) == (SLOTS, SLOTS - 3, 5)
        assert (capacity.walsenders, capacity.starting, capacity.hidden) == (1, 0, 0)
        assert {(limit.name, limit.limit, limit.used) for limit in capacity.roles} == {
            ("narrow", 2, 1),
            ("scram", 2, 0),
        }
        assert [(limit.name, limit.limit, limit.used) for limit in capacity.databases] == [("small", 2, 1)]
        assert facts.rescuers == ("rescue", "leakguard")
        assert facts.version == each_server.version
        assert (facts.degraded, facts.through_pooler, facts.is_here) == (False, False, True)
        assert abs(facts.clock_ahead) < 1

    def test_a_role_without_privileges_counts_right(self, each_server):
        """What a role may not see is counted all the same, and said to be hidden."""
        with ExitStack() as stack:
            for _ in range(3):
                connected(stack, dsn_of(each_server, "app"))
            connected(stack, each_server.dsn())
            connected(
                stack, dsn_of(each_server, "rescue", replication="database"), autocommit=True, prepare_threshold=None
            )
            facts = facts_of(dsn_of(each_server, "other"))
        assert facts.degraded
        assert (facts.capacity.used, facts.capacity.walsenders) == (4, 1)
        assert not any(backend.visible for backend in facts.backends if backend.user == "app")

    def test_a_role_sees_its_own(self, small):
        """Where all sessions are the role's own, nothing is degraded."""
        with ExitStack() as stack:
            connected(stack, dsn_of(small, "app"))
            facts = facts_of(dsn_of(small, "app"))
        assert facts.capacity.used == 1
        assert all(backend.visible for backend in facts.backends if backend.takes_slot)

    def test_timeouts(self, small):
        """Timeouts that are off are named, and so is what a role or a database sets for itself."""
        with psycopg.connect(small.dsn(), autocommit=True) as admin:
            admin.execute("ALTER ROLE app SET idle_in_transaction_session_timeout = '5min'")
            admin.execute("ALTER DATABASE small SET idle_session_timeout = '1h'")
            try:
                facts = facts_of(small.dsn())
            finally:
                admin.execute("ALTER ROLE app RESET ALL")
                admin.execute("ALTER DATABASE small RESET ALL")
        assert facts.unset[:2] == ("idle_in_transaction_session_timeout", "idle_session_timeout")
        assert set(facts.overridden) == {
            "idle_in_transaction_session_timeout = 5min for role app",
            "idle_session_timeout = 1h for database small",
        }


class TestSessions:
    def test_states(self, small):
        """States, ages and the last statement without its literals."""
        with ExitStack() as stack:
            idle = connected(stack, dsn_of(small, "app"), application_name="shop", autocommit=True)
            idle.execute("SELECT 'secret', 42")
            open_ = connected(stack, dsn_of(small, "app"))
            open_.execute("SELECT 1")
            by_pid = {backend.pid: backend for backend in facts_of(small.dsn()).backends}
            first, second = by_pid[idle.info.backend_pid], by_pid[open_.info.backend_pid]
        assert (first.state, first.application, first.statement) == ("idle", "shop", "SELECT ?, ?")
        assert (first.user, first.database, first.client) == ("app", "postgres", "127.0.0.1")
        assert second.state == "idle in transaction"
        assert second.transaction_since is not None

    def test_who_blocks_whom(self, small):
        """A session that waits for a lock names the one that has it."""
        with closing(psycopg.connect(small.dsn())) as holder, closing(psycopg.connect(small.dsn())) as waiter:
            holder.execute("SELECT pg_advisory_xact_lock(1)")
            with blocked(waiter, small, "SELECT pg_advisory_xact_lock(1)") as waiting:
                assert waiting.blocked_by == (holder.info.backend_pid,)
                assert waiting.wait == "Lock: advisory"
                holder.rollback()

    def test_statements_that_are_no_text(self, small):
        """A session of a database in another encoding, whose statement is no valid text in ours, hides nobody."""
        with psycopg.connect(small.dsn(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
        try:
            with closing(psycopg.connect(dsn_of(small, "app", "latin"), autocommit=True)) as one:
                one.execute('SELECT 1 AS "caf\u00e9"')
                facts = facts_of(small.dsn())
                statement = next(b.statement for b in facts.backends if b.pid == one.info.backend_pid)
                assert statement is not None
                assert statement.startswith('SELECT ? AS "caf')
        finally:
            with psycopg.connect(small.dsn(), autocommit=True) as admin:
                admin.execute("DROP DATABASE latin WITH (FORCE)")

    def test_objects_of_a_database_stand_in_for_nothing(self, small):
        """A search path with look-alikes of the system's views and functions in front changes nothing."""
        with psycopg.connect(small.dsn(), autocommit=True) as admin:
            admin.execute("""
                CREATE SCHEMA evil;
                CREATE TABLE evil.pg_stat_activity AS SELECT * FROM pg_catalog.pg_stat_activity LIMIT 0;
                CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1';
                CREATE FUNCTION evil.eq(int, int) RETURNS bool LANGUAGE sql AS 'SELECT true';
                CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.eq);
                ALTER DATABASE postgres SET search_path = evil, pg_catalog;
            """)
            try:
                facts = facts_of(small.dsn())
            finally:
                admin.execute("ALTER DATABASE postgres RESET ALL; DROP SCHEMA evil CASCADE")
        assert facts.own_pid != 1
        assert any(backend.pid == facts.own_pid for backend in facts.backends)


@contextmanager
def half_open(port: int, count: int):
    """Connections that have sent a start-up packet and never answer what the server asks."""
    body = b"user\0scram\0database\0postgres\0\0"
    with ExitStack() as stack:
        for _ in range(count):
            link = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            link.sendall(struct.pack("!ii", len(body) + 8, 3 << 16) + body)
            assert link.recv(1) in (b"R", b"E")
        yield


@pytest.mark.slow
class TestLogins:
    def test_that_never_end(self, each_server):
        """Slots that are taken by connections still logging in are counted: shown by PostgreSQL 18, missing before."""
        with half_open(each_server.port, SLOTS):
            facts = facts_of(dsn_of(each_server, "rescue"))
        capacity = facts.capacity
        assert (capacity.starting, capacity.hidden) == ((SLOTS, 0) if facts.version.startswith("18") else (0, SLOTS))
        assert capacity.used + capacity.hidden == SLOTS

    def test_none_on_a_full_server(self, each_server):
        """Where real sessions fill the server, nothing is said to be hidden."""
        with filled(each_server.dsn()):
            assert facts_of(dsn_of(each_server, "rescue")).capacity.hidden == 0
        with filled(dsn_of(each_server, "app")):
            assert facts_of(dsn_of(each_server, "rescue")).capacity.hidden == 0

    def test_none_once_there_is_room_again(self, small):
        """A server that was full for a moment only hides nothing: it is asked again before that is said."""
        with filled(small.dsn()) as held:
            entry = doors.enter(target_of(dsn_of(small, "rescue")))
            for connection in held:
                connection.close()
            with entry.connection:
                until(lambda: len(entry.connection.execute(SESSIONS).fetchall()) == 0, "everybody to leave")
                assert _facts(entry).capacity.hidden == 0
