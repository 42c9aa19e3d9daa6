"""Which limit refused a connection: error 53300 in its five meanings, and the refusals of PgBouncer.

psycopg and psycopg2 do not give the SQLSTATE of a failed connect (libpq keeps it to itself), so the text has to tell,
and the text is in the language of the server's ``lc_messages``. The translations are those of PostgreSQL's own message
catalogues, as far as they can be told from anything else.
"""

from __future__ import annotations

import re
from typing import Final

from leakguard.model import Cause, Server

TOO_MANY_CONNECTIONS: Final = "53300"

TEXTS: Final[dict[Cause, tuple[str, ...]]] = {
    "server": (
        "sorry, too many clients already",
        "schon zu viele Verbindungen",
        "trop de clients sont déjà connectés",
        "ya tenemos demasiados clientes",
        "troppi client già connessi",
        "現在クライアント数が多すぎます",
        "최대 동시 접속자 수를 초과했습니다",
        "уже слишком много клиентов",
        "för många klienter",
        "вже забагато клієнтів",
        "已经有太多的客户",
    ),
    "reserved": (
        "remaining connection slots are reserved for",
        "verbleibenden Verbindungen sind für",
        "emplacements de connexions restants sont réservés",
        "conexiones restantes están reservadas",
        "rimanenti slot di connessione sono riservati",
        "残りの接続スロットは",
        "남은 연결 슬롯은",
        "оставшиеся слоты подключений зарезервированы",
        "resterande anslutningsslottar är reserverade",
        "слоти підключень, які залишились, зарезервовані",
        "已保留的连接位置",
    ),
    "role": (
        "too many connections for role",
        "zu viele Verbindungen von Rolle",
        "trop de connexions pour le rôle",
        "demasiadas conexiones para el rol",
        "troppe connessioni per il ruolo",
        "слишком много подключений для роли",
        "för många uppkopplingar för roll",
        "занадто багато підключень для ролі",
    ),
    "database": (
        "too many connections for database",
        "zu viele Verbindungen für Datenbank",
        "trop de connexions pour la base de données",
        "demasiadas conexiones para la base de datos",
        "troppe connessioni al database",
        "слишком много подключений к БД",
        "för många uppkopplingar till databasen",
        "занадто багато підключень до бази даних",
    ),
    "pooler": (
        "no more connections allowed",
        "query_wait_timeout",
        "client connections exceeded",
        "max_client_conn",
    ),
}
"""For each limit, parts of the messages that name it. The first of each is what an English server says."""

_OF_MYSQL: Final[dict[object, Cause]] = {1040: "server", 1203: "role", 1226: "role"}
"""The error numbers of MySQL and MariaDB, which their drivers give as an exception's first argument."""


_ADDRESS: Final = re.compile(r'at "(?P<host>[^"]+)"(?: \([^)]*\))?, port (?P<port>\d+)')
"""How libpq names the server at the head of a failed connect."""


def concerns(server: Server | None, cause: Cause, text: str) -> bool:
    """Whether a connection to `server` fills the limit that `text`, the words of a refusal, is about.

    Where the connection's end or the limit's object cannot be told, it counts: too many holders are better than none.
    """
    if server is None:
        return True
    address = _ADDRESS.search(text)
    if address is not None and server.port is not None and str(server.port) != address["port"]:
        return False
    said = text.rpartition(": ")[2]
    match cause:
        case "role":
            return server.user is None or server.user in said
        case "database":
            return server.dbname is None or server.dbname in said
        case _:
            return True


def refusal_in(text: str) -> Cause | None:
    """Which limit the words of a server or a pooler name; None if they are about something else."""
    return next((cause for cause, texts in TEXTS.items() if any(part in text for part in texts)), None)


def refusal_of(error: BaseException) -> Cause | None:
    """Which limit refused the connect that raised `error`, looking through what wraps it."""
    seen: BaseException | None = error
    for _ in range(5):
        if seen is None:
            return None
        cause = refusal_in(str(seen))
        if cause is not None:
            return cause
        if getattr(seen, "sqlstate", None) == TOO_MANY_CONNECTIONS:
            return "server"  # a language that we do not know: at least the code is clear
        number = seen.args[0] if seen.args else None
        if isinstance(number, int) and number in _OF_MYSQL:
            return _OF_MYSQL[number]
        seen = getattr(seen, "orig", None) or seen.__cause__
    return None
