"""Each backend beside who has it: two ends of one socket are a match, a process id alone is not."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from leakguard.incident.doctor import claims, processes
from leakguard.incident.doctor.claims import Reported
from leakguard.incident.doctor.examine import Sources, examination
from leakguard.incident.doctor.join import Views, join
from leakguard.incident.doctor.model import BouncerFacts, BouncerSocket, Endpoint
from leakguard.incident.doctor.processes import Socket, Table
from leakguard.model import HoldNow, Now
from tests.doctor.support import (
    NOW,
    backend,
    dsn_of,
    examined,
    facts,
    hold_of,
    pool_of,
    slot_of,
    snapshot_of,
    target_of,
)
from tests.factories import make_hold, make_leak, make_owner, make_recovered, make_server, make_summary


@contextmanager
def stranger(dsn: str):
    """Another process with one connection; its backend's process id."""
    program = f"import psycopg, sys; c = psycopg.connect({dsn!r}); print(c.info.backend_pid, flush=1); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process
        process.kill()


class TestReal:
    def test_every_slot_is_explained(self, each_server):
        """A hold, an idle connection of a pool, an unguarded process, and a connection that the guard has not seen."""
        dsn = dsn_of(each_server, "app")
        with ExitStack() as stack:
            held, idle, unseen = (stack.enter_context(closing(psycopg.connect(dsn))) for _ in range(3))
            backend_pid, process = stack.enter_context(stranger(dsn))
            diagnosis = examined(each_server.dsn(), snapshot_of(hold_of(held), pools=[pool_of(idle)]))
            slots = {slot.backend.pid: slot for slot in diagnosis.joined.slots}
            assert len(slots) == 5
            first, second, third, fourth = (
                slots[pid]
                for pid in (held.info.backend_pid, idle.info.backend_pid, unseen.info.backend_pid, backend_pid)
            )
            assert (first.keeper, first.sure, first.hold is not None) == ("hold", True, True)
            assert (second.keeper, second.sure, second.pool) == ("pool", True, "main")
            assert third.process is not None
            assert (third.keeper, third.process.pid, third.process.guarded) == ("process", os.getpid(), True)
            assert fourth.process is not None
            assert (fourth.keeper, fourth.process.pid, fourth.process.guarded) == ("process", process.pid, False)
            assert fourth.process.command.startswith("python")
            assert [slot.keeper for slot in slots.values()].count("doctor") == 1
            assert diagnosis.joined.phantoms == ()

    def test_unix_sockets(self, small):
        """Over a Unix socket, where there are no ports, the process id of a server of this host is enough."""
        dsn = f"host={small.directory} port={small.port} user=app dbname=postgres"
        with closing(psycopg.connect(dsn)) as held, closing(psycopg.connect(dsn)) as other:
            diagnosis = examined(small.dsn(), snapshot_of(hold_of(held)))
            slot = slot_of(diagnosis, held.info.backend_pid)
            assert (slot.keeper, slot.sure) == ("hold", True)
            unseen = slot_of(diagnosis, other.info.backend_pid)
            assert unseen.process is not None
            assert (unseen.keeper, unseen.process.pid) == ("process", os.getpid())
            # What another process claims of it is not believed.
            diagnosis = examined(small.dsn(), snapshot_of(hold_of(held), pid=1))
            assert slot_of(diagnosis, held.info.backend_pid).hold is None

    def test_what_the_server_ended_is_a_phantom(self, small):
        """A hold whose backend is gone has no slot, and is told; what it believes does not matter."""
        with (
            closing(psycopg.connect(dsn_of(small, "app"))) as held,
            psycopg.connect(small.dsn(), autocommit=True) as admin,
        ):
            pid = held.info.backend_pid
            hold = hold_of(held)
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            diagnosis = examined(small.dsn(), snapshot_of(hold))
        assert [phantom.backend_pid for phantom in diagnosis.joined.phantoms] == [pid]
        assert diagnosis.problem

    def test_no_phantom_of_what_is_there(self, small):
        """Holds that are alive, young, on another server or closed are no phantoms."""
        with closing(psycopg.connect(dsn_of(small, "app"))) as held:
            living = hold_of(held)
            server = living.hold.server
            assert server is not None
            gone = replace(server, backend_pid=4_000_000)
            diagnosis = examined(
                small.dsn(),
                snapshot_of(
                    living,
                    hold_of(held, server=gone, held_for=0.1),
                    hold_of(held, server=replace(gone, port=1)),
                    hold_of(held, server=gone, state="closed"),
                    hold_of(held, server=replace(gone, backend_pid=-131805088)),
                ),
            )
        assert diagnosis.joined.phantoms == ()

    def test_opened_while_we_looked(self, small):
        """What the server gets between our question and the process's answer is no phantom."""
        with ExitStack() as stack:

            def answer():
                late = stack.enter_context(closing(psycopg.connect(dsn_of(small, "app"))))
                return [snapshot_of(hold_of(late), pools=[pool_of(late)])], []

            sources = Sources(processes=answer, reported=Reported())
            with examination(target_of(small.dsn()), sources) as (_, diagnosis):
                assert diagnosis.joined.phantoms == ()

    def test_client_is_gone(self, small, monkeypatch):
        """A session that goes on working for a client that has hung up is a zombie, and nobody's hold."""
        monkeypatch.setattr("leakguard.incident.doctor.join._SETTLED", timedelta(0))
        with psycopg.connect(dsn_of(small, "app"), autocommit=True) as connection:
            pid = connection.info.backend_pid
            worker = threading.Thread(target=_slept, args=(connection,))
            worker.start()
            while slot_of(examined(small.dsn()), pid).backend.state != "active":
                pass
            with socket.socket(fileno=os.dup(connection.fileno())) as own:
                own.shutdown(socket.SHUT_RDWR)
            worker.join(10)
            connection.close()
            diagnosis = examined(small.dsn())
        assert slot_of(diagnosis, pid).keeper == "zombie"
        assert [cause.kind for cause in diagnosis.causes] == ["zombie"]
        with psycopg.connect(small.dsn(), autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    def test_who_has_not_logged_in(self, each_server):
        """Connections that never log in are traced to the process that opened them, before PostgreSQL 18 as well."""
        body = b"user\0scram\0database\0postgres\0\0"
        with ExitStack() as stack:
            for _ in range(12):
                link = stack.enter_context(socket.create_connection(("127.0.0.1", each_server.port)))
                link.sendall(struct.pack("!ii", len(body) + 8, 3 << 16) + body)
                link.recv(1)
            diagnosis = examined(dsn_of(each_server, "rescue"))
        (cause,) = [cause for cause in diagnosis.causes if cause.kind == "authentication"]
        assert cause.slots == 12
        assert any(f"pid {os.getpid()} " in evidence.text for evidence in cause.evidence)


def _slept(connection):
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT pg_sleep(60)")


# ------------------------------------------------------------------------------------------------- by hand


def hold_on(**server):
    """A hold of this test on a connection to that server; with `acquired_at`, since then."""
    acquired_at = server.pop("acquired_at", NOW - timedelta(minutes=30))
    owner = make_owner(pid=os.getpid(), host=os.uname().nodename)
    return make_hold(server=make_server(**server), acquired_at=acquired_at, held_for=1800.0, owner=owner)


def held_now(hold):
    """A hold that is a proven leak."""
    return HoldNow(
        hold=hold,
        fingerprint="8f21c0a4d9e1",
        now=Now(owner="running", stack=()),
        suspected=(),
        proven=True,
        allowed=None,
        kept_by=None,
        cure=None,
    )


def only_slot(*backends, holds=(), table=None, **changes):
    """The slot of the first backend, beside these holds."""
    snapshot = snapshot_of(*map(held_now, holds))
    views = Views(
        server=facts(*backends, **changes),
        snapshots=[snapshot],
        claims=list(claims.of_snapshots([snapshot])),
        before=table or processes.NO_TABLE,
        after=table or processes.NO_TABLE,
    )
    return join(views).slots[0]


def table_of(*sockets: Socket, owners=None) -> Table:
    return Table(
        readable=True,
        sockets={(one.local, one.remote): one for one in sockets},
        by_local={one.local: (one,) for one in sockets},
        owners=owners or {},
    )


def a_socket(local, remote, *, inode=7, user=33, state="01") -> Socket:
    return Socket(local=local, remote=remote, state=state, user=user, inode=inode)


class TestMatching:
    def test_both_ends(self):
        """Process id and client port together are sure."""
        slot = only_slot(backend(), holds=[hold_on()])
        assert (slot.keeper, slot.sure) == ("hold", True)

    def test_process_id_alone_on_this_server(self):
        """Behind address translation the port differs: it is a match, and not a sure one."""
        slot = only_slot(backend(client_port=40000), holds=[hold_on(host="10.0.0.5", port=5432)])
        assert (slot.keeper, slot.sure) == ("hold", False)

    @pytest.mark.parametrize(
        "server",
        [
            pytest.param({"host": "10.0.0.99", "client_port": 40000}, id="another server, the same process id"),
            pytest.param({"port": 5433, "client_port": 40000}, id="another cluster of that host"),
            pytest.param({"dbname": "other"}, id="another database"),
            pytest.param({"user": "other"}, id="another role"),
            pytest.param({"backend_pid": 992}, id="another process id, the same port"),
            pytest.param({"acquired_at": NOW - timedelta(hours=2)}, id="held before the backend began"),
        ],
    )
    def test_no_match(self, server):
        """A coincidence in one of the two is nobody's slot."""
        assert only_slot(backend(), holds=[hold_on(**server)]).keeper == "remote"

    def test_another_process_has_the_socket(self):
        """What the process table knows for certain beats what a process claims."""
        one = a_socket(("10.0.0.7", 51234), ("10.0.0.5", 5432))
        table = table_of(one, owners={7: (1,)})
        slot = only_slot(backend(), holds=[hold_on()], table=table)
        assert slot.process is not None
        assert (slot.keeper, slot.process.pid) == ("process", 1)
        mine = table_of(one, owners={7: (1, os.getpid())})
        assert only_slot(backend(), holds=[hold_on()], table=mine).keeper == "hold"

    def test_server_whose_clock_is_ahead(self):
        """The clocks of server and host may differ; the difference is measured, not assumed to be nothing."""
        started = backend(started_at=NOW + timedelta(seconds=60))
        assert only_slot(started, holds=[hold_on(acquired_at=NOW)]).keeper == "remote"
        assert only_slot(started, holds=[hold_on(acquired_at=NOW)], clock_ahead=60.0).keeper == "hold"

    def test_unix_socket_elsewhere(self):
        """Over a Unix socket a process id says nothing unless server and process share their numbers."""
        unix = backend(client=None, client_port=-1)
        hold = hold_on(host="/run/postgresql", client_port=None)
        assert only_slot(unix, holds=[hold], is_here=True).sure
        assert only_slot(unix, holds=[hold]).keeper == "socket"
        assert only_slot(unix, holds=[hold], is_here=True, settings={"port": "5433"}).keeper == "socket"

    def test_hidden(self):
        """What the role may not see is said to be hidden, and still matched by its number on this server's address."""
        hidden = backend(visible=False, client=None, client_port=None, started_at=None, state=None, state_since=None)
        assert only_slot(hidden).keeper == "hidden"
        slot = only_slot(hidden, holds=[hold_on(host="10.0.0.5")])
        assert (slot.keeper, slot.sure) == ("hold", False)

    def test_process_of_another_user(self):
        """A socket of this host whose owner may not be looked into has at least a user."""
        slot = only_slot(backend(), table=table_of(a_socket(("10.0.0.7", 51234), ("10.0.0.5", 5432))))
        assert (slot.keeper, slot.user) == ("foreign", 33)

    @pytest.mark.parametrize(
        ("client", "sockets", "keeper"),
        [
            pytest.param("10.0.0.7", [], "remote", id="another host"),
            pytest.param("10.0.0.7", [(("10.0.0.7", 22), ("10.0.0.9", 5))], "zombie", id="this host, and gone"),
            pytest.param("127.0.0.1", [(("127.0.0.1", 22), ("127.0.0.1", 5))], "remote", id="another loopback"),
            pytest.param(
                "127.0.0.1", [(("127.0.0.1", 5432), ("127.0.0.1", 51234))], "zombie", id="our loopback, and gone"
            ),
        ],
    )
    def test_who_is_gone(self, client, sockets, keeper):
        """A client is gone for sure only where its end would have to be on this host."""
        table = table_of(*(a_socket(*ends) for ends in sockets))
        assert only_slot(backend(client=client), table=table).keeper == keeper

    def test_chains_of_waiting(self):
        """Whoever waits behind somebody who waits is blocked by the first."""
        slot = only_slot(backend(1000), backend(1001, blocked_by=(1000,)), backend(1002, blocked_by=(1001,)))
        assert slot.blocks == (1001, 1002)


class TestPools:
    """Which pools are this server's."""

    def pools(self, *pools, holds=()):
        snapshot = snapshot_of(*map(held_now, holds), pools=pools)
        views = Views(server=facts(), snapshots=[snapshot], claims=list(claims.of_snapshots([snapshot])))
        return [use.name for use in join(views).pools]

    def test_by_their_connections(self):
        """A pool belongs where its connections lead to."""
        idle = make_server(host="10.0.0.5", port=5432)
        assert self.pools(pool_of(idle=(idle,))) == ["main"]
        assert self.pools(pool_of(idle=(replace(idle, port=5433),))) == []

    def test_without_a_connection(self):
        """One without any is where its process is connected to, or where it was refused; else nobody knows."""
        assert self.pools(pool_of()) == []
        assert self.pools(pool_of(), holds=[hold_on(host="10.0.0.5")]) == ["main"]
        assert self.pools(pool_of(), holds=[hold_on(host="10.0.0.99")]) == []
        refusal = 'connection to server at "10.0.0.5", port 5432 failed: FATAL:  sorry, too many clients already'
        assert self.pools(pool_of(error=refusal)) == ["main"]
        assert self.pools(pool_of(error=refusal.replace("5432", "15432"))) == []


class TestThroughPgBouncer:
    """What ``SHOW SOCKETS`` says, by hand."""

    def slot(self, *holds, **server):
        """The slot of backend 991, which PgBouncer has linked to a client at port 40000."""
        end = {"user": "app", "database": "shop", "state": "active", "local_address": "10.0.0.6"}
        given = {"kind": "S", "key": "s", "link": "c", "local_port": 51234, "remote_pid": 991} | server
        client = BouncerSocket(
            kind="C", key="c", link="s", address="10.0.0.7", port=40000, local_port=6432, remote_pid=None, **end
        )
        bouncer = BouncerFacts(
            version="1.18",
            endpoint=Endpoint(host="10.0.0.6", port=6432, user="app", database="pgbouncer"),
            max_clients=100,
            pools=(),
            sockets=(BouncerSocket(address="10.0.0.5", port=5432, **end, **given), client),
            servers=(),
            missing=(),
        )
        snapshot = snapshot_of(*(held_now(hold) for hold in holds))
        views = Views(server=facts(backend()), claims=list(claims.of_snapshots([snapshot])), bouncer=bouncer)
        return join(views).slots[0]

    def test_by_the_port(self):
        """The client's port and PgBouncer's together lead to the hold; unseen, its owner is not sure."""
        hold = hold_on(port=6432, client_port=40000, backend_pid=-131805088)
        assert (self.slot(hold).keeper, self.slot(hold).sure) == ("hold", False)
        assert self.slot(hold_on(port=6433, client_port=40000)).keeper == "remote"
        assert self.slot(hold_on(port=6432, client_port=40000, dbname="other")).keeper == "remote"

    def test_two_hosts_with_one_port(self):
        """Where two clients may be meant, neither is."""
        holds = [hold_on(port=6432, client_port=40000, backend_pid=number) for number in (-1, -2)]
        assert self.slot(*holds).keeper == "remote"

    def test_a_backend_of_the_same_number(self):
        """A backend with the number of one of PgBouncer's, and another port, is not PgBouncer's."""
        assert self.slot(local_port=51235).through is None
        assert self.slot(link="").keeper == "pooler"


class TestReported:
    """What event files of other hosts tell."""

    def claims_of(self, *events):
        reported = Reported()
        for event in events:
            reported.observe(event)
        return list(reported.claims())

    def test_open_leak(self):
        """A suspicion or an orphan is still held, as far as the file goes."""
        (claim,) = self.claims_of(make_leak(kind="overdue", certain=False), make_leak(kind="orphaned"))
        assert claim.hold is not None
        assert (claim.live, claim.hold.proven) == (False, True)

    def test_snapshot_of_an_incident(self):
        """A snapshot in a file has all that was held then, and replaces what was told before."""
        leak = make_leak(kind="overdue")
        owner = leak.hold.owner
        hold = held_now(make_hold(id=99))
        (claim,) = self.claims_of(leak, snapshot_of(hold, pid=owner.pid, host=owner.host))
        assert claim.hold == hold
        assert not claim.live

    @pytest.mark.parametrize(
        "events",
        [
            [make_leak(kind="dropped")],
            [make_leak(kind="overdue"), make_leak(kind="dropped")],
            [make_leak(kind="overdue"), make_recovered()],
            [make_leak(kind="orphaned"), make_summary()],
        ],
        ids=["dropped", "dropped later", "recovered", "process ended"],
    )
    def test_over(self, events):
        """What is collected, came back, or was in a process that has ended holds nothing."""
        assert self.claims_of(*events) == []

    def test_beside_its_backend(self):
        """A hold of another host is matched by both of its ends."""
        (claim,) = self.claims_of(make_leak(kind="orphaned", hold=make_hold(acquired_at=NOW)))
        slot = join(Views(server=facts(backend()), claims=[claim])).slots[0]
        assert (slot.keeper, slot.sure, slot.proven, slot.live) == ("hold", True, True, False)

    def test_gone(self):
        """A reported connection that the server does not have is over, and no phantom."""
        (claim,) = self.claims_of(make_leak(kind="orphaned", hold=make_hold(server=make_server(host="10.0.0.5"))))
        assert join(Views(server=facts(), claims=[claim])).phantoms == ()

    def test_snapshot_of_a_process_that_has_ended(self):
        """A snapshot from before the process's summary holds nothing any more."""
        summary = make_summary(time=NOW)
        hold = held_now(make_hold())
        for time, count in ((NOW - timedelta(seconds=1), 0), (NOW + timedelta(seconds=1), 1)):
            snapshot = snapshot_of(hold, pid=summary.pid, host=summary.host, time=time)
            assert len(self.claims_of(summary, snapshot)) == count
        assert self.claims_of(snapshot_of(hold, pid=summary.pid, host=summary.host, time=NOW), summary) == []

    def test_process_that_answers_knows_better(self):
        """What a live process says of itself replaces what its file says."""
        reported = Reported()
        leak = make_leak(kind="orphaned")
        reported.observe(leak)
        owner = leak.hold.owner
        answered = claims.process_of(snapshot_of(pid=owner.pid, host=owner.host))
        assert list(reported.claims([answered])) == []
