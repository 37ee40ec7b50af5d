"""A genetic algorithm whose children are repaired by a constraint solver.

A generation is as many trials as the population has members; the first is random. The next one descends from the trials
of the last and from the elites, the best of all so far. Parents are drawn by roulette, with a fitness that is the score
above the worst in the population. Every knob comes from either parent (uniform crossover), a few are changed
(mutation). A child that breaks constraints becomes the valid choice that differs from it in the fewest knobs.
Goldberg, "Genetic Algorithms in Search, Optimization, and Machine Learning", 1989 (roulette, windowing); Syswerda,
"Uniform Crossover in Genetic Algorithms", 1989.
"""

from __future__ import annotations

import random

from ..spaces.space import Choice, Space
from ._explorer import Explorer
from .strategy import Strategy, Trial, identity

POPULATION = 8
ELITES = 6
# So many children that were known already mean that the population has become too uniform: a random one is next.
CHILDREN = 10


class Genetic(Explorer):
    """See the module."""

    @property
    def batch(self) -> int:
        """What the generation lacks."""
        return POPULATION - len(self.trials) % POPULATION

    def _pick(self, rng: random.Random) -> Choice | None:
        if len(self.trials) < POPULATION:
            return None
        population = self._population()
        for _ in range(CHILDREN):
            mother, father = roulette(rng, population), roulette(rng, population)
            child = mutate(rng, self.domains, cross(rng, mother.choice, father.choice))
            if not all(c.holds(child) for c in self.space.constraints):
                child = self.solver.solve({}, near=child) or child
            if self.is_fresh(child):
                return child
        return None

    def _population(self) -> list[Trial]:
        """The elites and the last whole generation, each choice once."""
        end = len(self.trials) // POPULATION * POPULATION
        elites = sorted(self.trials[:end], key=lambda trial: -trial.score)[:ELITES]
        members = {identity(t.choice): t for t in [*self.trials[end - POPULATION : end], *elites]}
        return list(members.values())

    def _figures(self) -> dict[str, int]:
        return {"generations": len(self.trials) // POPULATION}


def roulette(rng: random.Random, population: list[Trial]) -> Trial:
    """A member, in proportion to how far it is above the worst; any, where all are alike."""
    worst = min(trial.score for trial in population)
    weights = [trial.score - worst for trial in population]
    return rng.choices(population, weights if any(weights) else None)[0]


def cross(rng: random.Random, mother: Choice, father: Choice) -> dict[str, int]:
    """Each knob from either parent."""
    return {name: rng.choice((value, father[name])) for name, value in mother.items()}


def mutate(rng: random.Random, domains: dict[str, tuple[int, ...]], choice: Choice) -> dict[str, int]:
    """Each knob drawn anew with a probability that changes one on average."""
    rate = 1 / len(choice)
    return {name: rng.choice(domains[name]) if rng.random() < rate else value for name, value in choice.items()}


def create(space: Space, seed: int) -> Strategy:
    """A fresh strategy."""
    return Genetic(space, seed)
