"""leakguard finds database connection leaks from inside a Python application.

``leakguard.install()`` watches the whole process, ``leakguard.watch(engine_or_pool)`` one pool,
``with leakguard.no_leaks():`` one block of code. Importing this package imports no driver and starts no thread.
"""

from leakguard.boundaries import allow, check, expect_long, holds, install, label, no_leaks, watch
from leakguard.errors import ConnectionLeakError, LeakguardError, SettingsError, UnsupportedError
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

__version__ = "0.1.0"

__all__ = [
    "ConnectionLeakError",
    "Exhausted",
    "Frame",
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
    "check",
    "expect_long",
    "holds",
    "install",
    "label",
    "no_leaks",
    "watch",
]
