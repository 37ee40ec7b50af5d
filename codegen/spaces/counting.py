"""How many valid choices a space has: counted where they can be listed, estimated where they are too many.

Knobs that no constraint links, not even through others, are independent: the space is a product of parts, each of which
is counted by itself. A part with more choices than can be listed is estimated by Knuth, "Estimating the Efficiency of
Backtrack Programs", 1975: a random walk down the tree of partial choices sets one knob after the other to any of the
values that nothing rules out yet; the product of how many those were, or 0 at a dead end, is on average the number of
leaves of the tree. Looking ahead rules out values early, which makes dead ends rare and the products alike.

The solver could list choices too, but it may list one many times: once for each value that a helper variable of a
constraint can have.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from .constraints import AtMost, Choice, Constraint, Split
from .space import Knob, Space

# Of one part: choices that are listed before it is estimated, and random walks of an estimate.
LIMIT = 50_000
WALKS = 2000
# Branches of the tree that are looked at to count its leaves.
VISITS = 1_000_000
# Walks after which listing is not even tried, if by then there seem to be many times more than the limit.
FIRST_WALKS, HOPELESS = 50, 4
# Combinations of the knobs not yet set that looking ahead tries for a constraint whose form it does not know.
AHEAD = 256


@dataclass(frozen=True)
class Count:
    """How many choices the knobs span, and how many of them are valid; ``error`` is the standard error, 0 if exact."""

    total: int
    valid: float
    error: float = 0.0
    estimated: int = 0  # parts that were not counted
    parts: int = 1

    @property
    def text(self) -> str:
        """In words, with how it was found."""
        if not self.estimated:
            return f"{self.valid} valid choices of {self.total}, counted"
        share = f"{self.estimated} of {self.parts} independent parts" if self.parts > 1 else "it"
        return (
            f"about {self.valid:.2g} valid choices (standard error {self.error:.1g}) of {self.total:.3g}; {share} "
            f"estimated by {WALKS} random walks down the tree of choices (Knuth, 1975), the rest counted"
        )


@dataclass
class _Part:
    """Knobs that constraints link."""

    name: str
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    @property
    def total(self) -> int:
        return math.prod(len(knob.values) for knob in self.knobs)


def count(space: Space, limit: int = LIMIT, walks: int = WALKS, seed: int = 0) -> Count:
    """The size of a space: exact as long as no independent part of it has more than ``limit`` valid choices.

    ``seed`` is of the random walks: the same seed gives the same estimate.
    """
    parts = list(_parts(space))
    valid, relative, estimated = 1.0, 0.0, 0
    exact = 1
    for part in parts:
        found = _counted(part, limit, seed)
        if found is not None:
            exact *= found
            continue
        estimated += 1
        mean, error = _estimated(part, walks, seed)
        valid *= mean
        relative += (error / mean) ** 2 if mean else 0.0
    if not estimated:
        return Count(math.prod(part.total for part in parts), exact, parts=len(parts))
    valid *= exact
    total = math.prod(part.total for part in parts)
    return Count(total, valid, valid * math.sqrt(relative), estimated, len(parts))


def _parts(space: Space) -> Iterator[_Part]:
    """The space as a product of parts that share no knob and no constraint."""
    group = {knob.name: {knob.name} for knob in space.knobs}
    for constraint in space.constraints:
        linked = set().union(*(group[name] for name in constraint.knobs))
        for name in linked:
            group[name] = linked
    for names in {id(names): names for names in group.values()}.values():
        knobs = [knob for knob in space.knobs if knob.name in names]
        yield _Part(space.name, knobs, [c for c in space.constraints if names & set(c.knobs)])


def _counted(part: _Part, limit: int, seed: int) -> int | None:
    """How many choices; None where they are more than ``limit``, or too well hidden."""
    if not part.constraints:
        return part.total
    if _estimated(part, FIRST_WALKS, seed)[0] > HOPELESS * max(limit, 1):
        return None
    return _Tree(part).leaves(limit)


def _estimated(part: _Part, walks: int, seed: int) -> tuple[float, float]:
    """The mean over random walks and its standard error."""
    rng, tree = random.Random(seed), _Tree(part)
    sizes = [tree.walk(rng) for _ in range(walks)]
    mean = math.fsum(sizes) / walks
    variance = math.fsum((size - mean) ** 2 for size in sizes) / (walks - 1)
    return mean, math.sqrt(variance / walks)


class _Tree:
    """Partial choices of a part, knobs set in the order in which constraints connect them."""

    def __init__(self, part: _Part) -> None:
        self._domains = {knob.name: knob.values for knob in part.knobs}
        # A constraint's knobs one after the other, those of few knobs first: values are ruled out soon.
        by_size = sorted(part.constraints, key=lambda c: len(c.knobs))
        self._order = list(dict.fromkeys(name for c in by_size for name in c.knobs))
        self._of = {name: [c for c in part.constraints if name in c.knobs] for name in self._order}
        self._known: dict[tuple[int, tuple[int | None, ...]], bool] = {}

    def walk(self, rng: random.Random) -> float:
        """The product of the numbers of values to choose from; 0 at a dead end."""
        chosen: dict[str, int] = {}
        size = 1.0
        for name in self._order:
            values = [v for v in self._domains[name] if self._possible(name, {**chosen, name: v})]
            if not values:
                return 0.0
            size *= len(values)
            chosen[name] = rng.choice(values)
        return size

    def leaves(self, limit: int) -> int | None:
        """How many there are; None where they are more than ``limit``, or the tree has too many branches."""
        found, visits = 0, 0
        chosen: dict[str, int] = {}

        def below(at: int) -> bool:
            nonlocal found, visits
            visits += 1
            if at == len(self._order):
                found += 1
                return found <= limit
            name = self._order[at]
            for value in self._domains[name]:
                chosen[name] = value
                if self._possible(name, chosen) and not below(at + 1):
                    return False
            del chosen[name]
            return visits <= VISITS

        return found if below(0) else None

    def _possible(self, name: str, chosen: Choice) -> bool:
        return all(self._may_hold(constraint, chosen) for constraint in self._of[name])

    def _may_hold(self, constraint: Constraint, chosen: Choice) -> bool:
        key = (id(constraint), tuple(chosen.get(name) for name in constraint.knobs))
        if key not in self._known:
            self._known[key] = may_hold(constraint, chosen, self._domains)
        return self._known[key]


def may_hold(constraint: Constraint, chosen: Choice, domains: Mapping[str, Sequence[int]]) -> bool:
    """False only where no values of the knobs that are not chosen yet meet the constraint."""
    free = [name for name in constraint.knobs if name not in chosen]
    if not free:
        return constraint.holds(chosen)
    if isinstance(constraint, Split):
        rest, left = divmod(constraint.extent, math.prod(chosen[n] for n in constraint.knobs if n in chosen) or 1)
        return not left and _reaches(rest, [domains[name] for name in free])
    if isinstance(constraint, AtMost) and all(f >= 0 for f, _ in constraint.terms):
        lowest = {name: min(domains[name]) for name in free}
        return min(lowest.values()) < 0 or constraint.holds({**chosen, **lowest})
    if math.prod(len(domains[name]) for name in free) > AHEAD:
        return True
    tries = product(*(domains[name] for name in free))
    return any(constraint.holds({**chosen, **dict(zip(free, values, strict=True))}) for values in tries)


def _reaches(extent: int, domains: Sequence[Sequence[int]]) -> bool:
    """Whether a value of each domain can be picked so that their product is the extent."""
    rests = {extent}
    for values in domains:
        rests = {rest // value for rest in rests for value in values if value and rest % value == 0}
    return 1 in rests
