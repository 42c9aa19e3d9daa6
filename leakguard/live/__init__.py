"""The live view: each guarded process answers on a Unix socket of its own what it holds right now.

A question is one line of JSON, ``{"ask": "snapshot", "why": false, "holds": 10000, "hold": null}``, and so is the
answer, after which the connection ends. There is no other question, and nothing that is asked changes anything.
"""

from typing import Final

PROTOCOL: Final = 1
"""Raised when an answer of this version cannot be read by the one before."""
