"""The start-up packet by hand: each refusal is told from the others by code and routine, in any language."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from leakguard.incident.doctor.login import Login
from leakguard.incident.doctor.model import Endpoint
from leakguard.incident.doctor.probe import Answer, probe
from tests.doctor.support import PASSWORD, dsn_of, filled, free_port, listening, translated, until


def knock(port: int, user: str = "app", database: str = "postgres", **options: object) -> Answer:
    given = {"sslmode": "prefer", "password": None, "timeout": 5.0} | options
    return probe(Endpoint(host="127.0.0.1", port=port, user=user, database=database), **given)  # type: ignore[arg-type]


def kind(answer: Answer) -> str | None:
    return answer.refusal.kind if answer.refusal is not None else None


@pytest.mark.slow
class TestFull:
    def test_each_limit(self, each_server):
        """The five meanings of 53300 are told apart, on every version, by what refused."""
        with filled(each_server.dsn()):
            answer = knock(each_server.port)
            assert kind(answer) == "full"
            assert answer.refusal is not None
            assert (answer.refusal.sqlstate, answer.refusal.routine) == ("53300", "InitProcess")
            assert kind(knock(each_server.port, "leakguard")) == "full"
        with filled(dsn_of(each_server, "app")):
            assert kind(knock(each_server.port)) == "reserved"
            assert knock(each_server.port, "leakguard").admitted
        with filled(dsn_of(each_server, "narrow")) as held:
            assert len(held) == 2
            assert kind(knock(each_server.port, "narrow")) == "role"
        with filled(dsn_of(each_server, "app", "small")) as held:
            assert len(held) == 2
            assert kind(knock(each_server.port, "app", "small")) == "database"

    def test_in_a_language_that_nobody_knows(self, each_server):
        """The text of the refusal plays no part."""
        with listening(translated(each_server.port, b"Hab SoSlI' Quch!")) as port:
            with filled(dsn_of(each_server, "app")):
                answer = knock(port)
                assert kind(answer) == "reserved"
                assert answer.refusal is not None
                assert answer.refusal.message == "Hab SoSlI' Quch!"
            with filled(dsn_of(each_server, "narrow")):
                assert kind(knock(port, "narrow")) == "role"


class TestPasswords:
    @pytest.mark.parametrize("role", ["scram", "digest"])
    def test_login(self, small, role):
        """SCRAM and MD5 are answered, so that what refuses behind the login is seen too."""
        assert knock(small.port, role, password=PASSWORD).admitted
        assert kind(knock(small.port, role, password="wrong")) == "password"
        answer = knock(small.port, role)
        assert (answer.refusal, answer.admitted) == (None, False)

    def test_foreign_challenges(self):
        """A server can neither keep the probe computing, nor trip it, nor have the password in the clear."""
        login = Login("app", PASSWORD)
        first = login.answer(10, b"SCRAM-SHA-256\0\0")
        assert first is not None
        nonce = first[first.index(b"r=") :]
        assert login.answer(11, nonce + b"x,s=AAAA,i=1")
        for rest in (b"x,s=AAAA,i=2000000000", b"x,s=AAAA,i=0", b"x,s=!,i=1", b"x,i=1", b"x,s=AAAA,i=many"):
            assert login.answer(11, nonce + rest) is None
        for challenge in (b"r=x,s=AAAA,i=1", b"nonsense", b""):
            assert login.answer(11, challenge) is None
        assert login.answer(3, b"") is None
        assert login.answer(10, b"SCRAM-SHA-512\0\0") is None
        assert login.answer(5, b"") is None

    def test_limit_behind_the_login(self, small):
        """A role that logs in by SCRAM and is at its limit."""
        with filled(dsn_of(small, "scram", password=PASSWORD)):
            assert kind(knock(small.port, "scram", password=PASSWORD)) == "role"

    def test_slot_is_free_again(self, small):
        """A probe that is let in has left when it returns."""
        with filled(dsn_of(small, "app")) as held:
            held[0].close()
            until(lambda: knock(small.port).admitted)
            for _ in range(5):
                assert knock(small.port).admitted


class TestOtherRefusals:
    def test_names(self, small):
        """A wrong role, database or host is none of the server's limits."""
        assert kind(knock(small.port, "nobody")) == "no_role"
        assert kind(knock(small.port, database="nowhere")) == "no_database"
        assert kind(knock(small.port, "nobody_may")) == "not_admitted"

    def test_nobody_there(self, tmp_path):
        """A port where nothing listens, a name that there is not, a socket that is missing."""
        assert kind(knock(free_port())) == "unreachable"
        for host in ("no-such-host.invalid", str(tmp_path), "a..b"):
            endpoint = Endpoint(host=host, port=5432, user="app", database="postgres")
            assert kind(probe(endpoint, sslmode="prefer", password=None, timeout=5.0)) == "unreachable"

    def test_unix_socket(self, small):
        """The directory of a Unix socket is a host as well."""
        endpoint = Endpoint(host=str(small.directory), port=small.port, user="app", database="postgres")
        assert probe(endpoint, sslmode="prefer", password=None, timeout=5.0).admitted

    @pytest.mark.parametrize(
        "said",
        [
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            b"",
            b"R",
            b"R\0\0\0\x08\0",
            b"Z\x7f\xff\xff\xff",
        ],
    )
    def test_not_postgres(self, said):
        """Whatever else answers, even half a message, is said not to be PostgreSQL."""

        def answer(link):
            link.recv(100)
            link.sendall(said)

        with listening(answer) as port:
            assert kind(knock(port)) == "not_postgres"

    def test_bare_text(self):
        """A postmaster that cannot fork sends text without the protocol's frame."""

        def answer(link):
            link.recv(100)
            link.sendall(b"Ecould not fork new process for connection: Cannot allocate memory\n\0")

        with listening(answer) as port:
            answered = knock(port)
        assert answered.refusal is not None
        assert answered.refusal.message == "could not fork new process for connection: Cannot allocate memory"

    def test_silence(self):
        """What never answers, or drips, is given up at the deadline."""

        def silent(link):
            while link.recv(100):
                pass

        def dripping(link):
            while True:
                link.sendall(b"S\0\0\0\x06a\0")
                time.sleep(0.01)

        for answer in (silent, dripping):
            with listening(answer) as port:
                begun = time.monotonic()
                assert kind(knock(port, timeout=0.1)) == "no_answer"
                assert time.monotonic() - begun < 2

    def test_pooler(self):
        """An error without a routine comes from a pooler, and is read by its text."""

        def answer(link):
            link.recv(100)
            body = b"SERROR\0C08P01\0Mno more connections allowed (max_client_conn)\0\0"
            link.sendall(b"E" + (len(body) + 4).to_bytes(4, "big") + body)

        with listening(answer) as port:
            assert kind(knock(port)) == "pooler_full"


@pytest.fixture
def encrypted(each_server, tmp_path):
    """The server with a certificate, for one test."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    data = Path(each_server.directory, "data")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=db", "-days", "2"]
    subprocess.run([*command, "-keyout", tmp_path / "key", "-out", tmp_path / "crt"], check=True, capture_output=True)
    owner = data.stat()
    with ExitStack() as stack:
        for name, source in (("server.key", "key"), ("server.crt", "crt")):
            target = data / name
            target.write_bytes((tmp_path / source).read_bytes())
            target.chmod(0o600)
            shutil.chown(target, owner.st_uid, owner.st_gid)
            stack.callback(target.unlink)
        with psycopg.connect(each_server.dsn(), autocommit=True) as admin:
            try:
                admin.execute("ALTER SYSTEM SET ssl = on")
            except psycopg.errors.InvalidParameterValue:
                pytest.skip("this PostgreSQL is built without TLS")
            admin.execute("CREATE ROLE tls_only LOGIN")
            admin.execute("SELECT pg_reload_conf()")
            stack.callback(_plain_again, each_server.dsn())
        deadline = time.monotonic() + 10
        while not knock(each_server.port, sslmode="require").admitted:
            assert time.monotonic() < deadline
        yield each_server


def _plain_again(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("DROP ROLE tls_only")
        admin.execute("ALTER SYSTEM RESET ssl")
        admin.execute("SELECT pg_reload_conf()")


@pytest.mark.slow
class TestEncryption:
    def test_demanded_by_the_server(self, encrypted):
        """A role that pg_hba.conf admits over TLS alone is told so, and comes in where TLS is asked for."""
        assert kind(knock(encrypted.port, "tls_only", sslmode="disable")) == "tls_required"
        assert knock(encrypted.port, "tls_only", sslmode="require").admitted

    def test_password_stays_where_a_certificate_is_demanded(self, encrypted):
        """The probe checks no certificate, so where the DSN demands one, it does not log in."""
        assert knock(encrypted.port, "scram", password=PASSWORD, sslmode="require").admitted
        answer = knock(encrypted.port, "scram", password=PASSWORD, sslmode="verify-full")
        assert (answer.refusal, answer.admitted) == (None, False)

    def test_limit_behind_it(self, encrypted):
        """A limit is told over TLS as well."""
        with filled(dsn_of(encrypted, "narrow")):
            assert kind(knock(encrypted.port, "narrow", sslmode="require")) == "role"

    def test_not_offered(self, small):
        """A DSN that demands TLS of a server without is told that."""
        assert kind(knock(small.port, sslmode="require")) == "tls"
