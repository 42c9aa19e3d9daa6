"""Runs the scenario programs bare and under `leakguard run`, and compares what was reported with their headers.

A scenario is a file, or a folder with a `__main__.py`, in `leaks/` or `clean/`. Its header lines are comments anywhere
in it (the format of the conformance programs; see CONTRIBUTING):

=====================================  ================================================================================
`# LEAK` or `# LEAK:name`              ends a line that may be the site; in a folder, of any of its files
`# expect: nothing`                    a clean program
`# expect: kind=a|b key=value ...`     leak events at a LEAK line: `count` (1), `library`, `operation`, `state`,
                                       `certain`, `healed`, `boundary`, `label.<name>`; `site=name` for LEAK:name only,
                                       `site=none` for no site at all; `fingerprints=N`: from that many bugs
`# expect: event=recovered kind=...`   `count`, `min-held=S`
`# expect: event=exhausted cause=...`  `held`, `capacity`
`# allow: kind key=value ...`          tolerated
`# args:`, `# exit:`                   flags of `leakguard run`; exit status (`# guarded-exit:` under leakguard)
`# oracle: N`                          the program counts by itself: its last line is `ORACLE leaked=N`
`# notes-name-site: yes`               lines `NOTE ...` (notes of an exception, compared with nothing) name the site
`# stderr-names-site: yes`             as it says
`# summary: optional`                  children that leave without a good-bye
`# run: -m` or `# run: -c`             how the program is given to Python
`# pythonpath: .`                      its own folder is on PYTHONPATH
`# needs: name name>=version`          skipped without these distributions
=====================================  ================================================================================

From a shell: `python tests/scenarios/harness.py 'leaks/pool_*'` starts a server of its own.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

import leakguard

HERE = Path(__file__).resolve().parent
PACKAGE_ROOT = Path(leakguard.__file__).resolve().parent.parent
TIMEOUT = 60.0
# Next to what is expected, a leaking line may rightly be suspected of these too.
COMPANIONS = {"overdue", "idle_in_transaction", "nested_acquire"}
Event = dict[str, Any]
Rule = dict[str, str]


@dataclass
class Scenario:
    """A program and what its header promises."""

    path: Path
    expects: list[Rule] = field(default_factory=list)
    allows: list[Rule] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    sites: dict[tuple[str, int], str] = field(default_factory=dict)  # (file, line) -> name of the LEAK comment
    sources: dict[str, list[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def leaks(self) -> bool:
        return bool(self.expects)

    def missing(self) -> str:
        """Which of the distributions that it needs is not there."""
        for need in self.headers.get("needs", "").split():
            name, _, lowest = need.partition(">=")
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                return name
            if lowest and _numbers(version) < _numbers(lowest):
                return f"{need}, found {version}"
        return ""

    def command(self) -> list[str]:
        how = self.headers.get("run", "")
        if how == "-m":
            return [sys.executable, "-m", self.path.stem]
        if how == "-c":
            return [sys.executable, "-c", self.path.read_text()]
        return [sys.executable, str(self.path)]


def load(path: Path) -> Scenario:
    scenario = Scenario(path)
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        known_as = "<string>" if re.search(r"^# run: -c$", file.read_text(), re.M) else str(file)
        scenario.sources[known_as] = file.read_text().splitlines()
        for number, line in enumerate(scenario.sources[known_as], 1):
            if mark := re.search(r"# LEAK(?::(\w+))?$", line):
                scenario.sites[known_as, number] = mark[1] or ""
            if header := re.match(r"# ([a-z-]+): (.*)$", line):
                _add_header(scenario, header[1], header[2])
    assert scenario.headers.get("expect"), f"{path}: no `# expect:`"
    return scenario


def _add_header(scenario: Scenario, key: str, value: str) -> None:
    scenario.headers[key] = value
    if key == "expect" and value != "nothing":
        scenario.expects.append(dict(pair.split("=", 1) for pair in value.split()))
    elif key == "allow":
        kind, *pairs = value.split()
        scenario.allows.append({"kind": kind, **dict(pair.split("=", 1) for pair in pairs)})


def discover() -> list[Path]:
    found = [path for group in ("leaks", "clean") for path in (HERE / group).iterdir()]
    return sorted(path for path in found if path.suffix == ".py" or (path / "__main__.py").exists())


# ---------------------------------------------------------------- running


def fresh_database(admin_dsn: str, name: str) -> None:
    with psycopg.connect(admin_dsn, autocommit=True) as conn:
        for (gid,) in conn.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
            conn.execute(psycopg.sql.SQL("ROLLBACK PREPARED {}").format(gid))
        conn.execute(psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(psycopg.sql.Identifier(name)))
        conn.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))


def execute(scenario: Scenario, dsn: str, folder: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    unwanted = ("LEAKGUARD_", "PG", "PYTHON", "PYTEST", "COV")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    path = [str(PACKAGE_ROOT)]
    if scenario.headers.get("run") == "-m":
        path.insert(0, str(scenario.path.parent))
    if "pythonpath" in scenario.headers:
        path.insert(0, str(scenario.path / scenario.headers["pythonpath"]))
    environment |= {"ZOO_DSN": dsn, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    return subprocess.run(
        [*prefix, *scenario.command()],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def check(scenario: Scenario, server: Any, folder: Path) -> list[str]:
    """Run it twice on `server` (its `dsn(dbname)` is all that is used); return what is wrong, best empty."""
    report = folder / "report.jsonl"
    runs = []
    for guarded in (False, True):
        database = "scenario_guarded" if guarded else "scenario_bare"
        fresh_database(server.dsn(), database)
        prefix: list[str] = []
        if guarded:
            prefix = [sys.executable, "-m", "leakguard", "run", *shlex.split(scenario.headers.get("args", ""))]
            prefix += ["--report", str(report), "--"]
        runs.append(execute(scenario, server.dsn(database), folder / database, *prefix))
    bare, guarded_run = runs
    text = report.read_text() if report.exists() else ""
    events = [json.loads(line) for line in text.splitlines()]
    return [*_check_programs(scenario, bare, guarded_run), *_check_events(scenario, events)]


# ---------------------------------------------------------------- judging


def _check_programs(scenario: Scenario, bare: Any, guarded: Any) -> Iterator[str]:
    headers = scenario.headers
    status = int(headers.get("exit", 0))
    if bare.returncode != status:
        yield f"the program itself exits {bare.returncode}, not {status}: {bare.stderr[-800:]}"
    if "oracle" in headers and bare.stdout.splitlines()[-1:] != [f"ORACLE leaked={headers['oracle']}"]:
        yield f"the program itself ends with {bare.stdout.splitlines()[-1:]}, not ORACLE leaked={headers['oracle']}"
    if guarded.returncode != int(headers.get("guarded-exit", status)):
        yield f"under leakguard it exits {guarded.returncode}: {guarded.stderr[-800:]}"
    notes = [line for line in guarded.stdout.splitlines() if line.startswith("NOTE ")]
    plain = [line for line in guarded.stdout.splitlines() if not line.startswith("NOTE ")]
    if plain != bare.stdout.splitlines():
        yield f"standard output differs: {bare.stdout[-300:]!r} became {guarded.stdout[-300:]!r}"
    if guarded.stderr.count("Traceback (most") > bare.stderr.count("Traceback (most"):
        yield f"a traceback on standard error: {guarded.stderr[-1200:]}"
    for header, shown in (("notes-name-site", "\n".join(notes)), ("stderr-names-site", guarded.stderr)):
        if header in headers and not any(f"{Path(file).name}:{line}" in shown for file, line in scenario.sites):
            yield f"{header}: no file:line of a LEAK in {shown[-800:]!r}"


def _check_events(scenario: Scenario, events: list[Event]) -> Iterator[str]:
    summaries = [event for event in events if event["event"] == "summary"]
    leaks = [event for event in events if event["event"] == "leak"]
    if not summaries and scenario.headers.get("summary") != "optional":
        yield "no summary"
    if errors := sum(summary["internal_errors"] for summary in summaries):
        yield f"{errors} internal errors"
    for rule in scenario.expects:
        judge = {"recovered": _check_recovered, "exhausted": _check_exhausted}.get(rule.get("event", ""), _check_leaks)
        yield from judge(scenario, rule, events)
    for leak in leaks:
        if not (_allowed(scenario, leak) or (scenario.leaks and _fits_somewhere(scenario, leak))):
            yield f"false alarm: {describe(leak)}"
        yield from _check_place(scenario, leak)
    for event in events:
        kind = event.get("kind", event["event"])
        wanted = any(rule.get("event") == event["event"] for rule in scenario.expects)
        tolerated = event["event"] == "recovered" and scenario.leaks
        allowed = any(rule["kind"] == kind for rule in scenario.allows)
        if event["event"] in ("exhausted", "recovered") and not (wanted or tolerated or allowed):
            yield f"false alarm: {event['event']} {event.get('cause', kind)}"
    yield from _check_accounts(leaks, summaries)


def _check_leaks(scenario: Scenario, rule: Rule, events: list[Event]) -> Iterator[str]:
    kinds = rule["kind"].split("|")
    wanted = int(rule.get("count", 1))
    near = [event for event in events if event["event"] == "leak" and event["kind"] in kinds]
    good = [event for event in near if _at_leak(scenario, event, rule.get("site")) and _has(event, rule)]
    counts = _highest_counts(good)
    by_kind = Counter[str]()
    for (_, _, kind), count in counts.items():
        by_kind[kind] += count
    # With alternatives, a hold may be reported as each of them.
    most = max(by_kind.values(), default=0) if len(kinds) > 1 else by_kind.total()
    if not most <= wanted <= by_kind.total():
        seen = "; ".join(describe(event) for event in near or events) or "nothing"
        yield f"wanted {rule}, counted {dict(by_kind)}, saw {seen}"
    fingerprints = {event["fingerprint"] for event in good}
    if len(fingerprints) != int(rule.get("fingerprints", len(fingerprints))):
        yield f"wanted {rule['fingerprints']} fingerprints, saw {sorted(fingerprints)}"


def _check_recovered(scenario: Scenario, rule: Rule, events: list[Event]) -> Iterator[str]:
    near = [event for event in events if event["event"] == "recovered" and event["kind"] in rule["kind"].split("|")]
    good = [event for event in near if _at_leak(scenario, event, rule.get("site"))]
    good = [event for event in good if event["held_for"] >= float(rule.get("min-held", 0))]
    if len(good) != int(rule.get("count", 1)):
        yield f"wanted {rule}, saw {len(good)} of {len(near)} that fit"


def _check_exhausted(scenario: Scenario, rule: Rule, events: list[Event]) -> Iterator[str]:
    near = [event for event in events if event["event"] == "exhausted"]
    for event in near:
        holders = [holder for holder in event["holders"] if _at_leak(scenario, holder, rule.get("site"))]
        held = sum(holder["count"] for holder in holders)
        if (
            event["cause"] in rule["cause"].split("|")
            and held == event["held"] == int(rule["held"])
            and rule.get("capacity") in (None, str(event["capacity"]))
        ):
            return
    shown = [{key: event[key] for key in ("cause", "held", "capacity", "error", "holders")} for event in near]
    yield f"wanted {rule}, saw {shown}"


def _check_place(scenario: Scenario, leak: Event) -> Iterator[str]:
    """The site's source text is that of its line, and the site is on the stack that is shown."""
    site, stack = _site(leak), (leak["hold"] or {}).get("stack")
    if not site:
        return
    lines = scenario.sources.get(site["file"], [])
    if site.get("code") and lines and site["code"].strip() not in lines[site["line"] - 1]:
        yield f"the site's code is {site['code']!r}, its line is {lines[site['line'] - 1]!r}"
    if stack and not any((frame["file"], frame["line"]) == (site["file"], site["line"]) for frame in stack):
        yield f"the site {site['file']}:{site['line']} is not on its stack"


def _check_accounts(leaks: list[Event], summaries: list[Event]) -> Iterator[str]:
    """One certain leak a hold; the summary agrees with the highest counts."""
    proven = [leak["hold"] for leak in leaks if leak["certain"] and leak["hold"]]
    holds = Counter((hold["owner"]["pid"], hold["id"]) for hold in proven)
    for hold, times in holds.items():
        if times > 1:
            yield f"hold {hold} is reported as {times} certain leaks"
    summed = Counter[str]()
    for summary in summaries:
        summed.update(summary["leaks"])
        if summary["acquired"] < summary["released"] + summary["held"]:
            yield f"the summary does not add up: {summary}"
    counted = Counter[str]()
    for (_, _, kind), count in _highest_counts(leaks).items():
        counted[kind] += count
    left_in_order = {summary["pid"] for summary in summaries}
    if (
        all(leak["hold"] is None or leak["hold"]["owner"]["pid"] in left_in_order for leak in leaks)
        and +summed != counted
    ):
        yield f"the summaries say {dict(summed)}, the events {dict(counted)}"


def _highest_counts(leaks: list[Event]) -> dict[tuple[int | None, str, str], int]:
    """`count` is a running total of a process, fingerprint and kind."""
    highest: dict[tuple[int | None, str, str], int] = {}
    for leak in leaks:
        pid = leak["hold"]["owner"]["pid"] if leak["hold"] else None
        key = pid, leak["fingerprint"], leak["kind"]
        highest[key] = max(highest.get(key, 0), leak["count"])
    return highest


def _site(event: Event) -> Event | None:
    return (event["hold"]["site"] if event.get("hold") else None) or event.get("site")


def _at_leak(scenario: Scenario, event: Event, name: str | None) -> bool:
    site = _site(event)
    if name == "none":
        return site is None
    if site is None:
        return False
    file = site["file"] if site["file"].startswith("<") else os.path.realpath(site["file"])
    found = scenario.sites.get((file, site["line"]))
    return found is not None and name in (None, found)


def _has(event: Event, rule: Rule) -> bool:
    """Whether the event has the attributes that the rule asks for."""
    hold = event["hold"] or {}
    for key, value in rule.items():
        if key in ("certain", "healed") and event[key] is not (value == "yes"):
            return False
        if key in ("library", "operation", "state", "pool") and str(hold.get(key)) not in value.split("|"):
            return False
        if key == "boundary" and str(event["boundary"]) not in value.split("|"):
            return False
        if key.startswith("label.") and hold["owner"]["labels"].get(key[len("label.") :]) != value:
            return False
    return True


def _allowed(scenario: Scenario, leak: Event) -> bool:
    return any(leak["kind"] in rule["kind"].split("|") and _has(leak, rule) for rule in scenario.allows)


def _fits_somewhere(scenario: Scenario, leak: Event) -> bool:
    rules = [rule for rule in scenario.expects if "event" not in rule]
    if any(leak["kind"] in rule["kind"].split("|") and _at_leak(scenario, leak, rule.get("site")) for rule in rules):
        return True
    companion = leak["kind"] in COMPANIONS or (leak["kind"] == "outstanding" and leak["boundary"] == "exit")
    return companion and _at_leak(scenario, leak, None)


def describe(event: Event) -> str:
    site = _site(event) or {}
    place = f"{Path(site['file']).name}:{site['line']}" if site else "no site"
    hold = event.get("hold") or {}
    parts = [event["event"], event.get("kind"), hold.get("library"), f"x{event.get('count')}", f"at {place}"]
    parts += [f"{key}={value}" for key in ("healed", "boundary") if (value := event.get(key)) is not None]
    parts += [f"state={hold.get('state')}", f"reason={event.get('reason')!r}"]
    return " ".join(str(part) for part in parts if part)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def main(patterns: list[str]) -> int:
    from leakguard.demo.postgres import PostgresServer

    failed = 0
    with PostgresServer(max_connections=30) as server:
        for path in discover():
            scenario = load(path)
            if patterns and not any(fnmatch.fnmatch(scenario.name, pattern) for pattern in patterns):
                continue
            if missing := scenario.missing():
                print("skip", scenario.name, "needs", missing, flush=True)
                continue
            with tempfile.TemporaryDirectory() as folder:
                problems = check(scenario, server, Path(folder))
            failed += bool(problems)
            print("FAIL" if problems else "ok  ", scenario.name, flush=True)
            for problem in problems:
                print("    ", problem, flush=True)
    print("failed:", failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
