"""Q-learning over moves of one knob.

An action moves one knob from one value to another. What it is worth does not depend on the other knobs here: that
makes the table small enough to be learned within a search (a factored state, an approximation). The reward of a move is
the gain in score as a fraction of the best so far; after each trial
``Q(move) += RATE * (reward + DISCOUNT * max Q(moves from there) - Q(move))``. A trial that differs in several knobs
shares its reward among them. With probability epsilon, which shrinks as trials come in, a move is random, else
it is the one worth most. An episode ends after a few trials; the next starts from one of the best trials so far.
Watkins, "Learning from Delayed Rewards", 1989. Sutton and Barto, "Reinforcement Learning", 1998 (epsilon-greedy).
"""

from __future__ import annotations

import random
from collections import defaultdict

from ..spaces.space import Choice, Space
from ._explorer import Explorer, moves
from .strategy import Strategy, Trial

RATE = 0.3
DISCOUNT = 0.5
EPISODE = 8
# Random trials before the first episode.
START = 8
# Episodes start from one of so many of the best.
STARTS = 3
# Epsilon is EXPLORE / (EXPLORE + trials), and never less than the least.
EXPLORE, LEAST = 20, 0.1


class QLearning(Explorer):
    """See the module."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space, seed)
        self._worth: defaultdict[tuple[str, int, int], float] = defaultdict(float)  # of knob, from, to
        self._at: Trial | None = None
        self._best = 0.0

    @property
    def batch(self) -> int:
        """The random trials at the start, then each step depends on the one before."""
        return max(1, START - len(self.trials))

    def _pick(self, rng: random.Random) -> Choice | None:
        if self._at is None:
            return None
        at = self._at.choice
        order = list(moves(self.domains, at))
        rng.shuffle(order)
        if rng.random() >= max(LEAST, EXPLORE / (EXPLORE + len(self.trials))):
            order.sort(key=lambda move: -self._worth[move[0], at[move[0]], move[1]])
        return self.move(at, order)

    def _learn(self, trial: Trial, rng: random.Random) -> None:
        self._best = max(self._best, trial.score)
        if self._at is not None:
            self._credit(self._at, trial)
            self._at = trial
        if len(self.trials) >= START and (len(self.trials) - START) % EPISODE == 0:
            self._at = rng.choice(sorted(self.trials, key=lambda t: -t.score)[:STARTS])

    def _credit(self, before: Trial, after: Trial) -> None:
        changed = [name for name, value in after.choice.items() if value != before.choice[name]]
        if not changed or not self._best:
            return
        reward = (after.score - before.score) / self._best / len(changed)
        future = max((self._worth[n, after.choice[n], v] for n, v in moves(self.domains, after.choice)), default=0.0)
        for name in changed:
            move = (name, before.choice[name], after.choice[name])
            self._worth[move] += RATE * (reward + DISCOUNT * future - self._worth[move])

    def _figures(self) -> dict[str, int]:
        return {"moves": len(self._worth)}


def create(space: Space, seed: int) -> Strategy:
    """A fresh strategy."""
    return QLearning(space, seed)
