"""The ranking: the cause that explains most stands first, with its line; a healthy server has none."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from leakguard.incident.doctor.diagnosis import diagnose
from leakguard.incident.doctor.model import (
    Attempt,
    BouncerFacts,
    BouncerPool,
    Endpoint,
    Joined,
    Limit,
    Phantom,
    PoolUse,
    Process,
    Refusal,
    Slot,
)
from leakguard.model import HoldNow, LeakCount, Now
from tests.doctor.support import NOW, backend, facts, pool_of, snapshot_of
from tests.factories import make_hold, make_site

APP = Process(pid=4242, command="python app.py", host="web1", guarded=True)
HERE = Endpoint(host="10.0.0.5", port=5432, user="app", database="shop")


def hold(**changes) -> HoldNow:
    given = {
        "hold": make_hold(),
        "fingerprint": "8f21c0a4d9e1",
        "now": Now(owner="ended", stack=()),
        "suspected": (),
        "proven": False,
        "allowed": None,
        "kept_by": None,
        "cure": None,
    }
    return HoldNow(**given | changes)


def held(
    pid: int, *, proven: bool = False, suspected: bool = False, blocks=(), allowed=None, line: int = 88, **changes
) -> Slot:
    """A slot that somebody holds."""
    one = hold(
        hold=make_hold(site=make_site(line=line)),
        proven=proven,
        suspected=("overdue",) if suspected else ("nested_acquire",),
        allowed=allowed,
        fingerprint=f"{line:012x}",
    )
    return Slot(
        backend=backend(pid, **changes),
        keeper="hold",
        sure=True,
        live=True,
        process=APP,
        hold=one,
        blocks=blocks,
    )


def idle(pid: int, **changes) -> Slot:
    """A slot that idles in a pool."""
    return Slot(backend=backend(pid, **changes), keeper="pool", sure=True, process=APP, pool="main")


def unknown(pid: int, *, blocks=(), **changes) -> Slot:
    """A slot of an unguarded program."""
    return Slot(backend=backend(pid, **changes), keeper="remote", sure=False, blocks=blocks)


def use(**changes) -> PoolUse:
    given = PoolUse.of([pool_of()], through_pooler=False)
    return replace(given, **changes)


def diagnosis_of(*slots: Slot, limit: int = 97, refused=None, joined=None, snapshots=(), bouncer=None, **changes):
    """The answer about these slots, on a server with room for `limit` ordinary ones."""
    server = facts(*(slot.backend for slot in slots), **changes)
    if "capacity" not in changes:
        server = replace(server, capacity=replace(server.capacity, max_connections=limit + 3))
    refusal = Refusal(kind=refused, sqlstate="53300", routine=None, message="…") if refused else None
    attempts = [Attempt(door="ordinary", endpoint=HERE, refusal=refusal)]
    if refusal is not None:
        attempts.append(Attempt(door="replication", endpoint=HERE, refusal=None))
    given = {"phantoms": (), "pools": (), "processes": (APP,), "unlogged": (), "unmatched": 0} | (joined or {})
    return diagnose(
        source="the command line",
        attempts=attempts,
        server=server,
        bouncer=bouncer,
        joined=Joined(slots=slots, **given),
        snapshots=list(snapshots) or [snapshot_of()],
    )


def kinds(diagnosis) -> list[tuple[str, int]]:
    return [(cause.kind, cause.slots) for cause in diagnosis.causes]


class TestHealthy:
    @pytest.mark.parametrize(
        "slots",
        [
            pytest.param([], id="nobody"),
            pytest.param([idle(pid) for pid in range(40)], id="idle pools"),
            pytest.param([held(pid, state="active", state_since=NOW) for pid in range(40)], id="busy"),
            pytest.param([held(1, state="idle in transaction", state_since=NOW - timedelta(seconds=59))], id="a pause"),
            pytest.param([unknown(1)], id="a program that nobody guards"),
            pytest.param([held(1, allowed="leader", suspected=True)], id="allowed"),
            pytest.param([held(1, state="active", transaction_since=NOW - timedelta(hours=2))], id="a long report"),
        ],
    )
    def test_no_problem(self, slots):
        """Room for everybody, and nothing stuck: no cause, no problem."""
        diagnosis = diagnosis_of(*slots)
        assert (diagnosis.causes, diagnosis.shortages, diagnosis.problem) == ((), (), False)

    def test_limits_on_purpose(self):
        """A role that is barred, or has its one connection, has no shortage unless it was refused."""
        server = facts().capacity
        limits = (Limit(name="barred", limit=0, used=0), Limit(name="daemon", limit=1, used=1))
        assert not diagnosis_of(capacity=replace(server, roles=limits)).problem
        refused = diagnosis_of(capacity=replace(server, roles=limits), refused="role")
        assert [shortage.role for shortage in refused.shortages] == ["daemon"]


class TestBlame:
    def test_a_leak_at_any_time(self):
        """A proven leak is a problem while there is still room, with the line, the fix and the way to free it."""
        diagnosis = diagnosis_of(held(1, proven=True), held(2, proven=True), idle(3))
        (cause,) = diagnosis.causes
        assert (cause.kind, cause.certain, cause.slots, cause.pids) == ("leak", True, 2, (1, 2))
        assert cause.site is not None
        assert cause.site.line == 88
        assert cause.fix
        assert "--terminate --fingerprint 000000000058" in cause.next[0]
        assert diagnosis.problem

    def test_a_suspicion(self):
        """An overdue hold is a cause that is not certain."""
        (cause,) = diagnosis_of(held(1, suspected=True)).causes
        assert (cause.kind, cause.certain) == ("leak", False)

    def test_a_stuck_transaction(self):
        """Idle in transaction for a minute, or in the way of others, is a cause; its victims are counted to it."""
        old = NOW - timedelta(seconds=61)
        (cause,) = diagnosis_of(held(1, state="idle in transaction", state_since=old)).causes
        assert (cause.kind, cause.slots) == ("transaction", 1)
        victims = [held(pid, line=12, state="active", suspected=True, blocked_by=(1,)) for pid in (2, 3)]
        (cause,) = diagnosis_of(held(1, state="active", blocks=(2, 3)), *victims).causes
        assert (cause.kind, cause.slots, cause.pids) == ("transaction", 3, (1, 2, 3))
        assert any("2 other sessions" in evidence.text for evidence in cause.evidence)

    def test_in_the_middle_of_a_chain(self):
        """Who waits and is waited for is a victim too: the first in the chain is to blame."""
        second = unknown(2, application="second", blocks=(3,), blocked_by=(1,))
        (cause,) = diagnosis_of(unknown(1, state="active", blocks=(2, 3)), second, unknown(3, blocked_by=(2,))).causes
        assert cause.pids == (1, 2, 3)

    def test_what_is_allowed_and_in_the_way(self):
        """A hold on purpose is a cause only where others wait for it."""
        assert diagnosis_of(held(1, allowed="leader", blocks=(2,)), unknown(2, blocked_by=(1,))).causes
        old = NOW - timedelta(hours=1)
        assert not diagnosis_of(held(1, allowed="leader", state="idle in transaction", state_since=old)).causes

    def test_one_cause_a_line(self):
        """Slots of one line are one cause, of two lines two, the larger first."""
        slots = [held(1, proven=True), held(2, proven=True, line=12), held(3, proven=True, line=12)]
        assert [cause.site.line for cause in diagnosis_of(*slots).causes] == [12, 88]

    def test_lost_slots_of_a_pool(self):
        """Slots that a pool has lost take none of the server's, and are told with the line that lost them."""
        count = LeakCount(kind="dropped", certain=True, fingerprint="f" * 12, site=make_site(line=5), count=3, time=NOW)
        snapshot = snapshot_of(pools=[pool_of(lost=3)], leaks=(count,))
        (cause,) = diagnosis_of(joined={"pools": (use(lost=3),)}, snapshots=[snapshot]).causes
        assert (cause.kind, cause.certain, cause.slots, cause.pids) == ("leak", True, 0, ())
        assert cause.title.startswith('3 slots of pool "main"')
        assert cause.site is not None
        assert cause.site.line == 5

    def test_logins_that_never_end(self):
        """Two slots that nobody has logged in to are a cause; one may be just about to."""
        full = replace(facts().capacity, max_connections=20, used=6, hidden=11)
        assert kinds(diagnosis_of(capacity=full, refused="reserved"))[0] == ("authentication", 11)
        assert not diagnosis_of(unknown(1, state="starting")).causes
        assert kinds(diagnosis_of(*(unknown(pid, state="starting") for pid in (1, 2)))) == [("authentication", 2)]

    def test_zombies_and_phantoms(self):
        """Sessions without a client and holds without a session are problems; a pool heals itself of the latter."""
        gone = Slot(backend=backend(1), keeper="zombie", sure=True)
        assert kinds(diagnosis_of(gone)) == [("zombie", 1)]
        phantom = Phantom(process=APP, backend_pid=1, pool=None, hold=hold())
        assert diagnosis_of(joined={"phantoms": (phantom,)}).problem
        assert not diagnosis_of(joined={"phantoms": (replace(phantom, hold=None),)}).problem


class TestRanking:
    def full(self, *slots, **changes):
        return diagnosis_of(*slots, limit=len(slots), **changes)

    def test_too_little_pooling(self):
        """Where idle connections fill the server, they come first, with the arithmetic, and the limit last."""
        slots = [idle(pid) for pid in range(18)] + [held(pid, state="active") for pid in (50, 51)]
        diagnosis = self.full(*slots, joined={"pools": (use(processes=4, capacity=15),)})
        assert kinds(diagnosis) == [("pooling", 18), ("load", 2), ("limit", 0)]
        words = [evidence.text for evidence in diagnosis.causes[0].evidence if evidence.label == "arithmetic"]
        assert words == [
            '4 processes x pool "main" of 15 = 60, 0 open now',
            "together 60, more than the 20 that ordinary roles have",
        ]

    def test_load(self):
        """Where everybody works, it is load; transactions of many minutes are told apart."""
        young = [held(pid, state="active", transaction_since=NOW) for pid in range(8)]
        old = [unknown(pid, state="active", transaction_since=NOW - timedelta(hours=1)) for pid in (90, 91, 92)]
        assert kinds(self.full(*young, *old)) == [("transaction", 3), ("load", 8), ("limit", 0)]

    def test_nearly(self):
        """Before the last slot is taken, it is told what takes them, and not yet that the limit is too low."""
        assert kinds(diagnosis_of(*(idle(pid) for pid in range(19)), limit=20)) == [("pooling", 19)]

    def test_a_leak_beats_load(self):
        """A line that can be changed stands before more slots that nobody can be blamed for, unless there are many."""
        leaks = [held(pid, proven=True) for pid in range(3)]
        busy = [unknown(pid, state="active") for pid in range(100, 108)]
        assert kinds(self.full(*leaks, *busy))[0] == ("leak", 3)
        assert kinds(self.full(*leaks, *(unknown(pid) for pid in range(100, 150))))[0] == ("pooling", 50)

    def test_a_role_at_its_limit(self):
        """Only the role's own slots explain a role's limit; that the server has room is said."""
        capacity = replace(facts().capacity, used=5, roles=(Limit(name="app", limit=3, used=3),))
        slots = [idle(pid, user="app") for pid in range(3)] + [idle(pid, user="other") for pid in (50, 51)]
        diagnosis = diagnosis_of(*slots, capacity=capacity, refused="role")
        assert kinds(diagnosis) == [("pooling", 3), ("limit", 0)]
        assert diagnosis.causes[1].next == ('ALTER ROLE "app" CONNECTION LIMIT 6;',)
        assert "92 slots free" in diagnosis.causes[1].evidence[0].text

    def test_a_name_is_no_sql(self):
        """A role's name in a command is quoted, whatever is in it."""
        capacity = replace(facts().capacity, roles=(Limit(name='a"; DROP TABLE t; --', limit=3, used=3),))
        diagnosis = diagnosis_of(capacity=capacity, refused="role")
        assert diagnosis.causes[0].next == ('ALTER ROLE "a""; DROP TABLE t; --" CONNECTION LIMIT 6;',)

    def test_a_fingerprint_is_no_shell(self):
        """A fingerprint from somewhere else, with anything but hexadecimal digits in it, is in no command."""
        slot = replace(held(1), hold=hold(proven=True, fingerprint="$(reboot)"))
        assert not any("reboot" in line for line in diagnosis_of(slot).causes[0].next)

    def test_pool_of_pgbouncer(self):
        """Clients that wait for a pool make it an exhaustion; whoever has its connections is to blame."""
        pool = BouncerPool(
            database="shop",
            user="app",
            mode="session",
            size=2,
            active=2,
            idle=0,
            clients=2,
            waiting=4,
            longest_wait=9.0,
        )
        bouncer = BouncerFacts(
            version="1.18", endpoint=HERE, max_clients=100, pools=(pool,), sockets=(), servers=(), missing=()
        )
        diagnosis = diagnosis_of(held(1, proven=True), idle(2), bouncer=bouncer)
        assert [(shortage.kind, shortage.full) for shortage in diagnosis.shortages] == [("pool", True)]
        assert kinds(diagnosis) == [("leak", 1), ("pooling", 1), ("limit", 0)]
        assert "pgbouncer.ini" in diagnosis.causes[-1].next[0]
        patient = replace(bouncer, pools=(replace(pool, longest_wait=0.1),))
        assert not diagnosis_of(held(1), bouncer=patient).shortages

    def test_full_a_moment_ago(self):
        """A refusal is a problem even if there is room by now, and the door that stayed shut is told."""
        diagnosis = diagnosis_of(idle(1), refused="reserved")
        assert diagnosis.problem
        assert [shortage.full for shortage in diagnosis.shortages] == [False]


class TestNotes:
    def notes(self, *slots, **changes):
        return "\n".join(diagnosis_of(*slots, **changes).notes)

    def test_degraded(self):
        """What the role may not see is said, with the grant that helps."""
        assert "GRANT pg_monitor" in self.notes(degraded=True)
        assert "pg_monitor" not in self.notes()

    def test_another_version(self):
        """A process that answers with another version of leakguard is named."""
        assert "runs leakguard 0.0.1" in self.notes(snapshots=[snapshot_of(version="0.0.1")])

    def test_timeouts(self):
        """A timeout that is off is named, with what it does to pools."""
        notes = self.notes(unset=("idle_in_transaction_session_timeout", "idle_session_timeout"))
        assert "idle_in_transaction_session_timeout is not set" in notes
        assert "Leave it so for roles that pools use" in notes
        assert "5min for role app" in self.notes(
            unset=("idle_in_transaction_session_timeout",),
            overridden=("idle_in_transaction_session_timeout = 5min for role app",),
        )

    def test_lost_slots_of_who_knows_which_server(self):
        """A pool that is connected to nothing has no cause here, and is told of."""
        diagnosis = diagnosis_of(snapshots=[snapshot_of(pools=[pool_of(lost=3)])])
        assert not diagnosis.problem
        assert any("has lost 3 slots" in note for note in diagnosis.notes)

    def test_nobody_to_rescue(self):
        """A server that no role could enter when it is full is told how to get one."""
        assert "CREATE ROLE leakguard_rescue" in self.notes(rescuers=())

    def test_pooler_in_between(self):
        """A pooler whose console was not asked is named."""
        assert "--bouncer" in self.notes(through_pooler=True)
        pooler = Slot(
            backend=backend(1),
            keeper="process",
            sure=True,
            process=Process(pid=7, command="pgbouncer", host="web1", guarded=False),
        )
        assert "pid 7 is a pooler" in self.notes(pooler)
