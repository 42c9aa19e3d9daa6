"""leakguard finds database connection leaks from inside a Python application.

``leakguard.install()`` watches the whole process, ``leakguard.watch(engine_or_pool)`` one pool,
``with leakguard.no_leaks():`` one block of code. Importing this package imports no driver and starts no thread.
"""

from leakguard.version import __version__ as __version__

TYPE_CHECKING = False  # as every type checker understands it: to import `typing` would take longer than all the rest
if TYPE_CHECKING:
    from leakguard.boundaries import allow, check, expect_long, holds, install, label, no_leaks, watch
    from leakguard.errors import ConnectionLeakError, GrowthError, LeakguardError, SettingsError, UnsupportedError
    from leakguard.growth import assert_no_growth
    from leakguard.guard import Guard
    from leakguard.model import (
        Exhausted,
        Frame,
        Hold,
        HolderGroup,
        Leak,
        Now,
        Owner,
        PoolInfo,
        Recovered,
        Server,
        Site,
        Summary,
    )


__all__ = [
    "ConnectionLeakError",
    "Exhausted",
    "Frame",
    "GrowthError",
    "Guard",
    "Hold",
    "HolderGroup",
    "Leak",
    "LeakguardError",
    "Now",
    "Owner",
    "PoolInfo",
    "Recovered",
    "Server",
    "SettingsError",
    "Site",
    "Summary",
    "UnsupportedError",
    "allow",
    "assert_no_growth",
    "check",
    "expect_long",
    "holds",
    "install",
    "label",
    "no_leaks",
    "watch",
]

_HOMES = {
    **dict.fromkeys(("allow", "check", "expect_long", "holds", "install", "label", "no_leaks", "watch"), "boundaries"),
    **dict.fromkeys(
        ("ConnectionLeakError", "GrowthError", "LeakguardError", "SettingsError", "UnsupportedError"), "errors"
    ),
    **dict.fromkeys(("assert_no_growth",), "growth"),
    **dict.fromkeys(("Guard",), "guard"),
    **dict.fromkeys(
        (
            "Exhausted",
            "Frame",
            "Hold",
            "HolderGroup",
            "Leak",
            "Now",
            "Owner",
            "PoolInfo",
            "Recovered",
            "Server",
            "Site",
            "Summary",
        ),
        "model",
    ),
}
"""The module of each public name. It is imported at the first use: to import leakguard alone costs next to nothing."""


if not TYPE_CHECKING:  # a type checker sees the names above, and only those

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
