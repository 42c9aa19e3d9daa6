"""Leaks that the baseline knows: they do not fail the run, and what is new, or more, does.

One rule makes the answer the same with and without xdist: a leak is counted once for each test, and for each life of a
fixture, that had it. Several workers that each set up one session fixture, or import one module, have one leak of it.

A worker counts what it has seen itself. That can be too little, but never too much: what it says is more, is more. The
process that hears of all workers counts again, and has the last word before anybody else sees a test's report.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pytest

from leakguard import baseline
from leakguard.baseline import Baseline, BaselineError, BaselineMissing, Comparison, Found
from leakguard.model import Kind, Leak
from leakguard.prose import phrases
from leakguard.pytest_plugin.findings import Entry, Parcel
from leakguard.register.fingerprint import portable

WORKER_INPUT: Final = "leakguard_budget"
"""Where a worker of xdist finds its budget, in its ``workerinput``."""

Coverage: TypeAlias = Literal["known", "more", "new"]


class Budget:
    """How many leaks of each fingerprint are still known. With `everything`, all are: the baseline is being written."""

    def __init__(self, limits: Mapping[str, tuple[int, tuple[str, ...]]], *, everything: bool) -> None:
        self.limits = limits
        self.everything = everything
        self._used: dict[str, int] = {}
        self._covered: dict[tuple[str, str], int] = {}
        self._seen: dict[tuple[str, str, str], int] = {}

    @classmethod
    def of(cls, known: Baseline, *, everything: bool) -> Budget:
        """What the baseline allows."""
        limits = {name: (entry.max_count, entry.kinds) for name, entry in known.entries.items()}
        return cls(limits, everything=everything)

    def packed(self) -> dict[str, Any]:
        """The budget as plain JSON, for a worker."""
        limits = {name: [count, list(kinds)] for name, (count, kinds) in self.limits.items()}
        return {"limits": limits, "everything": self.everything}

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Budget:
        """The budget again."""
        limits = {name: (count, tuple(kinds)) for name, (count, kinds) in packed["limits"].items()}
        return cls(limits, everything=packed["everything"])

    def take(self, leak: Leak, key: str, worker: str = "") -> Coverage:
        """Count one leak of the test or fixture `key`, and say whether it is known."""
        if self.everything:
            return "known"
        name = leak.fingerprint
        count, kinds = self.limits.get(name, (0, ()))
        if not count or (kinds and leak.kind not in kinds):
            return "new"
        number = self._seen[name, key, worker] = self._seen.get((name, key, worker), 0) + 1
        if number <= self._covered.get((name, key), 0):
            return "known"  # another worker has had the same leak of the same fixture
        if self._used.get(name, 0) >= count:
            return "more"
        self._used[name] = self._used.get(name, 0) + 1
        self._covered[name, key] = number
        return "known"

    def split(self, leaks: Iterable[Leak], key: str, worker: str = "") -> tuple[list[Leak], list[Leak], str]:
        """The known ones, the others, and why the others are not known, if it is not that they are new."""
        known: list[Leak] = []
        others: list[Leak] = []
        more: list[str] = []
        for leak in leaks:
            covered = self.take(leak, key, worker)
            (known if covered == "known" else others).append(leak)
            if covered == "more":
                more.append(leak.fingerprint)
        words = [f"at most {self.limits[name][0]} of {name}" for name in dict.fromkeys(more)]
        return known, others, f"the baseline knows {' and '.join(words)}, and this is one more" if words else ""


def open_baseline(config: pytest.Config) -> KnownLeaks | None:
    """The baseline that the command line names. Raises UsageError for one that cannot be used."""
    file, update = config.getoption("leakguard_baseline"), config.getoption("leakguard_update_baseline")
    if file is None:
        if update:
            raise pytest.UsageError("leakguard: --leakguard-update-baseline needs --leakguard-baseline=FILE")
        return None
    if not file:
        raise pytest.UsageError("leakguard: --leakguard-baseline= names no file")
    path = Path(config.invocation_params.dir, file)
    try:
        known = baseline.load(file if path == Path.cwd() / file else path)
    except BaselineMissing as error:
        if not update:
            raise pytest.UsageError(str(error)) from None
        if not path.parent.is_dir():
            raise pytest.UsageError(
                f"leakguard: the baseline {file} cannot be written: there is no directory {Path(file).parent}"
            ) from None
        known = Baseline()
    except BaselineError as error:
        raise pytest.UsageError(str(error)) from None
    return KnownLeaks(file, path, known, update=update, root=config.rootpath)


class KnownLeaks:
    """The baseline in the process that hears of all leaks: the last word on each, and what the file should become."""

    def __init__(self, name: str, path: Path, known: Baseline, *, update: bool, root: Path) -> None:
        self.name = name
        self.update = update
        self.budget = Budget.of(known, everything=update)
        self.lines: list[str] = []
        self._path = path
        self._known = known
        self._root = root
        self._found: dict[str, Leak] = {}
        self._counts: dict[tuple[str, str], dict[str, dict[Kind, int]]] = {}

    @property
    def header(self) -> str:
        """What the head of a run says of it."""
        return f"baseline {self.name}{' (to be written)' if self.update else f' ({len(self._known.entries)} known)'}"

    def review(self, parcel: Parcel, worker: str = "", *, test: str | None = None) -> None:
        """Count what a process tells, and judge again what it took for known.

        `test` is the test whose report this came on: what turns out to be more is counted there.
        """
        entries: list[Entry] = []
        for entry in parcel.entries:
            if entry.otherwise is None:
                entries.append(entry)
                continue
            self._count(entry, worker)
            known, others, why = self.budget.split(entry.leaks, entry.key, worker)
            if entry.status != "known" or not others:
                entries.append(entry)
                continue
            if known:
                entries.append(replace(entry, leaks=tuple(known)))
            leaked = entry.otherwise == "leaked"
            entries.append(
                replace(
                    entry,
                    status=entry.otherwise,
                    why=why if leaked else "the mode is warn",
                    counted=leaked and entry.test is not None and entry.test == test,
                    leaks=tuple(others),
                )
            )
        parcel.entries[:] = entries

    def _count(self, entry: Entry, worker: str) -> None:
        for leak in entry.leaks:
            self._found.setdefault(leak.fingerprint, leak)
            kinds = self._counts.setdefault((leak.fingerprint, entry.key), {}).setdefault(worker, {})
            kinds[leak.kind] = kinds.get(leak.kind, 0) + 1

    def _all_found(self) -> list[Found]:
        found = []
        for (name, _), workers in self._counts.items():
            site = self._found[name].site
            counts = max(workers.values(), key=lambda kinds: sum(kinds.values()))
            file = self._relative(site.file) if site is not None else None
            found.append(
                Found(fingerprint=name, counts=counts, file=file, function=site.function if site is not None else None)
            )
        return found

    def _relative(self, file: str) -> str:
        try:
            return Path(file).relative_to(self._root).as_posix()
        except ValueError:
            return portable(file)

    def finish(self, partly: str) -> None:
        """The run is over; `partly` says why it was not a full one. Raises BaselineError if the file cannot be
        written."""
        if self.update:
            update = self._known.updated(self._all_found(), full=not partly)
            baseline.write(self._path, update.text)
            changes = len(update.changes)
            self.lines.append(f"baseline {self.name}: {phrases.plural(changes, 'change') if changes else 'up to date'}")
            self.lines += [f"  {sentence}" for sentence in update.sentences]
            if partly and self._known.entries:
                self.lines.append(f"  nothing was lowered or removed: {partly}")
        elif not partly:
            self.lines += self._no_longer(self._known.compare(self._all_found()))

    def _no_longer(self, compared: Comparison) -> list[str]:
        lines = [f"  {entry.words}: it no longer occurs" for entry in compared.gone]
        lines += [
            f"  {match.entry.words}: only {match.known} instead of {match.entry.max_count}" for match in compared.fewer
        ]
        if not lines:
            return []
        return [
            f"baseline {self.name}: {len(lines)} of {len(self._known.entries)} entries can be removed or lowered, "
            "--leakguard-update-baseline does it",
            *lines,
        ]


# ------------------------------------------------------------------------------------------- was everything run?


def selection(config: pytest.Config) -> str:
    """Why the command line does not ask for the whole suite; empty if it does."""
    option = config.option
    for name, value in (
        ("-k", option.keyword),
        ("-m", option.markexpr),
        ("--lf", getattr(option, "lf", False)),
        ("--sw", getattr(option, "stepwise", False)),
        ("--deselect", option.deselect),
    ):
        if value:
            return f"{name} chose some tests only"
    if any(argument.startswith("--ignore") for argument in config.invocation_params.args):
        return "--ignore left tests out"
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return ""
    if any("::" in argument for argument in config.args):
        return "the command line chose some tests only"
    if getattr(option, "pyargs", False):
        return "the command line chose packages"
    given = [Path(config.invocation_params.dir, argument).resolve() for argument in config.args]
    outside = _test_outside(config, given)
    return f"{outside} is not among the paths of the command line" if outside else ""


def _test_outside(config: pytest.Config, given: list[Path]) -> str | None:
    """A test file of the project that is below none of these paths."""
    names, skipped = config.getini("python_files"), config.getini("norecursedirs")
    chosen = [found for pattern in config.getini("testpaths") for found in sorted(_expand(config.rootpath, pattern))]
    for root in chosen or [config.rootpath]:
        if root.is_file() and not any(root == path or path in root.parents for path in given):
            return os.path.relpath(root, config.rootpath)
        for directory, below, files in os.walk(root):
            at = Path(directory).resolve()
            if any(at == path or path in at.parents for path in given):
                below.clear()
                continue
            below[:] = sorted(
                name
                for name in below
                if not any(fnmatch(name, pattern) for pattern in skipped) and not (at / name / "pyvenv.cfg").exists()
            )
            for name in sorted(files):
                if any(fnmatch(name, pattern) for pattern in names) and at / name not in given:
                    return os.path.relpath(at / name, config.rootpath)
    return None


def _expand(root: Path, pattern: str) -> Iterable[Path]:
    """The paths of an entry of `testpaths`, which may have wildcards."""
    if any(char in pattern for char in "*?[") and not Path(pattern).is_absolute():
        return (path.resolve() for path in root.glob(pattern))
    return [(root / pattern).resolve()]
