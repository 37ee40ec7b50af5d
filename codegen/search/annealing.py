"""Simulated annealing over moves of one knob, with restarts.

From where it stands it tries a choice that differs in one knob, rather by a step in its domain than by many. It goes
there if that is better, and with probability ``exp(-loss / temperature)`` if it is worse, the loss being a fraction of
the best score so far. The temperature starts at 0.2 and is multiplied by 0.95 at every trial (geometric cooling). After
20 trials that brought no new best it restarts, hot, from a random choice, and every other time from the best.
A move that breaks constraints is completed by the solver with as few changes of other knobs as will do.
Kirkpatrick, Gelatt and Vecchi, "Optimization by Simulated Annealing", 1983.
"""

from __future__ import annotations

import math
import random

from ..spaces.space import Choice, Space
from ._explorer import Explorer
from .strategy import Strategy, Trial

HOTTEST = 0.2
COOLING = 0.95
# Trials without a new best before a restart.
RESTART = 20
# Random trials before the first walk, which starts at the best of them.
START = 8


class Annealing(Explorer):
    """See the module."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space, seed)
        self._at: Trial | None = None
        self._best: Trial | None = None
        self._age = 0  # trials since the restart: how cold it is
        self._idle = 0  # trials since the restart or the last new best
        self._restarts = 0

    @property
    def batch(self) -> int:
        """The random trials at the start, then each step depends on the one before."""
        return max(1, START - len(self.trials))

    def _pick(self, rng: random.Random) -> Choice | None:
        if self._at is None or len(self.trials) < START:
            return None
        return self.move(self._at.choice, self._moves(self._at.choice, rng))

    def _moves(self, at: Choice, rng: random.Random) -> list[tuple[str, int]]:
        """All moves in random order: each knob as likely as another to come first, near values rather than far ones.

        Efraimidis and Spirakis, "Weighted Random Sampling with a Reservoir", 2006, tell how weights give an order.
        """
        keys = {}
        for name, values in self.domains.items():
            here = values.index(at[name])
            weights = {value: 1 / abs(i - here) for i, value in enumerate(values) if i != here}
            for value, weight in weights.items():
                keys[name, value] = rng.random() ** (sum(weights.values()) / weight)
        return sorted(keys, key=lambda move: -keys[move])

    def _learn(self, trial: Trial, rng: random.Random) -> None:
        better = self._best is None or trial.score > self._best.score
        if better:
            self._best = trial
        self._idle = 0 if better else self._idle + 1
        self._age += 1
        if len(self.trials) <= START:
            self._at, self._age, self._idle = self._best, 0, 0
        elif self._at is None or self._accepts(trial.score - self._at.score, rng):
            self._at = trial
        if self._idle >= RESTART:
            self._restarts += 1
            self._at = self._best if self._restarts % 2 == 0 else None
            self._age = self._idle = 0

    def _accepts(self, gain: float, rng: random.Random) -> bool:
        if gain >= 0:
            return True
        scale = HOTTEST * COOLING**self._age * (self._best.score if self._best else 0.0)
        return scale > 0 and rng.random() < math.exp(gain / scale)

    def _figures(self) -> dict[str, int]:
        return {"restarts": self._restarts}


def create(space: Space, seed: int) -> Strategy:
    """A fresh strategy."""
    return Annealing(space, seed)
