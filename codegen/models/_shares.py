"""Importances as shares of a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from . import Array


def shares(weights: Array) -> Array:
    """Weights divided by their sum; all alike where they are all 0."""
    total = float(weights.sum())
    return weights / total if total > 0 else np.full(len(weights), 1 / max(len(weights), 1))
