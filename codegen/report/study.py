"""What the trials of one space teach: which knobs matter, and how well cost models rank choices they have not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from .. import models
from ..errors import CodegenError
from ..models.calibration import calibration
from ..models.features import Features
from ..spaces.space import Space
from . import bars, forest
from .collect import Group


@dataclass
class Study:
    """Of one space. What can't be told has its reason in ``missing``."""

    space: str
    trials: int
    importance: forest.Importance | None = None
    calibration: forest.Calibration | None = None
    models: dict[str, float] = field(default_factory=dict)  # Spearman's rho on held-out trials
    absent: dict[str, str] = field(default_factory=dict)  # models that could not be tried, and why
    missing: str | None = None
    pictures: dict[str, Path] = field(default_factory=dict)


def study_of(group: Group, name: str, space: Space | None) -> tuple[Study, dict[str, Callable[[Path], None]]]:
    """The study of a group's trials in the space called ``name``, and what draws its pictures.

    ``space``: as it is now; None if it is not known any more, and then cost models have no features.
    """
    trials = [r for r in group.trials if r.space == name]
    study = Study(name, len(trials))
    choices, scores = forest.samples(trials)
    try:
        importance = study.importance = forest.importance(choices, scores)
        found = study.calibration = forest.calibrate(choices, scores)
    except forest.TooFewError as error:
        study.missing = str(error)
        return study, {}
    if space is not None and {knob.name for knob in space.knobs} == set(choices[0]):
        features = Features(space).matrix(choices)
        for model in models.all_models():
            if model != "none":  # it ranks nothing
                _judge(study, model, features, np.asarray(scores))
    title = name if len(group.spaces) > 1 else ""
    return study, {
        "importance": partial(bars.draw_importance, group, importance, space=title),
        "calibration": partial(bars.draw_calibration, group, found, space=title),
    }


def _judge(study: Study, model: str, features: models.Array, scores: models.Array) -> None:
    try:
        models.load(model)  # says in a sentence which library is not installed
    except CodegenError as error:
        study.absent[model] = str(error)
        return
    study.models[model] = calibration(lambda: models.load(model), features, scores)
