"""Only backends of chosen holds are ended, and only while they are still what was looked at."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import psycopg
import pytest

from leakguard.incident.doctor import terminate
from leakguard.incident.doctor.claims import Reported
from leakguard.incident.doctor.examine import Sources, examination
from leakguard.incident.doctor.terminate import Choice
from tests.doctor.support import PGBOUNCER, dsn_of, filled, hold_of, pgbouncer, pool_of, slot_of, snapshot_of, target_of
from tests.factories import make_leak

LEAK = Choice()


@contextmanager
def examining(dsn, *snapshots, **given):
    sources = Sources(processes=lambda: (snapshots, []), **{"reported": Reported(), **given})
    with examination(target_of(dsn), sources) as (entry, diagnosis):
        yield entry.connection, diagnosis


def ended(dsn, choice, *snapshots, really=True, **given):
    """What became of each backend that was chosen."""
    with examining(dsn, *snapshots, **given) as (connection, diagnosis):
        endings = terminate.end(connection, terminate.chosen(diagnosis.joined, choice), really=really)
        return {ending.slot.backend.pid: ending.outcome for ending in endings}


def alive(server, pid):
    with psycopg.connect(server.dsn()) as admin:
        return admin.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() == (1,)


@pytest.fixture
def connections(small):
    """Four connections: leaked, in use, idle in a pool, and unknown to any guard."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(psycopg.connect(dsn_of(small, "app")))) for _ in range(4)]


@pytest.fixture
def snapshot(connections):
    leaked, used, pooled, _ = connections
    return snapshot_of(
        hold_of(leaked, proven=True, fingerprint="aaaaaaaaaaaa"),
        hold_of(used, fingerprint="bbbbbbbbbbbb"),
        pools=[pool_of(pooled)],
    )


@pytest.fixture
def pids(connections):
    return [connection.info.backend_pid for connection in connections]


class TestChoice:
    def test_default_is_proven_leaks(self, each_server):
        """Without a choice, what is proven is ended, and its slot is free; every other session lives on."""
        with ExitStack() as stack:
            dsn = dsn_of(each_server, "app")
            leaked, used = (stack.enter_context(closing(psycopg.connect(dsn))) for _ in range(2))
            pids = [leaked.info.backend_pid, used.info.backend_pid]
            snapshot = snapshot_of(hold_of(leaked, proven=True), hold_of(used, suspected=("overdue",)))
            assert ended(each_server.dsn(), LEAK, snapshot) == {pids[0]: "ended"}
            assert [alive(each_server, pid) for pid in pids] == [False, True]

    def test_dry_run(self, small, snapshot, pids):
        """Unless it is confirmed, nothing happens."""
        assert ended(small.dsn(), LEAK, snapshot, really=False) == {pids[0]: "would end"}
        assert all(alive(small, pid) for pid in pids)

    def test_by_fingerprint(self, small, snapshot, pids):
        """A bug that is named is ended, proven or not, and no other."""
        choice = Choice(fingerprints=frozenset({"bbbbbbbbbbbb"}))
        assert ended(small.dsn(), choice, snapshot) == {pids[1]: "ended"}

    def test_by_process(self, small, snapshot, pids):
        """A process that is named loses what it holds, and not what idles in its pools."""
        assert set(ended(small.dsn(), Choice(processes=frozenset({os.getpid()})), snapshot)) == set(pids[:2])
        assert [alive(small, pid) for pid in pids] == [False, False, True, True]
        assert ended(small.dsn(), Choice(processes=frozenset({1})), snapshot) == {}

    def test_fingerprint_and_process_together(self, small, snapshot):
        """Both have to fit."""
        choice = Choice(fingerprints=frozenset({"aaaaaaaaaaaa"}), processes=frozenset({1}))
        assert ended(small.dsn(), choice, snapshot, really=False) == {}

    def test_by_backend(self, small, snapshot, pids):
        """A backend that somebody holds may be named; others may not, and are said why."""
        choice = Choice(backends=frozenset({*pids, 999_999}))
        with examining(small.dsn(), snapshot) as (connection, diagnosis):
            choice = replace(choice, backends=choice.backends | {diagnosis.server.own_pid})
            chosen = terminate.chosen(diagnosis.joined, choice)
            assert {slot.backend.pid for slot in chosen} == set(pids[:2])
            unmet = "\n".join(terminate.unmet(diagnosis.joined, choice))
            assert terminate.end(connection, chosen, really=True)
        assert f"backend {pids[2]}: it idles in a pool" in unmet
        assert f"backend {pids[3]}: no guarded process holds it" in unmet
        assert "backend 999999: there is none" in unmet
        assert "the doctor itself" in unmet
        assert [alive(small, pid) for pid in pids] == [False, False, True, True]

    def test_what_is_allowed_stays(self, small, connections):
        """A hold that somebody has allowed is only ended by its number."""
        leader = connections[0]
        pid = leader.info.backend_pid
        snapshot = snapshot_of(hold_of(leader, allowed="leader lock", proven=True, fingerprint="cccccccccccc"))
        for choice in (
            LEAK,
            Choice(fingerprints=frozenset({"cccccccccccc"})),
            Choice(processes=frozenset({os.getpid()})),
        ):
            assert ended(small.dsn(), choice, snapshot) == {}
        assert ended(small.dsn(), Choice(backends=frozenset({pid})), snapshot, really=False) == {pid: "would end"}


class TestWrongBackend:
    """Attempts to have somebody else's session ended."""

    def test_moved_on(self, small, connections, snapshot, pids):
        """If the connection was used after we looked, it may be somebody else's by now, and is left alone."""
        with examining(small.dsn(), snapshot) as (connection, diagnosis):
            chosen = terminate.chosen(diagnosis.joined, LEAK)
            connections[0].execute("SELECT 'given back, and out again'")
            (ending,) = terminate.end(connection, chosen, really=True)
        assert ending.outcome == "has moved on"
        assert alive(small, pids[0])

    def test_number_used_again(self, small, snapshot, pids):
        """A backend of the same number that started at another moment is another session."""
        with examining(small.dsn(), snapshot) as (connection, diagnosis):
            (slot,) = terminate.chosen(diagnosis.joined, LEAK)
            started = slot.backend.started_at
            older = replace(slot, backend=replace(slot.backend, started_at=started.replace(year=started.year - 1)))
            (ending,) = terminate.end(connection, [older], really=True)
        assert ending.outcome == "has moved on"
        assert alive(small, pids[0])

    @pytest.mark.parametrize("port", [1, None], ids=["another port", "no port"])
    def test_process_id_alone(self, small, connections, pids, port):
        """A claim with the process id of somebody's backend, and no more, ends nothing."""
        hold = hold_of(connections[0], proven=True)
        lying = replace(hold, hold=replace(hold.hold, server=replace(hold.hold.server, client_port=port)))
        for choice in (LEAK, Choice(backends=frozenset(pids))):
            assert ended(small.dsn(), choice, snapshot_of(lying)) == {}

    def test_socket_of_another_process(self, small, connections):
        """A claim to both ends of a socket that another process has ends nothing."""
        hold = hold_of(connections[0], proven=True)
        assert ended(small.dsn(), LEAK, snapshot_of(hold, pid=1)) == {}

    def test_event_files(self, small, connections, pids):
        """What only a file tells is never ended: it may be over by now."""
        reported = Reported()
        hold = hold_of(connections[0]).hold
        reported.observe(make_leak(kind="orphaned", hold=replace(hold, owner=replace(hold.owner, host="web9"))))
        with examining(small.dsn(), reported=reported) as (_, diagnosis):
            slot = slot_of(diagnosis, pids[0])
            assert (slot.keeper, slot.sure, slot.proven, slot.live) == ("hold", True, True, False)
            assert terminate.chosen(diagnosis.joined, LEAK) == ()
            by_number = Choice(backends=frozenset({pids[0]}))
            assert terminate.chosen(diagnosis.joined, by_number) == ()
            assert "event file" in terminate.unmet(diagnosis.joined, by_number)[0]

    def test_functions_of_the_database(self, small, snapshot, pids):
        """A look-alike of the ending function in the search path is never called."""
        with psycopg.connect(small.dsn(), autocommit=True) as admin:
            admin.execute("""
                CREATE SCHEMA evil;
                CREATE FUNCTION evil.eq(int, int) RETURNS bool LANGUAGE sql AS 'SELECT true';
                CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.eq);
                CREATE FUNCTION evil.teq(timestamptz, timestamptz) RETURNS bool LANGUAGE sql AS 'SELECT true';
                CREATE OPERATOR evil.= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.teq);
                ALTER DATABASE postgres SET search_path = evil, pg_catalog;
            """)
            try:
                assert ended(small.dsn(), LEAK, snapshot) == {pids[0]: "ended"}
            finally:
                admin.execute("ALTER DATABASE postgres RESET ALL; DROP SCHEMA evil CASCADE")
        assert [alive(small, pid) for pid in pids] == [False, True, True, True]


class TestRights:
    def test_own_role(self, small, snapshot, pids):
        """The application's own role may free its own slots."""
        assert ended(dsn_of(small, "app"), LEAK, snapshot) == {pids[0]: "ended"}

    def test_through_the_replication_door(self, each_server):
        """Where every slot is taken, the rescuing role frees those of the leak."""
        with filled(dsn_of(each_server, "app")) as held, filled(each_server.dsn()):
            snapshot = snapshot_of(hold_of(held[0], proven=True))
            assert ended(dsn_of(each_server, "rescue"), LEAK, snapshot) == {held[0].info.backend_pid: "ended"}

    def test_not_allowed(self, small):
        """A role that may see and not end is told so."""
        with closing(psycopg.connect(small.dsn())) as superuser:
            snapshot = snapshot_of(hold_of(superuser, proven=True))
            pid = superuser.info.backend_pid
            assert ended(dsn_of(small, "rescue"), LEAK, snapshot) == {pid: "not allowed"}

    def test_hidden(self, small, snapshot):
        """What the role may not see is not matched for sure, so not ended."""
        assert ended(dsn_of(small, "other"), LEAK, snapshot) == {}


@pytest.mark.slow
@pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")
class TestPooler:
    def test_linked(self, small):
        """Behind PgBouncer the linked backend is ended, not the number that the driver was told."""
        with pgbouncer(small, mode="transaction") as pooler, closing(psycopg.connect(pooler.dsn("app"))) as held:
            (pid,) = held.execute("SELECT pg_backend_pid()").fetchone()
            snapshot = snapshot_of(hold_of(held, proven=True))
            console = target_of(pooler.console)
            assert ended(small.dsn(), LEAK, snapshot, console=console) == {pid: "ended"}

    def test_moved_to_another_client(self, small):
        """If PgBouncer has given the backend to another client since, it is left alone."""
        with pgbouncer(small, mode="transaction", size=1) as pooler, ExitStack() as stack:
            held, other = (stack.enter_context(closing(psycopg.connect(pooler.dsn("app")))) for _ in range(2))
            held.execute("SELECT 1")
            snapshot = snapshot_of(hold_of(held, proven=True))
            with examining(small.dsn(), snapshot, console=target_of(pooler.console)) as (connection, diagnosis):
                chosen = terminate.chosen(diagnosis.joined, LEAK)
                held.rollback()
                (pid,) = other.execute("SELECT pg_backend_pid()").fetchone()
                (ending,) = terminate.end(connection, chosen, really=True)
            assert (ending.slot.backend.pid, ending.outcome) == (pid, "has moved on")
            other.execute("SELECT 1")


def test_nothing_is_chosen_of_what_is_not_held(small, connections):
    """Doors and claims apart, the rule itself: a slot without a sure live hold is never one that may be ended."""
    with examining(small.dsn(), snapshot_of(pools=[pool_of(*connections)])) as (_, diagnosis):
        assert not any(terminate.may_end(slot) for slot in diagnosis.joined.slots)
