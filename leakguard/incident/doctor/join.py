"""Puts each backend beside the hold, pool or process that has its other end.

A driver knows the process id of its backend and the port of its own socket; ``pg_stat_activity`` knows both as well.
Where both agree, the match is sure. A process id alone is not: another server may have the same one, and through
PgBouncer it is a random number. There, ``SHOW SOCKETS`` leads from the client's port to the backend.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from leakguard.incident.doctor import processes
from leakguard.incident.doctor.claims import Claim, process_of
from leakguard.incident.doctor.model import (
    Backend,
    BouncerFacts,
    BouncerSocket,
    Joined,
    Phantom,
    PoolUse,
    Process,
    ServerFacts,
    Slot,
)
from leakguard.incident.doctor.processes import NO_TABLE, Address, Table
from leakguard.model import PoolNow, Site, Snapshot

_SKEW: Final = timedelta(seconds=5)  # between the clocks of a server and a process
_FOREIGN_SKEW: Final = timedelta(minutes=2)  # ... of another host
_SETTLED: Final = timedelta(seconds=2)  # what is younger may have come between two looks
_LARGEST_PID: Final = 1 << 22  # of Linux; what a pooler makes up is mostly larger
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Everything that was collected, for one join.

    The tables of sockets were read before and after the server was asked: what is in neither is gone for sure.
    """

    server: ServerFacts
    snapshots: Sequence[Snapshot] = ()
    claims: Sequence[Claim] = ()
    bouncer: BouncerFacts | None = None
    before: Table = field(default=NO_TABLE)
    after: Table = field(default=NO_TABLE)


def join(views: Views) -> Joined:
    """Match everything. Pure, but for the names of processes in the tables."""
    return _Join(views).run()


class _Join:
    def __init__(self, views: Views) -> None:
        self.views = views
        self.facts = views.server
        self.by_pid: dict[int, list[Claim]] = {}
        self.by_port: dict[int, list[Claim]] = {}
        for claim in views.claims:
            if claim.server.backend_pid is not None:
                self.by_pid.setdefault(claim.server.backend_pid, []).append(claim)
            if claim.server.client_port is not None:
                self.by_port.setdefault(claim.server.client_port, []).append(claim)
        sockets = views.bouncer.sockets if views.bouncer is not None else ()
        self.pooled = {socket.remote_pid: socket for socket in sockets if socket.kind == "S" and socket.remote_pid}
        self.by_key = {socket.key: socket for socket in sockets}
        self.processes = {(snapshot.host, snapshot.pid): process_of(snapshot) for snapshot in views.snapshots}
        self.matched: set[int] = set()  # ids of claims
        # Where our own connection goes to is an address of this server, unless a pooler stands there.
        self.addresses: set[tuple[str | None, int | None]] = set()
        if not self.facts.through_pooler:
            self.addresses.add(_plain(self.facts.endpoint.host, self.facts.endpoint.port))

    def run(self) -> Joined:
        counted = [backend for backend in self.facts.backends if backend.takes_slot]
        slots = {backend.pid: slot for backend in counted if (slot := self._sure(backend)) is not None}
        # Only now the addresses are known under which processes reach this server.
        for backend in counted:
            if backend.pid not in slots:
                slots[backend.pid] = self._unsure(backend) or self._stranger(backend)
        waiting = _waiting(self.facts.backends)
        ordered = sorted(slots.values(), key=lambda slot: slot.backend.started_at or self.facts.now)
        return Joined(
            slots=tuple(replace(slot, blocks=tuple(sorted(waiting.get(slot.backend.pid, ())))) for slot in ordered),
            phantoms=tuple(self._phantoms()),
            pools=tuple(self._pools()),
            processes=tuple(self.processes.values()),
            unlogged=tuple(self._unlogged()),
            unmatched=sum(1 for claim in self.views.claims if claim.hold is not None and id(claim) not in self.matched),
        )

    # ------------------------------------------------------------------------------------------------------ claims

    def _sure(self, backend: Backend) -> Slot | None:
        """The claim whose both ends agree with the backend's."""
        if backend.pid == self.facts.own_pid:
            return Slot(backend=backend, keeper="doctor", sure=True)
        pooled = self._pooled(backend)
        if pooled is not None:
            return self._through(backend, pooled)
        for claim in self.by_pid.get(backend.pid, ()):
            if self._fits(claim, backend) and self._ends_meet(claim, backend):
                self.addresses.add(_plain(claim.server.host, claim.server.port))
                return self._slot(backend, claim, sure=True)
        return None

    def _unsure(self, backend: Backend) -> Slot | None:
        """A claim of the same process id, on an address that is known to be this server's."""
        for claim in self.by_pid.get(backend.pid, ()):
            address = _plain(claim.server.host, claim.server.port)
            if id(claim) not in self.matched and address in self.addresses and self._fits(claim, backend):
                return self._slot(backend, claim, sure=False)
        return None

    def _fits(self, claim: Claim, backend: Backend) -> bool:
        """Whether nothing speaks against it: the names, the times, the owner of the socket."""
        server, acquired = claim.server, claim.acquired_at
        if server.dbname is not None and backend.database is not None and server.dbname != backend.database:
            return False
        if server.user is not None and backend.user is not None and server.user != backend.user:
            return False
        ahead = timedelta(seconds=self.facts.clock_ahead) + _SKEW if claim.live else _FOREIGN_SKEW
        if acquired is not None and backend.started_at is not None and backend.started_at > acquired + ahead:
            return False  # the number was used again
        if claim.live and backend.client_port == -1:
            partners = self._partners(backend)
            return not partners or _is_one_of(claim.process, partners)
        return self._owner_agrees(claim, backend.client, backend.client_port) is not False

    def _ends_meet(self, claim: Claim, backend: Backend) -> bool:
        if backend.client_port is not None and backend.client_port > 0:
            return claim.server.client_port == backend.client_port
        # A Unix socket: process ids are all there is, and mean one process only on one and the same host.
        return (
            backend.client_port == -1
            and claim.server.client_port is None
            and claim.live
            and self.facts.is_here
            and str(claim.server.port) == self.facts.settings.get("port")
        )

    def _owner_agrees(self, claim: Claim, address: str | None, port: int | None) -> bool | None:
        """Whether the process of the claim has the socket; None where that cannot be seen."""
        if address is None or port is None or not claim.live:
            return None
        for table in (self.views.after, self.views.before):
            pids = table.pids(table.towards((address, port), _ports(claim)))
            if pids:
                return _is_one_of(claim.process, pids)
        return None

    def _slot(self, backend: Backend, claim: Claim, *, sure: bool, through: BouncerSocket | None = None) -> Slot:
        self.matched.add(id(claim))
        closed = claim.hold is not None and claim.hold.hold.state == "closed"
        return Slot(
            backend=backend,
            keeper="zombie" if closed else "hold" if claim.hold is not None else "pool",
            sure=sure,
            live=claim.live,
            process=claim.process,
            hold=claim.hold,
            pool=claim.pool,
            through=through,
        )

    # --------------------------------------------------------------------------------------------------- PgBouncer

    def _pooled(self, backend: Backend) -> BouncerSocket | None:
        """PgBouncer's end of this backend's connection."""
        socket = self.pooled.get(backend.pid)
        if socket is None or (backend.client_port or 0) <= 0:
            return socket
        return socket if socket.local_port == backend.client_port else None

    def _through(self, backend: Backend, pooled: BouncerSocket) -> Slot:
        """Who has a backend of PgBouncer's at this moment."""
        client = self.by_key.get(pooled.link) if pooled.link else None
        if client is None or client.kind != "C":
            return Slot(backend=backend, keeper="pooler", sure=True, pool=f"{pooled.database}/{pooled.user}")
        fitting = [
            (claim, agrees)
            for claim in self.by_port.get(client.port or 0, ())
            if claim.server.port == client.local_port
            and claim.server.dbname in (None, client.database)
            and claim.server.user in (None, client.user)
            and (agrees := self._owner_agrees(claim, client.address, client.port)) is not False
        ]
        if len(fitting) == 1:  # two hosts may use one port number: then it cannot be told
            claim, agrees = fitting[0]
            return self._slot(backend, claim, sure=agrees is True, through=client)
        found = self._process_at((client.address or "", client.port or 0), client.local_port)
        if found is not None:
            return Slot(backend=backend, keeper="process", sure=True, process=found, through=client)
        return Slot(backend=backend, keeper="remote", sure=True, through=client)

    # --------------------------------------------------------------------------------------------------- strangers

    def _stranger(self, backend: Backend) -> Slot:
        """Who has a backend that no claim is about."""
        if not backend.visible:
            return Slot(backend=backend, keeper="hidden", sure=False)
        if backend.client is None or backend.client_port is None or backend.client_port <= 0:
            partners = self._partners(backend)
            if not partners:
                return Slot(backend=backend, keeper="socket", sure=False)
            return Slot(backend=backend, keeper="process", sure=True, process=self._best_of(partners))
        client = backend.client, backend.client_port
        found = self._process_at(client, self.facts.endpoint.port)
        if found is not None:
            return Slot(backend=backend, keeper="process", sure=True, process=found)
        foreign = self._user_at(client)
        if foreign is not None:
            return Slot(backend=backend, keeper="foreign", sure=True, user=foreign)
        if self._is_gone(client, backend):
            return Slot(backend=backend, keeper="zombie", sure=True)
        return Slot(backend=backend, keeper="remote", sure=False)

    def _process_at(self, client: Address, port: int | None) -> Process | None:
        """The process of this host that has the client's end of a connection to `port`."""
        for table in (self.views.after, self.views.before):
            pids = table.pids(table.towards(client, (port,) if port is not None else ()))
            if pids:
                return self._best_of(pids)
        return None

    def _partners(self, backend: Backend) -> tuple[int, ...]:
        """The processes at the other end of a backend's Unix socket; none where that cannot be seen."""
        if not self.facts.is_here or backend.client_port != -1:
            return ()
        return self.views.after.partners(backend.pid) or self.views.before.partners(backend.pid)

    def _best_of(self, pids: Sequence[int]) -> Process:
        """Of the processes that share a socket after a fork, one that is guarded."""
        found = [self._process_of(pid) for pid in pids]
        return next((process for process in found if process.guarded), found[0])

    def _user_at(self, client: Address) -> int | None:
        """The user of a socket whose process we may not look into."""
        for table in (self.views.after, self.views.before):
            one = table.towards(client)
            if one is not None and one.inode:
                return one.user
        return None

    def _process_of(self, pid: int) -> Process:
        """The process of this number here, by its own name where it is guarded."""
        numbers = (pid, *processes.numbers_of(pid))
        here = os.uname().nodename
        known = (process for (host, number), process in self.processes.items() if number in numbers and host == here)
        return next(known, None) or processes.process(pid)

    def _is_gone(self, client: Address, backend: Backend) -> bool:
        """Whether the client's end is on this host for certain, and nobody has it any more."""
        if backend.started_at is None or self.facts.now - backend.started_at < _SETTLED:
            return False
        for table in (self.views.before, self.views.after):
            one = table.towards(client)
            if not table.readable or (one is not None and one.inode):
                return False
            # On the loopback address everybody is local to somebody: the server's end has to be here as well.
            here = table.has_other_end(client) or (client[0] not in _LOOPBACK and table.is_ours(client[0]))
            if not here:
                return False
        return True

    # --------------------------------------------------------------------------------------------------- loose ends

    def _phantoms(self) -> Iterable[Phantom]:
        """Connections to this very server that it does not have. The caller looks again before it believes them."""
        alive = {backend.pid for backend in self.facts.backends}
        for claim in self.views.claims:
            pid, hold = claim.server.backend_pid, claim.hold
            if not claim.live or id(claim) in self.matched or pid is None or not 0 < pid <= _LARGEST_PID:
                continue
            if pid in alive or _plain(claim.server.host, claim.server.port) not in self.addresses:
                continue
            if hold is not None and (hold.hold.state == "closed" or hold.hold.held_for < _SETTLED.total_seconds()):
                continue
            yield Phantom(process=claim.process, backend_pid=pid, pool=claim.pool, hold=hold)

    def _unlogged(self) -> Iterable[tuple[Process, int]]:
        """Processes of this host with connections to the server that it does not show: they have not logged in."""
        table, own = self.views.after, self.facts.own_client
        towards = table.towards(own) if own is not None and self.facts.capacity.hidden else None
        if towards is None:
            return []
        shown = {(backend.client, backend.client_port) for backend in self.facts.backends}
        counts = Counter(
            table.pids(one)[:1]
            for one in table.sockets.values()
            if one.remote == towards.remote and one.inode and one.local not in shown
        )
        return [(self._process_of(pids[0]), count) for pids, count in counts.most_common() if pids]

    def _pools(self) -> Iterable[PoolUse]:
        """The pools of this server, each definition with all processes that have it."""
        bouncer = self.views.bouncer
        pooler = {_plain(bouncer.endpoint.host, bouncer.endpoint.port)} if bouncer is not None else set()
        groups: dict[tuple[str, str, Site | None, bool], list[PoolNow]] = {}
        for snapshot in self.views.snapshots:
            process = process_of(snapshot)
            own = [claim for claim in self.views.claims if claim.process == process]
            anywhere = {_plain(claim.server.host, claim.server.port) for claim in own}
            for pool in snapshot.pools:
                reached = {_plain(claim.server.host, claim.server.port) for claim in own if claim.pool == pool.name}
                # One without any connection is where its process is connected to, or was refused.
                reached = reached or (anywhere if len(anywhere) == 1 else self._refused(pool))
                if reached & (self.addresses | pooler):
                    key = pool.name, pool.library, pool.created_at, bool(reached & pooler)
                    groups.setdefault(key, []).append(pool)
        return [PoolUse.of(pools, through_pooler=pooled) for (*_, pooled), pools in groups.items()]

    def _refused(self, pool: PoolNow) -> set[tuple[str | None, int | None]]:
        """Our own address, if the pool's latest error names its port."""
        endpoint = self.facts.endpoint
        named = pool.error is not None and re.search(rf"\b{endpoint.port}\b", pool.error) is not None
        return {_plain(endpoint.host, endpoint.port)} if named else set()


def _is_one_of(process: Process, pids: Iterable[int]) -> bool:
    """Whether a process is one of these; in a container it knows itself by another number."""
    return any(process.pid in (pid, *processes.numbers_of(pid)) for pid in pids)


def _plain(host: str | None, port: int | None) -> tuple[str | None, int | None]:
    return ("localhost" if host in _LOOPBACK else host), port


def _ports(claim: Claim) -> tuple[int, ...]:
    return (claim.server.port,) if claim.server.port is not None else ()


def _waiting(backends: Iterable[Backend]) -> dict[int, set[int]]:
    """For each backend those that wait for it, directly or behind others."""
    direct: dict[int, set[int]] = {}
    for backend in backends:
        for blocker in backend.blocked_by:
            direct.setdefault(blocker, set()).add(backend.pid)
    found: dict[int, set[int]] = {}
    for blocker in direct:
        reached: set[int] = set()
        todo = [blocker]
        while todo:
            for pid in direct.get(todo.pop(), ()):
                if pid not in reached and pid != blocker:
                    reached.add(pid)
                    todo.append(pid)
        found[blocker] = reached
    return found
