"""What an acquire with its release costs, and the same around one SELECT, under every variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from figures import Goal, times_less
from timing import Plan, Timing, compare
from variants import BARE, DEPTH, LEAKGUARD, LISTENER, PSYCOPG_POOL, SQLALCHEMY, SUBJECTS, TELEMETRY, WHAT_IS_TIMED
from workers import Workers, all_workers

DEPTHS = (10, DEPTH)
PAIR_GOALS = {PSYCOPG_POOL: 1.75, SQLALCHEMY: 1.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The timings of one subject: pairs by depth and variant, checkouts with one SELECT by variant."""

    subject: str
    pairs: Mapping[int, Mapping[str, Timing]]
    selects: Mapping[str, Timing]

    def select_ratio(self, variant: str) -> float:
        """How much longer a checkout with one SELECT takes: the processor time that is added, on the best bare time.

        Not the ratio of two times: a round trip takes as long as the machine's scheduler pleases, give or take ten
        percent, and a hundredth of it cannot be seen that way.
        """
        return 1.0 + self.selects[variant].added_cpu / self.selects[BARE].best

    def lines(self) -> Iterator[str]:
        """One subject's table."""
        yield ""
        yield f"{self.subject}: {WHAT_IS_TIMED[self.subject]}"
        heads = [*(f"pair, depth {depth}" for depth in DEPTHS), f"with one SELECT 1, depth {DEPTH}"]
        yield f"  {'':24}" + "".join(f"{head:>31}" for head in heads)
        yield f"  {'µs':24}" + f"{'time':>13}{'added':>10}{'ratio':>8}" * len(heads)
        for name, select in self.selects.items():
            pairs = [self.pairs[depth][name] for depth in DEPTHS]
            cells = [(one.seconds, one.added, one.ratio) for one in pairs]
            cells.append((select.seconds, select.added_cpu, self.select_ratio(name)))
            row = (f"{time * 1e6:13.2f}{added * 1e6:10.2f}{ratio:8.2f}" for time, added, ratio in cells)
            yield f"  {name:24}" + "".join(row)

    def goals(self) -> Iterator[Goal]:
        """Those of one subject that has some."""
        name, pair, select = self.subject, self.pairs[DEPTH], self.selects
        ours = pair[LEAKGUARD].added
        yield Goal(what=f"{name}: pair / bare", figure=pair[LEAKGUARD].ratio, limit=PAIR_GOALS[name])
        yield Goal(what=f"{name}: with one SELECT 1 / bare", figure=self.select_ratio(LEAKGUARD), limit=1.01)
        listener = times_less(pair[LISTENER].added, ours)
        yield Goal(what=f"{name}: pair, added by the listener / ours", figure=listener, limit=10.0, at_least=True)
        if TELEMETRY in select:
            telemetry = times_less(select[TELEMETRY].added_cpu, select[LEAKGUARD].added_cpu)
            what = f"{name}: SELECT 1, added by OpenTelemetry / ours"
            yield Goal(what=what, figure=telemetry, limit=1.0, at_least=True)
        yield Goal(what=f"{name}: enabled=False / bare", figure=pair["enabled=False"].ratio, limit=1.03)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """All subjects."""

    costs: tuple[Costs, ...]

    def lines(self) -> Iterator[str]:
        """A table each, and what is missing."""
        for one in self.costs:
            yield from one.lines()
        yield "  (added and ratio of a SELECT 1: by the processor time that is added)"
        if not any(TELEMETRY in one.selects for one in self.costs):
            yield "  (OpenTelemetry is not installed: pip install 'leakguard[bench]')"

    def figures(self) -> dict[str, object]:
        """By subject; pairs by depth; then by variant."""

        def timings(found: Mapping[str, Timing]) -> dict[str, object]:
            return {name: asdict(timing) for name, timing in found.items()}

        return {
            one.subject: {
                "pair": {str(depth): timings(found) for depth, found in one.pairs.items()},
                "select": timings(one.selects),
                "select_ratio": {variant: one.select_ratio(variant) for variant in one.selects},
            }
            for one in self.costs
        }

    def goals(self) -> Iterator[Goal]:
        """Of the two synchronous subjects."""
        for one in self.costs:
            if one.subject in PAIR_GOALS:
                yield from one.goals()


def measure(dsn: str, pairs: Plan, selects: Plan, frames: int) -> Pairs:
    """Time everything, one subject after the other, its variants in turns."""
    with all_workers(dsn, frames) as workers:
        return Pairs(costs=tuple(_measure(workers, subject, pairs, selects) for subject in SUBJECTS))


def _measure(workers: Workers, subject: str, pairs: Plan, selects: Plan) -> Costs:
    variants = workers.variants(subject)

    def timed(use: str, depth: int, plan: Plan) -> dict[str, Timing]:
        return compare({name: workers.timed(subject, name, use, depth) for name in variants}, plan)

    return Costs(
        subject=subject,
        pairs={depth: timed("pair", depth, pairs) for depth in DEPTHS},
        selects=timed("select", DEPTH, selects),
    )
