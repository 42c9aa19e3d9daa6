"""Cures: what each way of writing it gets as advice, and that nothing is said where nothing is certain."""

from __future__ import annotations

import ast
import textwrap

import pytest

from leakguard.cures import Cure, cure

DEF = "def export(pool):\n"
ADEF = "async def export(pool):\n"


@pytest.fixture
def advise(tmp_path):
    """The cure for the line marked with ``# HERE`` of a source text."""

    def ask(
        source: str, library: str = "psycopg_pool", *, function: str | None = None, operation: str = ""
    ) -> Cure | None:
        source = textwrap.dedent(source)
        file = tmp_path / f"app{abs(hash(source))}.py"
        file.write_text(source)
        line = next(number for number, text in enumerate(source.splitlines(), 1) if "# HERE" in text)
        if function is None:
            around = [
                node
                for node in ast.walk(ast.parse(source))
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno <= line <= node.end_lineno
            ]
            function = max(around, key=lambda node: node.lineno).name if around else "<module>"
        return cure(str(file), line, function, library, operation)

    return ask


CASES = [
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = pool.getconn()  # HERE\n    conn.execute('x')\n",
        "without_with",
        "with pool.connection() as conn:",
        "nothing in export() gives it back",
        id="never given back",
    ),
    pytest.param(
        "psycopg_pool",
        ADEF + "    c = await pool.getconn(timeout=5)  # HERE\n    await c.execute('x')\n",
        "without_with",
        "async with pool.connection(timeout=5) as c:",
        "`c` is taken without `with`",
        id="async, with an argument and a name of its own",
    ),
    pytest.param(
        "psycopg_pool",
        "class Repo:\n    def f(self):\n        conn = self.db.pool.getconn()  # HERE\n        conn.execute('x')\n",
        "without_with",
        "with self.db.pool.connection() as conn:",
        "f()",
        id="pool in an attribute",
    ),
    pytest.param(
        "psycopg",
        "import psycopg\ndef f(dsn):\n    conn = psycopg.connect(dsn)  # HERE\n    conn.execute('x')\n",
        "without_with",
        "with psycopg.connect(dsn) as conn:",
        "f()",
        id="psycopg",
    ),
    pytest.param(
        "psycopg",
        "async def f(dsn):\n    conn = await psycopg.AsyncConnection.connect(dsn)  # HERE\n"
        "    await conn.execute('x')\n",
        "without_with",
        "async with await psycopg.AsyncConnection.connect(dsn) as conn:",
        "f()",
        id="psycopg, async",
    ),
    pytest.param(
        "psycopg2",
        "def f(dsn):\n    conn = psycopg2.connect(dsn)  # HERE\n    cur = conn.cursor()\n",
        "without_with",
        "with contextlib.closing(psycopg2.connect(dsn)) as conn:",
        "f()",
        id="psycopg2",
    ),
    pytest.param(
        "psycopg2_pool",
        DEF + "    conn = pool.getconn()  # HERE\n    conn.cursor()\n",
        "without_with",
        "conn = pool.getconn()\ntry:\n    ...\nfinally:\n    pool.putconn(conn)",
        "export()",
        id="psycopg2's pool",
    ),
    pytest.param(
        "asyncpg_pool",
        ADEF + "    conn = await pool.acquire()  # HERE\n    await conn.fetch('x')\n",
        "without_with",
        "async with pool.acquire() as conn:",
        "export()",
        id="asyncpg's pool",
    ),
    pytest.param(
        "asyncpg",
        "async def f(dsn):\n    conn = await asyncpg.connect(dsn)  # HERE\n    await conn.fetch('x')\n",
        "without_with",
        "conn = await asyncpg.connect(dsn)\ntry:\n    ...\nfinally:\n    await conn.close()",
        "f()",
        id="asyncpg",
    ),
    pytest.param(
        "sqlalchemy",
        "def f():\n    conn = engine.connect()  # HERE\n    conn.execute(x)\n",
        "without_with",
        "with engine.connect() as conn:",
        "f()",
        id="engine.connect",
    ),
    pytest.param(
        "sqlalchemy",
        "async def f():\n    conn = await engine.connect()  # HERE\n    await conn.execute(x)\n",
        "without_with",
        "async with engine.connect() as conn:",
        "f()",
        id="engine.connect, async",
    ),
    pytest.param(
        "sqlalchemy",
        "def f():\n    raw = engine.raw_connection()  # HERE\n    raw.cursor()\n",
        "without_with",
        "with contextlib.closing(engine.raw_connection()) as raw:",
        "f()",
        id="raw_connection",
    ),
    pytest.param(
        "sqlalchemy",
        "def f():\n    session = Session(engine)\n    session.scalars(x).all()  # HERE\n",
        "without_with",
        "with Session(engine) as session:",
        "`session` is taken without `with`",
        id="session, blamed where it was first used",
    ),
    pytest.param(
        "sqlalchemy",
        "Local = sessionmaker(engine)\ndef f():\n    s = Local()\n    s.execute(x)  # HERE\n"
        "    s.commit()\n    s.close()\n",
        "success_only",
        "with Local() as s:",
        "line 4, `s.execute(x)`, can raise",
        id="session of a sessionmaker, closed on success only",
    ),
    pytest.param(
        "sqlalchemy",
        "Local = async_sessionmaker(engine)\nasync def f():\n    s = Local()\n    await s.execute(x)  # HERE\n",
        "without_with",
        "async with Local() as s:",
        "f()",
        id="async session",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = pool.getconn()  # HERE\n    n = 1\n    conn.execute('x')\n    pool.putconn(conn)\n",
        "success_only",
        "with pool.connection() as conn:",
        "`conn` is given back in line 5, on success only: line 4, `conn.execute('x')`, can raise before that.",
        id="success only",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = pool.getconn()  # HERE\n    if pool.x:\n        return\n    pool.putconn(conn)\n",
        "success_only",
        "with pool.connection() as conn:",
        "line 4, `return`, leaves before that.",
        id="early return",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = pool.getconn()  # HERE\n    conn.execute('SET x')\n    try:\n        conn.execute('x')\n"
        "    finally:\n        pool.putconn(conn)\n",
        "success_only",
        "with pool.connection() as conn:",
        "begins in line 4 only: line 3, `conn.execute('SET x')`, can raise",
        id="before the try",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    try:\n        conn = pool.getconn()  # HERE\n        conn.execute('x')\n        pool.putconn(conn)\n"
        "    except Exception:\n        log()\n",
        "success_only",
        "with pool.connection() as conn:",
        "line 4",
        id="swallowed by an except without a release",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    with pool.getconn() as conn:  # HERE\n        conn.execute('x')\n",
        "with_getconn",
        "with pool.connection() as conn:",
        "does not return the connection to its pool",
        id="with getconn",
    ),
    pytest.param(
        "psycopg_pool",
        ADEF + "    async with await pool.getconn() as conn:  # HERE\n        await conn.execute('x')\n",
        "with_getconn",
        "async with pool.connection() as conn:",
        "`async with await pool.getconn()` ends the transaction",
        id="with getconn, async",
    ),
    pytest.param(
        "psycopg2",
        "def f(dsn):\n    with psycopg2.connect(dsn) as conn:  # HERE\n        conn.cursor()\n",
        "with_only_commits",
        "with contextlib.closing(psycopg2.connect(dsn)) as conn:",
        "ends the transaction, but does not close the connection",
        id="with psycopg2.connect",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = pool.getconn()  # HERE\n"
        "    try:\n        conn.execute('x')\n    finally:\n        conn.close()\n",
        "closed_not_returned",
        "with pool.connection() as conn:",
        "`conn.close()` in line 6 closes the pooled connection instead of returning it",
        id="closed instead of returned",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    pool.getconn().execute('x')  # HERE\n",
        "one_liner",
        "with pool.connection() as conn:\n    conn.execute('x')",
        "is used here and dropped",
        id="one-liner",
    ),
    pytest.param(
        "sqlalchemy",
        "def f():\n    rows = engine.connect().execute(x).all()  # HERE\n",
        "one_liner",
        "with engine.connect() as conn:\n    rows = conn.execute(x).all()",
        "dropped",
        id="one-liner with a result",
    ),
    pytest.param(
        "psycopg",
        "async def f(dsn):\n    await (await psycopg.AsyncConnection.connect(dsn)).execute('x')  # HERE\n",
        "one_liner",
        "async with await psycopg.AsyncConnection.connect(dsn) as conn:\n    await conn.execute('x')",
        "dropped",
        id="one-liner, async",
    ),
    pytest.param(
        "psycopg",
        "def f(dsn):\n    cur = psycopg.connect(dsn).cursor()  # HERE\n    cur.execute('x')\n",
        "one_liner",
        "with psycopg.connect(dsn) as conn:\n    cur = conn.cursor()",
        "Only the cursor is kept",
        id="only the cursor is kept",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    pool.getconn()  # HERE\n",
        "without_with",
        "with pool.connection() as conn:",
        "Nobody keeps",
        id="nobody keeps it",
    ),
    pytest.param(
        "psycopg",
        "def get(dsn):\n    return psycopg.connect(dsn)  # HERE\n\ndef use():\n    get(DSN).execute('x')\n",
        "returned_and_dropped",
        "with get(DSN) as conn:\n    conn.execute('x')",
        "get() returns the connection, and line 5 in use() lets it fall",
        id="returned and dropped",
    ),
    pytest.param(
        "psycopg_pool",
        "pool = ConnectionPool(DSN)\ndef get():\n    conn = pool.getconn()  # HERE\n"
        "    conn.execute('SET x')\n    return conn\n"
        "def use():\n    return get().execute('x')\n",
        "returned_and_dropped",
        "conn = get()\ntry:\n    return conn.execute('x')\nfinally:\n    pool.putconn(conn)",
        "line 7 in use() lets it fall",
        id="returned from a pool and dropped",
    ),
    pytest.param(
        "psycopg_pool",
        "def get_db():\n    conn = pool.getconn()  # HERE\n    yield conn\n    pool.putconn(conn)\n",
        "generator",
        "with pool.connection() as conn:\n    yield conn",
        "get_db() gives `conn` back in line 4 only if nothing is raised at its `yield` in line 3",
        id="dependency without finally",
    ),
    pytest.param(
        "sqlalchemy",
        "def get_db():\n    db = Session(engine)\n    db.execute(x)  # HERE\n    yield db\n",
        "generator",
        "with Session(engine) as db:\n    yield db",
        "get_db() never gives `db` back after its `yield` in line 4",
        id="dependency that never closes",
    ),
    pytest.param(
        "psycopg2_pool",
        "def get_db():\n    conn = pool.getconn()  # HERE\n    yield conn\n    pool.putconn(conn)\n",
        "generator",
        "conn = pool.getconn()\ntry:\n    yield conn\nfinally:\n    pool.putconn(conn)",
        "only if nothing is raised",
        id="dependency of psycopg2",
    ),
    pytest.param(
        "sqlalchemy",
        "def handler():\n    engine = create_engine(URL)  # HERE\n"
        "    with engine.connect() as conn:\n        conn.execute(x)\n",
        "pool_in_function",
        "engine = create_engine(URL)  # at module level, once",
        "handler() makes a new engine, with connections of its own, each time it is called",
        id="engine in a function",
    ),
    pytest.param(
        "sqlalchemy",
        "async def handler(url):\n    engine = create_async_engine(url)  # HERE\n"
        "    async with engine.connect() as c:\n        pass\n",
        "pool_in_function",
        "engine = create_async_engine(url)\ntry:\n    ...\nfinally:\n    await engine.dispose()",
        "never closes it",
        id="engine made of an argument",
    ),
    pytest.param(
        "psycopg_pool",
        "def handler(dsn):\n    pool = ConnectionPool(dsn, min_size=1)  # HERE\n"
        "    with pool.connection() as c:\n        pass\n",
        "pool_in_function",
        "with ConnectionPool(dsn, min_size=1) as pool:",
        "makes a new pool",
        id="pool in a function",
    ),
    pytest.param(
        "sqlalchemy",
        "def f():\n    conn = engine.connect()  # HERE\n    conn.detach()\n    conn.execute(x)\n",
        "detached",
        "with engine.connect() as conn:",
        "`conn.detach()` in line 3 takes the connection out of its pool",
        id="detached",
    ),
    pytest.param(
        "psycopg_pool",
        "def helper(c):\n    c.execute('x')\n"
        + DEF
        + "    conn = pool.getconn()  # HERE\n    helper(conn)\n    print(conn)\n",
        "without_with",
        "with pool.connection() as conn:",
        "export()",
        id="passed to a function of this file that only uses it",
    ),
]


@pytest.mark.parametrize(("library", "source", "kind", "after", "sentence"), CASES)
def test_cure(advise, library, source, kind, after, sentence):
    """The kind, the replacement for this very line, and what the sentence has to name."""
    found = advise(source, library)
    assert found is not None
    assert (found.kind, found.after) == (kind, after)
    assert sentence in found.sentence
    assert found.sentence.endswith(".")


@pytest.mark.parametrize(("library", "source", "kind", "after", "sentence"), CASES)
def test_replacement_is_python(advise, library, source, kind, after, sentence):
    """Whatever is shown as the replacement parses, once its block has a body."""
    found = advise(source, library)
    shown = found.after + ("\n    pass" if found.after.endswith(":") else "")
    ast.parse("async def f():\n" + textwrap.indent(shown, "    "))


CLEAN = [
    pytest.param("psycopg_pool", DEF + "    with pool.connection() as conn:  # HERE\n        pass\n", id="with"),
    pytest.param(
        "psycopg", "def f():\n    with psycopg.connect(d) as conn:  # HERE\n        pass\n", id="with psycopg"
    ),
    pytest.param(
        "sqlalchemy", "def f():\n    with engine.connect() as c:  # HERE\n        c.detach()\n", id="detached in with"
    ),
    pytest.param(
        "sqlalchemy", "def f():\n    with Session(e) as s:\n        s.execute(x)  # HERE\n", id="session in with"
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = pool.getconn()  # HERE\n"
        "    try:\n        conn.execute('x')\n    finally:\n        pool.putconn(conn)\n",
        id="try/finally",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = None\n    try:\n        conn = pool.getconn()  # HERE\n        conn.execute('x')\n"
        "    finally:\n        if conn:\n            pool.putconn(conn)\n",
        id="try/finally around the acquisition",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = pool.getconn()  # HERE\n    try:\n        conn.execute('x')\n    except Exception:\n"
        "        pool.putconn(conn)\n        raise\n    pool.putconn(conn)\n",
        id="released in an except too",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = pool.getconn()  # HERE\n    try:\n        conn.execute('x')\n    except Exception:\n"
        "        log()\n    pool.putconn(conn)\n",
        id="the error is caught before the release",
    ),
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = pool.getconn()  # HERE\n"
        "    with suppress(Error):\n        conn.execute('x')\n    pool.putconn(conn)\n",
        id="the error is suppressed before the release",
    ),
    pytest.param(
        "psycopg_pool", DEF + "    conn = pool.getconn()  # HERE\n    pool.putconn(conn)\n", id="nothing between"
    ),
    pytest.param("psycopg_pool", "def f(self):\n    self.conn = pool.getconn()  # HERE\n", id="attribute"),
    pytest.param("psycopg_pool", DEF + "    conn = pool.getconn()  # HERE\n    self.conn = conn\n", id="stored"),
    pytest.param("psycopg_pool", DEF + "    conn = pool.getconn()  # HERE\n    other.use(conn)\n", id="passed on"),
    pytest.param("psycopg_pool", DEF + "    conn = pool.getconn()  # HERE\n    use(conn=conn)\n", id="passed by name"),
    pytest.param("psycopg_pool", DEF + "    conn = pool.getconn()  # HERE\n    return conn\n", id="returned"),
    pytest.param(
        "psycopg_pool",
        DEF + "    conn = pool.getconn()  # HERE\n    def done():\n        pool.putconn(conn)\n    return done\n",
        id="captured",
    ),
    pytest.param(
        "psycopg", "def f():\n    c = psycopg.connect(d)  # HERE\n    atexit.register(c.close)\n", id="registered"
    ),
    pytest.param(
        "psycopg", "def f():\n    c = stack.enter_context(psycopg.connect(d))  # HERE\n", id="on an exit stack"
    ),
    pytest.param(
        "psycopg", "def f():\n    with closing(psycopg.connect(d)) as c:  # HERE\n        pass\n", id="closing"
    ),
    pytest.param(
        "psycopg", "def f():\n    c = psycopg.connect(d)  # HERE\n    with c:\n        c.execute(x)\n", id="with later"
    ),
    pytest.param("psycopg", "conn = psycopg.connect(d)  # HERE\n", id="global"),
    pytest.param("psycopg", "def f():\n    global conn\n    conn = psycopg.connect(d)  # HERE\n", id="made global"),
    pytest.param(
        "psycopg", "def f():\n    c = psycopg.connect(a)  # HERE\n    c = psycopg.connect(b)\n", id="bound twice"
    ),
    pytest.param("psycopg", "def f():\n    use(psycopg.connect(a), psycopg.connect(b))  # HERE\n", id="two in a line"),
    pytest.param("psycopg", "def f():\n    psycopg.connect(d).close()  # HERE\n", id="closed at once"),
    pytest.param(
        "sqlalchemy", "def f():\n    c = e.connect().execution_options(x=1)  # HERE\n    c.x()\n", id="options"
    ),
    pytest.param("psycopg", "f = lambda: psycopg.connect(d)  # HERE\n", id="lambda"),
    pytest.param(
        "psycopg_pool",
        "def get_db():\n    conn = pool.getconn()  # HERE\n"
        "    try:\n        yield conn\n    finally:\n        pool.putconn(conn)\n",
        id="dependency with finally",
    ),
    pytest.param(
        "psycopg_pool",
        "pool = ConnectionPool(D, close_returns=True)\ndef f():\n    c = pool.getconn()  # HERE\n"
        "    c.execute(x)\n    c.close()\n",
        id="close returns",
    ),
    pytest.param("sqlalchemy", "engine = create_engine(URL)  # HERE\n", id="engine of the module"),
    pytest.param(
        "sqlalchemy", "@cache\ndef f():\n    e = create_engine(URL)  # HERE\n    return e\n", id="cached engine"
    ),
    pytest.param(
        "sqlalchemy", "def f():\n    e = create_engine(URL)  # HERE\n    return sessionmaker(e)\n", id="returned engine"
    ),
    pytest.param(
        "sqlalchemy", "def f():\n    e = create_engine(URL)  # HERE\n    M = sessionmaker(e)\n    return M\n", id="kept"
    ),
    pytest.param("sqlalchemy", "def f():\n    e = create_engine(URL)  # HERE\n    e.dispose()\n", id="disposed engine"),
    pytest.param("sqlalchemy", "def f():\n    self.e = create_engine(URL)  # HERE\n", id="engine in an attribute"),
    pytest.param("sqlalchemy", "def f(session):\n    session.execute(x)  # HERE\n", id="session from elsewhere"),
    pytest.param(
        "psycopg",
        "def get():\n    return psycopg.connect(d)  # HERE\ndef use():\n    with get() as c:\n        pass\n",
        id="returned to a caller that uses with",
    ),
]


@pytest.mark.parametrize(("library", "source"), CLEAN)
def test_nothing_where_nothing_is_certain(advise, library, source):
    """The clean twin, or a connection that leaves the function: no advice."""
    assert advise(source, library) is None


def test_changed_missing_and_broken_sources(advise, tmp_path):
    """No file, another function there by now, no such call in the line, no Python, not text: nothing, no error."""
    assert cure(str(tmp_path / "gone.py"), 1, "f", "psycopg_pool", "getconn") is None
    assert cure("<string>", 1, "f", "psycopg_pool", "getconn") is None
    assert cure("bad\0name", 1, "f", "psycopg_pool", "getconn") is None
    good = DEF + "    conn = pool.getconn()  # HERE\n"
    assert advise(good) is not None
    assert advise(good, function="other") is None
    assert advise(DEF + "    conn = pool.get()  # HERE\n") is None
    assert advise(good, "generic") is None
    for number, content in enumerate([b"def (:\n", b"\xff\xfe\x00", b"x = 1\0", b"(" * 5000 + b")" * 5000]):
        file = tmp_path / f"broken{number}.py"
        file.write_bytes(content)
        assert cure(str(file), 1, "<module>", "psycopg_pool", "getconn") is None


def test_an_edited_file_is_read_again(tmp_path):
    """What was parsed once is forgotten when the file changes."""
    file = tmp_path / "app.py"
    file.write_text("def f(pool):\n    conn = pool.getconn()\n    conn.x()\n")
    assert cure(str(file), 2, "f", "psycopg_pool", "getconn").kind == "without_with"
    file.write_text("def f(pool):\n    with pool.getconn() as conn:\n        conn.xyz()\n")
    assert cure(str(file), 2, "f", "psycopg_pool", "getconn").kind == "with_getconn"


def test_passwords_stay_in_the_source(advise):
    """Neither sentence nor code shows a literal that is a secret."""
    source = "def f():\n    conn = psycopg.connect('host=h', password='hunter2')  # HERE\n    conn.execute('x')\n"
    found = advise(source, "psycopg")
    assert "hunter2" not in found.sentence + found.before + found.after
    assert "password=***" in found.before
    source = "def f():\n    psycopg.connect('postgresql://u:hunter2@h/d').execute('x')  # HERE\n"
    found = advise(source, "psycopg")
    assert "hunter2" not in found.sentence + found.before + found.after


def test_calls_over_several_lines(advise):
    """A call that is spread over lines is found by any of them, and shown on one."""
    source = """
        def f(dsn):
            conn = psycopg.connect(
                dsn,  # HERE
                connect_timeout=3,
            )
            conn.execute("x")
    """
    found = advise(source, "psycopg")
    assert found.after == "with psycopg.connect(dsn, connect_timeout=3) as conn:"
