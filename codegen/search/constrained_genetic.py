"""Constraint-based genetic search with a cost model, after Heron.

Bi et al., "Heron: Automatically Constrained High-Performance Library Generation for Deep Learning Accelerators", ASPLOS
2023. The first trials are random. Then, for each batch: the cost model learns from all trials; its importances tell the
key knobs; a population (the best trials, and random choices) evolves by what the model predicts. Crossover adds to the
constraints of the space, for each key knob, that its value is that of either parent; mutation now and then leaves
one of these out.
A child is a solution of those constraints: the other knobs come from the parents, and where that breaks something, the
solver finds the nearest solution, so that no child is lost. What is measured is, with probability 1 - epsilon, the
best predicted, else random, so that the model also sees what it does not believe in (epsilon-greedy).

Parents are drawn by roulette over ranks, since a cost model that ranks gives no amounts.
"""

from __future__ import annotations

import random

import numpy as np

from ..models import CostModel
from ..models.features import Features
from ..models.transfer import Transferred
from ..spaces.space import Choice, Space
from ._guided import Guided
from .strategy import Strategy, Trial, identity

# Random trials before the model is asked, and trials between two of its lessons. Heron measures larger batches of far
# larger spaces.
START, BATCH = 16, 8
POPULATION, GENERATIONS = 48, 4
# So many of the best trials join a population.
ELITES = 16
EPSILON = 0.2
LEFT_OUT = 0.5
# Key knobs are the fewest that make up this share of importance.
KEY_SHARE = 0.7


class ConstrainedGenetic(Guided):
    """See the module."""

    def __init__(
        self, space: Space, seed: int, model: CostModel | None = None, features: Features | None = None
    ) -> None:
        """``model`` and ``features``: see :class:`._guided.Guided`."""
        # A model that starts from other records knows enough to choose the first trials.
        start = 0 if isinstance(model, Transferred) else START
        super().__init__(space, seed, model, features, start=start, lesson=BATCH, epsilon=EPSILON)

    def _evolve(self, trials: list[Trial]) -> list[dict[str, int]]:
        """All that a population came upon in some generations and nobody tried, the best predicted last.

        It depends on these trials alone, not on when it is asked for.
        """
        rng = random.Random(f"{self._seed} evolve {len(trials)}")
        self._fit(trials)
        key = self._key_knobs()
        tried = {identity(t.choice) for t in trials}
        best = sorted(trials, key=lambda t: -t.score)[:ELITES]
        drawn = [self.fresh(rng, tried) for _ in range(POPULATION - len(best))]
        population = self._rank([dict(t.choice) for t in best] + [c for c in drawn if c is not None])
        found = {identity(c): c for c in population}
        for _ in range(GENERATIONS):
            children = [self._child(rng, population, key) for _ in range(POPULATION)]
            found.update((identity(c), c) for c in children if c is not None)
            population = self._rank(list(found.values()))[-POPULATION:]
        return self._rank([c for name, c in found.items() if name not in tried])

    def _rank(self, choices: list[dict[str, int]]) -> list[dict[str, int]]:
        """Sorted by what the model predicts, the best last."""
        if not choices:
            return []
        order = np.argsort(self._model.predict(self._features.matrix(choices)), kind="stable")
        return [choices[i] for i in order]

    def _child(self, rng: random.Random, population: list[dict[str, int]], key: list[str]) -> dict[str, int] | None:
        mother, father = rng.choices(population, range(1, len(population) + 1), k=2)
        within = {name: sorted({mother[name], father[name]}) for name in key}
        if key and rng.random() < LEFT_OUT:
            within.pop(rng.choice(key))
        child = {name: rng.choice(within.get(name) or self._values(rng, name, mother, father)) for name in self.domains}
        if all(c.holds(child) for c in self.space.constraints):
            return child
        return self.solver.solve(within, near=child)

    def _values(self, rng: random.Random, name: str, mother: Choice, father: Choice) -> tuple[int, ...]:
        """Of a knob without a constraint of its own: the parents' values, or, as a mutation, any."""
        return self.domains[name] if rng.random() < 2 / len(self.domains) else (mother[name], father[name])

    def _key_knobs(self) -> list[str]:
        importance = self._features.by_knob(self._model.importance())
        ranked = sorted((name for name in importance if len(self.domains[name]) > 1), key=lambda n: -importance[n])
        shares = np.cumsum([importance[name] for name in ranked])
        return ranked[: int(np.searchsorted(shares, KEY_SHARE)) + 1]


def create(space: Space, seed: int, model: CostModel | None = None, features: Features | None = None) -> Strategy:
    """A fresh strategy.

    Raises:
        CodegenError: the library that the default model needs is not installed.
    """
    return ConstrainedGenetic(space, seed, model, features)
