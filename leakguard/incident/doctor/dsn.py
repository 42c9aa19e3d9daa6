"""Which server to ask, and as whom: the argument, else ``DATABASE_URL``, else what libpq's environment says.

A DSN holds a password, and a mistyped one tears it apart in surprising places. So nothing of a DSN that cannot be
read is ever repeated, nor is what libpq has to say about it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from leakguard.errors import LeakguardError
from leakguard.incident.doctor.model import Endpoint

Parameters = Mapping[str, str]

DATABASE_URL: Final = "DATABASE_URL"
ENVIRONMENT: Final = "libpq's environment (PGHOST and others)"
"""Where a server may be named, besides the command line."""
_URI: Final = re.compile(r"(?P<scheme>postgres(?:ql)?)(?:\+\w+)?://(?P<authority>[^/]*)(?P<rest>.*)", re.S)


class DsnError(LeakguardError):
    """The DSN cannot be used; the text is one line without any part of it."""


class DriverError(LeakguardError):
    """The driver that the doctor needs is not installed; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server to connect to. `source` says where it was named. Its text form has no secret in it."""

    source: str
    parameters: Parameters = field(repr=False)

    def changed(self, **changes: str) -> Target:
        """The same with other parameters."""
        return replace(self, parameters={**self.parameters, **changes})

    @property
    def sslmode(self) -> str:
        """libpq's, ``prefer`` by default."""
        return self.parameters.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"


def resolve(
    argument: str | None, environ: Mapping[str, str] = os.environ, *, where: str = "the DSN on the command line"
) -> Target:
    """The server that is meant. Raises `DsnError`, which names `where` the argument stands, and `DriverError`."""
    try:
        import psycopg  # noqa: F401 - without libpq it is there, and cannot be imported
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise DriverError(f"it needs psycopg ({reason}): pip install 'leakguard[psycopg]'") from None
    if argument is not None:
        return Target(source=where, parameters=_parse(argument, where))
    url = environ.get(DATABASE_URL)
    if url:
        return Target(source=DATABASE_URL, parameters=_parse(url, DATABASE_URL))
    return Target(source=ENVIRONMENT, parameters={})


def _parse(dsn: str, where: str) -> Parameters:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    if "\0" in dsn:
        raise DsnError(f"{where} has a zero byte in it")
    uri = _URI.fullmatch(dsn.strip())
    if uri is not None:
        _check_uri(uri, where)
        dsn = f"{uri['scheme']}://{uri['authority']}{uri['rest']}"  # SQLAlchemy's postgresql+psycopg:// as well
    elif "://" in dsn and "=" not in dsn.partition("://")[0]:
        raise DsnError(f"{where} is no PostgreSQL URI: postgresql://user@host:port/dbname is wanted")
    elif "=" not in dsn and dsn.strip():
        # libpq would take a bare word for a database's name; here it is rather a pid, or a mistyped option.
        raise DsnError(f"{where} is neither a URI (postgresql://...) nor a list of key=value")
    try:
        given = conninfo_to_dict(dsn)
    except ProgrammingError as error:
        # libpq quotes what it stumbled over, which may be a part of the password.
        reason = re.sub(r'"[^"]*"', "(hidden)", str(error).strip().splitlines()[0] if str(error).strip() else "")
        raise DsnError(f"{where} cannot be read: {reason}; a password may need %-escapes or quotes") from None
    parameters = {key: str(value) for key, value in given.items() if value is not None}
    for port in parameters.get("port", "").split(","):
        if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise DsnError(f"{where} has no number where the port belongs; in a password, write / as %2F and @ as %40")
    return parameters


def _check_uri(uri: re.Match[str], where: str) -> None:
    authority, rest = uri["authority"], uri["rest"]
    if authority.count("@") > 1 or ("@" not in authority and "@" in rest.partition("?")[0]):
        raise DsnError(f"{where} has an @ or / in its password: write %40 or %2F there")


def looks_like_dsn(text: str) -> bool:
    """Whether this was meant as a DSN; also if a path was made of it, which has lost a slash."""
    return re.search(r"^\w+(\+\w+)?:/|(^|\s)(host|port|user|password|dbname|service)\s*=", text) is not None


def endpoint_of(parameters: Parameters) -> Endpoint:
    """Where libpq goes with these parameters, the first of several hosts; its own defaults fill in what is missing."""
    from psycopg import pq

    merged = {
        option.keyword.decode(): option.val.decode(errors="replace")
        for option in pq.Conninfo.get_defaults()
        if option.val is not None
    }
    merged.update(parameters)

    def first(name: str) -> str:
        return (merged.get(name) or "").split(",")[0]

    host = first("hostaddr") or first("host") or "localhost"
    port = first("port")
    user = merged.get("user") or ""
    return Endpoint(
        host=host, port=int(port) if port.isdigit() else 5432, user=user, database=merged.get("dbname") or user
    )
