"""What leaves leakguard holds no password, no SQL literal and nothing that a terminal obeys."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leakguard.redact import code_line, message, process_title, statement, visible

FUNCTIONS: list[Callable[[str], str]] = [visible, code_line, message, statement]
LIMITS = {visible: 200, code_line: 200, message: 1000, statement: 500}

# The first and the last letters of every secret: neither may be seen, so neither half of one may be.
HEAD, TAIL = "zqxjk", "kjxqz"


def secrets(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Passwords and literals of the given characters, recognisable at both ends."""
    return st.text(alphabet, max_size=30).map(lambda middle: f"{HEAD}{middle}{TAIL}")


ANYTHING = st.characters(exclude_categories=["Cs"])
NO_BLANKS = st.characters(exclude_categories=["Cs"], exclude_characters=" \t\r\n\f\v")


def assert_hidden(shown: str) -> None:
    """Neither end of the secret is in the text."""
    assert HEAD not in shown
    assert TAIL not in shown


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("worker-1", "worker-1"),
        ("Größe 東京 🐍", "Größe 東京 🐍"),
        ("C:\\temp\\new", "C:\\temp\\new"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x07\x9b1m", r"\x1b[2J\x07\x9b1m"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("a\u2028b\x85c\xa0d", r"a\u2028b\x85c\xa0d"),
        ("\udc80\x00", r"\udc80\x00"),
        ("\U000e0001", r"\U000e0001"),
        ("", ""),
    ],
)
def test_visible(text: str, shown: str) -> None:
    """Everything that can be printed stays; everything that moves the cursor or the reading order is escaped."""
    assert visible(text) == shown


def test_visible_is_cut() -> None:
    """A long name ends in an ellipsis, is no longer than the limit, and no escape is cut in two."""
    assert visible("a" * 200) == "a" * 200
    assert visible("a" * 201) == "a" * 199 + "…"
    assert visible("\n" * 6, limit=10) == r"\n\n\n\n…"
    assert visible("ab\u2028", limit=8) == r"ab\u2028"
    assert visible("abc\u2028", limit=8) == "abc…"


@pytest.mark.parametrize("function", FUNCTIONS)
@given(text=st.text(st.characters()))
@example(text="\\" * 5000)
@example(text="password=")
@example(text="'''" * 2000)
@example(text="]" * 300 + "password, 'x'")
def test_any_text_becomes_one_printable_line(function: Callable[[str], str], text: str) -> None:
    """Whatever the text is, the result is one printable line within its limit, and nothing is raised."""
    for given_text in (text, text * 500):
        shown = function(given_text)
        assert shown.isprintable()
        assert len(shown) <= LIMITS[function]


# Beginnings without an end, ends without a beginning, and what a pattern may try again and again.
# fmt: off
PIECES = [
    "'", '"', "''", "' ", "\\", "\\'", '\\"', "/*", "*/", "/**/", "$", "$$", "$a$", "--", "(", "[", "]", "{", ",", "=",
    "x=", "://", "://:", "://a:@", "://a: ", "pass=://a:", "password", "password =", "pwd ", "pwd='", 'token"',
    "a", "a ", "1", "1.", "é", " ", "\n", "\x1b",
]
# fmt: on


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("piece", PIECES)
def test_time_is_linear(function: Callable[[str], str], piece: str) -> None:
    """Ten megabytes of anything take no longer than a moment."""
    text = piece * (10_000_000 // len(piece))
    began = time.perf_counter()
    function(text)
    assert time.perf_counter() - began < 0.5


# --- SQL -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("SELECT 1", "SELECT ?"),
        ("select *\n\tfrom  t\r\n where a = 'x' ", "select * from t where a = ?"),
        ("a = 'it''s' AND b = ''", "a = ? AND b = ?"),
        (r"E'it\'s' e'a\\' 'b'", "? ? ?"),
        (r"U&'d\0061t' u&'x' B'01' X'ff' N'x' b'' x''", "? ? ? ? ? ? ?"),
        ("$$it's$$ $tag$ a $$ b $tag$ $ä$x$ä$", "? ? ?"),
        ("1 -2 1.5 .5 1e10 1.5e-3 0xFF 1_000 5.", "? -? ? ? ? ?-? ? ? ?"),
        ("t1.a2 x_3 f$4 é5", "t1.a2 x_3 f$4 é5"),
        ("$1 $23 %s %(name)s %(p1)s %b :name ? ?1 @p", "$1 $23 %s %(name)s %(p1)s %b :name ? ?1 @p"),
        ("a::int a->>'k' a ?| b [1:2]", "a::int a->>? a ?| b [?:?]"),
        ("a -- it's\n, b --x\r, c", "a , b , c"),
        ("a /* it's */ b /* 1 /* 2 */ 'x' */ c", "a b c"),
        ("a /* b", "a"),
        ("a -- b", "a"),
        ('"Group 1" "a""b" U&"d" "it\'s" x', '"Group 1" "a""b" U&"d" "it\'s" x'),
        ("ALTER ROLE bob PASSWORD 'y'", "ALTER ROLE bob PASSWORD ?"),
        ("a = 'b", "a = ?…"),
        (r"a = E'b\'", "a = ?…"),
        ("a = $x$ b $y$", "a = ?…"),
        ('a = "b', 'a = "…'),
        (r"a LIKE 'x\' AND b", "a LIKE ?…"),
        (r"a = 'it\'s me'", "a = ?…"),
        ("'a' 'b'\n'c'", "? ? ?"),
        ("fooE'x' fooU&'x'", "fooE? fooU&?"),
        ("a\x1b[31m b", r"a\x1b[? b"),
        ("a1$$x$$ a$t$x$t$ a$b f$4$$x$$", "a1? a? a$b f$4?"),
        ("", ""),
    ],
)
def test_statement(sql: str, shown: str) -> None:
    """Literals become a question mark, comments go, identifiers and placeholders stay."""
    assert statement(sql) == shown
    assert statement(sql.encode()) == shown


def test_statement_of_broken_bytes() -> None:
    """Bytes that are no UTF-8 are shown with replacement characters."""
    assert statement(b"select \xff, 'x'") == "select \ufffd, ?"


def test_statement_is_cut() -> None:
    """A long statement ends in an ellipsis, at 500 characters or where the part that is looked at ends."""
    assert statement("a" * 500) == "a" * 500
    assert statement("a" * 501) == "a" * 499 + "…"
    assert statement(f"select '{'x' * 10_000}', a") == "select ?…"
    assert statement(f"{' ' * 10_000}select") == "…"


@pytest.mark.parametrize("size", range(4085, 4105))
@pytest.mark.parametrize(
    "template", ["'{}'", "E'{}'", "$${}$$", "$a${}$a$", "U&'{}'", '"{}', "/*{}*/", "--{}", "'' '{}'"]
)
def test_literal_at_the_cut(template: str, size: int) -> None:
    """A literal that the end of the part that is looked at tears in two stays hidden."""
    secret = HEAD + "x" * 100 + TAIL
    assert_hidden(statement(" " * size + template.format(secret)))
    assert_hidden(statement((" " * size + template.format(secret)).encode()))


LITERALS: dict[str, Callable[[str], str]] = {
    "plain": lambda secret: "'" + secret.replace("'", "''") + "'",
    "national": lambda secret: "N'" + secret.replace("'", "''") + "'",
    "unicode": lambda secret: "U&'" + secret.replace("'", "''") + "'",
    "bits": lambda secret: "x'" + secret.replace("'", "''") + "'",
    "escaped": lambda secret: "E'" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'",
    "escaped, doubled": lambda secret: "e'" + secret.replace("\\", "\\\\").replace("'", "''") + "'",
    "dollars": lambda secret: "$$" + secret.replace("$", "") + "$$",
    "tagged": lambda secret: "$Tag_1$" + secret.replace("$Tag_1$", "") + "$Tag_1$",
    "comment": lambda secret: "/*" + secret.replace("*", "").replace("/", "") + "*/",
    "line comment": lambda secret: "--" + secret.replace("\n", "").replace("\r", "") + "\n",
}
FRAGMENTS = ["SELECT ", " a1", ', "Id"', " = $1", "(", ")", " ", ",", "::text", " -- it's\n", "/* ' */", " 1.5", ";"]


@given(
    st.lists(
        st.sampled_from(FRAGMENTS)
        | st.builds(lambda spell, secret: spell(secret), st.sampled_from([*LITERALS.values()]), secrets(ANYTHING))
    ),
    st.integers(min_value=0, max_value=3),
)
def test_no_literal_survives(parts: list[str], missing: int) -> None:
    """Whatever literals a statement consists of, and in whatever order, none is seen, also where the end is missing."""
    sql = "".join(parts)
    sql = sql[: len(sql) - missing]
    assert_hidden(statement(sql))
    assert_hidden(statement(sql.encode()))


@given(st.lists(st.sampled_from(["'x'", "1", "/* x */", "$$x$$", "E'\\'x'", "-- x\n", '"x"']), max_size=20))
def test_what_is_no_literal_survives(parts: list[str]) -> None:
    """Literals and comments hide no name and no placeholder around them."""
    names = [f"name_{number} ${number}" for number in range(len(parts))]
    shown = statement(" ".join(f"{part} {name}" for part, name in zip(parts, names, strict=True)))
    assert all(name in shown for name in names)


# --- error texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            'connection failed: FATAL:  password authentication failed for user "bob"\n\tmore\r\n',
            'connection failed: FATAL: password authentication failed for user "bob" more',
        ),
        ("invalid dsn: postgresql://bob:x@h:5432/db", "invalid dsn: postgresql://bob:***@h:5432/db"),
        ("redis://:x@h, postgresql://bob@h/db", "redis://:***@h, postgresql://bob@h/db"),
        ("http://h:80/ and a@b", "http://h:80/ and a@b"),
        ("postgresql://bob:***@h/db", "postgresql://bob:***@h/db"),
        ("postgresql://bob:@h/db", "postgresql://bob:@h/db"),
        ("host=h password=x user=bob", "host=h password=*** user=bob"),
        ("host=h password = 'x y' user=bob", "host=h password = *** user=bob"),
        ("PGPASSWORD=x psql", "PGPASSWORD=*** psql"),
        ("in: password == 'x y'", "in: password == ***"),
        ("in: password != 'x y'", "in: password != ***"),
        ("in: password := 'x y'", "in: password := ***"),
        ('{"password": "x y", "user": "bob"}', '{"password": ***, "user": "bob"}'),
        ("ALTER ROLE bob PASSWORD 'x y'", "ALTER ROLE bob PASSWORD ***"),
        ("fe_sendauth: no password supplied", "fe_sendauth: no password supplied"),
        ("\x1b]0;title\x07 \u202e", r"\x1b]0;title\x07 \u202e"),
        (
            "(psycopg.X) no\n[SQL: SELECT 'x'\nFROM t]\n[parameters: ('x',\n 2)]\n(Background on this error at: u)",
            "(psycopg.X) no [SQL: ***] [parameters: ***] (Background on this error at: u)",
        ),
    ],
)
def test_message(text: str, shown: str) -> None:
    """An error text keeps its words, on one line, and loses its secrets."""
    assert message(text) == shown


def test_message_is_cut() -> None:
    """A long message ends in an ellipsis."""
    assert message("a" * 1000) == "a" * 1000
    assert message("a" * 1001) == "a" * 999 + "…"


def in_conninfo(secret: str) -> str:
    """A secret as libpq wants it quoted."""
    return "'" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'"


@given(secrets(NO_BLANKS))
@example("zqxjk@/:'\"\\kjxqz")
def test_no_word_survives_in_a_message(secret: str) -> None:
    """A password without blanks is hidden in every place for one, whatever characters it has."""
    for template in (
        "bad postgresql://bob:{}@h:5432/db?x=y (and more)",
        "://:{}@",
        "host=h password={} user=bob",
        "password:{}",
        "PGPASSWORD={} psql -h h",
        "h?sslmode=require&password={}",
        "MY_API_KEY => {}",
    ):
        assert_hidden(message(template.format(secret)))


@given(secrets(ANYTHING))
@example("zqxjk'' \\' \\\" 'kjxqz")
def test_no_quoted_text_survives_in_a_message(secret: str) -> None:
    """A quoted password may have blanks, line breaks and escaped quotes, and is hidden."""
    for text in (
        f"host=h password={in_conninfo(secret)} user=bob",
        f"host=h password = {in_conninfo(secret)}",
        f'{{"user": "bob", "client_secret": {json.dumps(secret)}, "x": 1}}',
        json.dumps(json.dumps({"user": "bob", "password": secret, "x": 1})),
        "ALTER ROLE r PASSWORD '" + secret.replace("\\", "").replace("'", "''") + "'",
        f"password='{secret.replace(chr(39), '')}",
        f"{{'token': {secret!r}}}",
        f"[parameters: {{'x': {secret!r}}}]",
    ):
        assert_hidden(message(text))


@pytest.mark.parametrize("function", [message, code_line])
@pytest.mark.parametrize("size", range(4060, 4110))
def test_password_at_the_cut(function: Callable[[str], str], size: int) -> None:
    """A password that the end of the part that is looked at tears in two stays hidden."""
    secret = HEAD + "x" * 5000 + TAIL
    hidden = "password='" + "y" * size + "' "  # one word takes its place, so that the end is visible
    for template in ("postgresql://bob:{}@h", "password={}", "password='{}'", '"postgresql://bob:{}@h"'):
        assert_hidden(function(hidden + template.format(secret)))


# --- lines of source -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "conn = pool.getconn()",
        "conn = psycopg.connect(password=settings.password, host='h')",
        'conn = psycopg.connect(password=os.environ["PGPASSWORD"], host="h")',
        'conn = psycopg.connect(password=os.environ.get("PGPASSWORD"), port=5432)',
        'conn = psycopg.connect(password=conf["db"]["password"], port=5432)',
        "conn = psycopg.connect(get_password(), host='h', password=None)",
        "conn = psycopg.connect(f\"host={h} password={pw} dbname={d['name']}\", connect_timeout=5)",
        "conn = psycopg.connect(f\"host={h} password='{settings.password}'\")",
        'engine = create_engine(f"postgresql://{user}:{password}@{host}:{port}/db", pool_size=5)',
        'engine = create_engine(f"postgresql://{user}:{quote_plus(password)}@{host}/db")',
        'engine = create_engine("postgresql://bob@h/db", pool_size=5)',
        'dsn = "host=%s password=%s" % (host, password)',
        'dsn = "host=%(host)s password=%(password)s" % vars(settings)',
        'r = requests.get("http://localhost:8080/x", json={"mail": "a@b.de"})',
        "rows = conn.execute(query, token[0])",
        'f = open("/etc/passwd", "r")',
        "async with self.pool.connection() as conn, conn.cursor() as cur:",
        "password: str | None = None",
        "if password is not None and x != y:",
        "x = password if y else None; z = 'text'",
        "x = not y # it's a comment",
        "print('größer', \"a\" 'b', 1_000)",
        "password=password,",
        'connect(password="", bypass="x")',
    ],
)
def test_code_that_stays(line: str) -> None:
    """A line without a literal secret is shown as it is."""
    assert code_line(f"    {line}\n") == line


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('connect(user="bob", password="x", dbname="shop")', 'connect(user="bob", password=***, dbname="shop")'),
        ("connect(passwd=b'x', PWD = f'x', db_pass=r'''x''')", "connect(passwd=***, PWD = ***, db_pass=***)"),
        ("connect(token=12345, port=5432)", "connect(token=***, port=5432)"),
        ('connect("host=h password=x user=u", timeout=5)', 'connect("host=h password=*** user=u", timeout=5)'),
        ("connect('host=h password=\\'x y\\' user=bob')", "connect('host=h password=*** user=bob')"),
        ('connect("postgresql://bob:x@h/db", pool_size=5)', 'connect("postgresql://bob:***@h/db", pool_size=5)'),
        ('f(**{"user": "bob", "password": "x", "port": 1})', 'f(**{"user": "bob", "password": ***, "port": 1})'),
        ('os.environ["PGPASSWORD"] = "x"', 'os.environ["PGPASSWORD"] = ***'),
        ('os.environ.setdefault("PGPASSWORD", "x")', 'os.environ.setdefault("PGPASSWORD", ***)'),
        ('pw = os.getenv("PGPASSWORD", "x")', 'pw = os.getenv("PGPASSWORD", ***)'),
        ('password = os.getenv("PG", "x") or "y"', 'password = os.getenv("PG", ***) or ***'),
        ('password = "a" "b" + "c" if d else "e"', "password = *** *** + *** if d else ***"),
        ('password = ["x"]', "password = [***]"),
        ('password = f(token, "x")', "password = f(token, ***)"),
        ('connect("postgresql://bob:x', 'connect("postgresql://bob:***'),
        ('password = p or ["x"]', "password = p or [***]"),
        ('password["x"]("y")', 'password["x"](***)'),
        ('f(get_token("x", "y"), "z")', 'f(get_token(***, ***), "z")'),
        ('f(c["token"], "z")', 'f(c["token"], "z")'),
        ('user, password = "bob", "x"', "user, password = ***, ***"),
        ('(user, password) = ("bob", "x")', "(user, password) = (***, ***)"),
        ('for user, password in [("bob", "x")]:', "for user, password in [(***, ***)]:"),
        ('if password == "x": return "y"; z = "z"', 'if password == ***: return ***; z = "z"'),
        ('api_key: str = "x"', "api_key: str = ***"),
        ('set_password("x")', "set_password(***)"),
        ('dsn = "password=%s" % "x"', 'dsn = "password=%s" % ***'),
        ('dsn = "password={}".format("x")', 'dsn = "password={}".format(***)'),
        ('dsn = "postgresql://u:%s@h" % "x"', 'dsn = "postgresql://u:%s@h" % ***'),
        ('dsn = "host=h password=" + "x"', 'dsn = "host=h password=" + ***'),
        ("cur.execute(\"ALTER ROLE r PASSWORD 'x'\")", 'cur.execute("ALTER ROLE r PASSWORD ***")'),
        ('cur.execute("ALTER ROLE r PASSWORD %s", ("x",))', 'cur.execute("ALTER ROLE r PASSWORD %s", (***,))'),
        ('run(["psql", "--password", "x"])', 'run(["psql", "--password", ***])'),
        ("conn = pool.getconn()  # password: x", "conn = pool.getconn()  # password: ***"),
        ('connect("""host=h password=x', 'connect("""host=h password=***'),
        ("host=h password=x dbname=d", "host=h password=*** dbname=d"),
        ('dbname=d password=x""")', "dbname=d password=***"),
        ("password=x", "password=***"),
        ("PGPASSWORD=x python app.py", "PGPASSWORD=*** python app.py"),
        ("ALTER ROLE bob PASSWORD 'x y'", "ALTER ROLE bob PASSWORD ***"),
        ('f"{cfg["a"]} password=x"', 'f"{cfg["a"]} password=***'),
    ],
)
def test_code_that_is_hidden(line: str, shown: str) -> None:
    """A literal secret is hidden, and of the rest no more than it has to be."""
    assert code_line(line) == shown


def test_code_is_stripped_and_cut() -> None:
    """A line loses its indentation and its end beyond 200 characters; tabs inside become blanks."""
    assert code_line("\t a =\t1 \n") == "a = 1"
    assert code_line("a" * 200) == "a" * 200
    assert code_line("a" * 201) == "a" * 199 + "…"
    assert code_line("f(\x1b[2J)") == r"f(\x1b[2J)"


@given(secrets(ANYTHING))
@example("zqxjk'kjxqz")
@example("zqxjk'\"kjxqz")
@example("zqxjk@ \\' \\\"kjxqz")
def test_no_literal_survives_in_code(secret: str) -> None:
    """A secret in a Python literal is hidden in every place for one, whatever characters it has."""
    conninfo = f"host=h password={in_conninfo(secret)} user=u"
    for line in (
        f"connect(host='h', password={secret!r}, dbname='d')",
        f"password = {secret!r}",
        f"password = b + {secret.encode()!r}",
        f"c = dict(user='u', secret_key={secret!r})",
        f"c = {{'user': 'u', 'password': {secret!r}, 'x': 1}}",
        f'os.environ["PGPASSWORD"] = {secret!r}',
        f"connect({conninfo!r}, timeout=1)",
        f"json.loads({json.dumps({'password': secret})!r})",
        f"json.loads({json.dumps(json.dumps({'password': secret}))})",
        f"connect(password='''{secret}",
    ):
        assert_hidden(code_line(line))


@given(secrets(NO_BLANKS))
@example("zqxjk@/:'\"\\kjxqz")
def test_no_word_survives_in_code(secret: str) -> None:
    """A password without blanks inside a URL or a conninfo string is hidden, whatever characters it has."""
    for inside in (f"postgresql://u:{secret}@h/db", f"host=h password={secret} user=u", f"x?password={secret}"):
        assert_hidden(code_line(f"connect({inside!r}, timeout=1)"))


@given(st.text("abcXYZ019 %/+-_", max_size=50).map(lambda middle: HEAD + middle + TAIL))
def test_url_with_blanks(secret: str) -> None:
    """SQLAlchemy accepts a URL with blanks in the password, so they do not end it."""
    assert_hidden(message(f"bad postgresql://bob:{secret}@h/db"))
    assert_hidden(code_line(f'create_engine("postgresql://bob:{secret}@h/db")'))


# --- the process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orig_argv", "title"),
    [
        (["python", "app.py", "--password=x"], "python app.py"),
        (["/usr/bin/python3.11", "/srv/app/main.py"], "python3.11 /srv/app/main.py"),
        (["python", "-u", "-X", "dev", "-Wi", "-W", "error", "-Xa", "app.py", "x"], "python app.py"),
        (["python", "--check-hash-based-pycs", "always", "app.py"], "python app.py"),
        (["python", "-m", "app", "x"], "python -m app"),
        (["python", "-um", "app", "x"], "python -m app"),
        (["python", "-Imapp", "x"], "python -m app"),
        (["python", "-m"], "python -m"),
        (["python", "-c", "connect('x')", "x"], "python -c"),
        (["python", "-Ic", "connect('x')"], "python -c"),
        (["python", "-", "x"], "python -"),
        (["python"], "python"),
        (["python", "-i"], "python"),
        (["pypy3", "app.py"], "pypy3 app.py"),
        (["/venv/bin/python3", "/venv/bin/gunicorn", "app:app", "-e", "PASSWORD=x"], "gunicorn"),
        (["python", "bin/app.py"], "python bin/app.py"),
        (["/usr/sbin/uwsgi", "--pyargv", "x"], "uwsgi"),
        (["./shop.exe", "x"], "shop"),
        (["python", "a\x1b\nb.py"], r"python a\x1b\nb.py"),
        ([""], "python"),
    ],
)
def test_process_title(orig_argv: list[str], title: str) -> None:
    """A process is named by program and script, without options and arguments."""
    assert process_title(orig_argv) == title


def test_process_title_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it is this process that is named; an embedded interpreter may have no arguments."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "x.py", "y"])
    assert process_title() == "python x.py"
    monkeypatch.setattr(sys, "orig_argv", [])
    assert process_title().startswith(("python", "pypy"))


def test_process_title_of_a_spawned_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that multiprocessing spawned is named by the script of its parent, not by ``-c``."""
    monkeypatch.setattr(sys, "argv", ["app.py", "x"])
    assert process_title(["python", "-c", "from multiprocessing...", "--multiprocessing-fork"]) == "python app.py"
