"""How far a cost model can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from . import Array, CostModel


def rank_correlation(predicted: Array, scores: Array) -> float:
    """Spearman's: 1 where both rank alike, 0 where one says nothing about the other, or nothing at all."""
    from scipy import stats

    if len(scores) < 2 or np.ptp(predicted) == 0 or np.ptp(scores) == 0:
        return 0.0
    return float(stats.spearmanr(predicted, scores).statistic)


def calibration(make: Callable[[], CostModel], features: Array, scores: Array, folds: int = 5, seed: int = 0) -> float:
    """The rank correlation of predictions with scores that were held out, each trial once (cross-validation).

    Args:
        make: gives a fresh model.
        features: one row a trial.
        scores: one a trial.
        folds: into so many parts the trials are dealt at random; the figure is the mean over the parts.
        seed: of the dealing.

    Returns:
        From -1 to 1; 0 where there are too few trials to hold any out.
    """
    folds = min(folds, len(scores) // 4)  # a part needs some trials for its ranks to mean anything
    if folds < 2:
        return 0.0
    found = []
    for held in np.array_split(np.random.default_rng(seed).permutation(len(scores)), folds):
        known = np.setdiff1d(np.arange(len(scores)), held)
        model = make()
        model.fit(features[known], scores[known])
        found.append(rank_correlation(model.predict(features[held]), scores[held]))
    return float(np.mean(found))
