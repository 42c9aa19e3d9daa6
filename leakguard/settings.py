"""The settings: one frozen value, resolved from keywords, the environment, ``pyproject.toml`` and the defaults.

A value that is not accepted is a `SettingsError` of one line: which setting, the value, where it came from, what is
accepted. Nothing is clamped or guessed. Every source is checked, also where a stronger one overrides it.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, cast, get_args

from leakguard.errors import SettingsError
from leakguard.model import Event

if TYPE_CHECKING:
    from pathlib import Path


class Reporter(Protocol):
    """An object that is told every event, by the watchdog thread or the thread that crosses a boundary."""

    def report(self, event: Event, /) -> object:
        """Take one event. What is returned is ignored; a reporter that raises is switched off."""


OnLeak: TypeAlias = Literal["log", "raise"] | Reporter | Callable[[Event], object]
Reclaim: TypeAlias = Literal["off", "dropped"]
Stacks: TypeAlias = Literal["auto", "full", "site", "off"]
PatternField: TypeAlias = Literal["file", "function", "pool", "fingerprint"]

Threshold: TypeAlias = "float | Literal['learned'] | None"

EXPORTERS: Final = ("otel", "prometheus", "sentry")
"""Where metrics and events can be exported to: each is an extra of the package, too."""
PREFIX: Final = "LEAKGUARD_"
"""What the name of every environment variable starts with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnorePattern:
    """Findings that are never reported: those whose `field` matches the shell-style `glob`, case-sensitively."""

    field: PatternField
    glob: str

    @classmethod
    def parse(cls, text: str) -> IgnorePattern:
        """Read ``"field=glob"``. Raises ValueError where the field is unknown or the glob is empty."""
        field, _, glob = (part.strip() for part in text.partition("="))
        if field not in get_args(PatternField) or not glob:
            raise ValueError(text)
        return cls(field=cast("PatternField", field), glob=glob)

    def __str__(self) -> str:
        return f"{self.field}={self.glob}"

    def matches(self, *, file: str | None, function: str | None, pool: str | None, fingerprint: str | None) -> bool:
        """Whether a finding with these properties is meant; null never matches.

        A file matches by its whole path or by any end of it that starts after a directory separator, so that
        ``file=shop/legacy.py`` means ``/srv/shop/legacy.py`` but not ``/srv/workshop/legacy.py``.
        """
        value = {"file": file, "function": function, "pool": pool, "fingerprint": fingerprint}[self.field]
        if value is None:
            return False
        if self.field != "file":
            return fnmatchcase(value, self.glob)
        path, glob = value.replace(os.sep, "/"), self.glob.replace(os.sep, "/")
        return fnmatchcase(path, glob) or fnmatchcase(path, f"*/{glob}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnThreshold:
    """The threshold of the checkouts that a pattern matches, instead of everybody's."""

    pattern: IgnorePattern
    threshold: Threshold

    def __str__(self) -> str:
        return f"{self.pattern}:{_as_text(self.threshold)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a guard behaves. `threshold`, `idle_in_transaction` and `owner_grace` are seconds; null means off.

    A threshold of "learned" is a multiple of how long the holds of each site usually last. Of several `thresholds`
    that match a hold, the first counts.

    Made by `resolve()`, which checks every value; the constructor does not.
    """

    enabled: bool = True
    threshold: Threshold = 60.0
    thresholds: tuple[OwnThreshold, ...] = ()
    idle_in_transaction: float | None = 60.0
    owner_grace: float = 5.0
    on_leak: tuple[OnLeak, ...] = ("log",)
    report: Path | None = None
    export: tuple[str, ...] = ()
    reclaim: Reclaim = "off"
    stacks: Stacks = "auto"
    app_packages: tuple[str, ...] = ()
    ignore: tuple[IgnorePattern, ...] = ()
    integrations: tuple[object, ...] = ()
    live: bool = True
    incident_dir: Path | None = None

    @property
    def learns(self) -> bool:
        """Whether it has to be remembered how long the holds of each site last."""
        return self.threshold == "learned" or any(own.threshold == "learned" for own in self.thresholds)

    def report_path(self, pid: int) -> Path | None:
        """The report file of the process `pid`: `report` with ``%p`` replaced. Absolute, null where there is none."""
        if self.report is None:
            return None
        return type(self.report)(str(self.report).replace("%p", str(pid)))


def resolve(
    keywords: Mapping[str, object],
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    base: Settings | None = None,
    source: str = "keyword",
) -> Settings:
    """The settings in force: `keywords` beat `environ` (default ``os.environ``), which beats the nearest
    ``pyproject.toml`` at or above `directory` (default: the working directory), which beats the defaults.

    With `base`, the keywords are applied on top of it and nothing else is read. `source` is what an error calls
    the place that the keywords came from. Raises SettingsError.
    """
    given = _checked(keywords, source)
    if base is not None:
        return replace(base, **given)
    return Settings(**{**_from_file(directory), **_from_environ(os.environ if environ is None else environ), **given})


def to_environ(settings_overrides: Mapping[str, object]) -> dict[str, str]:
    """The environment variables that give a child process these settings; ``report`` becomes absolute.

    A report of null has no variable, because that is what a child starts with. Raises SettingsError for values that
    are not accepted and for those that no variable can carry: reporters, callables, patterns with a comma.
    """
    variables: dict[str, str] = {}
    for name, value in _checked(settings_overrides, "keyword").items():
        if name in ("report", "incident_dir") and value is None:
            continue
        many = name in _MANY
        texts = [_as_text(item) for item in (value if many else (value,))]
        if any(text is None or (many and "," in text) for text in texts):
            raise _error(name, settings_overrides[name], "keyword", "for child processes, text without a comma")
        variables[_variable(name)] = ",".join(map(str, texts)) or ","
    return variables


# --- sources ---------------------------------------------------------------------------------------------------------


def _checked(values: Mapping[str, object], source: str) -> dict[str, Any]:
    """The accepted values by field name. Any: every field has its own type, and `_RULES` keeps them apart."""
    return {name: _parsed(name, value, source) for name, value in values.items()}


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, value in sorted(environ.items()):
        if not variable.startswith(PREFIX) or not value.strip():
            continue
        source = f"environment variable {variable}"
        name = variable.removeprefix(PREFIX).lower()
        if name in _RULES and variable == _variable(name):
            values[name] = _parsed(name, value, source, split=name in _MANY)
        # Other names are not ours to judge: Kubernetes sets LEAKGUARD_SERVICE_HOST and LEAKGUARD_PORT where a service
        # is called leakguard. Hence the cutoff: "port" is 0.80 like "report", "reprot" 0.83.
        elif close := _closest(name, cutoff=0.82):
            raise _error(name, value, source, f"there is no such setting, did you mean {_variable(close)}?")
    return values


def _from_file(directory: Path | None) -> dict[str, Any]:
    try:
        path = _nearest_file(directory)
        content = b"" if path is None else path.read_bytes()
    except OSError:  # the working directory is gone, or the file is not ours to read: then it is not ours to judge
        return {}
    if b"leakguard" not in content:
        return {}

    import tomllib

    source = f"{path} [tool.leakguard]"
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        if b"tool.leakguard" not in content:
            return {}  # somebody else's broken file must not break the application
        raise SettingsError(_one_line(f"leakguard: {source} cannot be read, it is not valid TOML: {error}")) from None
    tool = document.get("tool")
    table = tool.get("leakguard", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise _error("leakguard", table, f"{path} [tool]", "a table of settings")
    # The pytest plugin has its own table inside ours.
    return _checked({name: value for name, value in table.items() if name != "pytest"}, source)


def _nearest_file(directory: Path | None) -> Path | None:
    from pathlib import Path

    start = (directory or Path()).absolute()
    candidates = (folder / "pyproject.toml" for folder in (start, *start.parents))
    return next((path for path in candidates if path.is_file()), None)


# --- values ----------------------------------------------------------------------------------------------------------


def _parsed(name: str, value: object, source: str, *, split: bool = False) -> object:
    if name not in _RULES:
        close = _closest(name, cutoff=0.6)
        hint = f"did you mean {close}?" if close else f"the settings are {', '.join(_RULES)}"
        raise _error(name, value, source, f"there is no such setting, {hint}")
    parse, accepted = _RULES[name]
    try:
        # A lone comma is the empty list, so that the environment can take back what the file says.
        return parse([item for item in str(value).split(",") if item.strip()] if split else value)
    except ValueError:
        raise _error(name, value, source, accepted) from None


def _flag(value: object) -> bool:
    word = value.strip().lower() if isinstance(value, str) else value
    if word in (True, "true", "1", "yes", "on"):
        return True
    if word in (False, "false", "0", "no", "off"):
        return False
    raise ValueError(value)


def _limit(value: object) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().lower() in ("off", "none")):
        return None
    seconds = _grace(value)
    if seconds == 0:
        raise ValueError(value)
    return seconds


def _threshold(value: object) -> Threshold:
    return "learned" if isinstance(value, str) and value.strip().lower() == "learned" else _limit(value)


def _thresholds(value: object) -> tuple[OwnThreshold, ...]:
    """A mapping from patterns to thresholds, or texts "pattern:threshold"."""
    items = value.items() if isinstance(value, Mapping) else _items(value)
    return tuple(item if isinstance(item, OwnThreshold) else _own_threshold(item) for item in items)


def _own_threshold(item: object) -> OwnThreshold:
    match item:
        case str():
            pattern, _, threshold = item.rpartition(":")
        case (str(pattern), threshold):
            pass
        case _:
            raise ValueError(item)
    parsed = IgnorePattern.parse(pattern)
    if parsed.field == "fingerprint":  # a name for bugs; what lasts long in good order has none
        raise ValueError(item)
    return OwnThreshold(pattern=parsed, threshold=_threshold(threshold))


def _grace(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(value)
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError(value) from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(value)
    return seconds


def _on_leak(value: object) -> tuple[OnLeak, ...]:
    actions = tuple(_action(item) for item in _items(value))
    if not actions:
        raise ValueError(value)
    return actions


def _action(value: object) -> OnLeak:
    if isinstance(value, str):
        word = value.strip().lower()
        if word not in ("log", "raise"):
            raise ValueError(value)
        return cast("OnLeak", word)
    # Two mistakes would lose every event in silence: the class instead of its instance, and a coroutine function,
    # whose coroutine nobody awaits.
    method = getattr(value, "report", value)
    if isinstance(value, type) or not callable(method) or inspect.iscoroutinefunction(method):
        raise ValueError(value)
    return cast("OnLeak", value)


def _path(value: object) -> Path | None:
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise ValueError(value)

    from pathlib import Path

    try:
        return Path(path).absolute()  # now: the application may change its working directory
    except OSError:  # it has none: the directory was removed
        raise ValueError(value) from None


def _export(value: object) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for item in _items(value):
        word = item.strip().lower() if isinstance(item, str) else ""
        name, at, address = word.partition(":")
        port = address.rpartition(":")[2]
        if name not in EXPORTERS or (at and (name != "prometheus" or not (port.isascii() and port.isdecimal()))):
            raise ValueError(value)
        if at and not 0 < int(port) < 65536:
            raise ValueError(value)
        names[word] = None
    return tuple(names)


def _reclaim(value: object) -> Reclaim:
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in get_args(Reclaim):
        raise ValueError(value)
    return cast("Reclaim", word)


def _stacks(value: object) -> Stacks:
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in get_args(Stacks):
        raise ValueError(value)
    return cast("Stacks", word)


def _app_packages(value: object) -> tuple[str, ...]:
    names = tuple(item.strip() if isinstance(item, str) else "" for item in _items(value))
    if not all(part.isidentifier() for name in names for part in name.split(".")):
        raise ValueError(value)
    return names


def _ignore(value: object) -> tuple[IgnorePattern, ...]:
    patterns: list[IgnorePattern] = []
    for item in _items(value):
        if isinstance(item, IgnorePattern):
            patterns.append(item)
        elif isinstance(item, str):
            patterns.append(IgnorePattern.parse(item))
        else:
            raise ValueError(value)
    return tuple(patterns)


def _integrations(value: object) -> tuple[object, ...]:
    """Names of modules, for the generic integration, and integrations themselves."""
    found: list[object] = []
    for item in _items(value):
        module = item.strip() if isinstance(item, str) else getattr(item, "module", None)
        if not isinstance(module, str) or not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(value)
        if isinstance(item, type) or not (isinstance(item, str) or callable(getattr(item, "install", None))):
            raise ValueError(value)
        found.append(module if isinstance(item, str) else item)
    return tuple(found)


def _items(value: object) -> tuple[object, ...]:
    """One item or several; a set has no order to keep, so it is one item, and refused as such."""
    if isinstance(value, list | tuple):
        return tuple(value)
    return () if value is None else (value,)


# Comma separated in the environment.
_MANY: Final = ("thresholds", "on_leak", "export", "app_packages", "ignore", "integrations")
_SECONDS: Final = 'seconds as a number above 0, or "off"'
# How a setting is read (raising ValueError), and in what words a refusal says what would do.
_RULES: Final[Mapping[str, tuple[Callable[[object], object], str]]] = {
    "enabled": (_flag, "true or false (1, 0, yes, no, on, off)"),
    "threshold": (_threshold, f'{_SECONDS}, or "learned"'),
    "thresholds": (
        _thresholds,
        'patterns "pool=...", "file=..." or "function=...", each with seconds above 0, "off" or "learned", '
        'such as {"pool=reports": 600} or "pool=reports:600"',
    ),
    "idle_in_transaction": (_limit, _SECONDS),
    "owner_grace": (_grace, "seconds as a number, 0 or above"),
    "on_leak": (
        _on_leak,
        '"log", "raise" or (as a keyword only) a reporter, a function that is not async, or a list of them',
    ),
    "report": (_path, "the path of a file"),
    "export": (_export, '"otel", "prometheus" (also "prometheus:9464" or "prometheus:0.0.0.0:9464") or "sentry"'),
    "reclaim": (_reclaim, '"off" or "dropped"'),
    "stacks": (_stacks, '"auto", "full", "site" or "off"'),
    "app_packages": (_app_packages, 'import names such as "shop" or "shop.orders"'),
    "ignore": (_ignore, 'patterns "file=...", "function=...", "pool=..." or "fingerprint=..."'),
    "integrations": (
        _integrations,
        'names of drivers\' modules such as "pymysql" or (as a keyword only) integrations, not their classes',
    ),
    "live": (_flag, "true or false (1, 0, yes, no, on, off)"),
    "incident_dir": (_path, "the path of a directory"),
}


# --- words -----------------------------------------------------------------------------------------------------------


def _as_text(value: object) -> str | None:
    """A value as the environment spells it; null for what has no spelling."""
    match value:
        case None:
            return "off"
        case bool():
            return "true" if value else "false"
        case str() | float() | IgnorePattern() | OwnThreshold() | os.PathLike():
            return str(value)
        case _:
            return None


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _closest(name: str, *, cutoff: float) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(name.lower(), _RULES, 1, cutoff)), None)


def _error(name: str, value: object, source: str, accepted: str) -> SettingsError:
    shown = _one_line(repr(value))
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return SettingsError(f"leakguard: {_one_line(name)}={shown} ({_one_line(source)}) is not accepted: {accepted}")


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
