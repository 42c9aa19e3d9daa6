"""How the cost of a pair grows with the depth of the stack that it stands on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from figures import Goal
from timing import Plan, Timing, compare
from variants import BARE, LEAKGUARD, LISTENER, PSYCOPG_POOL, SQLALCHEMY
from workers import plain_worker

DEPTHS = (5, 10, 20, 40, 80, 150, 200)
"""Not 120: there the interpreter's own stack needs a new block of memory, and gives it back, at each call of a pair."""
COMPARED = (BARE, LEAKGUARD, "stacks=full", LISTENER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """By subject, depth and variant."""

    timings: Mapping[str, Mapping[int, Mapping[str, Timing]]]

    def lines(self) -> Iterator[str]:
        """A line for each variant."""
        yield ""
        yield "Stack depth: µs added to a pair"
        yield f"  {'':38}" + "".join(f"{depth:9}" for depth in DEPTHS)
        for subject, by_depth in self.timings.items():
            for name in COMPARED[1:]:
                row = "".join(f"{by_depth[depth][name].added * 1e6:9.2f}" for depth in DEPTHS)
                yield f"  {subject:14}{name:24}{row}"

    def figures(self) -> dict[str, object]:
        """The same."""
        return {
            subject: {
                str(depth): {name: asdict(timing) for name, timing in timings.items()}
                for depth, timings in by_depth.items()
            }
            for subject, by_depth in self.timings.items()
        }

    def goals(self) -> Iterator[Goal]:
        """The depth of the stack costs nothing."""
        for subject, by_depth in self.timings.items():
            growth = by_depth[DEPTHS[-1]][LEAKGUARD].seconds / by_depth[DEPTHS[0]][LEAKGUARD].seconds
            bare = by_depth[DEPTHS[-1]][BARE].seconds / by_depth[DEPTHS[0]][BARE].seconds
            yield Goal(what=f"{subject}: pair, depth 200 / depth 5", figure=growth / bare, limit=1.15)


def measure(dsn: str, plan: Plan) -> Depths:
    """Time pairs at each depth, the variants in turns."""
    with plain_worker(dsn, 1) as workers:
        return Depths(
            timings={
                subject: {
                    depth: compare({name: workers.timed(subject, name, "pair", depth) for name in COMPARED}, plan)
                    for depth in DEPTHS
                }
                for subject in (PSYCOPG_POOL, SQLALCHEMY)
            }
        )
