"""What a test or a fixture has left open: looked for at its end, with patience, and only where there can be any."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from leakguard.judging.judge import Finding
from leakguard.model import Leak
from leakguard.pytest_plugin import keepers
from leakguard.pytest_plugin.places import OUTSIDE, Place, Timeline
from leakguard.references import ReferencePath, reference_path
from leakguard.register.records import HoldRecord, PoolRecord
from leakguard.runtime import Runtime

SHORT_PAUSES: Final = (0.001, 0.002, 0.004)
"""Seconds between the first looks at what is still open: a thread may be about to give it back."""
LONG_PAUSES: Final = (0.008, 0.016, 0.032, 0.064, 0.1, 0.1, 0.1, 0.1)
"""Seconds between the looks after the garbage has been collected; about half a second in all."""

SEARCH_BUDGET: Final = 1.0
"""Seconds that a search for what refers to a leaked connection may take."""
SEARCHES_BUDGET: Final = 20.0
"""Seconds for all searches of a run, after which each one has `SHORT_SEARCH_BUDGET`: a suite may leak at many lines."""
SHORT_SEARCH_BUDGET: Final = 0.1
_POOL_THREAD: Final = re.compile(r"-(worker-\d+|scheduler)$")


class Residents(NamedTuple):
    """The threads and tasks that were there before a test began: what they acquire meanwhile may be their own."""

    threads: frozenset[int | None]
    owners: frozenset[int]

    def with_newcomers(self, before: Residents, after: Residents) -> Residents:
        """These, and those who came between two looks."""
        if after is before:
            return self
        return Residents(self.threads | (after.threads - before.threads), self.owners | (after.owners - before.owners))


NOBODY: Final = Residents(frozenset(), frozenset())


class Left(NamedTuple):
    """What is still open."""

    holds: list[HoldRecord]
    pools: list[PoolRecord]

    def __bool__(self) -> bool:
        return bool(self.holds or self.pools)


class Inspector:
    """Finds what a place has left open, and keeps the findings, each with its place, until they are taken."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tracker = runtime.tracker
        self.found: list[tuple[Place, Leak]] = []
        self._kept_by: dict[int, str] = {}
        self._explained: set[object] = set()
        self._searched = 0.0
        self.timeline = Timeline(self._tracker.last_serial)

    def collect(self, finding: Finding, leak: Leak) -> None:
        """Keep a finding; called by the runtime under its lock, in any thread."""
        self.found.append((self.place_of(finding), leak))

    def place_of(self, finding: Finding) -> Place:
        """Where the hold was acquired, or the pool created."""
        return self.timeline.at(finding.hold.serial if finding.hold is not None else finding.pool.serial)

    def origin_of(self, hold: HoldRecord) -> tuple[str | None, dict[str, str]]:
        """The test that acquired, and the hold's labels; a fixture is named there."""
        place = self.timeline.at(hold.serial)
        labels = dict(hold.scope.labels)
        if place.fixture is not None:
            labels |= {"fixture": place.fixture, "scope": place.scope}
        return place.test or hold.scope.test, labels

    def take(self) -> list[tuple[Place, Leak]]:
        """The findings since the last time."""
        taken = self.found[:]
        del self.found[: len(taken)]  # in place: another thread may be adding one
        return taken

    def quiet_since(self, serial: int) -> bool:
        """Whether nothing at all has happened since that number: then there is nothing to look for."""
        return self._tracker.last_serial() == serial and self._tracker.signals.empty()

    def holds(self, place: Place) -> list[HoldRecord]:
        """What the place holds now."""
        return [hold for hold in self._tracker.holds() if self.timeline.at(hold.serial) is place]

    def check(self, place: Place) -> list[Leak]:
        """Collect garbage, judge everything now; what the place has leaked so far. It is not taken by that."""
        gc.collect()
        self._runtime.rounds.work(everything=True)
        return [leak for where, leak in list(self.found) if where is place and leak.certain]

    # ------------------------------------------------------------------ at the end of a place

    def residents(self) -> Residents:
        """Who is there now."""
        threads = threading._active  # type: ignore[attr-defined]
        if len(threads) == 1 and not self._tracker.owners._tasks:
            return NOBODY
        natives = frozenset(thread.native_id for thread in list(threads.values())) if len(threads) > 1 else frozenset()
        return Residents(natives, frozenset(map(id, list(self._tracker.owners._tasks.values()))))

    def inspect(self, place: Place, *, since: int, residents: Residents | None = None, patient: bool = True) -> None:
        """Judge what the place has left open.

        `residents` are the threads and tasks that are older than the place: what they still hold is left alone, until
        an inspection that names none. Without `patience` nobody is waited for.
        """
        runtime = self._runtime
        runtime.rounds.work()
        left = self._left(place, since, residents)
        if left and patient:
            left = self._wait(SHORT_PAUSES, lambda: self._left(place, since, residents), left)
        if left:
            gc.collect()
            runtime.rounds.work(everything=True)
            left = self._left(place, since, residents)
        if left.holds and patient:
            left = self._wait(LONG_PAUSES, lambda: self._left(place, since, residents), left)
        if left:
            pools = [record for record in left.pools if not keepers.kept_for_longer(record.pool())]
            for hold in left.holds:
                self._explain(hold)
            runtime.rounds.work(boundary="test", crossing=left.holds, outliving=pools, where=place.ended)
        elif not self.holds(place) and not self._pools(place):
            self.timeline.forget(place)

    def kept_by(self, leak: Leak) -> str | None:
        """What still refers to the leaked connection, in words; searched for once a line that acquires."""
        return self._kept_by.get(leak.hold.id) if leak.hold is not None else None

    def _explain(self, hold: HoldRecord) -> None:
        if hold.site in self._explained:
            return
        self._explained.add(hold.site)
        handle = hold.handle() if hold.handle is not None else None
        if handle is None and hold.wire is not None:
            handle = hold.wire.connection()
        if handle is not None:
            budget = SEARCH_BUDGET if self._searched < SEARCHES_BUDGET else SHORT_SEARCH_BUDGET
            begun = time.perf_counter()
            path = reference_path(handle, budget=budget)
            self._searched += time.perf_counter() - begun
            if path:
                self._kept_by[hold.serial] = _words(path)

    def _pools(self, place: Place) -> list[PoolRecord]:
        pools = list(self._tracker.pools.values())
        return [record for record in pools if record.created is not None and self.timeline.at(record.serial) is place]

    def _wait(self, pauses: tuple[float, ...], look: Callable[[], Left], left: Left) -> Left:
        for pause in pauses:
            if not _others_run():  # nobody is there who could give it back
                break
            time.sleep(pause)
            self._runtime.rounds.work()
            left = look()
            if not left:
                break
        return left

    def _left(self, place: Place, since: int, residents: Residents | None) -> Left:
        at = self.timeline.at
        holds = [
            hold
            for hold in self._tracker.holds()
            if hold.serial > since
            and at(hold.serial) is place
            and hold.allowed is None
            and not hold.proven
            and hold.pool.watch is not None
            and not (residents is not None and self._is_residents(hold, residents))
        ]
        if holds:
            kept = keepers.django_connections()
            holds = [hold for hold in holds if hold.wire is None or id(hold.wire.connection()) not in kept]
        pools = [
            record
            for record in self._pools(place)
            if record.serial > since
            and record.watch is not None
            and not record.disposed
            and not record.unclosed_told
            and record.idle()
        ]
        return Left(holds, pools)

    def _is_residents(self, hold: HoldRecord, residents: Residents) -> bool:
        owner = hold.owner
        if owner.look(self._tracker.clock.monotonic()) is not None:
            return False  # it has ended without giving the connection back
        if id(owner) in residents.owners:
            return True
        if owner.task_ref is not None or owner.ident == threading.get_ident():
            return False
        thread = threading._active.get(owner.ident)  # type: ignore[attr-defined]
        return thread is not None and thread.native_id in residents.threads

    def inspect_the_rest(self) -> None:
        """At the end of the run: judge what older threads and tasks acquired during tests and never gave back."""
        self._runtime.rounds.work(everything=True)
        at = self.timeline.at
        places = {at(hold.serial): None for hold in self._tracker.holds()}
        for place in places:
            if place is not OUTSIDE:
                self.inspect(place, since=0, patient=False)


def _words(path: ReferencePath) -> str:
    """The chain, without the part that is pytest's: it keeps the traceback of the last failure."""
    words = [step.words for step in path.steps]
    values = next((at for at, step in enumerate(words) if step.startswith("attribute `funcargs`")), 0)
    if values:
        name = words[values - 1].removeprefix("key ").removesuffix(" of a dict")
        return ", in ".join(
            [*words[: values - 1], f"the value of fixture {name}, which pytest keeps until the test ends"]
        )
    pytests = next((at for at, step in enumerate(words) if "TracebackEntry" in step or "ExceptionInfo" in step), None)
    if pytests is None:
        return str(path)
    return f"{', in '.join(words[:pytests])}, which pytest keeps of a test that failed"


def _others_run() -> bool:
    """Whether a thread other than this one runs that could release something. What psycopg_pool starts for itself, and
    what others start below `threading` (xdist, leakguard), never does."""
    active = threading._active  # type: ignore[attr-defined]
    return len(active) > 1 and sum(not _POOL_THREAD.search(thread.name) for thread in list(active.values())) > 1
