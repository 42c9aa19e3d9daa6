"""The section "connection leaks" at the end of a run, and its short lines."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import replace

import pytest

from leakguard.model import Boundary, Frame, Leak, Now
from leakguard.prose import events, phrases
from leakguard.pytest_plugin.findings import Entry
from leakguard.pytest_plugin.run_report import RunReport

_CATEGORY_OF = {"f": "failed", "E": "error", "s": "skipped", "x": "xfailed", "X": "xpassed", "p": "passed"}


def folded(entry: Entry) -> list[Leak]:
    """The entry's leaks, one for each bug, with the count that this test or fixture has had of it."""
    groups: dict[tuple[str, str], list[Leak]] = {}
    for leak in entry.leaks:
        groups.setdefault((leak.kind, leak.fingerprint), []).append(leak)
    boundary: Boundary | None = "test" if entry.test is not None else None  # a fixture's title says when it was judged
    found = []
    for group in sorted(groups.values(), key=lambda group: phrases.severity(group[0])):
        leak = replace(group[0], count=len(group))
        found.append(replace(leak, boundary=boundary) if leak.boundary == "test" else leak)
    return found


def _brief(leak: Leak) -> Leak:
    """The leak without what everybody who reads the end of a test run knows: how pytest calls a test, and that it is
    pytest's thread, in this process, which is busy ending that test."""
    hold = leak.hold
    if hold is None:
        return leak
    own = replace(hold.owner, test=None, process="", host="")
    now = leak.now
    if now.owner == "running" and hold.owner.task is None and hold.owner.thread == "MainThread":
        now = Now(owner="unknown", stack=())
    return replace(leak, hold=replace(hold, stack=_way(hold.stack), owner=own), now=now)


def _way(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """The frames between the test or fixture and the line that acquired, both included."""
    pytest_at = (at for at, frame in enumerate(stack) if f"{os.sep}_pytest{os.sep}" in frame.file)
    called = stack[: next(pytest_at, len(stack))]
    ours = [at for at, frame in enumerate(called) if frame.app]
    return called[ours[0] : ours[-1] + 1] if ours else stack


def blocks(entry: Entry, *, all_frames: bool, color: bool) -> str:
    """The reports of one entry."""
    return "\n\n".join(_block(leak, entry, all_frames=all_frames, color=color) for leak in folded(entry))


def _block(leak: Leak, entry: Entry, *, all_frames: bool, color: bool) -> str:
    """One report, with what only the test's end can tell: who keeps the connection."""
    kept = entry.kept.get(str(leak.hold.id)) if leak.hold is not None else None
    return events.render_leak(leak if all_frames else _brief(leak), all_frames=all_frames, color=color, kept_by=kept)


class Section:
    """Shows every report."""

    def __init__(self, config: pytest.Config, report: RunReport) -> None:
        self._config = config
        self._report = report
        self._shown: dict[tuple[str, str, int], str] = {}

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The section."""
        report, terminal = self._report, terminalreporter
        told = report.known.lines if report.known is not None else []
        if report.entries or report.missing or told:
            terminal.section("connection leaks", sep="=")
            for entry in report.entries:
                if entry.status not in ("allowed", "known") or self._config.get_verbosity() > 0:
                    self._show(entry, terminal)
            for worker in report.missing:
                terminal.line(f"{worker} crashed: its leak data is missing, from its last finished test on.", red=True)
            self._total(terminal)
            for line in told:
                terminal.line(f"leakguard: {line}" if not line.startswith((" ", "leakguard:")) else line)
        if report.troubles:
            terminal.section("leakguard: internal error", sep="=")
            terminal.line("No test was failed by this, but leaks may have been missed. Please report it.")
            for trouble in report.troubles:
                terminal.line(trouble.rstrip())

    def _show(self, entry: Entry, terminal: pytest.TerminalReporter) -> None:
        terminal.write_sep("_", entry.title, red=entry.status == "leaked", yellow=entry.status == "warning", bold=True)
        if entry.why:
            word = {"leaked": "Fails", "warning": "A warning only", "allowed": "Allowed", "known": "Known"}[
                entry.status
            ]
            terminal.line(f"{word}: {entry.why}.")
        color = bool(terminal.hasmarkup)
        for leak in folded(entry):
            key = (leak.kind, leak.site.file, leak.site.line) if leak.site is not None else None
            if key is not None and key in self._shown:
                headline = events.render_leak(leak, color=color).partition("\n")[0]
                terminal.line(f"{headline}\n  the same line as in {self._shown[key]}")
            else:
                terminal.line(_block(leak, entry, color=color, all_frames=self._config.get_verbosity() > 0))
                if key is not None:
                    self._shown[key] = entry.title
            terminal.line("")

    def _total(self, terminal: pytest.TerminalReporter) -> None:
        report = self._report
        failing = report.failing
        leaks = sum(len(entry.leaks) for entry in failing)
        allowed = sum(len(entry.leaks) for entry in report.entries if entry.status == "allowed")
        parts = []
        if failing:
            tests = len({entry.test for entry in failing if entry.test is not None})
            fixtures = sum(entry.title.startswith("fixture ") for entry in failing)
            who = [phrases.plural(tests, "test")] if tests else []
            who += [phrases.plural(fixtures, "fixture")] if fixtures else []
            who = who or ["what ran outside of any test"]
            parts.append(f"{phrases.plural(leaks, 'connection leak')} in {' and '.join(who)}")
        warned = sum(len(entry.leaks) for entry in report.entries if entry.status == "warning")
        if warned:
            parts.append(phrases.plural(warned, "warning"))
        if allowed:
            parts.append(f"{allowed} allowed by markers")
        known = sum(len(entry.leaks) for entry in report.entries if entry.status == "known")
        if known and report.known is not None:
            parts.append(f"{known} known from {report.known.name}")
        if parts:
            terminal.line(f"leakguard: {', '.join(parts)}", red=bool(failing), bold=bool(failing))


class ShortLines:
    """One line for each test and fixture that leaked, under pytest's own short summary."""

    def __init__(self, report: RunReport) -> None:
        self._report = report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None, object, object]:
        """After everything else."""
        result = yield
        failing = self._report.failing
        if failing:
            stats = terminalreporter.stats
            if not any(stats.get(_CATEGORY_OF[char]) for char in terminalreporter.reportchars if char in _CATEGORY_OF):
                terminalreporter.write_sep("=", "short test summary info", cyan=True, bold=True)
            for entry in failing:
                leak = folded(entry)[0]
                more = f" (and {len(entry.leaks) - 1} more)" if len(entry.leaks) > 1 else ""
                word = terminalreporter._tw.markup("LEAKED", red=True, bold=True)
                words = phrases.kind_words(leak.kind)
                terminalreporter.line(f"{word} {entry.title} - {words}, {phrases.place(leak.site)}{more}")
        return result
