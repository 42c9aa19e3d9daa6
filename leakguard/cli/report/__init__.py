"""``leakguard report FILE...``: reads the events of section 5 of the contract back and says what they add up to.

Exit status: 1 if there is a leak or a suspicion that is not known, an exhausted pool or server, or a summary that
counts a leak whose event is missing; 0 otherwise, also if there is only advice (``nested_acquire``); 2 if a file cannot
be read or written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from leakguard import known
from leakguard.baseline import BaselineError
from leakguard.cli.output import UserError, print_to, write
from leakguard.cli.report.as_json import as_json
from leakguard.cli.report.as_text import as_text
from leakguard.evidence import Evidence
from leakguard.known import Known
from leakguard.model import Event, Snapshot
from leakguard.prose import phrases
from leakguard.reporters import text

if TYPE_CHECKING:
    from leakguard.html import ReportPage

_BASELINE: Final = "known leaks, a baseline or the events of an earlier run: they are marked, and no problem"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``leakguard report``."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a JSON Lines file that leakguard wrote")
    parser.add_argument(
        "--format", choices=("text", "json", "html"), default="text", help="form of the report (default: text)"
    )
    parser.add_argument("--output", type=Path, metavar="PATH", help="write the report there instead of standard output")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help=_BASELINE)
    parser.add_argument(
        "--source", type=Path, metavar="DIR", help="html: show the lines around a place, of files below this directory"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Returns the exit status; what is wrong with the files goes to standard error."""
    try:
        return _run(arguments)
    except UserError as error:
        _complain(str(error))
        return 2


def _run(arguments: argparse.Namespace) -> int:
    files: Sequence[Path] = arguments.files
    output: Path | None = arguments.output
    form: str = arguments.format
    already = _known(arguments.baseline)
    _check_output(output, [*files, *filter(None, [arguments.baseline])])
    page = _page(arguments.source) if form == "html" else None
    evidence = read(files, observe=page.observe if page is not None else None)
    if page is not None:
        body = page.render(evidence, already)
    elif form == "json":
        body = as_json(evidence, already)
    else:
        body = as_text(evidence, already, color=output is None and text.wants_color(sys.stdout))
    for line in evidence.skipped.lines():
        _complain(line)
    write(body, output)
    return 1 if evidence.has_problems(already.covered(evidence) if already is not None else ()) else 0


def read(files: Iterable[Path], observe: Callable[[Event | Snapshot], None] | None = None) -> Evidence:
    """Everything that the files hold, added up; `observe` sees each line. Raises UserError for an unreadable file."""
    evidence = Evidence(observe)
    seen: set[Path] = set()
    for file in files:
        # The same file twice would count everything twice.
        if (resolved := file.resolve()) in seen:
            continue
        seen.add(resolved)
        try:
            with file.open("rb") as stream:
                evidence.read(file, stream)
        except OSError as error:
            raise UserError(f"cannot read {phrases.shown(str(file))}: {error.strerror or error}") from None
    return evidence


def _known(file: Path | None) -> Known | None:
    if file is None:
        return None
    try:
        return known.load(file)
    except BaselineError as error:
        raise UserError(phrases.shown(str(error).removeprefix("leakguard: "))) from None


def _page(source: Path | None) -> ReportPage:
    from leakguard.html import MissingJinjaError, ReportPage

    if source is not None and not source.is_dir():
        raise UserError(f"--source {phrases.shown(str(source))}: not a directory")
    try:
        return ReportPage(source)
    except MissingJinjaError as error:
        raise UserError(f"--format html {error}") from None


def _check_output(output: Path | None, files: Iterable[Path]) -> None:
    if output is None:
        return
    name = phrases.shown(str(output))
    if output.is_dir():
        raise UserError(f"cannot write {name}: Is a directory")
    if output.resolve() in {file.resolve() for file in files}:
        raise UserError(f"cannot write {name}: it is one of the files to read")


def _complain(line: str) -> None:
    print_to(sys.stderr, f"leakguard report: {line}\n")
