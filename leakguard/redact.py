"""Text that is safe to show: no password, no SQL literal, nothing that a terminal or a log would obey.

Pure functions of the standard library alone. They never raise, look at a few thousand characters at most, and are
thread-safe. Where a text can be read in two ways, the reading that hides more is taken. Patterns stay uncompiled until
they are needed (`re` caches them), because ``import leakguard`` has no time for it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from keyword import iskeyword, issoftkeyword
from typing import Final

_HIDDEN: Final = "***"
_WINDOW: Final = 4096
"""How many characters are looked at. What its end tears in two is hidden like an unterminated literal."""

# --- names -----------------------------------------------------------------------------------------------------------


def visible(text: str, limit: int = 200) -> str:
    """A foreign name (thread, task, label, file) for a terminal and a log line, at most `limit` characters long.

    What is not printable (control characters, line breaks, bidi overrides, lone surrogates) becomes an escape with a
    backslash. What is too long ends in an ellipsis.
    """
    return _fit(text, limit)


def process_title(orig_argv: Sequence[str] | None = None) -> str:
    """This process in a few words: ``python app.py``, ``python -m app``, ``gunicorn``.

    Program and script only, since any further argument may hold a secret. `orig_argv` defaults to ``sys.orig_argv``.
    """
    from pathlib import PurePath

    program, *arguments = (sys.orig_argv if orig_argv is None else orig_argv) or [sys.executable or "python"]
    name = PurePath(program).name.removesuffix(".exe") or "python"
    if not name.lower().startswith(("python", "pypy")):
        return visible(name)
    script = _script(arguments)
    # A console script, which its first line started: /venv/bin/python /venv/bin/gunicorn.
    path = PurePath(script)
    if path.parent.name in ("bin", "Scripts") and path.suffix in ("", ".exe"):
        return visible(path.stem)
    return visible(f"{name} {script}".rstrip())


def _script(arguments: Sequence[str]) -> str:
    """What an interpreter with these arguments runs: a script, ``-m module``, ``-c``, or nothing."""
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument == "-":
            return argument
        if argument.startswith("--"):
            if argument == "--check-hash-based-pycs":
                next(rest, None)
            continue
        for position, option in enumerate(argument[1:], start=2):  # they may be joined: -um app, -Xdev
            joined = argument[position:]
            if option == "m":
                return f"-m {joined or next(rest, '')}"
            if option == "c":
                # The code stays out. What multiprocessing spawned carries the script of its parent in sys.argv.
                return sys.argv[0] if "--multiprocessing-fork" in arguments and sys.argv else "-c"
            if option in "WX":
                if not joined:
                    next(rest, None)
                break
    return ""


# --- error texts and lines of source ---------------------------------------------------------------------------------

# A word that announces a secret. It may be a part of a longer one: PGPASSWORD, secret_key, db_pass.
_SECRET: Final = (
    r"(?i:pass(?:word|wd|phrase)|pwd|secret|token|credential|(?:api|access|private)[_-]?key|(?<![a-z])pass(?![a-z]))"
)
# Not a secret but the name of one: {password}, {settings.password!r}, {environ['PGPASSWORD']}, %s, %(password)s.
_PLACEHOLDER: Final = r"""\{[\w.()]*(?:\[\\?["']?[\w.-]+\\?["']?\])*(?:![rsa])?\}|%s|%\(\w+\)s|\*+"""
# Blanks as C and libpq know them; Python's \s has more, which may be a part of a password.
_BLANK: Final = r"[ \t\r\n\f\v]"
_FULL: Final = r"[^ \t\r\n\f\v]"

_URL: Final = rf"""
    (?P<before>://[^\s:/@]*:)
    (?P<value>
        {_FULL}*(?=@)                    # up to the last "@" of the word: drivers disagree on "@" and "/" in it
      | (?!\d+\b)[^@\r\n]{{1,128}}(?=@)  # with blanks, which SQLAlchemy accepts; but not host:port ... @
    )
"""
_TORN_URL: Final = rf"(?P<before>://[^\s:/@]*:)(?P<value>{_FULL}+)\Z"
_PAIR: Final = rf"""
    (?P<before>{_SECRET}[\w-]{{0,32}}(?:[\\"'\]]*\s*(?:=>|[!:=]?=|:)\s*|\s+(?=["'])))
    (?P<value>
        (?P<escaped>\\+["'])(?:(?!(?P=escaped))\\+.|[^\\])*+(?P=escaped)?
      | (?i:[rbfu]{{0,2}})(?P<quote>["'])(?:\\+.|(?P=quote){{2}}|(?!(?P=quote)).)*+(?P=quote)?
      | {_FULL}+
    )
"""
_PYTHON: Final = r"""
    (?P<prefix>(?i:[rbfut]{0,2}))(?P<string>'{3}|"{3}|'|")(?P<body>(?:\\.|(?!(?P=string)).)*+)(?P<end>(?P=string))?
  | (?P<name>[^\W\d]\w*)
  | (?P<number>\d[\w.]*)
  | (?P<space>\s+)
  | (?P<comment>\#.*)
  | (?P<operator>[!=:]=|.)
"""


def message(text: str) -> str:
    """The error text of a driver or server on one line, at most 1000 characters, without passwords and parameters.

    Line breaks and tabs become a space; other control characters are escaped, so that a terminal obeys none.
    """
    window, torn = text[:_WINDOW], len(text) > _WINDOW
    # SQLAlchemy appends "[SQL: ...]\n[parameters: ...]\n(Background on this error at: ...)".
    window = re.sub(r"\[(SQL|parameters): .*?(?=\n\[parameters: |\n\(Background |\Z)", r"[\1: ***]", window, flags=re.S)
    return _fit(re.sub(f"{_BLANK}+", " ", _prose(window, torn=torn)).strip(), 1000, more=torn)


def code_line(text: str) -> str:
    """A line of Python without the passwords in it, stripped, at most 200 characters.

    ``password="x"`` becomes ``password=***``; ``password=settings.password``, a name, stays. After a word that
    announces a secret every literal counts as the secret, up to the end of the argument or statement.
    """
    line = text.strip()
    window, torn = line[:_WINDOW], len(line) > _WINDOW
    tokens = list(re.finditer(_PYTHON, window, re.S | re.X))
    # "password=hunter2" and nothing else: hardly an assignment, rather a part of a longer string, or of a shell script.
    alone = re.fullmatch(rf"\w*?{_SECRET}\w*=[^\s.,()\[\]{{}}]+", window)
    shown = _code(tokens, torn=torn) if _is_python(tokens) and not alone else _prose(window, torn=torn)
    return _fit(shown.replace("\t", " "), 200, more=torn)


def _prose(text: str, *, torn: bool) -> str:
    """`text`, or the inside of a string, without the passwords: in URLs, ``password=x``, ``"password": "x"``.

    `torn` says that the text goes on behind its end, where the "@" may be that would have shown a password.
    """
    if torn:
        text = re.sub(_TORN_URL, _without_value, text)
    text = re.sub(_URL, _without_value, text, flags=re.X)
    return re.sub(_PAIR, _without_value, text, flags=re.S | re.X)


def _without_value(found: re.Match[str]) -> str:
    value = found["value"].strip("\\\"'")
    return found[0] if not value or re.fullmatch(_PLACEHOLDER, value) else found["before"] + _HIDDEN


def _is_python(tokens: Iterable[re.Match[str]]) -> bool:
    """Whether a line can be Python. It is not where it lies inside a string that began further up, as a conninfo
    (``host=h password=x``) or SQL: there, two operands follow each other."""
    before = ""
    for token in tokens:
        kind = _kind(token)
        if kind == "space":
            continue
        if kind == "operator" and token[0] in "$?!`":
            return False
        operand = kind in ("string", "number") or (kind == "name" and not _is_keyword(token[0]))
        if operand and before and not kind == before == "string":
            return False
        before = kind if operand else ""
    return True


def _code(tokens: Iterable[re.Match[str]], *, torn: bool) -> str:
    """The line again, without the literals that follow a word announcing a secret, as far as its value reaches:
    to the end of the argument, and of the statement where it stands in no brackets. Names are never secret."""
    shown: list[str] = []
    context: list[str] = []  # the tokens so far, without blanks
    depth = 0  # of brackets
    armed: int | None = None  # the depth of the word that announced a secret, until its value is over
    pair = False  # whether the value is the next argument: setdefault("PGPASSWORD", "x")
    announced = False  # whether the line has such a name anywhere
    for token in tokens:
        kind, text = _kind(token), token[0]
        if kind == "string":
            text, announces = _string(token, context, armed=armed is not None, torn=torn)
            if announces and armed is None:
                armed, pair = depth, announces == "pair"
        elif kind == "number" and armed is not None and not _is_lookup(context, text):
            text = _HIDDEN
        elif kind == "comment":
            text = _prose(text, torn=torn)
        elif kind == "name" and re.search(_SECRET, text):
            armed, pair, announced = depth if armed is None else min(armed, depth), False, True
        elif text in ("=", "in") and depth == 0 and announced:  # (user, password) = ("bob", "x")
            armed = 0
        elif text in ("(", "[", "{"):
            depth += 1
        elif text in (")", "]", "}"):
            depth -= 1
            if armed is not None and depth < armed:
                # environ["PGPASSWORD"] = "x"
                armed, pair = (depth, False) if text == "]" and context[-1][-1] in "\"'" else (None, False)
        elif text == "," and armed is not None and 0 < depth <= armed:  # at depth 0: user, password = "bob", "x"
            armed, pair = (armed, False) if pair else (None, False)
        elif text == ":":
            pair = False
        elif text == ";":
            armed, announced = None, False
        shown.append(text)
        if kind != "space":
            context.append(token[0])
    return "".join(shown)


def _string(token: re.Match[str], context: Sequence[str], *, armed: bool, torn: bool) -> tuple[str, str]:
    """A string as it is shown, and what it announces: "" nothing, "value" or "pair" a secret that follows."""
    body = token["body"]
    if armed:
        return (token[0] if not body or _is_lookup(context, body) else _HIDDEN), ""
    if re.fullmatch(rf"-{{0,2}}[\w.-]{{0,64}}?{_SECRET}[\w.-]{{0,64}}", body):
        return token[0], "pair"
    announces = ""
    if re.search(f"://|{_SECRET}", body):  # "password=%s" % "x", ("ALTER ROLE r PASSWORD %s", ("x",))
        arguments = "f" not in token["prefix"].lower() and re.search(r"%[s(]|\{|[$?]\d|:[a-z]|\?", body)
        announces = "pair" if arguments and re.search(_SECRET, body) else "value"
    torn = torn or token["end"] is None
    return f"{token['prefix']}{token['string']}{_prose(body, torn=torn)}{token['end'] or ''}", announces


def _is_lookup(context: Sequence[str], key: str) -> bool:
    """Whether `key` is what a value is looked up by: ``environ["PGPASSWORD"]``, ``config.get("password")``."""
    if len(context) < 2 or not re.fullmatch(r"[\w.-]{1,64}", key):
        return False
    target, bracket = context[-2:]
    if bracket == "(":
        return target in ("get", "getenv", "env")
    return bracket == "[" and (target in ("]", ")") or (target.isidentifier() and not iskeyword(target)))


def _kind(token: re.Match[str]) -> str:
    return "string" if token["string"] else token.lastgroup or ""


def _is_keyword(name: str) -> bool:
    return iskeyword(name) or issoftkeyword(name)


# --- SQL -------------------------------------------------------------------------------------------------------------

_SQL: Final = r"""
    (?P<blank>\s+|--[^\r\n]*)
  | (?P<comment>/\*)
  | (?P<literal>
        [eE]'(?:''|\\.|[^'\\])*+(?P<end1>')?
      | (?:[bBnNxX]|[uU]&)?'(?:''|[^'])*+(?P<end2>')?
      | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:(?P<end3>\$(?P=tag)\$)|\Z)
    )
  | (?P<quoted>(?:[uU]&)?"(?:""|[^"])*+(?P<end4>")?)
  | (?P<kept>[$?]\d+|[^\W\d](?:\w|\$(?!\w*\$))*)     # PostgreSQL has a$b$c as a name, others read $b$c as a string
  | (?P<number>(?:\d|\.\d)[\w.]*)
  | .
"""


def statement(sql: str | bytes) -> str:
    """SQL without literals and comments, on one line, at most 500 characters: ``SELECT * FROM t WHERE id = ?``.

    Identifiers (also double-quoted ones, which SQLite may take for strings) and placeholders stay. Strings are read
    as PostgreSQL does by default; behind one that other rules would end elsewhere (``'\\'``), nothing is shown.
    """
    torn = len(sql) > _WINDOW
    window = sql[:_WINDOW].decode(errors="replace") if isinstance(sql, bytes) else sql[:_WINDOW]
    match = re.compile(_SQL, re.S | re.X).match
    shown: list[str] = []
    position = 0
    while token := match(window, position):
        position = token.end()
        if token["comment"]:
            position = _end_of_comment(window, position)
            shown.append(" ")
        elif token["blank"]:
            shown.append(" ")
        elif token["literal"]:
            shown.append("?")
            if not (token["end1"] or token["end2"] or token["end3"]) or (token["end2"] and "\\'" in token[0]):
                torn = True
                break
        elif token["quoted"] and not token["end4"]:
            shown.append('"')
            torn = True
            break
        else:
            shown.append("?" if token["number"] else token[0])
    return _fit(re.sub(" +", " ", "".join(shown)).strip(), 500, more=torn)


def _end_of_comment(sql: str, position: int) -> int:
    """Where the comment ends whose opening ends at `position`: PostgreSQL's comments nest."""
    depth = 1
    for mark in re.compile(r"/\*|\*/").finditer(sql, position):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(sql)


# --- width -----------------------------------------------------------------------------------------------------------


def _fit(text: str, limit: int, *, more: bool = False) -> str:
    """`text` with escapes for what is not printable, in at most `limit` characters; an ellipsis says that there is
    more of it, as the caller may know already."""
    window = text[: limit + 1]
    pieces = [char if char.isprintable() else char.encode("unicode_escape").decode() for char in window]
    if not more and sum(map(len, pieces)) <= limit:
        return "".join(pieces)
    size = 0
    for count, piece in enumerate(pieces):
        size += len(piece)
        if size >= limit:
            del pieces[count:]
            break
    return "".join(pieces) + "…"
