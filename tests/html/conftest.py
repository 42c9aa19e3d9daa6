"""A browser for the tests of the page, where there is one, and pages of events to open in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leakguard.cli import main
from leakguard.model import Event
from leakguard.reporters.jsonl import encode
from tests.html.browser import Browser, Tab, find_chromium

Report = Callable[..., Path]
Open = Callable[..., Tab]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests of a session."""
    program = find_chromium()
    if program is None:
        pytest.skip("needs Chromium")
    with Browser(program, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def show(browser: Browser) -> Iterator[Open]:
    """Open a file or an address. Afterwards, nothing may have been complained of, by the page or its policy."""
    tabs: list[Tab] = []

    def show(page: Path | str, **window: int | bool | str) -> Tab:
        tab = browser.open(page.as_uri() if isinstance(page, Path) else page, **window)
        tabs.append(tab)
        return tab

    yield show
    complaints = [complaint for tab in tabs for complaint in tab.complaints()]
    for tab in tabs:
        tab.close()
    assert complaints == []


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Write events to a file, and have the command make a page of them."""

    def report(*events: Event, options: tuple[str | Path, ...] = (), name: str = "report.html") -> Path:
        file, page = tmp_path / f"{name}.jsonl", tmp_path / name
        file.write_bytes(b"".join(map(encode, events)))
        assert main(["report", str(file), "--format", "html", "--output", str(page), *map(str, options)]) in (0, 1)
        return page

    return report
