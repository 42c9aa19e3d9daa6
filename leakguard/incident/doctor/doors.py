"""The ladder of doors into a server that may have no slot left, and why each one that stays shut does.

Tried in this order, and no further than needed:

1. ordinary: as the DSN says. A superuser, or a role that may use reserved slots, gets in here long after others.
2. another database, where only that database is at its CONNECTION LIMIT: ``pg_stat_activity`` is the same in all.
3. replication: a role with REPLICATION comes in as a walsender, which takes no slot of ``max_connections`` at all.
4. behind the pooler: where PgBouncer answers but has no connection to spare, its console says where the server is.

Everything is written so that it works through all of them: the simple query protocol, bound on the client's side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from leakguard.errors import LeakguardError
from leakguard.incident.doctor import bouncer
from leakguard.incident.doctor.dsn import Target, endpoint_of
from leakguard.incident.doctor.model import CAPACITY, Attempt, Door, Endpoint, Refusal, RefusalKind
from leakguard.incident.doctor.probe import Answer, probe
from leakguard.incident.doctor.wire import CONNECT_TIMEOUT, SlowError, connect, deadline, said
from leakguard.judging.refusals import refusal_in
from leakguard.redact import message

if TYPE_CHECKING:
    import psycopg

    from leakguard.incident.doctor.wire import Connection

_FIRST_ANSWER: Final = 5.0
"""Seconds. A pooler that is full lets us in, and then keeps us waiting for two minutes."""

_BY_CAUSE: Final[dict[str, RefusalKind]] = {
    "server": "full",
    "reserved": "reserved",
    "role": "role",
    "database": "database",
    "pooler": "pooler_full",
}


class ShutOutError(LeakguardError):
    """No door opened. `attempts` says which were tried; the text names the first refusal, which is the reason."""

    def __init__(self, attempts: tuple[Attempt, ...], refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.attempts = attempts
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The way in: an open connection, the target that it leads to, and the doors that were tried."""

    connection: Connection
    target: Target
    endpoint: Endpoint
    door: Door
    attempts: tuple[Attempt, ...]


def enter(target: Target) -> Entry:
    """Come in by the first door that opens. Raises `ShutOutError`, or `DsnError` for what libpq does not accept."""
    attempts: list[Attempt] = []
    entry = _try("ordinary", target, attempts)
    if entry is not None:
        return entry
    first = attempts[0].refusal
    assert first is not None
    for door, other in _other_doors(first, target):
        entry = _try(door, other, attempts)
        if entry is not None:
            return entry
    raise ShutOutError(tuple(attempts), first)


def still_refused(entry: Entry) -> bool:
    """Knock once more at the ordinary door, without coming in: whether the server refuses for want of a slot."""
    password = entry.connection.pgconn.password.decode(errors="replace")
    endpoint = entry.attempts[0].endpoint
    answer = probe(endpoint, sslmode=entry.target.sslmode, password=password, timeout=float(CONNECT_TIMEOUT))
    return answer.refusal is not None and answer.refusal.kind in CAPACITY


def _other_doors(first: Refusal, target: Target) -> Iterator[tuple[Door, Target]]:
    if first.kind not in CAPACITY:
        return
    if first.kind == "database":
        for name in ("postgres", "template1"):
            if name != endpoint_of(target.parameters).database:
                yield "another database", target.changed(dbname=name)
    if first.kind in ("pooler_full", "pooler_busy"):
        for host, port in bouncer.servers_behind(target):
            changes = {"host": host} if host else {}
            direct = {name: value for name, value in target.parameters.items() if name not in ("host", "hostaddr")}
            behind = Target(source=target.source, parameters={**direct, **changes, "port": str(port)})
            yield "behind the pooler", behind
            yield "replication", behind.changed(replication="database")
    else:
        yield "replication", target.changed(replication="database")


def _try(door: Door, target: Target, attempts: list[Attempt]) -> Entry | None:
    """Knock at one door; what came of it is added to `attempts`."""
    import psycopg

    for again in (True, False):
        try:
            connection = connect(target)
        except psycopg.Error as error:
            endpoint, refusal = _examine(error, target)
            if refusal is None and again:  # it lets us in by now
                continue
            attempts.append(Attempt(door=door, endpoint=endpoint, refusal=refusal or _unknown(error)))
            return None
        endpoint = _endpoint(connection.pgconn, target)
        try:
            with deadline(connection, _FIRST_ANSWER):
                connection.execute("SELECT 1")
        except (psycopg.Error, SlowError) as error:
            connection.close()
            attempts.append(Attempt(door=door, endpoint=endpoint, refusal=_mute(error)))
            return None
        attempts.append(Attempt(door=door, endpoint=endpoint, refusal=None))
        return Entry(connection=connection, target=target, endpoint=endpoint, door=door, attempts=tuple(attempts))
    return None


# ------------------------------------------------------------------------------------------------- reading a refusal


def _endpoint(pgconn: psycopg.pq.abc.PGconn, target: Target) -> Endpoint:
    """Where this connection went: one of perhaps several hosts."""
    assumed = endpoint_of(target.parameters)
    return Endpoint(
        host=(pgconn.host or pgconn.hostaddr).decode(errors="replace") or assumed.host,
        port=int(pgconn.port) if pgconn.port.isdigit() else assumed.port,
        user=pgconn.user.decode(errors="replace") or assumed.user,
        database=pgconn.db.decode(errors="replace") or assumed.database,
    )


def _examine(error: psycopg.Error, target: Target) -> tuple[Endpoint, Refusal | None]:
    """Why it failed; None if a second look lets us in."""
    pgconn = error.pgconn
    endpoint = _endpoint(pgconn, target) if pgconn is not None else endpoint_of(target.parameters)
    password = pgconn.password.decode(errors="replace") if pgconn is not None else None
    words = said(error, target)
    if "replication" in target.parameters:  # the probe does not knock at that door
        return endpoint, Refusal(kind=_kind_in(words) or "not_allowed", sqlstate=None, routine=None, message=words)
    answer = probe(endpoint, sslmode=target.sslmode, password=password, timeout=float(CONNECT_TIMEOUT))
    return endpoint, _refusal(answer, error, words)


def _refusal(answer: Answer, error: psycopg.Error, words: str) -> Refusal | None:
    """The probe's word where it knows better, libpq's where only libpq got that far."""
    if answer.refusal is not None and answer.refusal.kind != "unknown":
        return answer.refusal
    pgconn = error.pgconn
    if pgconn is not None and pgconn.needs_password and not pgconn.password:
        return Refusal(kind="no_password", sqlstate=None, routine=None, message=words)
    if answer.admitted:
        return None
    kind = _kind_in(words)
    if kind is None and pgconn is not None and pgconn.used_password:
        kind = "password"
    if kind is None and "certificate" in words:
        kind = "tls"
    seen = answer.refusal
    return Refusal(
        kind=kind or "unknown",
        sqlstate=seen.sqlstate if seen is not None else None,
        routine=seen.routine if seen is not None else None,
        message=words,
    )


def _kind_in(words: str) -> RefusalKind | None:
    cause = refusal_in(words)
    return _BY_CAUSE[cause] if cause is not None else None


def _mute(error: Exception) -> Refusal:
    """The refusal of a server that let us in and then did not answer the simplest question."""
    words = message(str(error))
    kind = "pooler_busy" if isinstance(error, SlowError) else _kind_in(words) or "pooler_busy"
    return Refusal(kind=kind, sqlstate=getattr(error, "sqlstate", None), routine=None, message=words)


def _unknown(error: psycopg.Error) -> Refusal:
    return Refusal(kind="unknown", sqlstate=None, routine=None, message=message(str(error)))
