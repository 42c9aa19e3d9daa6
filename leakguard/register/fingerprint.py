"""The name of a bug: 12 hex digits that stay the same between runs, processes and machines.

They are a hash over the library and the application frames next to the acquisition: file relative to the ``sys.path``
entry it was imported from, and function. No line numbers, so an edit elsewhere in the file does not rename the bug
(mypy-baseline leaves them out for the same reason); no kind, so a suspicion and its later proof carry one name.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from types import CodeType

from leakguard.register.stacks import WINDOW, FrameRules, Place, RawStack, site_index


def fingerprint(raw: RawStack, library: str, rules: FrameRules) -> str:
    """Twelve hex digits for the acquisition with this raw stack, through this library."""
    import hashlib  # here, because it loads OpenSSL: most processes never have anything to name

    parts = [library]
    at = site_index(raw, rules)
    if at is not None:
        for index in range(at, min(len(raw), at + 2 * WINDOW), 2):
            code = raw[index]
            assert isinstance(code, CodeType)
            place = rules.place(code.co_filename)
            if index != at and place is Place.LOOP:
                break
            if index != at and place is not Place.APPLICATION:
                continue
            part = f"{portable(code.co_filename)}:{code.co_name}"
            if part != parts[-1]:  # a recursion is one bug, however deep it went this time
                parts.append(part)
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def portable(file: str) -> str:
    """`file` relative to the longest ``sys.path`` entry above it; its last part where there is none."""
    return file if file.startswith("<") else _relative(file, tuple(sys.path))


@lru_cache(maxsize=1_000)
def _relative(file: str, entries: tuple[str, ...]) -> str:
    path = os.path.abspath(file)
    best = ""
    for entry in entries:
        root = os.path.abspath(entry or os.curdir)
        if path.startswith(root.rstrip(os.sep) + os.sep) and len(root) > len(best):
            best = root
    relative = path[len(best.rstrip(os.sep)) + 1 :] if best else os.path.basename(path)
    return relative.replace(os.sep, "/")
