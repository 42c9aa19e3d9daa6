"""What processes say of their connections: a claim is one that is held, or that idles in a pool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from leakguard.incident.doctor.model import Process
from leakguard.model import Event, Hold, HoldNow, Leak, Recovered, Server, Snapshot, Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One connection as its process knows it; without a `hold` it idles in `pool`.

    `live` says that the process itself has just said so; otherwise a file did, and it may be over by now.
    """

    server: Server
    process: Process
    pool: str | None
    live: bool
    hold: HoldNow | None = None

    @property
    def acquired_at(self) -> datetime | None:
        """Since when it is held, by the process's clock; null while it idles."""
        return self.hold.hold.acquired_at if self.hold is not None else None


def of_snapshots(snapshots: Iterable[Snapshot], *, live: bool = True) -> Iterator[Claim]:
    """What processes answered."""
    for snapshot in snapshots:
        process = process_of(snapshot)
        for hold in snapshot.holds:
            if hold.hold.server is not None:
                yield Claim(server=hold.hold.server, process=process, pool=hold.hold.pool, live=live, hold=hold)
        for pool in snapshot.pools:
            for server in pool.idle:
                yield Claim(server=server, process=process, pool=pool.name, live=live)


class Reported:
    """What files of other hosts tell: holds that no event has ended since, and snapshots of incidents."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int, int], Leak] = {}
        self._snapshots: dict[tuple[str, int], Snapshot] = {}
        self._ended: dict[tuple[str, int], datetime] = {}

    def observe(self, event: Event | Snapshot) -> None:
        """Take one event into account. Events come in the order in which they were written, snapshots at any time."""
        match event:
            case Snapshot():
                key = event.host, event.pid
                earlier = self._snapshots.get(key)
                if key not in self._ended or self._ended[key] < event.time:
                    self._forget(key, event.time)  # it has all that was held by then
                    self._snapshots[key] = event if earlier is None or earlier.time < event.time else earlier
            case Leak(hold=Hold() as hold, kind="orphaned" | "overdue" | "idle_in_transaction"):
                self._open[hold.owner.host, hold.owner.pid, hold.id] = event
            case Leak(hold=Hold() as hold) | Recovered(hold=hold):
                # Dropped, closed or returned: this connection is not held any more.
                self._open.pop((hold.owner.host, hold.owner.pid, hold.id), None)
            case Summary():
                key = event.host, event.pid
                self._forget(key, event.time)
                self._snapshots.pop(key, None)
                self._ended[key] = event.time
            case _:
                pass

    def claims(self, answered: Iterable[Process] = ()) -> Iterator[Claim]:
        """Their claims. A process of `answered` knows better by itself."""
        live = {(process.host, process.pid) for process in answered}
        yield from of_snapshots((one for key, one in self._snapshots.items() if key not in live), live=False)
        for (host, pid, _), leak in self._open.items():
            hold = leak.hold
            if (host, pid) not in live and hold is not None and hold.server is not None:
                process = Process(pid=pid, command=hold.owner.process, host=host, guarded=True)
                yield Claim(server=hold.server, process=process, pool=hold.pool, live=False, hold=_as_held(leak, hold))

    def _forget(self, process: tuple[str, int], until: datetime) -> None:
        for key in [key for key, leak in self._open.items() if key[:2] == process and leak.time <= until]:
            del self._open[key]


def _as_held(leak: Leak, hold: Hold) -> HoldNow:
    return HoldNow(
        hold=hold,
        fingerprint=leak.fingerprint,
        now=leak.now,
        suspected=() if leak.certain else (leak.kind,),
        proven=leak.certain,
        allowed=None,
        kept_by=None,
        cure=leak.advice,
    )


def process_of(snapshot: Snapshot) -> Process:
    """The process that answered."""
    return Process(pid=snapshot.pid, command=snapshot.process, host=snapshot.host, guarded=True)
