"""The report for programs: one object, ASCII only, so harmless to a terminal.

It is described by::

    {"schema": 1,
     "groups": [{"fingerprint": "...", "verdict": "leak|suspect|advice", "standing": "new|known|more", "count": 7,
                 "kinds": {"dropped": 7},
                 "site": {...}, "stack": [...], "libraries": [...], "pools": [{...}], "owners": [{...}],
                 "more_owners": false, "processes": 2, "first_seen": "...", "last_seen": "...", "longest_held": 1.5,
                 "healed": {"yes": 0, "no": 7}, "recovered": {"count": 0, "longest_held": 0.0},
                 "reason": "...", "advice": "..."}],
     "exhausted": [{"cause": "pool", "pool": "...", "pid": 42, "count": 3, "first_seen": "...", "last_seen": "...",
                    "newest": {...the event...}}],
     "processes": [{"pid": 42, "host": "...", "process": "...", "ended": true, "summaries": [{...the events...}],
                    "adds_up": true}],
     "snapshots": [{...what was held at an incident, or when `dump` asked...}],
     "skipped": {"damaged": [{"file": "...", "lines": 1, "first_line": 3, "reason": "not JSON"}],
                 "schemas": {"2": 1}, "events": {"metric": 1}}}

``site``, ``stack``, ``reason`` and ``advice`` are those of the newest event of the group's worst kind; ``healed``
counts ``dropped`` events, not leaks. ``ended`` is false for a process that has written no summary: killed, or still
running. ``adds_up`` is null where the writer did not tell enough to judge, ``standing`` without a baseline.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from leakguard.evidence import Evidence, Group, Recoveries
from leakguard.known import Known
from leakguard.model import Json


def as_json(evidence: Evidence, known: Known | None = None) -> str:
    """The report, as this module's docstring describes it."""
    covered = known.covered(evidence) if known is not None else frozenset()
    report: dict[str, Json] = {
        "schema": 1,
        "groups": [
            _group_json(group, evidence.recoveries.get(group.fingerprint), known) for group in evidence.ordered(covered)
        ],
        "exhausted": [
            {
                "cause": shortage.newest.cause,
                "pool": shortage.newest.pool,
                "pid": shortage.newest.pid,
                "count": int(shortage.total),
                **shortage.span.to_dict(),
                "newest": shortage.newest.to_dict(),
            }
            for shortage in evidence.shortages.values()
        ],
        "processes": [
            {
                "pid": record.pid,
                "host": record.host,
                "process": record.process,
                "ended": evidence.ended(record),
                "summaries": [summary.to_dict() for summary in record.summaries],
                "adds_up": record.adds_up,
            }
            for record in evidence.processes.values()
        ],
        "snapshots": [snapshot.to_dict() for snapshot in evidence.snapshots],
        "skipped": evidence.skipped.to_dict(),
    }
    return json.dumps(report, indent=2)


def _group_json(group: Group, recoveries: Recoveries | None, known: Known | None) -> dict[str, Json]:
    newest = group.newest.to_dict()
    hold = newest["hold"]
    recoveries = recoveries or Recoveries()
    return {
        "fingerprint": group.fingerprint,
        "verdict": group.verdict,
        "standing": known.standing(group.fingerprint, group.counts)[0] if known is not None else None,
        "count": sum(group.counts.values()),
        "kinds": {str(kind): count for kind, count in group.counts.items()},
        "site": newest["site"],
        "stack": hold["stack"] if isinstance(hold, dict) else [],
        "libraries": [*sorted(group.libraries)],
        "pools": [asdict(pool) for pool in group.pools.values()],
        "owners": [
            {"test": test, "task": task, "thread": thread, "labels": dict(labels)}
            for test, task, thread, labels in group.owners
        ],
        "more_owners": group.more_owners,
        "processes": group.processes,
        **group.span.to_dict(),
        "longest_held": group.longest,
        "healed": {"yes": group.healed[True], "no": group.healed[False]},
        "recovered": {"count": recoveries.count, "longest_held": recoveries.longest},
        "reason": group.newest.reason,
        "advice": group.newest.advice,
    }
