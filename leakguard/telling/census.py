"""Everything that this process holds, and what leakguard has found in it, at one moment: what a `Snapshot` tells."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from leakguard import redact
from leakguard.model import Json, PoolNow, Snapshot
from leakguard.register.records import BY_SERIAL, HoldRecord, PoolRecord, count_of
from leakguard.register.tracker import Tracker
from leakguard.settings import IgnorePattern, OwnThreshold, Settings
from leakguard.telling.columns import columns
from leakguard.telling.snapshot import Snapshots, server_behind
from leakguard.version import __version__

if TYPE_CHECKING:
    from leakguard.guard import Guard

HOLDS_LIMIT: Final = 10_000
"""The most holds that a snapshot has; the oldest are told, and how many were left out."""
IDLE_LIMIT: Final = 1_000
"""The most idle connections of a pool whose servers are told."""
SEARCH_BUDGET: Final = 0.5
"""Seconds that one search for references may take."""
SEARCHES_BUDGET: Final = 1.5
"""Seconds for all of them: less than others who ask meanwhile wait for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to tell: the oldest `holds`, or the one with the id `hold`; with `why`, also what keeps them alive."""

    why: bool = False
    holds: int = HOLDS_LIMIT
    hold: int | None = None


class Census:
    """Takes the census of this process. Thread-safe: it locks nothing, and reads what other threads write meanwhile."""

    def __init__(self, tracker: Tracker, snapshots: Snapshots) -> None:
        self._tracker = tracker
        self._snapshots = snapshots

    def take(self, question: Question, guards: Sequence[Guard], internal_errors: int) -> dict[str, Json]:
        """The JSON object of a snapshot, its holds as tables and columns: see `leakguard.telling.columns`."""
        clock = self._tracker.clock
        found = [hold for hold in self._tracker.holds() if hold.pool.watch is not None]
        told = (
            found[: question.holds] if question.hold is None else [one for one in found if one.serial == question.hold]
        )
        kept_by = self.searched(told) if question.why else {}
        now = clock.monotonic()
        head = self._head(clock.datetime_of(now), guards, internal_errors, left_out=len(found) - len(told))
        return {**head.to_dict(), **columns(told, now, self._snapshots, self._tracker.recorder.rules, kept_by)}

    def _head(self, now: datetime, guards: Sequence[Guard], internal_errors: int, *, left_out: int) -> Snapshot:
        """The snapshot without its holds."""
        itself, pools = _itself(os.getpid()), list(self._tracker.pools.values())
        acquired = sum(count_of(guard.watch.acquired) - count_of(guard.watch.forgotten) for guard in guards)
        held = sum(record.count() for record in self._tracker.records() if record.watch is not None)
        leaked = sum(guard.watch.collected for guard in guards)
        return Snapshot(
            time=now,
            version=__version__,
            pid=itself.pid,
            parent_pid=os.getppid(),
            process=itself.process,
            host=itself.host,
            python=sys.version.partition(" ")[0],
            started_at=datetime.fromtimestamp(itself.started_at, UTC),
            settings=_texts(guards[0].settings) if guards else {},
            pools=tuple(self._pool(record) for record in pools if record.watch is not None),
            holds=(),
            left_out=left_out,
            leaks=tuple(count for guard in guards for count in guard.found.values()),
            acquired=acquired,
            released=acquired - held - leaked,
            held=held,
            leaked=leaked,
            internal_errors=internal_errors,
            dropped_events=sum(guard.dropped_events for guard in guards),
        )

    def _pool(self, record: PoolRecord) -> PoolNow:
        created = record.created
        wires = [wire for wire in list(record.wires.values()) if wire.closed_at is None and not wire.broken]
        idle = [wire for wire in wires if wire.hold is None]
        # Only SQLAlchemy parts with a connection that is held, and to look at each hold takes its time.
        detached = sum(hold.detached for hold in record.holds()) if record.library == "sqlalchemy" else 0
        return PoolNow(
            name=record.name,
            library=record.library,
            fingerprint=self._snapshots.pool_fingerprint(record),
            created_at=created.site() if created is not None else None,
            open=len(wires),
            held=record.count() - detached,
            lost=record.lost + record.excess_told,
            pending=record.pending(),
            timeouts=record.timeouts,
            capacity=_capacity(record),
            error=redact.message(record.error) if record.error is not None else None,
            idle=tuple(server for wire in idle[:IDLE_LIMIT] if (server := server_behind(wire)) is not None),
        )

    def searched(self, holds: Sequence[HoldRecord]) -> dict[int, Sequence[str]]:
        """What keeps the oldest hold of each line alive, by its id."""
        found: dict[int, Sequence[str]] = {}
        oldest = {hold.site: hold for hold in reversed(holds)}
        deadline = time.perf_counter() + SEARCHES_BUDGET
        for hold in sorted(oldest.values(), key=BY_SERIAL):
            left = deadline - time.perf_counter()
            found[hold.serial] = kept_by(hold, min(left, SEARCH_BUDGET)) if left > 0 else (_NO_TIME,)
        return found


def _capacity(record: PoolRecord) -> int | None:
    pool = record.pool()
    try:
        return record.probe.capacity(pool) if record.probe is not None and pool is not None else None
    except Exception:  # a pool of the application's own making that cannot be asked just now
        return None


_NO_TIME: Final = "(not searched: out of time)"


def kept_by(hold: HoldRecord, budget: float) -> tuple[str, ...]:
    """What keeps the connection alive, from it outwards, a line a step; searched for so many seconds at most."""
    handle = hold.handle() if hold.handle is not None else None
    if handle is None and hold.wire is not None:
        handle = hold.wire.connection()
    if handle is None:
        return ("nothing: it is gone already",)
    from leakguard.references import reference_path  # here, because most processes are never asked

    path = reference_path(handle, budget=budget)
    lines = [step.words for step in path.steps]
    if path.cut is not None:
        lines.append(f"({path.cut})")
    elif not path.rooted:
        what = "nothing else" if lines else "nothing"
        lines.append(f"{what} that Python can see (a reference cycle, or C code)")
    return tuple(lines)


def _texts(settings: Settings) -> dict[str, str]:
    return {item.name: _text(getattr(settings, item.name)) for item in fields(settings)}


def _text(value: object) -> str:
    """A setting's value in words; of a reporter its name."""
    match value:
        case None:
            return "off"
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(map(_text, value)) or "none"
        case str() | int() | float() | os.PathLike() | IgnorePattern() | OwnThreshold():
            return redact.message(str(value))
        case _:
            named = value if hasattr(value, "__qualname__") else type(value)
            return f"{named.__module__}.{named.__qualname__}"


class _Itself(NamedTuple):
    """What never changes about a process. Some of it is asked of the system: while the application spins, each such
    question costs five milliseconds, because it gives the interpreter's lock away."""

    pid: int
    process: str
    host: str
    started_at: float


@functools.lru_cache(maxsize=1)
def _itself(pid: int) -> _Itself:
    return _Itself(pid, redact.process_title(), os.uname().nodename, time.time() - _age_of_process())


def _age_of_process() -> float:
    """Seconds since the process was started; where the system does not tell, since somebody first asked."""
    from pathlib import Path

    try:
        status = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        ticks = float(status.rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0
