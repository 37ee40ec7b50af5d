"""Random choices that meet what is easy to meet: splits are drawn whole; other constraints may still be broken."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from .constraints import Split
from .space import Space

# A split of more factorisations than this is drawn knob by knob.
MOST = 100_000


class Sampler:
    """Draws from a space: one of the factorisations of each split, the values of other knobs, all uniformly."""

    def __init__(self, space: Space) -> None:
        self._domains = {knob.name: knob.values for knob in space.knobs}
        self._groups: list[tuple[tuple[str, ...], list[tuple[int, ...]]]] = []
        taken: set[str] = set()
        for constraint in space.constraints:
            if isinstance(constraint, Split) and not taken & set(constraint.knobs):
                found = self._factorisations(constraint)
                if found:
                    self._groups.append((constraint.knobs, found))
                    taken |= set(constraint.knobs)
        self._free = [name for name in self._domains if name not in taken]

    def draw(self, rng: random.Random) -> dict[str, int]:
        """A choice that has its splits right."""
        drawn = {name: rng.choice(self._domains[name]) for name in self._free}
        for names, factorisations in self._groups:
            drawn |= zip(names, rng.choice(factorisations), strict=True)
        return {name: drawn[name] for name in self._domains}

    def _factorisations(self, split: Split) -> list[tuple[int, ...]]:
        """All that the domains allow; none if they are too many."""
        domains = [sorted(self._domains[name]) for name in split.knobs]
        found = []
        for factors in _factored(split.extent, domains):
            found.append(factors)
            if len(found) > MOST:
                return []
        return found


def _factored(extent: int, domains: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    if not domains:
        if extent == 1:
            yield ()
        return
    most = math.prod(d[-1] for d in domains[1:])
    for value in domains[0]:
        if extent % value == 0 and extent // value <= most:
            yield from ((value, *rest) for rest in _factored(extent // value, domains[1:]))
