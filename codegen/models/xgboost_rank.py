"""Gradient-boosted trees that learn which of two choices is faster (XGBoost, objective ``rank:pairwise``).

Chen and Guestrin, "XGBoost: A Scalable Tree Boosting System", 2016; a rank objective for cost models of schedules:
Chen et al., "Learning to Optimize Tensor Programs", 2018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._shares import shares

if TYPE_CHECKING:
    from . import Array, CostModel

ROUNDS = 80
PARAMETERS = {
    "objective": "rank:pairwise",
    "lambdarank_pair_method": "mean",  # pairs over the whole list: the default looks at its top only
    "lambdarank_num_pair_per_sample": 16,
    "lambdarank_normalization": False,
    "eta": 0.1,
    "max_depth": 5,
    "min_child_weight": 1e-3,
    "subsample": 0.8,
    "tree_method": "exact",  # trials are few
    "nthread": 1,
    "verbosity": 0,
}


class XGBoostRank:
    """All trials are one list to be ranked."""

    def __init__(self, seed: int) -> None:
        import xgboost

        self._xgboost: Any = xgboost
        self._seed = seed
        self._booster: Any = None
        self._features = 0

    def fit(self, features: Array, scores: Array) -> None:
        """See the interface."""
        self._features = features.shape[1]
        data = self._xgboost.DMatrix(features, scores, qid=np.zeros(len(scores), dtype=np.int64), nthread=1)
        self._booster = self._xgboost.train({**PARAMETERS, "seed": self._seed}, data, ROUNDS)

    def predict(self, features: Array) -> Array:
        """The margin of the trees: only its order means something."""
        if self._booster is None:
            return np.zeros(len(features))
        return np.asarray(self._booster.predict(self._xgboost.DMatrix(features, nthread=1)), dtype=np.float64)

    def importance(self) -> Array:
        """The total gain of the splits on a feature."""
        weights = np.zeros(self._features)
        if self._booster is not None:
            for name, gain in self._booster.get_score(importance_type="total_gain").items():
                weights[int(name.removeprefix("f"))] = gain
        return shares(weights)


def create(seed: int) -> CostModel:
    """A fresh model."""
    return XGBoostRank(seed)
