"""The baseline file: read and refused by name, compared, updated without a silent raise, written in one step."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakguard.baseline import (
    Baseline,
    BaselineError,
    BaselineMissing,
    Entry,
    Found,
    load,
    parse,
    write,
)
from leakguard.model import KINDS

A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"


def entry(fingerprint=A, max_count=2, **changes):
    given = {"file": "shop/orders.py", "function": "export", "reason": None, **changes}
    return Entry(fingerprint=fingerprint, max_count=max_count, **given)


def found(fingerprint=A, file="shop/orders.py", function="export", **counts):
    return Found(fingerprint=fingerprint, counts=counts, file=file, function=function)


def baseline(*entries):
    return Baseline({one.fingerprint: one for one in entries})


# --------------------------------------------------------------------------------------------------------- compare


@pytest.mark.parametrize(
    ("counts", "where", "fails"),
    [
        ({"dropped": 3}, "more", True),
        ({"dropped": 2}, "known", False),
        ({"dropped": 1, "outstanding": 1}, "known", False),
        ({"dropped": 1}, "fewer", False),
    ],
)
def test_compare_counts(counts, where, fails):
    """As many as listed is known, more fails, fewer does not."""
    compared = baseline(entry()).compare([found(**counts)])
    assert [name for name in ("more", "known", "fewer") if getattr(compared, name)] == [where]
    assert compared.fails is fails
    assert (compared.new, compared.gone) == ((), ())


def test_compare_new_and_gone():
    """What is not listed is new and fails; what is listed and not found is gone and does not."""
    compared = baseline(entry(A), entry(B)).compare([found(B, dropped=2), found(C, dropped=1)])
    assert [one.fingerprint for one in compared.new] == [C]
    assert [one.fingerprint for one in compared.gone] == [A]
    assert compared.fails
    assert not baseline(entry(A)).compare([]).fails
    assert not baseline().compare([found(C)]).fails


def test_compare_only_the_kinds_of_the_entry():
    """An entry that names kinds covers no other kind of the same bug."""
    narrow = baseline(entry(kinds=("dropped",)))
    assert not narrow.compare([found(dropped=2)]).fails
    compared = narrow.compare([found(dropped=1, outstanding=1)])
    assert [(match.known, match.excess) for match in compared.more] == [(1, 1)]


def test_compare_adds_up_what_several_workers_found():
    """Findings of one bug from two processes count together."""
    compared = baseline(entry()).compare([found(dropped=1), found(dropped=1, outstanding=1)])
    assert [match.excess for match in compared.more] == [1]
    assert compared.more[0].found.counts == {"dropped": 2, "outstanding": 1}


# ---------------------------------------------------------------------------------------------------------- update


def test_update_says_everything():
    """Added, raised, lowered and removed: each entry that changes has its sentence, what went up first."""
    old = baseline(entry(A, 5, reason="soon"), entry(B, 1, function="b"), entry(C, 1, function="c"))
    new = [found(A, dropped=2), found(B, dropped=4), found("d" * 12, function="d", dropped=1)]
    update = old.updated(new, full=True)
    assert update.sentences == [
        "added dddddddddddd (d in shop/orders.py): at most 1",
        "raised bbbbbbbbbbbb (b in shop/orders.py): at most 4 instead of 1",
        "lowered aaaaaaaaaaaa (export in shop/orders.py): at most 2 instead of 5",
        "removed cccccccccccc (c in shop/orders.py): it no longer occurs",
    ]
    entries = parse(update.text).entries
    assert {name: one.max_count for name, one in entries.items()} == {A: 2, B: 4, "d" * 12: 1}
    assert entries[A].reason == "soon"
    assert not Baseline(entries).compare(new).fails


def test_update_after_a_partial_run_lowers_and_removes_nothing():
    """What was not run may still leak."""
    old = baseline(entry(A, 5), entry(B, 1))
    update = old.updated([found(A, dropped=2)], full=False)
    assert update.changes == ()
    assert parse(update.text).entries == old.entries
    assert [change.verb for change in old.updated([found(A, dropped=9)], full=False).changes] == ["raised"]


def test_update_says_a_widened_kind():
    """An entry that names kinds is raised, and says so, when another kind has to be covered."""
    update = baseline(entry(A, 2, kinds=("dropped",))).updated([found(A, dropped=1, orphaned=1)], full=True)
    assert update.sentences == [f"raised {A} (export in shop/orders.py); now also orphaned"]
    assert parse(update.text).entries[A].kinds == ("dropped", "orphaned")


def test_update_of_nothing_changes_nothing():
    """The clean twin: the same leaks give the same text, byte for byte."""
    text = baseline(entry(A, 1), entry(B, 2)).text()
    update = parse(text).updated([found(B, dropped=2), found(A, dropped=1)], full=True)
    assert (update.text, update.sentences) == (text, [])


def test_text_is_sorted_and_stable():
    """One more leak is one more block: the others stay where and as they are."""
    old = baseline(entry(B, file="b.py"), entry(A, file="a.py"))
    new = baseline(entry(C, file="ab.py"), *old.entries.values())
    old_lines, new_lines = old.text().splitlines(), new.text().splitlines()
    assert [line for line in new_lines if line.startswith("file")] == [f'file = "{n}.py"' for n in ("a", "ab", "b")]
    rest = iter(new_lines)
    assert all(line in rest for line in old_lines)


def test_text_explains_itself():
    """The comments at the top name the options, and an empty baseline is a valid file."""
    text = Baseline().text()
    assert "--leakguard-baseline" in text
    assert "--leakguard-update-baseline" in text
    assert tomllib.loads(text) == {"version": 1}
    assert parse(text).entries == {}


texts = st.text(max_size=40)
entries = st.builds(
    Entry,
    fingerprint=st.text("0123456789abcdef", min_size=12, max_size=12),
    max_count=st.integers(1, 2**62),
    file=st.none() | texts,
    function=st.none() | texts,
    kinds=st.sets(st.sampled_from(KINDS)).map(lambda some: tuple(kind for kind in KINDS if kind in some)),
    reason=st.none() | texts,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(entries, max_size=5))
def test_round_trip(some):
    """Whatever is written is read again, whatever the names and reasons hold."""
    known = baseline(*some)
    assert parse(known.text()).entries == known.entries


@settings(max_examples=150, deadline=None)
@given(
    st.lists(entries, max_size=4),
    st.lists(
        st.builds(
            Found,
            fingerprint=st.sampled_from([A, B, C]),
            counts=st.dictionaries(st.sampled_from(KINDS), st.integers(1, 5), max_size=3),
            file=st.none() | texts,
            function=texts,
        ),
        max_size=5,
    ),
    st.booleans(),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
)
def test_update_properties(some, what, full, counts):
    """After an update the same findings fail no more, and every count that went up has its sentence."""
    old = baseline(*some, *(entry(name, count) for name, count in zip((A, B, C), counts, strict=True)))
    update = old.updated(what, full=full)
    new = parse(update.text)
    assert not new.compare(what).fails
    said = {change.entry.fingerprint: change.verb for change in update.changes}
    assert len(said) == len(update.changes)
    for name in {*old.entries, *new.entries}:
        before = old.entries[name].max_count if name in old.entries else 0
        after = new.entries[name].max_count if name in new.entries else 0
        if after > before:
            assert said[name] in ("added", "raised")
        elif after < before:
            assert full
            assert said[name] in ("lowered", "removed")
        else:
            assert said.get(name) in (None, "raised")  # raised: another kind


# --------------------------------------------------------------------------------------------------------- reading

GOOD = f'version = 1\n\n[[leak]]\nfingerprint = "{A}"\nmax = 2\n'


def test_smallest_entry():
    """Fingerprint and count are enough; a mark at the beginning and Windows line ends do not matter."""
    assert parse(GOOD).entries == {A: Entry(fingerprint=A, max_count=2)}
    assert parse(GOOD.replace("\n", "\r\n")).entries == parse(GOOD).entries


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        pytest.param("", 1, "there is no `version`", id="empty"),
        pytest.param("[[leak]]\n", 1, "begins with `version = 1`", id="no version"),
        pytest.param("# x\nversion = 2\n", 2, "of a newer leakguard: this one reads version 1", id="newer"),
        pytest.param("version = 0\n", 1, "write it anew with --leakguard-update-baseline", id="older"),
        pytest.param('version = "1"\n', 1, "version = '1' is not accepted", id="version as text"),
        pytest.param("version = true\n", 1, "version = True is not accepted", id="version as bool"),
        pytest.param(GOOD + "x = [\n", 6, "this is no TOML", id="torn"),
        pytest.param("version = 1\nversion = 1\n", 2, "this is no TOML", id="key twice"),
        pytest.param(GOOD + "<<<<<<< HEAD\n", 6, "a merge conflict", id="merge conflict"),
        pytest.param("version = 1\nleaks = 3\n", 2, "unknown key `leaks`", id="unknown key"),
        pytest.param("version = 1\nleak = 3\n", 2, "begin with [[leak]]", id="leak is no list"),
        pytest.param(GOOD + "count = 3\n", 6, "unknown key `count`: an entry has fingerprint, file", id="key of entry"),
        pytest.param(GOOD + GOOD[12:], 8, "a second entry for fingerprint", id="duplicate"),
        pytest.param(GOOD.replace(A, "xyz"), 4, "fingerprint = 'xyz' is not accepted: 12 hex digits", id="fingerprint"),
        pytest.param("version = 1\n[[leak]]\nmax = 1\n", 2, "this entry has no `fingerprint`", id="no fingerprint"),
        pytest.param(GOOD.replace("max = 2", ""), 3, "this entry has no `max`", id="no max"),
        pytest.param(GOOD.replace("2", "0"), 5, "max = '0' is not accepted", id="max 0"),
        pytest.param(GOOD.replace("2", "true"), 5, "max = 'True' is not accepted", id="max bool"),
        pytest.param(GOOD.replace("2", "2.5"), 5, "max = '2.5' is not accepted", id="max float"),
        pytest.param(GOOD + 'kinds = ["dropt"]\n', 6, "a list of dropped, orphaned", id="kind"),
        pytest.param(GOOD + "kinds = [[]]\n", 6, "a list of dropped", id="kind list"),
        pytest.param(GOOD + "reason = 3\n", 6, "reason = '3' is not accepted: a string", id="reason"),
    ],
)
def test_refused(text, line, words):
    """The error names file and line, and says what is accepted."""
    with pytest.raises(BaselineError) as caught:
        parse(text, "leaks.toml")
    assert str(caught.value).startswith(f"leakguard: leaks.toml:{line}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_second_duplicate_names_the_first():
    """Of two entries for one bug, both lines are named."""
    with pytest.raises(BaselineError, match=r"the first is in line 4"):
        parse(GOOD + GOOD[12:])


def test_files(tmp_path):
    """A missing, an unreadable and a binary file are told apart, each by name."""
    with pytest.raises(BaselineMissing, match=r"no baseline .*none\.toml: --leakguard-update-baseline writes one"):
        load(tmp_path / "none.toml")
    with pytest.raises(BaselineError, match="cannot be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(BaselineError, match="cannot be read"):
        load("a\0b")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"version = 1\n\xff\xfe")
    with pytest.raises(BaselineError, match=r"binary\.toml:2: .* no UTF-8"):
        load(binary)
    good = tmp_path / "good.toml"
    good.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert list(load(good).entries) == [A]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text('version=1[]leakmx"\n ', max_size=60))
def test_whatever_the_file_holds(text):
    """Any text is a baseline or refused by name: no other exception."""
    refused = ""
    try:
        parse(text)
    except BaselineError as error:
        refused = str(error)
    assert not refused or refused.startswith("leakguard: baseline:")


# --------------------------------------------------------------------------------------------------------- writing


def test_write_and_load(tmp_path):
    """A new file with ordinary permissions, and nothing left beside it."""
    path = tmp_path / "leaks.toml"
    umask = os.umask(0o022)
    try:
        write(path, baseline(entry()).text())
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert load(path).entries == {A: entry()}
    assert [file.name for file in tmp_path.iterdir()] == ["leaks.toml"]


def test_write_keeps_permissions_and_links(tmp_path):
    """An existing file keeps its mode; of a symbolic link, the file behind it is replaced."""
    real = tmp_path / "real.toml"
    real.write_text("old")
    real.chmod(0o600)
    link = tmp_path / "link.toml"
    link.symlink_to(real)
    write(link, GOOD)
    assert link.is_symlink()
    assert real.read_text() == GOOD
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


def test_write_fails_whole(tmp_path, monkeypatch):
    """When writing fails, the old file is as it was, and no other one is left."""
    path = tmp_path / "leaks.toml"
    path.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BaselineError, match=r"leaks\.toml cannot be written: No space left on device"):
        write(path, GOOD)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["leaks.toml"]
    monkeypatch.undo()
    with pytest.raises(BaselineError, match="cannot be written: No such file or directory"):
        write(tmp_path / "no" / "leaks.toml", GOOD)


def test_names_that_toml_cannot_hold(tmp_path):
    """A file name that is no UTF-8 is written readably, and the file stays one that can be read."""
    path = tmp_path / "leaks.toml"
    write(path, baseline(entry(file="a\udcff.py", function='"]\n[[leak]]\n')).text())
    (known,) = load(path).entries.values()
    assert (known.file, known.function) == ("a?.py", '"]\n[[leak]]\n')


def test_pure():
    """The module imports no pytest, so that other tools can read a baseline."""
    source = Path(load.__code__.co_filename).read_text()
    assert "import pytest" not in source
