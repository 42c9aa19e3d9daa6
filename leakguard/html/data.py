"""The page as one JSON object, as the script in it reads it. Here every foreign string becomes harmless.

Frames and stacks are told once and then by number: ten thousand holds have few different ones. Moments are milliseconds
since 1970, durations seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from leakguard.html.page import Bug, Fact, Hold, Page, Process, Sample, Span, Track
from leakguard.model import Frame, Json
from leakguard.prose import phrases

_FATES: Final = ("ended", "unknown", "lost")
_SHORT: Final = 500  # characters that are surely below the limit of `phrases.shown`
_IN_A_SCRIPT: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def to_data(page: Page) -> dict[str, Json]:
    """The object."""
    return _Writer(page).data()


def to_json(data: dict[str, Json]) -> str:
    """ASCII JSON that may stand in a ``<script>`` element: nothing in it can end that, or begin a comment."""
    return json.dumps(data, separators=(",", ":")).translate(_IN_A_SCRIPT)


class _Writer:
    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: dict[Frame, int] = {}
        self._stacks: dict[tuple[Frame, ...], int] = {}
        self._sites = {bug.fingerprint: number for number, bug in enumerate(page.bugs)}
        self._places: dict[str, str] = {}

    def data(self) -> dict[str, Json]:
        page = self._page
        for track in page.tracks:
            self._places.update(track.places)
        bugs: list[Json] = [self._bug(bug) for bug in page.bugs]
        tracks: list[Json] = [self._track(track) for track in page.tracks]
        return {
            "live": page.live,
            "made_at": _moment(page.made_at),
            "headline": _clean(page.headline),
            "about": _clean(page.about),
            "caption": _clean(page.caption),
            "notes": _clean_all(page.notes),
            "bugs": bugs,
            "tracks": tracks,
            # After the bugs, those places that are known by name only: the spans and samples speak of them by number.
            "others": [
                [_clean(name), _clean(self._places.get(name, name))] for name in list(self._sites)[len(page.bugs) :]
            ],
            "processes": [_process(process) for process in page.processes],
            "frames": [
                [phrases.path(frame.file), frame.line, _clean(frame.function), frame.app] for frame in self._frames
            ],
            "stacks": [[self._frames[frame] for frame in stack] for stack in self._stacks],
        }

    def _bug(self, bug: Bug) -> Json:
        shown = bug.excerpt
        return {
            "fingerprint": _clean(bug.fingerprint),
            "verdict": bug.verdict,
            "standing": bug.standing,
            "standing_why": _clean(bug.standing_why),
            "counts": [[_clean(name), count] for name, count in bug.counts],
            "place": _clean(bug.place),
            "function": _clean(bug.function),
            "code": _clean(bug.code),
            "how": _clean(bug.how),
            "excerpt": None
            if shown is None
            else {
                "lines": [[number, _clean(line)] for number, line in shown.lines],
                "line": shown.line,
                "mark": [*shown.mark],
            },
            "stack": self._stack(bug.stack),
            "why": _clean(bug.why),
            "fix": _clean(bug.fix),
            "cure": _clean_all(bug.cure),
            "facts": _facts(bug.facts),
            "longest": bug.longest,
            "last": _moment(bug.last),
            "holds": [self._hold(hold) for hold in bug.holds],
            "left_out": bug.left_out,
        }

    def _hold(self, hold: Hold) -> Json:
        return {
            "what": _clean_all(hold.what),
            "since": _moment(hold.since),
            "held": hold.held_for,
            "owner": _clean(hold.owner),
            "state": _clean(hold.state),
            "pid": hold.pid,
            "facts": _facts(hold.facts),
            "stack": self._stack(hold.stack),
            "now": self._stack(hold.now),
            "kept": _clean_all(hold.kept_by),
        }

    def _track(self, track: Track) -> Json:
        return {
            "name": _clean(track.name),
            "process": _clean(track.process),
            "capacity": track.capacity,
            "start": _moment(track.start),
            "end": _moment(track.end),
            "refused": track.refused,
            "spans": [self._span(span) for span in track.spans],
            "left_out": track.left_out,
            "samples": [self._sample(sample) for sample in track.samples],
            "facts": _facts(track.facts),
        }

    def _span(self, span: Span) -> Json:
        moments = [_moment(span.start), _moment(span.seen), _moment(span.until)]
        return [self._site(span.fingerprint), *moments, _FATES.index(span.fate)]

    def _sample(self, sample: Sample) -> Json:
        return {
            "time": _moment(sample.time),
            "refused": sample.refused,
            "held": sample.held,
            "lost": sample.lost,
            "capacity": sample.capacity,
            "error": _clean(sample.error),
            "holders": [[self._site(name), count] for name, count in sample.holders],
        }

    def _site(self, fingerprint: str) -> int:
        return self._sites.setdefault(fingerprint, len(self._sites))

    def _stack(self, stack: tuple[Frame, ...]) -> int:
        number = self._stacks.get(stack)
        if number is None:
            number = self._stacks[stack] = len(self._stacks)
            for frame in stack:
                self._frames.setdefault(frame, len(self._frames))
        return number


def _process(process: Process) -> Json:
    return {
        "name": _clean(process.name),
        "trouble": process.trouble,
        "lines": _clean_all(process.lines),
        "facts": _facts(process.facts),
    }


def _facts(facts: Sequence[Fact]) -> list[Json]:
    return [[label, _clean_all(lines)] for label, lines in facts]


def _clean_all(strings: Iterable[str]) -> list[Json]:
    return [_clean(string) for string in strings]


def _clean(string: str) -> str:
    # The first half is for speed alone: most strings are short and printable, and there may be a million of them.
    return string if len(string) < _SHORT and string.isprintable() else phrases.shown(string)


def _moment(time: datetime | None) -> float | None:
    return None if time is None else round(time.timestamp() * 1000, 3)
