"""The marker `leakguard_growth`: the test's function is the scenario, run several times with the same fixtures."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from leakguard.errors import GrowthError
from leakguard.growth import assert_no_growth
from leakguard.pytest_plugin.marks import Mode


class GrowthWarning(UserWarning):
    """A test marked with `leakguard_growth` grows, and the mode is warn."""


def repeated(function: Callable[..., Any], arguments: dict[str, int], mode: Mode) -> Callable[..., Any]:
    """The function, run as often as the marker says. A coroutine function stays one, for whoever runs those."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def rounds_async(*args: Any, **kwargs: Any) -> None:
            def scenario() -> Awaitable[object]:
                return function(*args, **kwargs)  # type: ignore[no-any-return]

            grown = None
            try:
                await assert_no_growth(scenario, **arguments)
            except GrowthError as error:
                grown = str(error)
            _tell(grown, mode)

        return rounds_async

    @functools.wraps(function)
    def rounds(*args: Any, **kwargs: Any) -> None:
        grown = None
        try:
            assert_no_growth(lambda: function(*args, **kwargs), **arguments)
        except GrowthError as error:
            grown = str(error)
        _tell(grown, mode)

    return rounds


def _tell(grown: str | None, mode: Mode) -> None:
    # Not inside the handler of the error: pytest would show both, which say the same.
    if grown is None:
        return
    if mode == "warn":
        warnings.warn(grown, GrowthWarning, stacklevel=3)
    else:
        pytest.fail(grown, pytrace=False)
