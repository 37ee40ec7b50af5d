"""No model: it predicts the same for every choice, and no feature matters more than another. What others must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._shares import shares

if TYPE_CHECKING:
    from . import Array, CostModel


class NoModel:
    """Learns nothing but how many features there are."""

    def __init__(self) -> None:
        self._features = 0

    def fit(self, features: Array, scores: Array) -> None:
        """See the interface."""
        self._features = features.shape[1]

    def predict(self, features: Array) -> Array:
        """All 0."""
        return np.zeros(len(features))

    def importance(self) -> Array:
        """All alike."""
        return shares(np.zeros(self._features))


def create(seed: int) -> CostModel:
    """A fresh model."""
    return NoModel()
