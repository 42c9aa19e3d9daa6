"""The way of a duration from the hot path to the exporters, and who stands in it."""

from __future__ import annotations

import threading

import pytest
from psycopg_pool import ConnectionPool

import leakguard
from leakguard.telling import durations
from leakguard.telling.durations import NAME, Duration
from leakguard.telling.registry import Registry
from tests.integrations.support import Lab, laboratory, steady
from tests.reporters.support import Gauge, run_program


def export_threads() -> int:
    """How many threads of ours hand durations on."""
    return sum(thread.name == NAME for thread in threading.enumerate())


def test_who_exports_nothing_pays_nothing(lab: Lab) -> None:
    """No thread, and no clock read at an acquire or release that nobody wants to know of."""
    assert lab.tracker.meter is None
    assert not lab.tracker.closely
    assert export_threads() == 0


def test_the_last_exporter_takes_everything_along() -> None:
    """Uninstalled is uninstalled: the thread ends, and nothing is measured."""
    with laboratory() as lab:
        Gauge(lab)
        assert lab.tracker.closely
        assert export_threads() == 1
    assert lab.tracker.meter is None
    assert lab.tracker.trace is None
    assert not lab.tracker.closely
    assert export_threads() == 0


def test_a_guard_that_is_off_exports_nothing() -> None:
    """``enabled=False`` costs nothing, whatever else is asked for."""
    with laboratory() as lab:
        lab.guard.uninstall()
        lab.guard = leakguard.install(enabled=False, on_leak=[NeverAttached()])
        assert lab.tracker.meter is None


class NeverAttached:
    """A reporter that would export."""

    def report(self, event: object) -> None: ...

    def attach(self, registry: Registry) -> None:
        pytest.fail("attached")


def test_what_does_not_fit_into_the_queue_is_counted(
    gauge: Gauge, lab: Lab, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the histograms is told that they lack something."""
    monkeypatch.setattr(durations, "QUEUE_LIMIT", 4)
    with ConnectionPool(dsn, min_size=1, name="shop") as pool:
        steady(pool)
        gauge.read()
        for _ in range(3):
            with pool.connection():
                pass
        assert gauge.read().dropped_durations == 2
        assert len(gauge.of("wait")) == len(gauge.of("use")) == 2


class Clumsy(Gauge):
    """An exporter that fails in the way it is told to."""

    def __init__(self, lab: Lab, error: Exception) -> None:
        self.error = error
        self.calls = 0
        super().__init__(lab)

    def observe(self, duration: Duration, pool: str, seconds: float) -> None:
        self.beat(last=False)

    def beat(self, *, last: bool) -> None:
        self.calls += 1
        raise self.error


@pytest.mark.parametrize(("error", "calls"), [(RuntimeError("a bug"), 1), (OSError("no room"), 5)], ids=["bug", "disk"])
def test_an_exporter_that_fails_hurts_nobody(error: Exception, calls: int, dsn: str) -> None:
    """Neither the application nor the other exporters. One with a bug is switched off, a full disk is tried again."""
    with laboratory(errors=None) as lab:
        clumsy, good = Clumsy(lab, error), Gauge(lab)
        lab.guard.configure(on_leak=[clumsy, good])
        with ConnectionPool(dsn, min_size=1, name="shop") as pool:
            steady(pool)
            with pool.connection():
                pass
            lab.tracker.meter.beat()
            lab.tracker.meter.beat()
        assert len(good.of("wait")) == len(good.of("create")) == 1
        assert good.beats == [False, False]
        assert clumsy.calls == calls
        assert good.read().internal_errors == lab.runtime.internal_errors == calls


def test_an_exporter_that_cannot_begin_hurts_nobody(dsn: str) -> None:
    """``install()`` goes on; it is told events all the same."""

    class Broken:
        def __init__(self) -> None:
            self.events: list[object] = []

        def report(self, event: object) -> None:
            self.events.append(event)

        def attach(self, registry: Registry) -> None:
            raise RuntimeError("no")

    broken = Broken()
    with laboratory(errors=1, on_leak=[broken]):
        pass
    assert len(broken.events) == 1


def test_a_connection_given_back_in_the_midst_of_an_export_is_handed_on_later(gauge: Gauge, dsn: str) -> None:
    """As a finalizer may do it, at any allocation of the exporter's: it meets no lock of ours."""
    with ConnectionPool(dsn, min_size=2, name="shop") as pool:
        steady(pool)
        held = [pool.getconn()]
        heard = gauge.observe

        def observe(duration: Duration, name: str, seconds: float) -> None:
            heard(duration, name, seconds)
            if held:
                pool.putconn(held.pop())

        gauge.observe = observe  # type: ignore[method-assign]
        assert gauge.of("wait")
        assert len(gauge.of("use")) == 1


@pytest.mark.slow
def test_a_forked_child_exports_its_own(dsn: str) -> None:
    """Neither the parent's durations nor its leaks, and a thread of its own hands on what the child does."""
    done = run_program(
        """
        import os, sys, threading, time
        import leakguard
        from leakguard.telling.durations import NAME
        from psycopg_pool import ConnectionPool

        class Exporter:
            def __init__(self): self.seen, self.beats = [], 0
            def report(self, event): pass
            def attach(self, registry): self.registry = registry; registry.subscribe(self)
            def close(self): self.registry.unsubscribe(self)
            def observe(self, duration, pool, seconds): self.seen.append((os.getpid(), duration))
            def beat(self, *, last): self.beats += 1
            def forget(self): self.seen.clear(); self.beats = 0

        exporter = Exporter()
        guard = leakguard.install(on_leak=exporter)
        pool = ConnectionPool(sys.argv[1], min_size=1, max_size=2, name="parent")
        pool.wait()
        pool.getconn()
        guard.check()
        with pool.connection():
            pass
        exporter.registry.flush()
        assert exporter.registry.read().leaks
        assert exporter.seen
        if os.fork() == 0:
            assert [one.name for one in threading.enumerate() if one.name == NAME]
            readings = exporter.registry.read()
            assert not readings.leaks, readings
            assert all(one.used == one.idle == one.lost == 0 for one in readings.pools), readings
            mine = ConnectionPool(sys.argv[1], min_size=1, max_size=1, name="child")
            with mine.connection():
                pass
            deadline = time.monotonic() + 10
            while not exporter.beats and time.monotonic() < deadline:
                time.sleep(0.01)
            assert exporter.beats
            assert {pid for pid, _ in exporter.seen} == {os.getpid()}, exporter.seen
            assert sorted(kind for _, kind in exporter.seen) == ["create", "use", "wait"], exporter.seen
            mine.close()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
        pool.close()
        guard.uninstall()
        """,
        dsn,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_end_of_the_process_is_told(dsn: str) -> None:
    """With all durations handed on before it."""
    done = run_program(
        """
        import sys
        import leakguard
        from psycopg_pool import ConnectionPool

        class Exporter:
            def report(self, event): print(event.event)
            def attach(self, registry): registry.subscribe(self)
            def close(self): print("never reached")
            def observe(self, duration, pool, seconds): print(duration)
            def beat(self, *, last): print("last" if last else "beat")

        leakguard.install(on_leak=Exporter())
        pool = ConnectionPool(sys.argv[1], min_size=1, max_size=1)
        connection = pool.getconn()
        pool.putconn(connection)
        pool.close()
        """,
        dsn,
    )
    assert done.stderr == ""
    told = [line for line in done.stdout.split() if line != "beat"]
    assert (sorted(told[:-1]), told[-1]) == (["create", "summary", "use", "wait"], "last")
