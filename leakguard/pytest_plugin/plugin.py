"""The hooks: when a test or a fixture begins and ends, and how its leaks reach pytest's report, count and exit status.

A test's verdict is made when its own fixtures are gone and before those of wider scope are torn down, which could hide
or heal its leaks. It is put on the test's teardown report, because a test that is expected to fail would swallow an
exception. Nothing here may fail a test by itself: an error of ours is noted and told at the end.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

import pytest

from leakguard import runtime
from leakguard.baseline import BaselineError
from leakguard.errors import SettingsError
from leakguard.judging.judge import state_of
from leakguard.model import Event, Hold, Leak
from leakguard.pytest_plugin import growing, summary
from leakguard.pytest_plugin.careful import Careful
from leakguard.pytest_plugin.findings import REPORT_ATTRIBUTE, USAGE_KEY, WORKER_KEY, Entry, Parcel, pack, unpack
from leakguard.pytest_plugin.fixture_life import FixtureLife
from leakguard.pytest_plugin.inspection import Residents
from leakguard.pytest_plugin.known import WORKER_INPUT, Budget, KnownLeaks, open_baseline, selection
from leakguard.pytest_plugin.marks import Mode, Policy, check_mode, growth_of, policy_of
from leakguard.pytest_plugin.places import OUTSIDE, Place
from leakguard.pytest_plugin.run_report import RunReport
from leakguard.pytest_plugin.verdicts import Verdicts
from leakguard.pytest_plugin.watching import Watching

NAME: Final = "leakguard-plugin"


def turn_on(config: pytest.Config, mode: object, *, source: str) -> None:
    """Begin to watch this process. Raises UsageError for a mode, a setting or a file that is not accepted."""
    checked = check_mode(mode, source)
    is_worker = hasattr(config, "workerinput")
    report: RunReport | None = None
    known: KnownLeaks | None = None
    if not is_worker:
        known = open_baseline(config)
        file = config.getoption("leakguard_report")
        path = Path(config.invocation_params.dir, file) if file is not None else None
        try:
            report = RunReport(path, known)
        except OSError as error:
            raise pytest.UsageError(f"leakguard: --leakguard-report={file}: {error.strerror}") from None
    watching = Watching(runtime.current())
    try:
        watching.begin()
    except SettingsError as error:
        raise pytest.UsageError(str(error)) from None
    workers: dict[str, Any] = getattr(config, "workerinput", {})
    packed = known.budget.packed() if known is not None else workers.get(WORKER_INPUT)
    budget = Budget.unpacked(packed) if packed is not None else None
    config.pluginmanager.register(Plugin(config, checked, watching, report, budget), NAME)
    if report is not None:
        config.pluginmanager.register(summary.Section(config, report), "leakguard-section")
        config.pluginmanager.register(summary.ShortLines(report), "leakguard-short-lines")


class Running:
    """The test that runs, from its setup to its teardown's report."""

    __slots__ = ("failed", "item", "original_teardown", "place", "residents", "since")

    def __init__(self, item: pytest.Item, place: Place, since: int, residents: Residents) -> None:
        self.item = item
        self.place = place
        self.since = since
        self.residents = residents
        self.failed = False
        self.original_teardown: Callable[[], None] | None = None


class Plugin:
    """The hooks of the process that runs tests; where there are xdist workers, also those that hear of theirs."""

    def __init__(
        self, config: pytest.Config, mode: Mode, watching: Watching, report: RunReport | None, budget: Budget | None
    ) -> None:
        self._config = config
        self._mode = mode
        self._watching = watching
        self._inspector = watching.inspector
        self._timeline = watching.inspector.timeline
        self._verdicts = Verdicts(mode, watching.inspector.kept_by, budget)
        self._report = report
        self._running: Running | None = None
        self._troubles: dict[str, str] = {}
        self._partly = ""

    # ------------------------------------------------------------------ the run

    def pytest_report_header(self) -> str:
        """Says that leakguard is on."""
        known = self._report.known if self._report is not None else None
        return f"leakguard: mode {self._mode}{f', {known.header}' if known is not None else ''}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A worker of xdist is about to start: it gets the baseline from here."""
        if self._report is not None and self._report.known is not None:
            node.workerinput[WORKER_INPUT] = self._report.known.budget.packed()

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """This is no full run."""
        if items:
            self._partly = "some tests were deselected"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Neither is one that could not be collected."""
        if report.failed:
            self._partly = "some tests could not be collected"

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Check the markers before anything runs. Raises UsageError."""
        try:
            for item in items:
                if "leakguard" in item.keywords or "allow_leaks" in item.keywords:
                    policy_of(item, self._mode)
                if "leakguard_growth" in item.keywords:
                    growth_of(item)
        except pytest.UsageError as error:
            if self._report is None:
                self._config.workeroutput[USAGE_KEY] = str(error)  # type: ignore[attr-defined]
            raise

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """What is left, and what cannot go on any test's report: before the reports of others are written, and once
        more for the fixtures that a run that was stopped tears down only now."""
        if self._report is not None and not session._setupstate.stack:
            with self._careful("the end of the run"):
                self._tell(self._last_findings(), reviewed_for="")
        result = yield
        parcel = Parcel()
        with self._careful("the end of the run"):
            parcel = self._last_findings()
            parcel.events += self._watching.last_words()
        parcel.troubles = list(self._troubles.values())
        parcel.partly = self._partly
        if core := self._watching.core_errors():
            parcel.troubles.append(core)
        if self._report is None:
            self._config.workeroutput[WORKER_KEY] = pack(parcel)  # type: ignore[attr-defined]
        else:
            with self._careful("the end of the run"):
                self._tell(parcel, reviewed_for="")
                self._finish_baseline(session, self._report)
            self._report.troubles += [one for one in self._troubles.values() if one not in parcel.troubles]
            if self._report.failing and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    def _finish_baseline(self, session: pytest.Session, report: RunReport) -> None:
        refused = (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERNAL_ERROR)
        if report.known is None or session.exitstatus in refused or self._config.option.collectonly:
            return
        try:
            report.known.finish(self._why_partly(session, report))
        except BaselineError as error:
            report.known.lines.append(str(error))
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def _why_partly(self, session: pytest.Session, report: RunReport) -> str:
        if session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return "the run did not end"
        maximum = self._config.option.maxfail
        if session.shouldfail or session.shouldstop or (maximum and session.testsfailed >= maximum):
            return "the run was stopped"
        if report.missing:
            return "a worker crashed"
        return self._partly or report.partly or selection(self._config)

    def _last_findings(self) -> Parcel:
        self._inspector.inspect_the_rest()
        return Parcel(self._verdicts.entries(self._inspector.take()), self._events())

    def pytest_unconfigure(self) -> None:
        """Put everything back."""
        self._watching.end()
        if self._report is not None:
            self._report.close()

    # ------------------------------------------------------------------ tests

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """The test begins."""
        try:  # here and below not `_careful`: a clean test is to cost next to nothing
            self._begin(item)
        except Exception as error:
            self._note_trouble("the beginning of a test", error)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """A test that is marked so is run several times, and must not grow."""
        if "leakguard_growth" not in item.keywords:
            return (yield)
        arguments, mode = growth_of(item), policy_of(item, self._mode).mode
        if arguments is None or mode == "off" or not isinstance(item, pytest.Function):
            return (yield)
        original = item.obj
        item.obj = growing.repeated(original, arguments, mode)
        try:
            return (yield)
        finally:
            item.obj = original

    def _begin(self, item: pytest.Item) -> None:
        place = Place(test=item.nodeid)
        running = Running(item, place, self._timeline.enter(place), self._inspector.residents())
        # The node's own teardown is the last of its finalizers: its fixtures are gone, those of its module are not.
        original = running.original_teardown = item.teardown

        def teardown() -> None:
            try:
                original()
            finally:
                self._end(running)

        item.teardown = teardown  # type: ignore[method-assign]
        self._running = running

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """The test ends, at the latest, here: where its setup failed early, its own teardown is not called."""
        try:
            return (yield)
        finally:
            if self._running is not None:
                self._end(self._running)

    def _end(self, running: Running) -> None:
        if running.original_teardown is None:
            return
        running.original_teardown = None
        del running.item.teardown
        try:
            if not self._inspector.quiet_since(running.since):
                self._judge(running)
        except Exception as error:
            self._note_trouble("the end of a test", error)
        self._timeline.leave(running.place)

    def _judge(self, running: Running) -> None:
        policy = policy_of(running.item, self._mode)
        if policy.mode == "off":
            self._verdicts.remember(running.place, policy, failed=running.failed)
            return
        self._inspector.inspect(
            running.place, since=running.since, residents=running.residents, patient=not running.failed
        )
        if running.failed or policy != Policy(self._mode):
            self._verdicts.remember(running.place, policy, failed=running.failed)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what was found on the teardown report."""
        report = yield
        running = self._running
        if running is not None and running.item is item:
            if report.when != "teardown":
                running.failed |= report.failed
            else:
                self._running = None
                if self._inspector.found or self._watching.events:
                    with self._careful("the report of a test"):
                        self._put_on(report, running)
        return report

    def _put_on(self, report: pytest.TestReport, running: Running) -> None:
        found = self._inspector.take()
        if report.failed:
            policy = policy_of(running.item, self._mode)
            self._verdicts.remember(running.place, policy, failed=True)
        entries = self._verdicts.entries(found, of_test=running.place)
        mine = [entry for entry in entries if entry.counted]
        own = sum(len(entry.leaks) for entry in entries if entry.test == running.place.test)
        if own:
            report.user_properties.append(("leakguard.leaks", own))
        if mine:
            report.outcome = "failed"
            report.longrepr = summary.blocks(mine[0], all_frames=False, color=False)
        parcel = Parcel(entries, self._events())
        if parcel:
            setattr(report, REPORT_ATTRIBUTE, pack(parcel))

    # ------------------------------------------------------------------ fixtures

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """A fixture of wider scope owns what is acquired in its setup and in its teardown."""
        if fixturedef.scope == "function":
            return (yield)
        node = getattr(request.node, "nodeid", "")
        parameter = getattr(request, "param", None)
        life = FixtureLife(fixturedef, self._inspector, self._verdicts, parameter, node, self._careful)
        life.setup_begins()
        try:
            return (yield)
        except BaseException:
            life.failed = True
            raise
        finally:
            life.setup_ends()
            if self._running is not None:
                self._running.residents = life.joined_by_its_own(self._running.residents)

    # ------------------------------------------------------------------ what pytest says of it

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> Any:
        """``leaked``, ``L``, ``LEAKED``."""
        if report.when == "teardown" and report.failed and _leaked(report):
            return "leaked", "L", ("LEAKED", {"red": True})
        return None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """Gather what a report carries, where the summary is made; the baseline has a say before anybody else."""
        packed = getattr(report, REPORT_ATTRIBUTE, None)
        parcel: Parcel | None = None
        if self._report is not None:
            if packed is not None:
                with self._careful("a report"):
                    parcel = self._review(report, packed)
            if report.failed and not _leaked(report):
                self._partly = "a test failed, and may not have reached its leaks"
        result = yield
        if parcel is not None:
            with self._careful("a report"):
                self._tell(parcel)
        return result

    def _review(self, report: pytest.TestReport, packed: Any) -> Parcel:
        parcel = unpack(packed)
        outcome: str = report.outcome
        known = self._report.known if self._report is not None else None
        if outcome == "rerun":  # by pytest-rerunfailures
            parcel.entries = [_excused(entry, "the test was run again") for entry in parcel.entries]
        elif known is not None:
            known.review(parcel, _worker(report), test=report.nodeid if not report.failed or _leaked(report) else None)
            mine = [entry for entry in parcel.entries if entry.counted]
            if mine:
                report.outcome = "failed"
                report.longrepr = "\n\n".join(summary.blocks(one, all_frames=False, color=False) for one in mine)
                setattr(report, REPORT_ATTRIBUTE, pack(parcel))
        return parcel

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """A worker of xdist has ended: its last words, or that there are none."""
        if self._report is None:
            return
        output = getattr(node, "workeroutput", {})
        if USAGE_KEY in output:  # xdist itself would call it a crash
            raise pytest.UsageError(output[USAGE_KEY])
        packed = output.get(WORKER_KEY)
        if packed is not None:
            with self._careful("the last words of a worker"):
                self._tell(unpack(packed), reviewed_for=node.gateway.id)
        elif error:
            self._report.missing.append(node.gateway.id)

    def _tell(self, parcel: Parcel, *, reviewed_for: str | None = None) -> None:
        assert self._report is not None
        if reviewed_for is not None and self._report.known is not None:
            self._report.known.review(parcel, reviewed_for)
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        others = self._config.pluginmanager.subset_hook_caller("pytest_runtest_logreport", [self, terminal])
        for entry in self._report.take(parcel):
            report = _stand_in(entry)
            others(report=report)  # pytest's own count, JUnit XML, --lf
            if terminal is not None:  # which would count it among the finished tests of its progress
                terminal._add_stats("leaked", [report])
        if terminal is not None and self._report.failing:
            terminal._add_stats("error", [])  # the last line is red where there are errors, if only none of them

    def _events(self) -> list[Event]:
        return self._watching.take_events()

    # ------------------------------------------------------------------ for the fixture `leakguard`

    def holds_of_test(self) -> list[Hold]:
        """What the running test holds."""
        place = self._running.place if self._running is not None else OUTSIDE
        current = self._watching.runtime
        now = current.tracker.clock.monotonic()
        return [current.snapshots.hold(hold, state_of(hold), now) for hold in self._inspector.holds(place)]

    def check_test(self) -> list[Leak]:
        """What the running test has leaked so far."""
        place = self._running.place if self._running is not None else OUTSIDE
        return self._inspector.check(place)

    # ------------------------------------------------------------------ errors of our own

    def _careful(self, where: str) -> Careful:
        return Careful(self._note_trouble, where)

    def _note_trouble(self, where: str, error: Exception) -> None:
        if where not in self._troubles:
            self._troubles[where] = f"at {where}:\n{''.join(traceback.format_exception(error))}"


def _leaked(report: pytest.CollectReport | pytest.TestReport) -> bool:
    packed = getattr(report, REPORT_ATTRIBUTE, None)
    return packed is not None and any(entry["counted"] for entry in packed["entries"])


def _worker(report: pytest.TestReport) -> str:
    """The worker of xdist that it came from."""
    return str(getattr(report, "worker_id", ""))


def _stand_in(entry: Entry) -> pytest.TestReport:
    """A report for pytest to count where there was none: of a fixture, or of a test that had its report already."""
    return pytest.TestReport(
        nodeid=entry.test or entry.title,
        location=(entry.title, None, entry.title),
        keywords={},
        outcome="failed",
        longrepr=summary.blocks(entry, all_frames=False, color=False),
        when="teardown",
    )


def _excused(entry: Entry, why: str) -> Entry:
    from dataclasses import replace

    return replace(entry, status="warning", why=why, otherwise=None) if entry.counted else entry
