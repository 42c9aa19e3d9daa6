"""What the markers of a test say about its leaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

import pytest

Mode: TypeAlias = Literal["fail", "warn", "off"]
MODES: Final = ("fail", "warn", "off")
UNLIMITED: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Policy:
    """How the leaks of one test are judged: up to `allowed` of them are known, for the `reason` given."""

    mode: Mode
    allowed: int = 0
    reason: str = ""


def check_mode(value: object, source: str) -> Mode:
    """The mode, if it is one. Raises UsageError, which names the source."""
    if value not in MODES:
        raise pytest.UsageError(f"leakguard: {source}: unknown mode {value!r}: one of {', '.join(MODES)}")
    return value


def policy_of(item: pytest.Item, default: Mode) -> Policy:
    """The policy of a test; of several markers the closest says each thing. Raises UsageError, which names the test."""
    said: dict[str, object] = {}
    for mark in item.iter_markers("leakguard"):
        source = f"@pytest.mark.leakguard of {item.nodeid}"
        if mark.args:
            raise pytest.UsageError(f"leakguard: {source}: takes keywords only: mode, allow, reason")
        for name, value in mark.kwargs.items():
            _check_argument(name, value, source)
            said.setdefault(name, value)
    for mark in item.iter_markers("allow_leaks"):
        reason = mark.kwargs.get("reason", mark.args[0] if mark.args else None)
        if len(mark.args) > 1 or set(mark.kwargs) - {"reason"} or not isinstance(reason, str) or not reason.strip():
            raise pytest.UsageError(
                f'leakguard: @pytest.mark.allow_leaks of {item.nodeid}: takes one reason: allow_leaks("...")'
            )
        said.setdefault("allow", UNLIMITED)
        said.setdefault("reason", reason)
    return Policy(
        mode=cast("Mode", said.get("mode", default)),
        allowed=cast("int", said.get("allow", 0)),
        reason=str(said.get("reason", "")),
    )


def growth_of(item: pytest.Item) -> dict[str, int] | None:
    """The arguments of the closest marker `leakguard_growth`. Raises UsageError, which names the test."""
    mark = item.get_closest_marker("leakguard_growth")
    if mark is None:
        return None
    source = f"@pytest.mark.leakguard_growth of {item.nodeid}"
    if mark.args:
        raise pytest.UsageError(f"leakguard: {source}: takes keywords only: rounds, warmup")
    for name, value in mark.kwargs.items():
        least = {"rounds": 2, "warmup": 0}.get(name)
        if least is None:
            raise pytest.UsageError(f"leakguard: {source}: unknown argument {name!r}: rounds, warmup")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise pytest.UsageError(
                f"leakguard: {source}: {name}={value!r} is not accepted: a whole number, at least {least}"
            )
    return dict(mark.kwargs)


def _check_argument(name: str, value: object, source: str) -> None:
    match name:
        case "mode":
            check_mode(value, source)
        case "allow":
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise pytest.UsageError(f"leakguard: {source}: allow={value!r} is not accepted: a number of leaks")
        case "reason":
            if not isinstance(value, str) or not value.strip():
                raise pytest.UsageError(f"leakguard: {source}: reason={value!r} is not accepted: a sentence")
        case _:
            raise pytest.UsageError(f"leakguard: {source}: unknown argument {name!r}: mode, allow, reason")
