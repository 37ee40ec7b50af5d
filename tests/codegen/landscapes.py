"""Spaces with a score that is a formula: what is best is known, and nothing is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from codegen.search.strategy import Strategy, Trial
from codegen.spaces.constraints import AtMost, Constraint, Multiple, Relation, Split
from codegen.spaces.space import Choice, Knob, Leaf

Score = Callable[[Choice], float]


class Made:
    """A space that is not applied to anything."""

    name = driver = "made"

    def __init__(self, knobs: dict[str, Sequence[int]], *constraints: Constraint) -> None:
        self.knobs: Sequence[Knob] = tuple(Knob(name, tuple(values), name) for name, values in knobs.items())
        self.constraints: Sequence[Constraint] = constraints

    def default(self) -> dict[str, int]:
        return {knob.name: knob.values[0] for knob in self.knobs}

    def params(self, choice: Choice) -> dict[str, int]:
        return dict(choice)

    def apply(self, choice: Choice) -> list[Leaf]:
        return []

    def plan_size(self) -> int:
        return 1


def tiles() -> Made:
    """As a GEMM has them: 40,000 valid choices of 300,000."""
    return Made(
        {
            "rows": range(1, 17),
            "columns": (8, 16, 32, 64),
            "depth": (64, 128, 256, 512, 1024, 2048),
            "block": (64, 128, 256, 512, 1024, 2048, 4096),
            "ahead": (0, 4, 8, 16, 32),
            "copy": (0, 1, 2),
            "unroll": (1, 2, 4, 8),
        },
        AtMost("registers", ((1, ("rows", "columns")), (1, ("columns",))), 256),
        AtMost("bytes", ((4, ("rows", "depth")), (4, ("columns", "depth"))), 1 << 17),
        Relation("some registers are used", ("rows", "columns"), lambda c: c["rows"] * c["columns"] >= 64),
        Multiple("block", "depth"),
    )


def smooth(choice: Choice) -> float:
    """One hill over ``tiles``, with interactions; the best is below 2."""
    far = (
        0.5 * (math.log2(choice["rows"] * choice["columns"]) - 7.6) ** 2
        + 0.3 * (math.log2(choice["rows"]) - math.log2(12)) ** 2
        + 0.25 * (math.log2(choice["depth"]) - 8) ** 2
        + 0.15 * (math.log2(choice["block"]) - 10) ** 2
        + 0.1 * (math.log2(choice["ahead"] + 1) - 3) ** 2
        + 0.3 * (choice["copy"] != 1)
        + 0.1 * (math.log2(choice["unroll"]) - 2) ** 2
    )
    return 2 / (1 + far)


def deceptive(choice: Choice) -> float:
    """Over ``tiles``: nearly everywhere more rows are worse, the best has the most; some choices fail."""
    if choice["copy"] == 2 and choice["unroll"] == 8:
        return 0.0
    rows = 2.5 if choice["rows"] >= 14 else 1.5 - choice["rows"] / 14
    return rows / (1 + 0.2 * (math.log2(choice["depth"]) - 8) ** 2)


def factors() -> Made:
    """Valid choices are rare, one of 400, and no change of one knob leads from one to another."""
    powers = [2**i for i in range(9)]
    return Made(
        {"a": powers, "b": powers, "c": powers, "x": powers, "y": powers, "z": (1, 2, 3, 4)},
        Split(256, ("a", "b", "c")),
        Split(128, ("x", "y")),
    )


def best_of(strategy: Strategy, score: Score, trials: int) -> float:
    """The best score of a search that proposes one choice at a time."""
    best = 0.0
    for _ in range(trials):
        for choice in strategy.propose(1):
            value = score(choice)
            strategy.observe(Trial(choice, value))
            best = max(best, value)
    return best
