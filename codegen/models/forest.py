"""A random forest of regression trees. Breiman, "Random Forests", 2001."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._shares import shares

if TYPE_CHECKING:
    from . import Array, CostModel

TREES = 100


class Forest:
    """scikit-learn's, on one thread."""

    def __init__(self, seed: int) -> None:
        from sklearn.ensemble import RandomForestRegressor

        self._forest = RandomForestRegressor(TREES, max_features=0.5, random_state=seed, n_jobs=1)
        self._fitted = False

    def fit(self, features: Array, scores: Array) -> None:
        """See the interface."""
        self._forest.fit(features, scores)
        self._fitted = True

    def predict(self, features: Array) -> Array:
        """The mean of the trees: a score."""
        return np.asarray(self._forest.predict(features)) if self._fitted else np.zeros(len(features))

    def importance(self) -> Array:
        """How much impurity the splits on a feature remove."""
        return shares(self._forest.feature_importances_) if self._fitted else np.zeros(0)


def create(seed: int) -> CostModel:
    """A fresh model."""
    return Forest(seed)
