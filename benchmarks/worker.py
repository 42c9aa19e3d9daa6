"""A process that is measured: it opens subjects, and answers each order, a line of JSON, with what was taken.

A process of its own, because OpenTelemetry and tracemalloc change the whole interpreter: ``workers.py`` starts one for
each way to start an interpreter, and lets them take turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import telemetry
from variants import SETTINGS, TELEMETRY, TRACEMALLOC

import leakguard

if TYPE_CHECKING:
    import subjects
    from timing import Taken


def main() -> None:
    """Open the subjects, say so by an empty line, and serve orders until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--telemetry", choices=telemetry.LIBRARIES)
    parser.add_argument("subject", nargs="+")
    arguments = parser.parse_args()
    logging.getLogger("leakguard").setLevel(logging.CRITICAL)  # nothing leaks here; a slow machine may be suspected
    spans = telemetry.instrument(arguments.telemetry) if arguments.telemetry else None
    import subjects  # only now: it makes what is to be instrumented

    with _standard_output() as answers, ExitStack() as stack:
        opened: dict[str, subjects.Subject] = {}
        for name in arguments.subject:
            subject = stack.enter_context(subjects.OPENERS[name](arguments.dsn, arguments.size))
            opened[name] = subject
            if spans is not None:
                before = spans.flushed()
                subject.runner.time(subject.bare.select, 1, 1)
                if spans.flushed() == before:
                    sys.exit(f"OpenTelemetry sees nothing of {name}: what it costs cannot be measured.")
        gc.collect()
        gc.freeze()  # or one more look of the collector at all that was imported counts for whoever runs just then
        print(file=answers, flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            print(json.dumps(_carry_out(opened[order.pop("subject")], **order)), file=answers, flush=True)


def _carry_out(subject: subjects.Subject, *, variant: str, use: str, depth: int, workers: int, times: int) -> Taken:
    with _variant(subject, variant) as uses:
        operation = getattr(uses, use)
        if workers:
            return subject.runner.load(operation, workers, times)
        return subject.runner.time(operation, depth, times)


@contextmanager
def _standard_output() -> Iterator[TextIO]:
    """For answers alone: what a library prints there goes nowhere (and costs what it costs)."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        yield answers


@contextmanager
def _variant(subject: subjects.Subject, name: str) -> Iterator[subjects.Uses]:
    if name in subject.others:
        with subject.others[name]() as uses:
            yield uses
    elif name in (TELEMETRY, TRACEMALLOC):  # what this process was started for
        yield subject.bare
    else:
        settings = SETTINGS[name]
        with nullcontext() if settings is None else leakguard.install(**settings):
            yield subject.bare


if __name__ == "__main__":
    main()
