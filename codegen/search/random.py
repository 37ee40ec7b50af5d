"""Uniformly random choices among the valid ones, none twice. What every other strategy has to beat."""

from __future__ import annotations

import random

from ..spaces.space import Space, choices
from .strategy import Strategy, Trial, identity

# So many draws in a row that are invalid or known mean that few choices are left: they are then listed.
PATIENCE = 2000


class RandomStrategy:
    """Draws every knob uniformly and keeps what meets the constraints; lists the rest when little of it is left."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._random = random.Random(seed)
        self._seen: set[tuple[tuple[str, int], ...]] = set()
        self._rest: list[dict[str, int]] | None = None
        self._proposed = self._observed = 0

    def propose(self, n: int) -> list[dict[str, int]]:
        """Up to ``n`` choices that were neither proposed nor observed before."""
        taken: list[dict[str, int]] = []
        while len(taken) < n:
            choice = self._draw()
            if choice is None:
                break
            self._seen.add(identity(choice))
            taken.append(choice)
        self._proposed += len(taken)
        return taken

    def observe(self, trial: Trial) -> None:
        """It learns nothing but that the choice is spent."""
        self._observed += 1
        self._seen.add(identity(trial.choice))

    def state(self) -> dict[str, int]:
        """How many were proposed and observed."""
        return {"proposed": self._proposed, "observed": self._observed}

    def _draw(self) -> dict[str, int] | None:
        if self._rest is None:
            for _ in range(PATIENCE):
                choice = {knob.name: self._random.choice(knob.values) for knob in self._space.knobs}
                if identity(choice) not in self._seen and all(c.holds(choice) for c in self._space.constraints):
                    return choice
            self._rest = [c for c in choices(self._space) if identity(c) not in self._seen]
            self._random.shuffle(self._rest)
        while self._rest:
            choice = self._rest.pop()
            if identity(choice) not in self._seen:
                return choice
        return None


def create(space: Space, seed: int) -> Strategy:
    """A fresh strategy."""
    return RandomStrategy(space, seed)
