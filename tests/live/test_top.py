"""``leakguard top``: the view, the screen and the keys; then all of it on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leakguard.cli import main
from leakguard.cli.top.app import Top
from leakguard.cli.top.keys import Keys
from leakguard.cli.top.screen import KEYS, details, frame, page_of, plain
from leakguard.cli.top.view import SORTS, View, pressed, rows_of
from leakguard.live.client import Answers, Unanswered
from leakguard.model import HoldNow, LeakCount, Now
from tests.factories import NOON, make_hold, make_owner, make_site
from tests.live.support import ROOT, Guest, program
from tests.live.test_holders import make_held, make_pool_now, make_snapshot

WIDTH, HEIGHT = 80, 24


def hold(number: int, held_for: float, **changes: Any) -> HoldNow:
    """The hold with this id, of so many seconds; `line`, `thread` and `state` may be given."""
    owner = make_owner(thread=changes.pop("thread", f"worker-{number}"))
    site = make_site(line=changes.pop("line", 88))
    state = changes.pop("state", "idle")
    return make_held(
        hold=make_hold(id=number, held_for=held_for, owner=owner, site=site, state=state, last_used_at=None), **changes
    )


def answers(*holds: HoldNow, **changes: Any) -> Answers:
    return Answers(snapshots=(make_snapshot(*holds, **changes),), unanswered=())


def shown(told: Answers, view: View, width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    return [line.text for line in frame(told, rows_of(told.snapshots, view), view, width, height)]


THREE = (
    hold(1, 5.0, line=10, thread="c", state="in_transaction"),
    hold(2, 9.0, line=30, thread="a", state="active"),
    hold(3, 7.0, line=20, thread="b", proven=True),
)


# ------------------------------------------------------------------------------------------------------------ the view


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("worst", [3, 2, 1]),
        ("held", [2, 3, 1]),
        ("unused", [2, 3, 1]),
        ("state", [2, 3, 1]),
        ("pid", [2, 3, 1]),
        ("where", [1, 3, 2]),
        ("owner", [2, 3, 1]),
    ],
)
def test_sorting(sort: str, order: list[int]) -> None:
    """By each column, forwards and backwards."""
    for backwards in (False, True):
        rows = rows_of(answers(*THREE).snapshots, View(sort=sort, backwards=backwards))
        assert [row.one.hold.id for row in rows] == (order[::-1] if backwards else order)


@pytest.mark.parametrize("sort", SORTS)
def test_equal_ones_keep_their_places(sort: str) -> None:
    """From one look to the next, however they come."""
    holds = [hold(number, 5.0, thread="same") for number in (3, 1, 2)]
    orders = [
        [row.one.hold.id for row in rows_of(answers(*told).snapshots, View(sort=sort))] for told in (holds, holds[::-1])
    ]
    assert orders == [[1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", [3, 2, 1]),
        (":10", [1]),
        ("IN TX", [1]),
        ("leak", [3]),
        ("4242", [3, 2, 1]),
        ("main", [3, 2, 1]),
        ("zzz", []),
    ],
)
def test_filtering(pattern: str, found: list[int]) -> None:
    """By whatever is to be seen of a hold, and its pool, statement, process and fingerprint."""
    rows = rows_of(answers(*THREE).snapshots, View(pattern=pattern))
    assert [row.one.hold.id for row in rows] == found


def press(view: View, *keys: str, told: Answers | None = None) -> View:
    """The view after these keys."""
    for key in keys:
        rows = rows_of((told or answers(*THREE)).snapshots, view)
        after = pressed(view, key, rows, page_of(HEIGHT))
        assert after is not None
        view = after
    return view


def test_keys_sort_reverse_and_pause() -> None:
    """Each is taken back by pressing on."""
    assert [press(View(), *["s"] * count).sort for count in range(8)] == [*SORTS, "worst"]
    assert [press(View(), *["r"] * count).backwards for count in range(3)] == [False, True, False]
    assert [press(View(), *["space"] * count).paused for count in range(3)] == [False, True, False]


def test_keys_filter() -> None:
    """Typed, mended, kept and dropped; a q is a letter then."""
    view = press(View(), "/", "q", "space", "x", "backspace", "é", "up")
    assert (view.typing, view.pattern) == (True, "q é")
    assert press(view, "enter") == replace(view, typing=False)
    assert press(view, "escape") == View()
    assert press(view, "enter", "escape") == View()


def test_keys_choose() -> None:
    """One by one and by pages, and not beyond the ends."""
    many = answers(*(hold(number, 1000.0 - number) for number in range(100)))
    page = page_of(HEIGHT)
    for keys, expected in (
        (["down"], 1),
        (["j", "j", "k"], 1),
        (["up"], 0),
        (["page-down"], page),
        (["end"], 99),
        (["end", "down"], 99),
        (["end", "page-up"], 99 - page),
        (["end", "home"], 0),
    ):
        assert press(View(), *keys, told=many).chosen == (4242, expected), keys


def test_the_choice_follows_its_hold() -> None:
    """Not its place; once it is gone, the first line is chosen."""
    view = press(View(), "down")
    assert view.chosen == (4242, 2)
    more = answers(*THREE, hold(4, 100.0, proven=True))
    lines = shown(more, view)
    assert [line[0] for line in lines[4:8]] == [" ", " ", " ", " "]
    marked = frame(more, rows_of(more.snapshots, view), view, WIDTH, HEIGHT)
    assert [line.chosen for line in marked[4:8]] == [False, False, True, False]
    gone = answers(THREE[0])
    assert frame(gone, rows_of(gone.snapshots, view), view, WIDTH, HEIGHT)[4].chosen


def test_keys_leave() -> None:
    """From the list; from the details they lead back."""
    rows = rows_of(answers(*THREE).snapshots, View())
    for key in ("q", "ctrl-c"):
        assert pressed(View(), key, rows, 10) is None
    opened = press(View(), "enter")
    assert opened.opened
    assert opened.chosen == (4242, 3)
    for key in ("q", "escape", "enter", "backspace", "left"):
        assert not press(opened, key).opened
    assert pressed(opened, "ctrl-c", rows, 10) is None
    assert pressed(replace(View(), typing=True), "ctrl-c", rows, 10) is None


def test_nothing_to_choose() -> None:
    """No key is an error then."""
    for key in ("enter", "up", "down", "end", "page-up", "x", ""):
        assert press(View(), key, told=answers()) == View()


# ---------------------------------------------------------------------------------------------------------- the screen


def test_the_screen_fits() -> None:
    """As many lines as it has, none wider, at any size."""
    told = answers(
        *(hold(number, float(number), thread="a rather long name of a thread") for number in range(50)),
        pools=tuple(make_pool_now(name=f"pool-{number}") for number in range(9)),
    )
    for width, height in ((80, 24), (40, 10), (200, 60), (10, 3), (1, 1)):
        lines = shown(told, View(), width, height)
        assert len(lines) == height
        assert max(map(len, lines)) <= width


def test_what_is_to_be_seen() -> None:
    """What there is in all, the pools, the order, a line a hold, the keys."""
    found = LeakCount(kind="dropped", certain=True, fingerprint="x", site=None, count=3, time=NOON)
    told = answers(*THREE, pools=(make_pool_now(),), leaks=(found,))
    lines = shown(replace(told, unanswered=(Unanswered(pid=7, trouble="silent", words="?"),)), View())
    assert lines[0] == f"{'1 process, 3 held, found: 3 dropped':67} 12:00:00 UTC"
    assert lines[1] == '"main" 37/40 5 waiting 3 lost, pid 7: no answer'
    assert lines[2] == "sorted by worst; no filter; 3 holds"
    assert lines[4].split() == ["LEAK", "7.0", "s", "never", "idle", "4242", "…v/shop/orders.py:20", "b"]
    assert lines[-1] == KEYS
    assert "filter: ab_" in shown(told, View(pattern="ab", typing=True))[-1]
    assert shown(told, View(paused=True))[0].endswith("PAUSED  12:00:00 UTC")


def test_the_chosen_line_is_on_the_screen() -> None:
    """However far down it is."""
    told = answers(*(hold(number, 1000.0 - number) for number in range(100)))
    for chosen in (0, 1, 18, 19, 20, 50, 98, 99):
        view = View(chosen=(4242, chosen))
        lines = frame(told, rows_of(told.snapshots, view), view, WIDTH, HEIGHT)
        (line,) = [line for line in lines if line.chosen]
        assert f"worker-{chosen}" in line.text


def test_nothing_held_is_said() -> None:
    """And whether it is the filter's doing."""
    assert "  nothing is held" in shown(answers(), View())
    assert "  nothing is held that the filter lets through" in shown(answers(*THREE), View(pattern="zzz"))


def test_details_scroll() -> None:
    """Down to the end, and no further."""
    (row,) = rows_of(answers(THREE[0]).snapshots, View())
    lines = [line.text for line in details(row, None, "", View(opened=True), WIDTH, 10)]
    assert len(lines) == 10
    assert lines[0].startswith("hold 1 of pid 4242 (python app.py), acquired at 11:47:56 UTC")
    down = [line.text for line in details(row, None, "", View(opened=True, scrolled=3), WIDTH, 10)]
    assert down[0] == lines[3]
    end = [line.text for line in details(row, ["a cache"], "", View(opened=True, scrolled=999), WIDTH, 10)]
    assert "a cache" in "".join(end)
    assert len(end) == 10


def test_one_plain_frame_has_everything() -> None:
    """Nothing is cut, and no keys are offered."""
    told = answers(*(hold(number, 1.0, thread="n" * 100) for number in range(50)))
    lines = [line.text for line in plain(told, rows_of(told.snapshots, View()), WIDTH)]
    assert len(lines) == 54
    assert lines[-1].endswith("n" * 100)


def test_a_hold_that_was_given_back_stays_to_be_read() -> None:
    """Its details do, and say so; the list goes on."""
    top = Top(answers(*THREE))
    assert top.press("enter", HEIGHT)
    assert "hold 3 of pid 4242" in top.lines(WIDTH, HEIGHT)[0].text
    assert top.take(answers(*THREE[:2]))
    assert top.lines(WIDTH, HEIGHT)[1].text == "given back meanwhile; this is how it was"
    assert top.press("escape", HEIGHT)
    assert "2 holds" in top.lines(WIDTH, HEIGHT)[2].text


def test_pause_holds_the_picture() -> None:
    """Until it is pressed again."""
    top = Top(answers(*THREE))
    top.press("space", HEIGHT)
    assert not top.take(answers())
    assert "3 holds" in top.lines(WIDTH, HEIGHT)[2].text
    top.press("space", HEIGHT)
    assert top.take(answers())
    assert "0 holds" in top.lines(WIDTH, HEIGHT)[2].text


def test_hostile_names_are_inert() -> None:
    """On every line of both screens."""
    evil = "\x1b[2J\x9b\u202e\n"
    told = answers(
        hold(1, 1.0, thread=evil, now=Now(owner="ended", stack=())), process=evil, pools=(make_pool_now(name=evil),)
    )
    rows = rows_of(told.snapshots, View())
    lines = [*frame(told, rows, View(), 200, 30), *details(rows[0], [evil], "", View(opened=True), 200, 60)]
    assert all(line.text.isprintable() for line in lines)


# ------------------------------------------------------------------------------------------------------------ the keys


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (b"q", ["q"]),
        (b" \r\n\x7f\x03", ["space", "enter", "enter", "backspace", "ctrl-c"]),
        (b"\x1b[A\x1b[B\x1bOA\x1bOB", ["up", "down", "up", "down"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1bOF\x1b[4~", ["page-up", "page-down", "home", "end", "end"]),
        (b"\x1b", ["escape"]),
        (b"\x1b[15~q", ["", "q"]),
        (b"\x1b[1;5Cq", ["", "q"]),
        ("é€😀".encode(), ["é", "€", "😀"]),
        (b"\xff\xfeq\x01", ["", "", "q", ""]),
    ],
)
def test_keys_have_names(typed: bytes, keys: list[str]) -> None:
    """Those that are known, one at a time; what is not known is swallowed whole."""
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with Keys(slave) as keyboard:
            time.sleep(0)
            mode = termios.tcgetattr(slave)
            mode[3] &= ~termios.ISIG  # so that Ctrl-C is a key here
            termios.tcsetattr(slave, termios.TCSANOW, mode)
            os.write(master, typed)
            assert [keyboard.read(1.0) for _ in keys] == keys
            assert keyboard.read(0.0) is None
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_a_terminal_that_is_gone_is_the_end() -> None:
    """Of an ssh connection, for example; there is nothing to be put back then."""
    master, slave = pty.openpty()
    with Keys(slave) as keyboard:
        os.close(master)
        with pytest.raises(EOFError):
            keyboard.read(1.0)
    os.close(slave)


# -------------------------------------------------------------------------------------------------------- on a terminal

SERVICE = """
from tests.core.support import Pool
from leakguard import runtime
leakguard.install(on_leak=lambda event: None, owner_grace=0.0)
pool = Pool(runtime.current().tracker, "orders", size=4)
cache = []
def export():
    cache.append(pool.getconn())
def report():
    cache.append(pool.getconn("in_transaction"))
import threading
thread = threading.Thread(target=export, name="worker-1")
thread.start()
thread.join()
report()
while not os.path.exists(f"{os.environ['XDG_RUNTIME_DIR']}/leakguard-{os.geteuid()}/{os.getpid()}.sock"):
    time.sleep(0.005)
while runtime.current().process_guard.counts.get("orphaned") is None:
    time.sleep(0.005)
print("ready", flush=True)
for line in sys.stdin:
    pool.putconn(cache.pop())
    print("given back", flush=True)
"""


def _at_the_terminal(slave: int) -> None:
    """So that Ctrl-C reaches the command, also where these tests run in the background and ignore it."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A terminal with a command in it, and what is to be seen there."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        pyte = pytest.importorskip("pyte")
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        hidden = ("NO_COLOR", "COLUMNS", "LINES", "CI")
        inherited = {name: value for name, value in os.environ.items() if name not in hidden}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "leakguard", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: _at_the_terminal(slave),
            env={**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environment},
        )
        os.close(slave)
        self._master = master
        self._screen: Any = pyte.Screen(WIDTH, HEIGHT)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""

    @property
    def lines(self) -> list[str]:
        """The screen."""
        return [line.rstrip() for line in self._screen.display]

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, seen: Callable[[list[str]], object]) -> list[str]:
        """The screen, once it shows that."""
        deadline = time.monotonic() + 20
        while not seen(self.lines):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            self._pump()
        return self.lines

    def end(self) -> int:
        """The exit status, once the command has ended by itself."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            self._pump()
        while self._pump():  # what it has written last
            pass
        return self.process.returncode

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self._screen.resize(height, width)

    def _pump(self) -> bool:
        """Take up what was written, if there is something soon."""
        if not select.select([self._master], [], [], 0.05)[0]:
            return False
        try:
            piece = os.read(self._master, 1 << 16)
        except OSError:  # nobody has the other end open any more
            return False
        self.raw += piece
        self._stream.feed(piece)
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def service(runtime_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds two connections, one of them a leak."""
    with program(SERVICE) as process:
        yield process


@pytest.fixture
def terminal(service: subprocess.Popen[str]) -> Iterator[Callable[..., Terminal]]:
    """Starts commands that ask that process."""
    pytest.importorskip("rich")
    opened: list[Terminal] = []

    def start(*arguments: str, **environment: str) -> Terminal:
        opened.append(Terminal("top", str(service.pid), *arguments, **environment))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def has(*texts: str) -> Callable[[list[str]], bool]:
    return lambda lines: all(text in "\n".join(lines) for text in texts)


@pytest.mark.slow
def test_a_session(terminal: Callable[..., Terminal], service: subprocess.Popen[str]) -> None:
    """It is live; sorting, choosing, filtering, pausing and details answer to their keys; q ends it, in order."""
    screen = terminal("--every", "0.2")
    lines = screen.until(has("worker-1", KEYS))
    assert lines[1] == '"orders" 2/4'
    assert lines[4].startswith("> LEAK")
    assert lines[5].startswith("  HELD")
    assert "in tx" in lines[5]
    first = lines[4]
    screen.until(lambda lines: lines[4][:20] != first[:20])  # the ages go on

    screen.press(b"s")
    screen.until(has("sorted by held"))
    screen.press(b"\x1b[B")
    screen.until(lambda lines: lines[5].startswith(">"))
    screen.press(b"/worker\r")
    assert len([line for line in screen.until(has("filter: worker; 1 hold")) if "4/4" in line or "LEAK" in line]) == 1
    screen.press(b"\x1b")
    screen.until(has("no filter; 2 holds"))

    screen.press(b"\x1b[H\r")
    lines = screen.until(has("in export, by psycopg_pool getconn", 'thread "worker-1", ended', "esc back"))
    assert "kept by" not in "\n".join(lines)
    screen.press(b"w")
    screen.until(has("kept by:     item 0 of a list", "in module global `cache` of __main__"))
    screen.press(b"\x1b")
    screen.until(has(KEYS))

    screen.press(b" ")
    screen.until(has("PAUSED"))
    assert service.stdin is not None
    assert service.stdout is not None
    service.stdin.write("give back\n")
    service.stdin.flush()
    assert service.stdout.readline() == "given back\n"
    time.sleep(0.5)
    screen.press(b"r")
    screen.until(has("backwards; no filter; 2 holds"))
    screen.press(b" ")
    screen.until(has("no filter; 1 hold"))

    screen.press(b"q")
    assert screen.end() == 0
    assert screen.raw.count(b"\x1b[?1049h") == screen.raw.count(b"\x1b[?1049l") == 1
    assert b"\x1b[?25h" in screen.raw[-100:]  # the cursor is back
    assert b"Traceback" not in screen.raw


@pytest.mark.slow
def test_colour_is_for_the_verdict_alone(terminal: Callable[..., Terminal]) -> None:
    """And with NO_COLOR there is none; the word says it all."""
    for environment, colours in (({}, [b"1;31"]), ({"NO_COLOR": "1"}, [])):
        screen = terminal("--every", "0.2", **environment)
        screen.until(has("LEAK", KEYS))
        screen.press(b"\x1b[B")
        screen.until(lambda lines: lines[5].startswith(">"))
        screen.press(b"q")
        assert screen.end() == 0
        codes = {code for code in re.findall(rb"\x1b\[([\d;]+)m", screen.raw) if re.search(rb"\b[349]\d\b", code)}
        assert sorted(codes) == colours


@pytest.mark.slow
def test_it_follows_the_size_of_the_terminal(terminal: Callable[..., Terminal]) -> None:
    """A wider one shows more of each line, a small one does not break."""
    screen = terminal("--every", "0.2")
    screen.until(has(KEYS))
    screen.resize(40, 8)
    screen.until(lambda lines: len(lines) == 8 and lines[7].startswith("q quit") and "LEAK" in lines[4])
    screen.resize(120, 30)
    screen.until(lambda lines: len(lines) == 30 and lines[29] == KEYS and "(ended)" in lines[4])
    screen.press(b"\x03")
    assert screen.end() == 0


@pytest.mark.slow
def test_the_process_ends_while_it_is_watched(terminal: Callable[..., Terminal], service: Any) -> None:
    """The screen stays, and says so."""
    screen = terminal("--every", "0.2")
    screen.until(has("LEAK"))
    service.kill()
    service.wait()
    screen.until(has("0 processes, 0 held", "nothing is held"))
    screen.press(b"q")
    assert screen.end() == 0


@pytest.mark.slow
def test_without_rich_it_says_what_to_install(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    """One line, status 2."""
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('No module named rich')")
    screen = terminal(PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert screen.end() == 2
    screen.until(has("leakguard top: No module named rich: pip install 'leakguard[cli]'"))
    assert b"Traceback" not in screen.raw


def test_piped_it_prints_one_plain_frame(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    """And ends: for `watch`, `grep` and files."""
    guest.acquire(2)
    guest.wait()
    assert main(["top", str(os.getpid())]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.isascii()
    assert out.startswith("1 process, 2 held")
    assert len(out.splitlines()) == 6


@pytest.mark.parametrize("seconds", ["0", "x", "nan", "1e9"])
def test_an_interval_that_makes_no_sense_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In words."""
    with pytest.raises(SystemExit) as raised:
        main(["top", "--every", seconds])
    assert raised.value.code == 2
    assert "a number of seconds is wanted, from 0.1 to 3600" in capsys.readouterr().err
