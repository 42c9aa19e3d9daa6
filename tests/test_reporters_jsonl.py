"""The JSON Lines form: whole lines in the file whatever happens to it, and the way back."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakguard.model import Event, Frame, Now
from leakguard.reporters.jsonl import (
    UNKNOWN_TIME,
    DamagedError,
    JsonlReporter,
    UnknownEventError,
    UnknownSchemaError,
    decode,
    encode,
)
from tests.factories import (
    make_exhausted,
    make_hold,
    make_leak,
    make_owner,
    make_recovered,
    make_site,
    make_stack,
    make_summary,
)

EVENTS: list[Event] = [
    make_leak(now=Now(owner="running", stack=make_stack())),
    make_leak(hold=None, site=None, pool=None, boundary="test", kind="outstanding"),
    make_recovered(hold=make_hold(owner=make_owner(labels={"request": "r-17"}), server=None)),
    make_exhausted(),
    make_summary(),
]
each_event = pytest.mark.parametrize(
    "event", EVENTS, ids=["leak", "leak of a pool", "recovered", "exhausted", "summary"]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the reporter writes."""
    return tmp_path / "leaks.jsonl"


@pytest.fixture
def reporter(path: Path) -> Iterator[JsonlReporter]:
    """A reporter, closed at the end."""
    reporter = JsonlReporter(path)
    yield reporter
    reporter.close()


def counts_in(path: Path) -> list[int]:
    """The `count` of each event in the file, every line of which must be whole."""
    return [json.loads(line)["count"] for line in path.read_bytes().split(b"\n") if line]


# ------------------------------------------------------------------------------------------------------- the lines


@each_event
def test_an_event_is_one_line_of_json(event: Event, path: Path, reporter: JsonlReporter) -> None:
    """And the line is the event, as the contract has it."""
    reporter.report(event)
    content = path.read_bytes()
    assert content.count(b"\n") == 1
    assert json.loads(content) == event.to_dict()


def test_the_file_is_private(path: Path, reporter: JsonlReporter) -> None:
    """An event names hosts, users and statements. It exists from the start, so that a bad path is found at once."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_text_is_written_as_utf_8(path: Path, reporter: JsonlReporter) -> None:
    """People read these files too."""
    reporter.report(make_leak(reason="Größe überschritten"))
    assert "Größe überschritten" in path.read_text(encoding="utf-8")


def test_line_separators_in_a_text_do_not_break_the_line(path: Path, reporter: JsonlReporter) -> None:
    """Only a newline ends a line."""
    reporter.report(make_leak(reason="a\nb\r\n\u2028\u0085c"))
    assert path.read_bytes().count(b"\n") == 1
    assert decode(path.read_bytes())[0] == make_leak(reason="a\nb\r\n\u2028\u0085c")


def test_a_file_name_that_is_no_text_survives(path: Path, reporter: JsonlReporter) -> None:
    """Linux lets a file be called anything; Python writes the bytes that are no text as lone surrogates."""
    event = make_leak(site=make_site(file=os.fsdecode(b"/srv/\xff\xfe.py")))
    reporter.report(event)
    assert decode(path.read_bytes())[0] == event


def test_earlier_content_stays(path: Path) -> None:
    """A second run appends."""
    for count in (1, 2):
        reporter = JsonlReporter(path)
        reporter.report(make_leak(count=count))
        reporter.close()
    assert counts_in(path) == [1, 2]


@pytest.mark.parametrize("name", ["missing/leaks.jsonl", "."])
def test_a_path_that_cannot_be_written_is_said_at_once(tmp_path: Path, name: str) -> None:
    """Not when the first leak has been found."""
    with pytest.raises(OSError):
        JsonlReporter(tmp_path / name)


def test_the_path_is_fixed_when_the_reporter_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its working directory goes on writing to the same file."""
    monkeypatch.chdir(tmp_path)
    reporter = JsonlReporter(Path("leaks.jsonl"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    reporter.report(make_leak(count=1))
    reporter.close()
    reporter.report(make_leak(count=2))
    reporter.close()
    assert counts_in(tmp_path / "leaks.jsonl") == [1, 2]


# ------------------------------------------------------------------------------------------------ writing and failing


@pytest.fixture
def patch_write(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int | OSError]], list[int]]:
    """Make the next calls of os.write write so many bytes only, or fail; the list returned gets each size asked for."""
    original = os.write

    def patch(script: list[int | OSError]) -> list[int]:
        asked: list[int] = []

        def write(descriptor: int, data: bytes) -> int:
            asked.append(len(data))
            match script.pop(0) if script else None:
                case OSError() as error:
                    raise error
                case limit:
                    return original(descriptor, data[:limit])

        monkeypatch.setattr(os, "write", write)
        return asked

    return patch


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_line_is_one_write(reporter: JsonlReporter, patch_write: Callable[..., list[int]]) -> None:
    """So that the system puts it at the end of the file in one piece."""
    asked = patch_write([])
    reporter.report(make_leak())
    assert asked == [len(encode(make_leak()))]


def test_the_rest_of_a_partial_write_follows(
    path: Path, reporter: JsonlReporter, patch_write: Callable[..., list[int]]
) -> None:
    """A nearly full disk takes a part and then, perhaps, the rest."""
    patch_write([10, 1])
    reporter.report(make_leak(count=1))
    reporter.report(make_leak(count=2))
    assert counts_in(path) == [1, 2]


def test_after_a_torn_line_the_next_event_starts_afresh(
    path: Path, reporter: JsonlReporter, patch_write: Callable[..., list[int]]
) -> None:
    """The caller is told of the full disk, and only the torn event is lost."""
    patch_write([10, FULL, FULL])
    for count in (1, 2):
        with pytest.raises(OSError, match="No space"):
            reporter.report(make_leak(count=count))
    for count in (3, 4):
        reporter.report(make_leak(count=count))
    torn, *lines = path.read_bytes().splitlines()
    assert len(torn) == 10
    assert [json.loads(line)["count"] for line in lines] == [3, 4]


def test_an_event_that_was_not_begun_leaves_no_trace(
    path: Path, reporter: JsonlReporter, patch_write: Callable[..., list[int]]
) -> None:
    """No empty line where nothing was written."""
    patch_write([FULL])
    with pytest.raises(OSError, match="No space"):
        reporter.report(make_leak())
    reporter.report(make_leak())
    assert path.read_bytes() == encode(make_leak())


# ---------------------------------------------------------------------------------------- what others do to the file


def test_a_rotated_file_is_left_behind(path: Path, reporter: JsonlReporter) -> None:
    """logrotate moves the file away; the next event begins a new one."""
    reporter.report(make_leak(count=1))
    path.rename(path.with_suffix(".1"))
    reporter.report(make_leak(count=2))
    path.with_suffix(".new").touch()
    path.with_suffix(".new").rename(path)
    reporter.report(make_leak(count=3))
    assert counts_in(path.with_suffix(".1")) == [1]
    assert counts_in(path) == [3]


def test_a_removed_file_is_made_again(path: Path, reporter: JsonlReporter) -> None:
    """And is private again."""
    path.unlink()
    reporter.report(make_leak(count=1))
    assert counts_in(path) == [1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_file_does_not_begin_with_the_end_of_a_torn_line(
    path: Path, reporter: JsonlReporter, patch_write: Callable[..., list[int]]
) -> None:
    """The torn line went away with the old file."""
    patch_write([10, FULL])
    with pytest.raises(OSError, match="No space"):
        reporter.report(make_leak())
    path.unlink()
    reporter.report(make_leak())
    assert path.read_bytes() == encode(make_leak())


def test_a_truncated_file_is_continued_at_its_start(path: Path, reporter: JsonlReporter) -> None:
    """As with every log that is emptied in place."""
    reporter.report(make_leak(count=1))
    os.truncate(path, 0)
    reporter.report(make_leak(count=2))
    assert counts_in(path) == [2]


def open_descriptors() -> dict[int, tuple[int, int]]:
    """Which files this process has open: device and inode by descriptor."""
    found = {}
    for descriptor in range(3, 500):
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue
        found[descriptor] = status.st_dev, status.st_ino
    return found


def descriptor_of(path: Path) -> int:
    """This process's descriptor of the file."""
    status = path.stat()
    (found,) = (number for number, file in open_descriptors().items() if file == (status.st_dev, status.st_ino))
    return found


def test_a_descriptor_that_became_somebody_elses_is_not_touched(path: Path, reporter: JsonlReporter) -> None:
    """A daemon closes all descriptors; the next file that it opens gets the number of ours."""
    reporter.report(make_leak(count=1))
    ours = descriptor_of(path)
    theirs = path.with_name("theirs")
    with theirs.open("wb") as stream:
        os.dup2(stream.fileno(), ours)
    try:
        reporter.report(make_leak(count=2))
        reporter.close()
        os.fstat(ours)  # still open
    finally:
        os.close(ours)
    assert theirs.read_bytes() == b""
    assert counts_in(path) == [1, 2]


def test_no_descriptor_is_left_open(path: Path) -> None:
    """Rotation and closing, many times over."""
    before = open_descriptors()
    reporter = JsonlReporter(path)
    for _ in range(20):
        path.unlink()
        reporter.report(make_leak())
    reporter.close()
    reporter.close()
    assert open_descriptors() == before


def test_a_started_program_does_not_inherit_the_file(path: Path, reporter: JsonlReporter) -> None:
    """The descriptor is closed on exec."""
    assert os.get_inheritable(descriptor_of(path)) is False


# -------------------------------------------------------------------------------------------- threads and processes


def test_threads_share_a_reporter(path: Path, reporter: JsonlReporter) -> None:
    """Also while the file is being rotated under them: every line is whole, and none is lost."""
    rotated: list[Path] = []

    def write(first: int) -> None:
        for count in range(first, first + 50):
            reporter.report(make_leak(count=count))

    threads = [threading.Thread(target=write, args=(first,)) for first in range(0, 200, 50)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists() and len(rotated) < 20:
            rotated.append(path.rename(path.with_name(f"rotated.{len(rotated)}")))
    for thread in threads:
        thread.join()
    files = [*rotated, path] if path.exists() else rotated
    assert sorted(count for file in files for count in counts_in(file)) == list(range(200))


def _write_in_child(path: Path, first: int) -> None:
    reporter = JsonlReporter(path)
    for count in range(first, first + 100):
        reporter.report(make_leak(count=count, reason="x" * 9_000))
    reporter.close()


@pytest.mark.slow
def test_processes_share_a_file(path: Path) -> None:
    """Lines longer than a pipe's or a buffer's page do not mingle."""
    context = get_context("spawn")
    children = [context.Process(target=_write_in_child, args=(path, first)) for first in range(0, 300, 100)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert sorted(counts_in(path)) == list(range(300))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_writes_while_the_parents_thread_holds_the_lock(
    path: Path, reporter: JsonlReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is inherited locked would hang the child."""
    inside, leave = threading.Event(), threading.Event()
    original = os.write

    def write(descriptor: int, data: bytes) -> int:
        if threading.current_thread() is writer:
            inside.set()
            leave.wait(10)
        return original(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    writer = threading.Thread(target=reporter.report, args=(make_leak(count=1),))
    writer.start()
    assert inside.wait(10)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            reporter.report(make_leak(count=2))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leave.set()
    writer.join()
    assert counts_in(path) == [2, 1]


# ----------------------------------------------------------------------------------------------------- reading back


@each_event
def test_what_is_written_reads_back_the_same(event: Event) -> None:
    """Every field of every event, and the JSON object along with it."""
    assert decode(encode(event)) == (event, event.to_dict())


def test_an_event_of_the_contract_alone_reads_back() -> None:
    """Another writer may know no more keys than section 5 names: the others read as empty."""
    summary, data = decode(
        b'{"schema": 1, "event": "summary", "time": "2026-01-31T12:00:00Z", "pid": 4242, "acquired": 100,'
        b' "released": 99, "held": 1, "leaks": {"dropped": 1}, "internal_errors": 0, "colour": "red"}'
    )
    assert (summary.event, data["colour"]) == ("summary", "red")
    recovered, _ = decode(b'{"schema": 1, "event": "recovered", "kind": "overdue", "fingerprint": "f", "held_for": 71}')
    assert recovered.event == "recovered"
    assert (recovered.time, recovered.hold.state, recovered.held_for) == (UNKNOWN_TIME, "unknown", 71.0)


def changed(event: Event, **changes: Any) -> bytes:
    """The event's line with other values."""
    return json.dumps({**event.to_dict(), **changes}).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b"garbage", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b'{"schema": 1', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 10_000, "not JSON"),
        (changed(make_summary(), acquired=float("nan")), "not JSON"),
        (b"[1]", "not a leakguard event"),
        (b'{"event": "leak"}', "not a leakguard event"),
        (b'{"schema": 1, "event": 1}', "event: not a string"),
        (b'{"schema": 1, "event": "leak", "kind": "dropped"}', "fingerprint: missing"),
        (changed(make_leak(), fingerprint=["f"]), "fingerprint: not a str"),
        (changed(make_leak(), kind=None), "kind: null is not known"),
        (changed(make_leak(), kind="eaten"), 'kind: "eaten" is not known'),
        (changed(make_leak(), kind="x" * 100), 'kind: "' + "x" * 36 + "... is not known"),
        (changed(make_leak(), count="3"), "count: not a number"),
        (changed(make_leak(), count=True), "count: not a number"),
        (changed(make_leak(), count=1.5), "count: not a number"),
        (changed(make_leak(), count=10**400), "count: out of range"),
        (changed(make_leak(), certain="yes"), "certain: not a bool"),
        (changed(make_leak(), time="yesterday"), "time: not a time"),
        (changed(make_leak(), time="0001-01-01T00:00:00+14:00"), "time: out of range"),
        (changed(make_leak(), hold={"owner": {"labels": {"a": 1}}}), "hold: owner: labels: not a str"),
        (changed(make_leak(), hold={"stack": [1]}), "hold: stack: not a dict"),
        (changed(make_recovered(), held_for=1e300), "held_for: out of range"),
        (changed(make_summary(), leaks=[]), "leaks: not a dict"),
    ],
)
def test_damage_is_named(line: bytes, reason: str) -> None:
    """What is wrong, and where in the event."""
    with pytest.raises(DamagedError) as caught:
        decode(line)
    assert str(caught.value) == reason


@pytest.mark.parametrize("schema", [2, "1", True, 1.0, None, [1]])
def test_another_schema_is_told_from_damage(schema: object) -> None:
    """A newer leakguard's file is not broken, it is new."""
    with pytest.raises(UnknownSchemaError) as caught:
        decode(changed(make_leak(), schema=schema))
    assert str(caught.value) == json.dumps(schema)


def test_an_event_of_another_name_is_told_from_damage() -> None:
    """Schema 1 may get more events."""
    with pytest.raises(UnknownEventError) as caught:
        decode(b'{"schema": 1, "event": "metric"}')
    assert str(caught.value) == '"metric"'


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise_anything_else(line: bytes) -> None:
    """Whatever is in the file, the reader goes on."""
    try:
        decode(line)
    except (DamagedError, UnknownSchemaError, UnknownEventError):
        pass


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.sampled_from(EVENTS), st.data())
def test_no_value_in_an_event_makes_it_raise_anything_else(event: Event, data: st.DataObject) -> None:
    """Any value in any place is either taken or named as damage."""
    body: Any = json.loads(encode(event))
    place = body
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(VALUES)
    try:
        decode(json.dumps(body).encode())
    except (DamagedError, UnknownSchemaError, UnknownEventError):
        pass


def test_frames_keep_their_order() -> None:
    """Innermost first, there and back."""
    stack = tuple(Frame(file="/a.py", line=line, function="f", app=True) for line in range(3))
    event, _ = decode(encode(make_leak(hold=make_hold(stack=stack))))
    assert event.event == "leak"
    assert event.hold is not None
    assert event.hold.stack == stack
