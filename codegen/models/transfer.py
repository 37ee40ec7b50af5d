"""Transfer: a model that starts from what searches of other workloads or targets found in the same space.

Two models are added, as in Chen et al., "Learning to Optimize Tensor Programs", 2018 (global and local model): one
learned once from the other records, one from the trials at hand. Their predictions have no common unit, so each is
standardised; the weight of the first shrinks as trials come in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..records.store import Record
from ..spaces.space import Space
from . import CostModel, load
from .features import Features

if TYPE_CHECKING:
    from . import Array

# The trials after which both models weigh the same.
EVEN = 24
# With fewer trials than this a model of one's own would only add noise.
OWN = 8


class Transferred:
    """A cost model over two others."""

    def __init__(self, prior: CostModel, own: CostModel) -> None:
        """``prior`` has learned from the other records, ``own`` is fresh."""
        self._prior, self._own = prior, own
        self._trials = 0

    def fit(self, features: Array, scores: Array) -> None:
        """Trains the own model; the prior stays."""
        self._trials = len(scores)
        if self._trials >= OWN:
            self._own.fit(features, scores)

    def predict(self, features: Array) -> Array:
        """The weighted sum."""
        mine = self._weight()
        return (1 - mine) * _standard(self._prior.predict(features)) + mine * _standard(self._own.predict(features))

    def importance(self) -> Array:
        """The weighted sum."""
        mine = self._weight()
        return (1 - mine) * self._prior.importance() + (mine * self._own.importance() if mine else 0.0)

    def _weight(self) -> float:
        return self._trials / (self._trials + EVEN) if self._trials >= OWN else 0.0


def transfer(
    name: str, space: Space, records: Sequence[Record], seed: int = 0, features: Features | None = None
) -> CostModel:
    """A model that starts from records of other workloads or targets, of those that were made in the same space.

    Scores are divided by the best of their workload and target: a kernel that beats ATen threefold here and one that
    just beats it there may both be as good as can be. Of equal knobs that were measured again, the last counts.

    Raises:
        CodegenError: the model is not known.
    """
    knobs = {knob.name for knob in space.knobs}
    found: defaultdict[tuple[str, str], dict[tuple[int, ...], Record]] = defaultdict(dict)
    for record in records:
        if record.space == space.name and set(record.knobs) == knobs:
            found[record.workload, record.target][tuple(record.knobs[k.name] for k in space.knobs)] = record
    groups = [list(group.values()) for group in found.values()]
    groups = [group for group in groups if len(group) > 1 and any(record.ratio for record in group)]
    features = features or Features(space)
    if not groups or not features.columns:  # nothing to learn from, or nothing to choose
        return load(name, seed)
    scores = np.concatenate([_normalised(group) for group in groups])
    prior = load(name, seed)
    prior.fit(features.matrix([record.knobs for group in groups for record in group]), scores)
    return Transferred(prior, load(name, seed))


def _normalised(group: Sequence[Record]) -> Array:
    ratios = np.array([record.ratio for record in group], dtype=np.float64)
    return ratios / ratios.max()


def _standard(values: Array) -> Array:
    deviation = float(values.std())
    return (values - values.mean()) / deviation if deviation > 0 else np.zeros(len(values))
