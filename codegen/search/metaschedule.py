"""The evolutionary search of TVM's MetaSchedule: its own over its own space, and the same algorithm over any other.

Shao et al., "Tensor Program Optimization with Probabilistic Programs", NeurIPS 2022, which takes the search over from
Zheng et al., "Ansor: Generating High-Performance Tensor Programs for Deep Learning", OSDI 2020.

For each batch: the initial population is 512 candidates, up to a fifth of them the best measured ones, the others
random. Four generations descend from it: parents are drawn by what the cost model predicts; with probability 0.85 one
decision of the parent is mutated (a factor moves from one tile of a loop to another, with probability 0.9; else a
value is drawn anew), else the parent stays. A mutant that is not valid is given up, and another parent drawn, up to ten
times. Of all that came up, what is measured next is the best predicted, and, epsilon-greedy, 5% random.

Over the space ``metaschedule`` this is TVM's code with TVM's cost model and defaults (see ``_evolutionary.py``). Over
other spaces it is :class:`Evolution`, where these differ: candidates are choices of knobs, and a mutation must meet the
space's constraints, where TVM replays a trace; the cost model is this project's, and parents are drawn by rank, since
it gives no amounts; a batch is 16 trials rather than 64, and the model is believed from the first batch on, not after
100 trials, or a search of a few dozen trials would be random.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from .. import models
from ..errors import CodegenError
from ..models import CostModel
from ..models.features import Features
from ..spaces.constraints import Split
from ..spaces.space import Choice, Space
from ._guided import Guided
from .strategy import Strategy, Trial, identity

BATCH = 16
POPULATION, GENERATIONS = 512, 4
MEASURED = 0.2
# A population of no fewer random members is enough where valid choices are rare.
LEAST = 50
# So many random draws for each member that is wanted.
DRAWS = 8
MUTATION, TILES = 0.85, 0.9
RETRIES = 10
EPSILON = 0.05


class Evolution(Guided):
    """See the module."""

    def __init__(
        self, space: Space, seed: int, model: CostModel | None = None, features: Features | None = None
    ) -> None:
        """``model`` and ``features``: see :class:`._guided.Guided`."""
        super().__init__(space, seed, model, features, start=BATCH, lesson=BATCH, epsilon=EPSILON)

    def _evolve(self, trials: list[Trial]) -> list[dict[str, int]]:
        """All that came up in the generations and is not among ``trials``, the best predicted last."""
        rng = random.Random(f"{self._seed} evolve {len(trials)}")
        self._fit(trials)
        best = {identity(t.choice): dict(t.choice) for t in sorted(trials, key=lambda t: -t.score)}
        population = list(best.values())[: int(MEASURED * POPULATION)]
        population += self._random(rng, POPULATION - len(population))
        found: dict[tuple[tuple[str, int], ...], tuple[float, dict[str, int]]] = {}
        for generation in range(GENERATIONS + 1):
            scores = self._model.predict(self._features.matrix(population))
            found.update((identity(c), (float(s), c)) for c, s in zip(population, scores, strict=True))
            if generation < GENERATIONS:
                population = self._descend(rng, population, scores)
        left = [(score, choice) for name, (score, choice) in found.items() if name not in best]
        return [choice for _, choice in sorted(left, key=lambda pair: pair[0])]

    def _random(self, rng: random.Random, count: int) -> list[dict[str, int]]:
        """Up to ``count`` valid choices, tried or not; at least ``LEAST`` if there are some."""
        found = []
        for _ in range(DRAWS * count):
            choice = self._sampler.draw(rng)
            if all(c.holds(choice) for c in self.space.constraints):
                found.append(choice)
                if len(found) == count:
                    return found
        more = (self.fresh(rng, known=set()) for _ in range(LEAST - len(found)))
        return found + [choice for choice in more if choice is not None]

    def _descend(
        self, rng: random.Random, population: list[dict[str, int]], scores: models.Array
    ) -> list[dict[str, int]]:
        """The next generation."""
        weights = np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 1.0
        totals = np.cumsum(weights).tolist()
        kept: set[int] = set()

        def member() -> dict[str, int]:
            for _ in range(RETRIES + 1):
                parent = rng.choices(range(len(population)), cum_weights=totals)[0]
                if rng.random() >= MUTATION:
                    if parent not in kept:  # each stays once
                        kept.add(parent)
                        return population[parent]
                    continue
                mutant = self._mutant(rng, population[parent])
                if mutant is not None:
                    return mutant
            return population[parent]

        return [member() for _ in population]

    def _mutant(self, rng: random.Random, choice: dict[str, int]) -> dict[str, int] | None:
        """With one decision changed; None if that is not valid."""
        splits, others = self._decisions
        if not splits and not others:
            return None
        if splits and (not others or rng.random() < TILES):
            changed = _moved_factor(rng, choice, rng.choice(splits))
        else:
            name = rng.choice(others)
            changed = {name: rng.choice([v for v in self.domains[name] if v != choice[name]])}
        if any(value not in self.domains[name] for name, value in changed.items()):
            return None
        mutant = {**choice, **changed}
        return mutant if changed and all(c.holds(mutant) for c in self.space.constraints) else None

    @cached_property
    def _decisions(self) -> tuple[list[tuple[str, ...]], list[str]]:
        """The knobs of each split, and the other knobs that have a choice."""
        splits = [c.knobs for c in self.space.constraints if isinstance(c, Split) and len(c.knobs) > 1]
        within = {name for knobs in splits for name in knobs}
        return splits, [n for n, values in self.domains.items() if n not in within and len(values) > 1]


def _moved_factor(rng: random.Random, choice: Choice, knobs: Sequence[str]) -> dict[str, int]:
    """A factor of one tile becomes another's; nothing where all tiles are 1."""
    sources = [name for name in knobs if choice[name] > 1]
    if not sources:
        return {}
    source = rng.choice(sources)
    target = rng.choice([name for name in knobs if name != source])
    size = choice[source]
    small = [d for d in range(1, math.isqrt(size) + 1) if size % d == 0]
    factor = rng.choice(sorted({*small, *(size // d for d in small)} - {1}))
    return {source: size // factor, target: choice[target] * factor}


def create(space: Space, seed: int, model: CostModel | None = None, features: Features | None = None) -> Strategy:
    """A fresh strategy.

    Raises:
        CodegenError: the library that the model needs is not installed; or a model is given for TVM's own search.
    """
    from ..spaces.metaschedule import MetaScheduleSpace

    if not isinstance(space, MetaScheduleSpace):
        return Evolution(space, seed, model, features)
    if model is not None or features is not None:
        raise CodegenError("over the space 'metaschedule' the strategy 'metaschedule' has TVM's own cost model only")
    from ._evolutionary import TvmEvolution

    return TvmEvolution(space, seed)
