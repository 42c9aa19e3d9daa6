"""Who keeps a connection or a pool on purpose for longer than a test: what they keep is nobody's leak."""

from __future__ import annotations

import functools
import gc
import sys
from collections import deque
from types import FrameType
from typing import Any, Final

import pytest

DEPTH: Final = 8
"""How many references away from the pool a keeper is looked for."""
WIDTH: Final = 200
"""How many objects are looked at before the search is given up: then the pool counts as kept."""

_HEAPS: Final = (list, set, frozenset, deque)


def django_connections() -> frozenset[int]:
    """The ids of the connections that Django keeps open from one request to the next: one an alias and thread."""
    django_db: Any = sys.modules.get("django.db")
    try:
        wrappers = django_db.connections.all(initialized_only=True) if django_db is not None else []
        return frozenset(id(wrapper.connection) for wrapper in wrappers if wrapper.connection is not None)
    except Exception:  # no settings, or a Django of another day
        return frozenset()


def kept_for_longer(pool: object) -> bool:
    """Whether something that outlives a test refers to the pool by name: a module, a class, a cache, a wider fixture.

    That is how an application's lazily created engine looks from the test that was the first to need it. What is only
    put on a heap (a list, a set) has no name by which anybody could use it again, and counts as left behind.
    """
    if pool is None:
        return False
    modules = {
        id(namespace) for module in list(sys.modules.values()) if (namespace := getattr(module, "__dict__", None))
    }
    todo: list[tuple[object, int]] = [(pool, 0)]
    seen = {id(pool), id(todo)}
    while todo:
        subject, depth = todo.pop(0)
        if len(seen) > WIDTH:
            return True
        for referrer in gc.get_referrers(subject):
            if id(referrer) in seen or isinstance(referrer, (FrameType, *_HEAPS)):
                continue
            seen.add(id(referrer))
            if id(referrer) in modules or isinstance(referrer, (type, pytest.FixtureDef, functools._lru_cache_wrapper)):
                return True
            if depth < DEPTH:
                todo.append((referrer, depth + 1))
    return False
