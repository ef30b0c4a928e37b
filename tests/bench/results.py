"""One measured figure, and how a set of them is shown and kept."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

BUILD = Path(__file__).resolve().parents[2] / "build"


@dataclass(frozen=True)
class Result:
    """A figure with its goal; `ours` and `anchor` are the two sides of a ratio, as medians."""

    name: str
    value: float
    unit: str
    goal: str
    ours: float | None = None
    anchor: float | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """The goal is reached. Goals read `>= 0.8` or `<= 20`."""
        sign, _, bound = self.goal.partition(" ")
        return self.value >= float(bound) if sign == ">=" else self.value <= float(bound)


def ratio(
    name: str, pairs: Sequence[tuple[float, float]], *, goal: str, note: str, kind: Literal["rate", "time"] = "rate"
) -> Result:
    """Make a result of paired rounds (ours, anchor): the median of the ratios, not the ratio of the medians."""
    ratios = [ours / anchor for ours, anchor in pairs]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds"
    return Result(
        name,
        round(statistics.median(ratios), 3),
        "ratio",
        goal,
        round(statistics.median(ours for ours, _ in pairs), 1 if kind == "rate" else 6),
        round(statistics.median(anchor for _, anchor in pairs), 1 if kind == "rate" else 6),
        f"{note}; {spread}",
    )


def keep(results: Sequence[Result]) -> Path:
    """Write build/bench.json."""
    BUILD.mkdir(exist_ok=True)
    path = BUILD / "bench.json"
    path.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n", encoding="utf-8")
    return path


def show(results: Sequence[Result]) -> None:
    """Print the table."""
    print(f"{'name':<28}{'value':>10} {'unit':<8}{'goal':<10}{'':<7}{'ours':>12}{'anchor':>12}  note")
    for result in results:
        sides = [f"{side:>12g}" if side is not None else f"{'':>12}" for side in (result.ours, result.anchor)]
        verdict = "met" if result.met else "MISSED"
        figures = f"{result.value:>10g} {result.unit:<8}{result.goal:<10}{verdict:<7}{''.join(sides)}"
        print(f"{result.name:<28}{figures}  {result.note}")
