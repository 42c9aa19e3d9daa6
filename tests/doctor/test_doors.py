"""The ladder of doors: which one opens when slots are gone, and which refusal is told when none does."""

from __future__ import annotations

from contextlib import closing, contextmanager

import psycopg
import pytest

from leakguard.incident.doctor import doors
from leakguard.incident.doctor.dsn import DsnError, resolve
from leakguard.incident.doctor.wire import said
from tests.doctor.support import (
    PASSWORD,
    PGBOUNCER,
    dsn_of,
    filled,
    free_port,
    listening,
    pgbouncer,
    target_of,
    translated,
)

needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")


@contextmanager
def entered(dsn):
    entry = doors.enter(target_of(dsn))
    with entry.connection:
        yield entry


def shut_out(dsn):
    with pytest.raises(doors.ShutOutError) as raised:
        doors.enter(target_of(dsn))
    return raised.value


def doors_of(entry):
    return [(attempt.door, attempt.refusal.kind if attempt.refusal else None) for attempt in entry.attempts]


class TestLadder:
    def test_ordinary(self, small):
        """A server with room is entered by the first door, and no other is tried."""
        with entered(dsn_of(small, "app")) as entry:
            assert doors_of(entry) == [("ordinary", None)]
            assert (entry.endpoint.port, entry.endpoint.user) == (small.port, "app")

    def test_replication_when_every_slot_is_gone(self, each_server):
        """With the reserve gone too, a role with REPLICATION comes in, and may ask and end as it needs to."""
        with filled(each_server.dsn()):
            with entered(dsn_of(each_server, "rescue")) as entry:
                assert doors_of(entry) == [("ordinary", "full"), ("replication", None)]
                (row,) = entry.connection.execute("SELECT count(*) AS n FROM pg_stat_activity WHERE pid > %s", (0,))
                assert row["n"] > 5

    def test_superusers_come_in_by_the_reserve(self, each_server):
        """While only ordinary roles are refused, a superuser's ordinary door is open."""
        with filled(dsn_of(each_server, "app")):
            with entered(each_server.dsn()) as entry:
                assert doors_of(entry) == [("ordinary", None)]

    def test_another_database(self, small):
        """A database at its limit is looked at from another one."""
        with filled(dsn_of(small, "app", "small")):
            with entered(dsn_of(small, "app", "small")) as entry:
                assert doors_of(entry) == [("ordinary", "database"), ("another database", None)]
                assert entry.endpoint.database == "postgres"

    def test_none(self, small):
        """An ordinary role is shut out of a full server, and hears which doors were tried."""
        with filled(dsn_of(small, "app")):
            error = shut_out(dsn_of(small, "app"))
        assert doors_of(error) == [("ordinary", "reserved"), ("replication", "not_allowed")]

    def test_none_in_a_language_that_nobody_knows(self, small):
        """The refusal is classified though psycopg gives a text alone that says nothing to us."""
        with listening(translated(small.port, b"wa' loS cha'")) as port, filled(dsn_of(small, "narrow")):
            error = shut_out(f"postgresql://narrow@127.0.0.1:{port}/postgres")
        assert error.refusal.kind == "role"
        assert error.refusal.sqlstate == "53300"

    def test_role_limit_behind_a_password(self, small):
        """A role that logs in with a password is told of its limit by the number, not by the text."""
        with listening(translated(small.port, b"nuqneH")) as port:
            with filled(dsn_of(small, "scram", password=PASSWORD)):
                error = shut_out(f"postgresql://scram:{PASSWORD}@127.0.0.1:{port}/postgres")
        assert error.refusal.kind == "role"


class TestRefusals:
    def test_kinds(self, small, monkeypatch):
        """What has nothing to do with slots is told as what it is, after one door."""
        monkeypatch.setenv("PGPASSFILE", "/no/such/file")
        for dsn, kind in (
            (dsn_of(small, "scram", password="wrong"), "password"),
            (dsn_of(small, "scram"), "no_password"),
            (dsn_of(small, "nobody"), "no_role"),
            (dsn_of(small, "app", "nowhere"), "no_database"),
            (dsn_of(small, "nobody_may"), "not_admitted"),
            (dsn_of(small, "app", sslmode="require"), "tls"),
            (f"postgresql://app@127.0.0.1:{free_port()}/postgres", "unreachable"),
            ("postgresql://app@no-such-host.invalid/postgres", "unreachable"),
        ):
            error = shut_out(dsn)
            assert (error.refusal.kind, len(error.attempts)) == (kind, 1), dsn

    def test_parameters_that_libpq_does_not_know(self):
        """A bad value of a parameter is the user's, and no server's."""
        for dsn in ("host=127.0.0.1 sslmode=perhaps", "service=no-such-service", "host=127.0.0.1 connect_timeout=soon"):
            with pytest.raises(DsnError):
                doors.enter(target_of(dsn))

    def test_full_for_a_moment_only(self, small):
        """A server that refused and lets the probe in is tried once more, by the same door."""
        refusals = iter([b"SFATAL\0C53300\0Mfull\0RInitProcess\0\0"])
        forward = translated(small.port, b"")

        def answer(link):
            body = next(refusals, None)
            if body is None:
                return forward(link)
            link.recv(100)
            link.sendall(b"E" + (len(body) + 4).to_bytes(4, "big") + body)
            return None

        with listening(answer) as port, entered(f"postgresql://app@127.0.0.1:{port}/postgres?sslmode=disable") as entry:
            assert doors_of(entry) == [("ordinary", None)]

    def test_password_in_the_words_of_a_library(self):
        """Should libpq or a server ever repeat the password, it is hidden."""
        target = target_of(f"postgresql://u:{PASSWORD}@h/db")
        words = said(psycopg.OperationalError(f"cannot use {PASSWORD}, sorry"), target)
        assert words == "cannot use ***, sorry"

    def test_several_hosts(self, small):
        """Of several hosts, the one that let us in is told."""
        dsn = f"postgresql://app@127.0.0.1:{free_port()},127.0.0.1:{small.port}/postgres"
        with entered(dsn) as entry:
            assert entry.endpoint.port == small.port

    def test_no_password_in_any_text(self, small):
        """Whatever is refused, the password is in no message."""
        for dsn in (
            dsn_of(small, "scram", password=f"{PASSWORD}x"),
            f"postgresql://scram:{PASSWORD}@no-such-host.invalid/postgres",
            f"postgresql://scram:{PASSWORD}@127.0.0.1:{free_port()}/postgres",
            f"host=127.0.0.1 port={small.port} user=scram password={PASSWORD}x dbname={PASSWORD}x",
        ):
            error = shut_out(dsn)
            assert PASSWORD not in f"{error} {error.refusal}", dsn


class TestDsn:
    def test_sources(self):
        """The argument wins over DATABASE_URL, and that over libpq's own environment; the source is told."""
        environ = {"DATABASE_URL": "postgresql+psycopg://u@h:1/d"}
        assert resolve("host=x", environ).parameters == {"host": "x"}
        assert resolve(None, environ).parameters == {"user": "u", "host": "h", "port": "1", "dbname": "d"}
        assert resolve(None, environ).source == "DATABASE_URL"
        assert resolve(None, {}).parameters == {}

    @pytest.mark.parametrize(
        "dsn",
        [
            "postgresql://u:se@cret@h/db",
            "postgresql://u:se/cret@h/db",
            "postgresql://u:secret@h:port/db",
            "postgresql://u:secret@h/db?no_such_parameter=secret",
            "postgresql://u:secret%zz@h/db",
            "host=h password=my secret",
            "host=h password='secret",
            "mysql://u:secret@h/db",
            "secret",
            "postgresql://u:secret@h\0/db",
        ],
    )
    def test_what_cannot_be_read_is_not_repeated(self, dsn):
        """A DSN that is torn in the wrong place shows no piece of its password."""
        with pytest.raises(DsnError) as raised:
            resolve(dsn, {})
        assert "cret" not in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1

    def test_no_password_in_the_text_form(self):
        """Not even a traceback with the target in it shows the password."""
        assert PASSWORD not in repr(resolve(f"postgresql://u:{PASSWORD}@h/db", {}))


@needs_pgbouncer
@pytest.mark.slow
class TestPooler:
    def test_pool_without_a_connection_to_spare(self, small, monkeypatch):
        """PgBouncer lets us in and has us wait: its console says where the server is, and that one is entered."""
        monkeypatch.setattr(doors, "_FIRST_ANSWER", 0.2)
        with pgbouncer(small, mode="session", size=1) as pooler:
            with closing(psycopg.connect(pooler.dsn("leakguard"), autocommit=True)) as first:
                first.execute("SELECT 1")
                with entered(pooler.dsn("leakguard")) as entry:
                    assert doors_of(entry) == [("ordinary", "pooler_busy"), ("behind the pooler", None)]
                    assert entry.endpoint.port == small.port

    def test_clients_at_the_limit(self, small):
        """max_client_conn refuses ordinary clients, and not the console."""
        with pgbouncer(small, mode="transaction", clients=2) as pooler:
            with filled(pooler.dsn("app")) as held:
                assert len(held) == 2
                with entered(pooler.dsn("leakguard")) as entry:
                    assert doors_of(entry) == [("ordinary", "pooler_full"), ("behind the pooler", None)]
                assert doors_of(shut_out(pooler.dsn("app"))) == [("ordinary", "pooler_full")]
