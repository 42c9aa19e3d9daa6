"""Errors of leakguard's own: noted, and kept away from the tests."""

from __future__ import annotations

from collections.abc import Callable


class Careful:
    """Keeps an error of leakguard's own away from the tests; cheaper than a generator-based context manager."""

    __slots__ = ("_note", "_where")

    def __init__(self, note: Callable[[str, Exception], None], where: str) -> None:
        self._note = note
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> bool:
        if isinstance(error, Exception):
            self._note(self._where, error)
            return True
        return False
