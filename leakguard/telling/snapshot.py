"""From live records to the frozen values that people and programs read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Set

from leakguard import redact
from leakguard.model import Frame, Hold, HolderGroup, Now, Owner, PoolInfo, Server, Site, State
from leakguard.register.awaiters import is_running, raw_stack_of_task
from leakguard.register.fingerprint import fingerprint
from leakguard.register.owners import OwnerRecord, is_alive
from leakguard.register.records import HoldRecord, PoolRecord, Wire
from leakguard.register.stacks import RawStack, raw_stack_of, resolve
from leakguard.register.tracker import Tracker


class Snapshots:
    """Makes frozen values of records. Thread-safe: it only reads, and every connection it asks may be closed."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self.origin_of: Callable[[HoldRecord], tuple[str | None, dict[str, str]]] = origin_of
        """The test and the labels of a hold; a test runner knows better than the scope that the hold carries."""

    def hold(self, hold: HoldRecord, state: State, now: float) -> Hold:
        """The hold as it is at `now`."""
        clock, wire = self._tracker.clock, hold.wire
        return Hold(
            id=hold.serial,
            library=hold.library,
            operation=hold.operation,
            pool=None if hold.pool.direct else hold.pool.name,
            acquired_at=clock.datetime_of(hold.acquired_at),
            held_for=round(now - hold.acquired_at, 6),
            last_used_at=None if hold.last_used is None else clock.datetime_of(hold.last_used),
            statements=hold.statements,
            last_statement=statement_text(hold.last_statement),
            owner=self.owner(hold),
            site=self.site(hold),
            stack=resolve(hold.frames, self._tracker.recorder.rules),
            server=None if wire is None else server_of(hold),
            state=state,
            trace=hold.trace,
        )

    def site(self, hold: HoldRecord) -> Site | None:
        """The line that acquired."""
        return hold.site.site() if hold.site is not None else None

    def owner(self, hold: HoldRecord) -> Owner:
        """Who owns the hold; the test and the labels are those of its acquisition."""
        owner = hold.owner
        test, labels = self.origin_of(hold)
        return Owner(
            pid=os.getpid(),
            process=redact.process_title(),
            host=os.uname().nodename,
            thread=owner.name,
            task=owner.task_name,
            test=test,
            labels=labels,
        )

    def fingerprint(self, hold: HoldRecord) -> str:
        """The bug's name."""
        return fingerprint(hold.frames, hold.library, self._tracker.recorder.rules)

    def pool_fingerprint(self, record: PoolRecord) -> str:
        """The name of a bug that is about the pool itself: where it was created."""
        return fingerprint(record.created_stack, record.library, self._tracker.recorder.rules)

    def pool(self, record: PoolRecord) -> PoolInfo | None:
        """The pool as it is now; None for direct connections."""
        if record.direct or record.probe is None:
            return None
        pool = record.pool()
        return PoolInfo(
            name=record.name,
            library=record.library,
            created_at=record.created.site() if record.created is not None else None,
            open=sum(1 for wire in list(record.wires.values()) if wire.is_open),
            capacity=None if pool is None else record.probe.capacity(pool),
        )

    def now(self, owner: OwnerRecord) -> Now:
        """Where the owner is at this moment: its stack, if it still runs."""
        alive = is_alive(owner)
        if alive is None:
            return Now(owner="unknown", stack=())
        if not alive:
            return Now(owner="ended", stack=())
        return Now(owner="running", stack=self._stack_now(owner))

    def _stack_now(self, owner: OwnerRecord) -> tuple[Frame, ...]:
        return resolve(self.raw_now(owner, thread_stacks({owner.ident})), self._tracker.recorder.rules)

    def raw_now(self, owner: OwnerRecord, threads: Mapping[int, RawStack]) -> RawStack:
        """The raw stack of an owner that runs or waits; `threads` are those of the threads, as `thread_stacks` says."""
        task = owner.task
        if task is not None and not is_running(task):
            return raw_stack_of_task(task)
        return threads.get(owner.ident, ()) if owner.greenlet_ref is None else raw_stack_of(owner.frame())

    def groups(self, holds: Iterable[HoldRecord], now: float) -> tuple[HolderGroup, ...]:
        """The holds grouped by bug and line, the largest group first."""
        found: dict[tuple[str, Site | None], list[HoldRecord]] = {}
        for hold in holds:
            found.setdefault((self.fingerprint(hold), self.site(hold)), []).append(hold)
        groups = [
            HolderGroup(
                fingerprint=name,
                count=len(members),
                oldest=round(max(now - member.acquired_at for member in members), 6),
                site=site,
            )
            for (name, site), members in found.items()
        ]
        return tuple(sorted(groups, key=lambda group: (-group.count, -group.oldest)))


def thread_stacks(idents: Set[int]) -> dict[int, RawStack]:
    """The raw stacks of these threads, now: frames are not kept for longer than it takes to read them."""
    return {ident: raw_stack_of(frame) for ident, frame in sys._current_frames().items() if ident in idents}


def origin_of(hold: HoldRecord) -> tuple[str | None, dict[str, str]]:
    """The test and the labels of the scope that it was acquired in."""
    return hold.scope.test, dict(hold.scope.labels)


def server_of(hold: HoldRecord) -> Server | None:
    """The server's end of a hold's connection, which it must have."""
    assert hold.wire is not None
    return server_behind(hold.wire)


def server_behind(wire: Wire) -> Server | None:
    """The server's end, asked once for each connection and remembered: a closed one cannot tell any more."""
    if wire.server is None:
        connection = wire.connection()
        if connection is not None:
            try:
                wire.server = wire.driver.server(connection)
            except Exception:  # it was closed before we knew it
                return None
    return wire.server


def statement_text(statement: object) -> str | None:
    """The text of a statement without literals; None for what is no text (a composed query may hold values)."""
    if isinstance(statement, (str, bytes)):
        return redact.statement(statement)
    return None
