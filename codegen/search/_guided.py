"""What the strategies with a cost model share: when it learns, and how its opinion becomes a proposal."""

from __future__ import annotations

import random

import numpy as np

from .. import models
from ..models import CostModel
from ..models.features import Features
from ..spaces.space import Choice, Space
from ._explorer import Explorer
from .strategy import Trial

MODEL = "xgboost-rank"


class Guided(Explorer):
    """A strategy that lacks only ``_evolve``: what it comes upon by asking the model.

    Random choices until ``start`` trials are known. From then on the model learns after every ``lesson`` of them, and
    the best that it predicts is proposed, or, with probability ``epsilon``, a random choice.
    """

    def __init__(
        self,
        space: Space,
        seed: int,
        model: CostModel | None,
        features: Features | None,
        *,
        start: int,
        lesson: int,
        epsilon: float,
    ) -> None:
        """``model``: a fresh one, or one that starts from other records (see :mod:`codegen.models.transfer`).

        ``features``: what it sees of a choice; by default its knobs.
        """
        super().__init__(space, seed)
        self._features = features or Features(space)
        self._model = model or models.load(MODEL, seed)
        self._start, self._lesson, self._epsilon = start, lesson, epsilon
        self._ranked: list[dict[str, int]] = []  # what the last lesson led to, the best predicted last
        self._learned = -1  # from so many trials; -1: nothing yet

    @property
    def batch(self) -> int:
        """Until the model's next lesson."""
        return self._lesson - (len(self.trials) - self._start) % self._lesson

    def _pick(self, rng: random.Random) -> Choice | None:
        due = (len(self.trials) - self._start) // self._lesson * self._lesson + self._start
        if due < self._start or rng.random() < self._epsilon:
            return None
        if due != self._learned:
            self._learned = due
            self._ranked = self._evolve(self.trials[:due])
        while self._ranked and not self.is_fresh(self._ranked[-1]):
            self._ranked.pop()
        return self._ranked[-1] if self._ranked else None

    def _fit(self, trials: list[Trial]) -> None:
        self._model.fit(self._features.matrix([t.choice for t in trials]), np.array([t.score for t in trials]))

    def _evolve(self, trials: list[Trial]) -> list[dict[str, int]]:
        """Choices that nobody tried, the best predicted last. Depends on these trials, not on when it is asked."""
        raise NotImplementedError

    def _figures(self) -> dict[str, int]:
        return {"learned_from": max(self._learned, 0)}
