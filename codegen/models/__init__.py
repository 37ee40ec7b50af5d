"""Cost models: which choice of knobs is faster, learned from trials. One file a model, found by name.

A model's module has ``create(seed)``, which returns a :class:`CostModel`. What it computes with is imported when a
model is made: who loads none needs no learning library. The name of ``xgboost_rank.py`` is ``xgboost-rank``.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..errors import CodegenError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..spaces.space import Space
    from .features import Features

    Array = npt.NDArray[np.float64]

_NO_MODELS = {"calibration", "features", "tir_features", "transfer"}


class CostModel(Protocol):
    """Learns scores of choices from their features. The same trials give the same predictions."""

    def fit(self, features: Array, scores: Array) -> None:
        """Learns from scratch. ``features``: one row a trial; ``scores``: one a trial, higher is better."""

    def predict(self, features: Array) -> Array:
        """One number a row, which only ranks: higher is better. All 0 before the first fit."""

    def importance(self) -> Array:
        """How much each feature matters: not negative, sums to 1. Empty before the first fit."""


def all_models() -> list[str]:
    """The names of all models."""
    modules = (m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NO_MODELS and m.name[0] != "_")
    return sorted(name.replace("_", "-") for name in modules)


FEATURES = ("knobs", "tir")


def features_of(name: str, space: Space) -> Features:
    """What a model sees of the choices of a space: their knobs, or the program that TVM makes of them, too.

    Raises:
        CodegenError: there are no such features, or the space has none of them.
    """
    if name not in FEATURES:
        raise CodegenError(f"unknown features {name!r}; known: {', '.join(FEATURES)}")
    if name == "tir":
        from .tir_features import TirFeatures

        return TirFeatures(space)
    from .features import Features

    return Features(space)


def load(name: str, seed: int = 0) -> CostModel:
    """A model that has learned nothing.

    Raises:
        CodegenError: no model has this name, or the library that it needs is not installed.
    """
    if name not in all_models():
        raise CodegenError(f"unknown cost model {name!r}; known: {', '.join(all_models())}")
    module: Any = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    try:
        return cast(CostModel, module.create(seed))
    except ModuleNotFoundError as error:
        raise CodegenError(f"the cost model {name!r} needs {error.name}: pip install 'tvmops[tune]'") from None
