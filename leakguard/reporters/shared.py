"""What several reporters share: how bad an event is and where; words about a missing package, and about trouble."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

from leakguard.errors import SettingsError
from leakguard.model import Event, Exhausted, Leak, Recovered, Site, Summary

if TYPE_CHECKING:
    from leakguard.telling.registry import Registry

Level: TypeAlias = Literal["info", "warning", "error"]


def level_of(event: Event) -> Level:
    """Proven leaks and exhaustion are errors, suspicions and advice warnings, the rest is information."""
    match event:
        case Leak():
            return "error" if event.certain else "warning"
        case Exhausted():
            return "error"
        case Recovered() | Summary():
            return "info"


def site_of(event: Event) -> Site | None:
    """The place that an event is about, where there is a single one."""
    match event:
        case Leak():
            return event.site
        case Recovered():
            return event.hold.site
        case Exhausted():
            return event.holders[0].site if event.holders else None  # the worst
        case Summary():
            return None


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Imports in this block belong to an extra of leakguard: raises SettingsError where one fails."""
    try:
        yield
    except ImportError as error:
        raise SettingsError(
            f"leakguard: the exporter {extra!r} needs a package that is not installed ({error}): "
            f"pip install 'leakguard[{extra}]'"
        ) from None


def must_be_free(registry: Registry | None) -> None:
    """Raise RuntimeError where a reporter has a registry already: to close it for one guard would end it for both."""
    if registry is not None:
        raise RuntimeError("this reporter serves another guard: give each guard one of its own")


class Trouble:
    """Something outside that fails again and again: logged when it begins, and again only after it had ended."""

    __slots__ = ("_said",)

    def __init__(self) -> None:
        self._said = False

    def say(self, text: str) -> None:
        """It has failed."""
        if not self._said:
            self._said = True
            import logging

            logging.getLogger("leakguard").warning("leakguard: %s", text)

    def over(self) -> None:
        """It has worked."""
        self._said = False
