"""What a random forest makes of the trials: which knobs matter, and how well it ranks choices it has not seen.

Forests are judged on trials that were held out, never on those that they were fitted to: with a few dozen trials a
forest remembers every one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata, spearmanr
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold

from ..errors import CodegenError
from ..records.store import Record
from ..search.strategy import identity
from ..spaces.space import Choice

ENOUGH = 20  # distinct choices that were ok; below, what a forest says is mostly chance
TREES, FOLDS, REPEATS = 100, 5, 10

# Predicts the score of every choice from the others, never from its own: what another model has to offer to be judged.
Predict = Callable[[Sequence[Choice], Sequence[float]], np.ndarray]


class TooFewError(CodegenError):
    """Too little is known to say anything."""


@dataclass(frozen=True)
class Importance:
    """How much worse held-out trials are predicted when a knob's values are shuffled among them.

    As a share of the scores' variance, over the repeats: the mean, and one standard deviation.
    """

    knobs: list[str]  # the most important first
    means: np.ndarray
    spreads: np.ndarray
    constant: list[str]  # knobs that had one value in all trials
    trials: int
    explained: float  # share of the variance that the forest explains on held-out trials; 0: no better than the mean


@dataclass(frozen=True)
class Calibration:
    """Ranks (1: the fastest) by prediction and by measurement, and Spearman's rho between them."""

    predicted: np.ndarray
    measured: np.ndarray
    rho: float


def samples(trials: Sequence[Record]) -> tuple[list[Choice], list[float]]:
    """Each distinct choice that was ok, and its score: the logarithm of its ratio, the mean where measured repeatedly.

    Only those with the knobs of the last trial: a space may have changed.
    """
    found: dict[tuple[tuple[str, int], ...], list[float]] = {}
    for record in trials:
        if record.ratio and record.knobs.keys() == trials[-1].knobs.keys():
            found.setdefault(identity(record.knobs), []).append(math.log2(record.ratio))
    return [dict(name) for name in found], [float(np.mean(scores)) for scores in found.values()]


def importance(choices: Sequence[Choice], scores: Sequence[float]) -> Importance:
    """By permutation, cross-validated.

    Raises:
        TooFewError: fewer than ``ENOUGH`` choices, or nothing differs between them.
    """
    names, table, target = _table(choices, scores)
    rng = np.random.default_rng(0)
    base = np.zeros(len(target))
    shuffled = np.zeros((len(names), REPEATS, len(target)))
    for forest, test in _forests(table, target):
        rows = table[test]
        base[test] = forest.predict(rows)
        variants = np.tile(rows, (len(names), REPEATS, 1, 1))
        for knob in range(len(names)):
            for repeat in range(REPEATS):
                variants[knob, repeat, :, knob] = rng.permutation(rows[:, knob])
        # One call for all: a forest takes longer to start predicting than to predict.
        shuffled[:, :, test] = forest.predict(variants.reshape(-1, len(names))).reshape(variants.shape[:3])
    variance = float(np.var(target))
    error = float(np.mean((base - target) ** 2)) / variance
    errors = np.mean((shuffled - target) ** 2, axis=2) / variance - error
    order = np.argsort(-errors.mean(axis=1), kind="stable")
    return Importance(
        knobs=[names[i] for i in order],
        means=errors.mean(axis=1)[order],
        spreads=errors.std(axis=1)[order],
        constant=sorted(set(choices[0]) - set(names)),
        trials=len(choices),
        explained=1 - error,
    )


def predict(choices: Sequence[Choice], scores: Sequence[float]) -> np.ndarray:
    """Of a random forest, by cross-validation: each score from the choices of the other folds.

    Raises:
        TooFewError: fewer than ``ENOUGH`` choices, or nothing differs between them.
    """
    _, table, target = _table(choices, scores)
    predictions = np.zeros(len(target))
    for forest, test in _forests(table, target):
        predictions[test] = forest.predict(table[test])
    return predictions


def calibrate(choices: Sequence[Choice], scores: Sequence[float], predict: Predict = predict) -> Calibration:
    """How well predictions rank the choices.

    Raises:
        TooFewError: as ``predict`` does.
    """
    predictions = predict(choices, scores)
    # A model that predicts the same for all ranks nothing.
    rho = 0.0 if np.ptp(predictions) == 0 else float(spearmanr(predictions, scores).statistic)
    return Calibration(rankdata(-predictions), rankdata(-np.asarray(scores)), rho)


def _table(choices: Sequence[Choice], scores: Sequence[float]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The knobs that vary, their values by choice, and the scores."""
    if len(choices) < ENOUGH:
        raise TooFewError(f"this takes {ENOUGH} distinct choices that were ok, not {len(choices)}")
    names = [name for name in choices[0] if len({choice[name] for choice in choices}) > 1]
    target = np.asarray(scores, dtype=float)
    if np.ptp(target) == 0:
        raise TooFewError(f"the {len(choices)} distinct choices that were ok are all equally fast")
    return names, np.array([[choice[name] for name in names] for choice in choices], dtype=float), target


def _forests(table: np.ndarray, target: np.ndarray) -> Iterator[tuple[RandomForestRegressor, np.ndarray]]:
    """Forests that were fitted without a fold, and that fold."""
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(table):
        yield RandomForestRegressor(TREES, random_state=0, n_jobs=1).fit(table[train], target[train]), test
