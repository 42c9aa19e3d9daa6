"""Draws the figures: ``python benchmarks/plots.py FIGURES.json DIRECTORY``, as SVG and PNG.

A light card with its own background, so that it can be read on a dark page too. matplotlib is needed here only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from variants import BARE, DEPTH, ECHO, LEAKGUARD, LISTENER, PSYCOPG_POOL, SQLALCHEMY, TELEMETRY, TRACEMALLOC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Figures = Mapping[str, Any]
"""What ``run.py --json`` writes."""

INK, QUIET, LINE, CARD = "#1f2328", "#59636e", "#d8dee4", "#fcfcfa"
OURS, OTHER, WORST = "#0b62c4", "#8a939d", "#c2410c"
COLOURS = {LEAKGUARD: OURS, "stacks=full": "#6ea8e5", LISTENER: WORST, BARE: INK}
TIMES = "\N{MULTIPLICATION SIGN}"
SMALL = 8.3
WIDTH = 7.6
"""Inches: at 100 dots each, the width of a page of the documentation."""
STYLE: Any = {
    "axes.edgecolor": LINE,
    "axes.labelcolor": QUIET,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": CARD,
    "axes.facecolor": CARD,
    "font.size": 9.2,
    "savefig.facecolor": CARD,
    "svg.hashsalt": "leakguard",  # the same figures make the same file
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


def draw(figures: Figures, directory: Path) -> list[Path]:
    """Write a plot for each part that was measured; returns the files. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with mpl.rc_context(STYLE):
        for name, (parts, make) in PLOTS.items():
            if all(part in figures["parts"] for part in parts):
                figure = make(figures["parts"])
                for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
                    written.append(directory / f"bench-{name}.{kind}")
                    figure.savefig(written[-1], dpi=160, metadata=metadata)
    return written


def _figure(height: float, rows: int, columns: int, **grid: Any) -> tuple[Figure, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, gridspec_kw=grid)
    figure.set_layout_engine("constrained", w_pad=0.10, h_pad=0.08, wspace=0.04, hspace=0.06)
    return figure, axes


# --- one acquire, under every variant --------------------------------------------------------------------------------

OURS_IN_ORDER = (BARE, "enabled=False", "stacks=off", "stacks=site", LEAKGUARD, "stacks=full")
ROWS = (*OURS_IN_ORDER, ECHO, TELEMETRY, LISTENER, TRACEMALLOC)


def _pairs(parts: Figures) -> Figure:
    figure, axes = _figure(5.5, 2, 2)
    for column, subject in enumerate((PSYCOPG_POOL, SQLALCHEMY)):
        found = parts["pairs"][subject]
        pairs, selects = found["pair"][str(DEPTH)], found["select"]
        ratios = {name: timing["ratio"] for name, timing in pairs.items()}
        absent = {} if subject == SQLALCHEMY else {ECHO: "SQLAlchemy only", TELEMETRY: "sees statements, not the pool"}
        _dots(axes[0][column], f"{subject}: acquire, release", pairs, ratios, absent)
        absent.pop(TELEMETRY, None)
        _dots(axes[1][column], f"{subject}: with one SELECT 1", selects, found["select_ratio"], absent)
        for one in axes[:, column]:
            one.tick_params(labelleft=column == 0)
    figure.supxlabel(f"stack depth {DEPTH}; the scales are logarithmic, and begin at bare", size=SMALL, color=QUIET)
    return figure


def _dots(
    axes: Axes,
    title: str,
    timings: Mapping[str, Mapping[str, float]],
    ratios: Mapping[str, float],
    absent: Mapping[str, str],
) -> None:
    times = {name: timing["seconds"] * 1e6 for name, timing in timings.items() if name not in absent}
    bare, longest = times[BARE], max(times.values())
    axes.set_title(title)
    axes.set_xscale("log")
    for at, name in enumerate(reversed(ROWS)):
        colour = COLOURS[name] if name in (BARE, LEAKGUARD) else OTHER
        time = times.get(name, bare)
        if name in times:
            axes.plot([bare, time], [at, at], color=colour, linewidth=1.4, alpha=0.55)
            axes.plot(time, at, "o", color=colour, markersize=5.5)
        axes.annotate(
            _told(time, None if name == BARE else ratios[name]) if name in times else absent.get(name, "not installed"),
            (max(time, bare), at),
            (7, 0),
            textcoords="offset points",
            va="center",
            size=SMALL,
            style="normal" if name in times else "italic",
            weight="bold" if name == LEAKGUARD else "normal",
            color=colour if name in (BARE, LEAKGUARD) else QUIET,
        )
    axes.axvline(bare, color=INK, linewidth=0.7, linestyle=(0, (2, 3)), zorder=0)
    axes.set_xlim(bare / 1.25, longest * (longest / bare) ** 0.5)
    axes.set_ylim(-0.7, len(ROWS) - 0.3)
    axes.set_yticks(
        range(len(ROWS)), [f"{name} (default)" if name == LEAKGUARD else name for name in reversed(ROWS)], color=INK
    )
    axes.get_yticklabels()[len(ROWS) - 1 - ROWS.index(LEAKGUARD)].set_color(OURS)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_visible(False)
    axes.spines[["bottom", "left"]].set_visible(False)


def _told(time: float, ratio: float | None) -> str:
    told = f"{time:,.0f} µs" if time >= 100 else f"{time:.1f} µs"
    if ratio is None:
        return told
    digits = 2 if ratio < 2 else 1 if ratio < 10 else 0
    return f"{told}  {TIMES}{ratio:.{digits}f}"


# --- growth ----------------------------------------------------------------------------------------------------------


def _growth(parts: Figures) -> Figure:
    figure, (axes,) = _figure(2.6, 1, 3)
    _grow_with_depth(axes[0], parts["depth"][PSYCOPG_POOL])
    _grow_with_holds(axes[1], parts["holds"]["counts"])
    _grow_with_leaks(axes[2], parts["leaks"]["rates"])
    for one in axes:
        one.grid(axis="y", color=LINE, linewidth=0.6)
        one.set_axisbelow(True)
        one.tick_params(which="both", length=0)
    return figure


def _grow_with_depth(axes: Axes, by_depth: Mapping[str, Any]) -> None:
    depths = [int(depth) for depth in by_depth]
    for name in (LISTENER, "stacks=full", LEAKGUARD):
        added = [by_depth[str(depth)][name]["added"] * 1e6 for depth in depths]
        _curve(axes, depths, added, name, COLOURS[name], below=name == LEAKGUARD)
    axes.set_yscale("log")
    axes.set_xlim(0, max(depths) * 1.03)
    axes.set_ylim(0.5, 1_500)
    axes.set_yticks([1, 10, 100, 1_000], ["1 µs", "10 µs", "100 µs", "1 ms"])
    axes.set_xticks([5, 40, 80, 150, 200])
    axes.set_title("Added to a pair")
    axes.set_xlabel("frames on the stack")


def _grow_with_holds(axes: Axes, counts: Sequence[Mapping[str, float]]) -> None:
    held = [one["holds"] for one in counts]
    _curve(axes, held, [one["guarded"] * 1e6 for one in counts], LEAKGUARD, OURS)
    _curve(axes, held, [one["bare"] * 1e6 for one in counts], BARE, INK, below=True)
    axes.set_xscale("log")
    axes.set_ylim(0, max(one["guarded"] for one in counts) * 1.5e6)
    axes.yaxis.set_major_formatter("{x:.0f} µs")
    axes.set_xticks([1, 1_000, 100_000], ["1", "1,000", "100,000"])
    axes.minorticks_off()
    axes.set_title("Time of a pair")
    axes.set_xlabel("connections held by others")


def _grow_with_leaks(axes: Axes, rates: Sequence[Mapping[str, float]]) -> None:
    some = [one for one in rates if one["rate"]]
    added = [max(0.1, (one["guarded"] - one["bare"]) * 100) for one in some]
    _curve(axes, [one["rate"] for one in some], added, LEAKGUARD, OURS)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.1, 150)
    axes.set_yticks([0.1, 1, 10, 100], ["0.1 %", "1 %", "10 %", "100 %"])
    axes.set_xticks([10, 100, 1_000, 10_000], ["10", "100", "1,000", "10,000"])
    axes.set_title("Share of one processor")
    axes.set_xlabel("leaks a second")


def _curve(axes: Axes, x: Sequence[float], y: Sequence[float], name: str, colour: str, *, below: bool = False) -> None:
    axes.plot(x, y, "o-", color=colour, linewidth=1.6, markersize=3.5)
    offset = (0, -13 if below else 7)
    axes.annotate(name, (x[-1], y[-1]), offset, textcoords="offset points", ha="right", size=SMALL, color=colour)


# --- throughput ------------------------------------------------------------------------------------------------------


def _throughput(parts: Figures) -> Figure:
    figure, ((axes,),) = _figure(3.1, 1, 1)
    rows = [
        (f"{subject.partition(',')[0]}, {int(count):,} {'tasks' if 'async' in subject else _threads(count)}", timings)
        for subject, by_count in parts["throughput"].items()
        for count, timings in by_count.items()
    ]
    for at, (_, timings) in enumerate(reversed(rows)):
        rates = {name: 1.0 / timings[name]["best"] for name in (BARE, LEAKGUARD, LISTENER)}
        axes.plot([min(rates.values()), max(rates.values())], [at, at], color=LINE, linewidth=2.4, zorder=1)
        for name, rate in rates.items():
            hollow = {"markerfacecolor": CARD, "markeredgewidth": 1.4} if name == BARE else {}
            size = 8 if name == BARE else 5.5
            label = name if at == 0 else None
            axes.plot(rate, at, "o", color=COLOURS[name], markersize=size, label=label, zorder=2, **hollow)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_title("Checkouts with one SELECT 1 in a second, from a pool of 8")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, handletextpad=0.2)
    return figure


def _threads(count: str) -> str:
    return "thread" if count == "1" else "threads"


PLOTS: dict[str, tuple[tuple[str, ...], Callable[[Figures], Figure]]] = {
    "pairs": (("pairs",), _pairs),
    "growth": (("depth", "holds", "leaks"), _growth),
    "throughput": (("throughput",), _throughput),
}
"""By name: the parts that a plot needs, and who draws it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw the figures of a run.")
    parser.add_argument("figures", type=Path)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args(argv)
    for path in draw(json.loads(arguments.figures.read_text(encoding="utf-8")), arguments.directory):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
