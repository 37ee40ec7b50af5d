"""Uniformly random choices among the valid ones, none twice. What every other strategy has to beat.

Every knob is drawn uniformly and what breaks a constraint is thrown away. Where valid choices are too rare for that,
they are listed, or, if they are many, a constraint solver draws them, which is no longer quite uniform.
Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", 2012.
"""

from __future__ import annotations

import random

from ..spaces.space import Choice, Space
from ._explorer import Explorer
from .strategy import Strategy


class RandomStrategy(Explorer):
    """It learns nothing but that a choice is spent."""

    def _pick(self, rng: random.Random) -> Choice | None:
        return self.fresh(rng)


def create(space: Space, seed: int) -> Strategy:
    """A fresh strategy."""
    return RandomStrategy(space, seed)
