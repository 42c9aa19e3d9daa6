"""The attribute ``_leakguard``: a pool's or connection's record, written on the object itself."""

from __future__ import annotations

from typing import TypeVar

from leakguard.process.interruptions import let_through
from leakguard.register.records import PoolRecord, Wire

Known = TypeVar("Known", PoolRecord, Wire)


def mark(known: object, record: PoolRecord | Wire) -> None:
    """Write an object's record on the object itself, where that can be done: the hot path finds it three times as fast
    there as by its identity, and a proxy that another tool has put around it finds it too."""
    try:
        known._leakguard = record  # type: ignore[attr-defined]
    except AttributeError:  # it has slots: then it is known by its identity alone
        return
    except Exception as error:  # it has its own ideas of attributes
        let_through(error)


def mark_of(known: object, kind: type[Known]) -> Known | None:
    """The record of this kind on an object; None where it has none, or only seems to."""
    try:
        found = known._leakguard  # type: ignore[attr-defined]
    except AttributeError:
        return None
    except Exception as error:  # it asks for attributes in its own way
        let_through(error)
        return None
    return found if type(found) is kind else None  # a mock has every attribute


def unmark(known: object | None) -> None:
    """Leave nothing behind on an object, if it still exists."""
    try:
        del known._leakguard  # type: ignore[union-attr]
    except AttributeError:
        return
    except Exception as error:
        let_through(error)
