"""What a cost model sees of a choice: numbers made of its knobs and of the space's constraints.

Of each knob: log2 of the value, its rank in the domain, and for a small domain a column for each value. Of each bound
on a sum of products (:class:`AtMost`: bytes in a cache, registers): log2 of each product of several knobs, log2 of the
sum, and the part of the bound that is left. As in Zheng et al., "Ansor", 2020, features are of the program rather than
of its index in the space; here the constraints already name the quantities that matter.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..spaces.constraints import AtMost
from ..spaces.space import Choice, Space

if TYPE_CHECKING:
    from . import Array

# A domain of no more values than this gets a column for each.
ONE_HOT = 4


@dataclass(frozen=True)
class Feature:
    """A column: its name, the knobs that it is made of, and its value for a choice."""

    name: str
    knobs: tuple[str, ...]
    value: Callable[[Choice], float]


class Features:
    """The features of a space. A choice of another space with the same knobs has them too, its values in or out."""

    def __init__(self, space: Space) -> None:
        self.knobs = tuple(knob.name for knob in space.knobs)
        self.columns = tuple(_columns(space))

    def matrix(self, choices: Sequence[Choice]) -> Array:
        """One row a choice."""
        rows = [[column.value(choice) for column in self.columns] for choice in choices]
        return np.array(rows, dtype=np.float64).reshape(len(choices), len(self.columns))

    def by_knob(self, importance: Array) -> dict[str, float]:
        """How much each knob matters, from how much each feature does; one of several knobs is shared among them."""
        total = dict.fromkeys(self.knobs, 0.0)
        for column, share in zip(self.columns, importance, strict=True):
            for knob in column.knobs:
                total[knob] += float(share) / len(column.knobs)
        return total


def _columns(space: Space) -> Iterator[Feature]:
    for knob in space.knobs:
        if len(knob.values) > 1:
            yield Feature(f"log2 {knob.name}", (knob.name,), _product((knob.name,)))
            yield Feature(f"rank {knob.name}", (knob.name,), _rank(knob.name, knob.values))
        if 1 < len(knob.values) <= ONE_HOT:
            yield from (Feature(f"{knob.name}={v}", (knob.name,), _is(knob.name, v)) for v in knob.values)
    products = set()
    for constraint in space.constraints:
        if isinstance(constraint, AtMost):
            for _, names in constraint.terms:
                if len(names) > 1 and frozenset(names) not in products:
                    products.add(frozenset(names))
                    yield Feature(f"log2 {' * '.join(names)}", names, _product(names))
            yield Feature(f"log2 {constraint.what}", constraint.knobs, _sum(constraint))
            yield Feature(f"slack {constraint.what}", constraint.knobs, _slack(constraint))


def _log2(value: float) -> float:
    # 0 switches something off: one step below 1.
    return math.log2(value) if value > 0 else value - 1.0


def _rank(name: str, values: Sequence[int]) -> Callable[[Choice], float]:
    ordered = sorted(values)
    return lambda choice: bisect_left(ordered, choice[name]) / (len(ordered) - 1)


def _is(name: str, value: int) -> Callable[[Choice], float]:
    return lambda choice: float(choice[name] == value)


def _product(names: Sequence[str]) -> Callable[[Choice], float]:
    return lambda choice: _log2(math.prod(choice[name] for name in names))


def _sum(constraint: AtMost) -> Callable[[Choice], float]:
    return lambda choice: _log2(constraint.sum(choice))


def _slack(constraint: AtMost) -> Callable[[Choice], float]:
    return lambda choice: 1 - constraint.sum(choice) / constraint.bound if constraint.bound else 0.0
