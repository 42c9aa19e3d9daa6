"""Integrations that other packages bring along, as entry points of the group ``leakguard.integrations``.

The name of the entry point is the module whose import brings the integration in; only then is it loaded.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "leakguard.integrations"
_METADATA: Final = (".dist-info", ".egg-info")


class PlugInError(Exception):
    """A plug-in cannot be used; the text says which one, and why."""


def found() -> dict[str, EntryPoint]:
    """The entry points of the installed packages, by the module that they are for. Never raises.

    To import ``importlib.metadata`` takes far longer than the rest of leakguard's start, and nearly nobody has a
    plug-in: so the files are looked through first.
    """
    try:
        if not any(_mentions_group(folder) for folder in sys.path):
            return {}
        from importlib.metadata import entry_points

        return {entry.name: entry for entry in entry_points(group=GROUP)}
    except Exception:  # broken metadata of some package
        return {}


def load(entry: EntryPoint) -> Any:
    """The integration behind an entry point: an instance, or a class that is called without arguments.

    Raises PlugInError. What is returned has a `module` and an `install()`; nothing else is known of it.
    """
    try:
        loaded = entry.load()
        integration = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(getattr(integration, "module", None), str) or not callable(integration.install):
            raise TypeError(f"{type(integration).__name__} is no integration: it has no module, or no install()")
    except Exception as error:
        package = f" of {entry.dist.name}" if entry.dist is not None else ""
        raise PlugInError(
            f"the integration for {entry.name} ({entry.value}{package}) could not be loaded, and is skipped: "
            f"{type(error).__name__}: {error}"
        ) from error
    return integration


def _mentions_group(folder: str) -> bool:
    try:
        with os.scandir(folder or os.curdir) as entries:
            return any(_declares(entry.path) for entry in entries if entry.name.endswith(_METADATA))
    except OSError:
        return False


def _declares(metadata: str) -> bool:
    try:
        with open(os.path.join(metadata, "entry_points.txt"), "rb") as file:  # noqa: PTH118, PTH123
            return GROUP.encode() in file.read()
    except OSError:
        return False
