"""Cost models on a landscape that is a formula: they rank what they have not seen, and transfer what they have."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codegen import models, search
from codegen.errors import CodegenError
from codegen.models.calibration import calibration, rank_correlation
from codegen.models.features import Features
from codegen.models.transfer import Transferred, transfer
from codegen.records.store import Record
from codegen.search.strategy import Trial
from codegen.spaces.constraints import AtMost
from codegen.spaces.space import Choice, Space, pin
from tests.codegen.landscapes import Made, best_of, smooth, tiles

LEARNING = [name for name in models.all_models() if name != "none"]


@cache
def sample(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[dict[str, int]]]:
    drawn = list(search.load("random", tiles(), seed).propose(n))
    return Features(tiles()).matrix(drawn), np.array([smooth(c) for c in drawn]), drawn


def records(n: int, seed: int, workload: str = "matmul(float32;M=*,N=8,K=8)", scale: float = 1.0) -> list[Record]:
    """Of a workload whose best choices are a little elsewhere, and whose ratios are ``scale`` as large."""

    def shifted(choice: Choice) -> float:
        fails = choice["copy"] == 0 and choice["ahead"] == 32
        return 0.0 if fails else scale * smooth({**choice, "depth": choice["depth"] * 1.5})  # type: ignore[dict-item]

    made = []
    for i, choice in enumerate(search.load("random", tiles(), seed).propose(n)):
        ratio = shifted(choice)
        made.append(
            Record(
                workload, "x86-64-v4", "made", choice, "ok" if ratio else "wrong", {}, "", 0, "random", i,
                seconds=1.0, aten_seconds=ratio,
            )
        )  # fmt: skip
    return made


def test_features_say_what_constraints_bound() -> None:
    space = Made(
        {"x": (1, 2, 8), "y": range(1, 9), "off": (0, 4)}, AtMost("bytes", ((4, ("x", "y")), (2, ("y",))), 100)
    )
    features = Features(space)
    row = dict(zip([c.name for c in features.columns], features.matrix([{"x": 8, "y": 2, "off": 0}])[0], strict=True))
    assert row == {
        "log2 x": 3, "rank x": 1, "x=1": 0, "x=2": 0, "x=8": 1,
        "log2 y": 1, "rank y": pytest.approx(1 / 7),
        "log2 off": -1, "rank off": 0, "off=0": 1, "off=4": 0,
        "log2 x * y": 4, "log2 bytes": pytest.approx(math.log2(68)), "slack bytes": pytest.approx(0.32),
    }  # fmt: skip
    shared = features.by_knob(np.array([c.name in ("log2 x * y", "x=8") for c in features.columns]) / 2)
    assert shared == {"x": 0.75, "y": 0.25, "off": 0}


@pytest.mark.parametrize("name", LEARNING)
def test_unseen_choices_are_ranked(name: str) -> None:
    features, scores, _ = sample(160, 1)
    unseen, known, _ = sample(200, 2)
    model = models.load(name, 0)
    assert not model.predict(unseen).any()
    model.fit(features, scores)
    assert rank_correlation(model.predict(unseen), known) > 0.7


@pytest.mark.parametrize("name", models.all_models())
def test_the_same_trials_give_the_same_predictions(name: str) -> None:
    features, scores, _ = sample(40, 1)
    unseen, _, _ = sample(200, 2)
    state = torch.random.get_rng_state(), torch.get_num_threads()
    found = []
    for first in (features, features[:9]):  # what a model learned before must not matter
        model = models.load(name, 3)
        model.fit(first, scores[: len(first)])
        model.fit(features, scores)
        found.append((model.predict(unseen), model.importance()))
    for one, other in zip(*found, strict=True):
        assert (one == other).all()
    assert found[0][1].shape == (features.shape[1],)
    assert found[0][1].min() >= 0
    assert found[0][1].sum() == pytest.approx(1)
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert torch.get_num_threads() == state[1]


@pytest.mark.parametrize("name", LEARNING)
def test_what_matters_is_found(name: str) -> None:
    features, _, drawn = sample(160, 1)
    model = models.load(name, 0)
    model.fit(features, np.array([math.log2(c["depth"]) - 3 * (c["copy"] == 1) for c in drawn]))
    by_knob = Features(tiles()).by_knob(model.importance())
    assert {"depth", "copy"} == set(sorted(by_knob, key=lambda n: -by_knob[n])[:2])


@pytest.mark.parametrize("name", models.all_models())
@pytest.mark.parametrize("scores", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.5, 2.0]])
def test_few_or_equal_scores_are_borne(name: str, scores: list[float]) -> None:
    features, _, _ = sample(40, 1)
    model = models.load(name, 0)
    model.fit(features[: len(scores)], np.array(scores))
    assert np.isfinite(model.predict(features)).all()
    assert model.importance().sum() == pytest.approx(1)


def test_calibration_tells_what_learns_from_what_does_not() -> None:
    features, scores, _ = sample(160, 1)
    assert calibration(lambda: models.load("forest"), features, scores) > 0.7
    assert calibration(lambda: models.load("none"), features, scores) == 0
    noise = np.array([random.Random(i).random() for i in range(len(scores))])
    assert abs(calibration(lambda: models.load("forest"), features, noise)) < 0.3
    assert calibration(lambda: models.load("forest"), features[:7], scores[:7]) == 0


@pytest.mark.parametrize("name", LEARNING)
def test_transfer_helps_at_few_trials(name: str) -> None:
    features, scores, _ = sample(12, 5)
    unseen, known, _ = sample(200, 2)
    alone = models.load(name, 0)
    alone.fit(features, scores)
    warm = transfer(name, tiles(), [*records(80, 7), *records(40, 8, "matmul(float32;M=*,N=9,K=9)", 5.0)])
    before = rank_correlation(warm.predict(unseen), known)
    warm.fit(features, scores)
    after = rank_correlation(warm.predict(unseen), known)
    assert before > 0.5
    assert after > rank_correlation(alone.predict(unseen), known) + 0.05
    assert warm.importance().sum() == pytest.approx(1)


def test_transferred_scores_count_within_their_workload() -> None:
    """Else the model would learn which workload it looks at: here the good choices of one score below the other's."""

    class Seen:
        def fit(self, features: np.ndarray, scores: np.ndarray) -> None:
            self.scores = scores

    seen = Seen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codegen.models.transfer.load", lambda name, seed: seen)
        low, high = records(20, 7), records(20, 7, "matmul(float32;M=*,N=9,K=9)", 5.0)
        transfer("forest", tiles(), [*low, *high])
    assert seen.scores[:20] == pytest.approx(seen.scores[20:])
    assert seen.scores.max() == 1


@pytest.mark.parametrize("change", [{"space": "other"}, {"knobs": {"depth": 1}}, {"status": "wrong"}])
def test_records_that_say_nothing_here_are_left_alone(change: dict[str, Any]) -> None:
    useless = [replace(r, **change) for r in records(9, 0)]
    assert not isinstance(transfer("forest", tiles(), useless), Transferred)
    assert isinstance(transfer("forest", tiles(), [*useless, *records(9, 1)]), Transferred)


def test_a_space_without_a_choice_to_make_is_borne() -> None:
    space, known = tiles(), records(9, 0)
    pin(space, known[0].knobs)
    strategy = search.load("constrained-genetic", space, 0, model=transfer("xgboost-rank", space, known))
    assert list(strategy.propose(2)) == [known[0].knobs]
    pin(narrow := tiles(), {name: value for name, value in known[0].knobs.items() if name != "copy"})
    warm = search.load("constrained-genetic", narrow, 0, model=transfer("forest", narrow, known))
    assert {c["copy"] for c in warm.propose(9)} == {0, 1, 2}


def test_a_search_with_transfer_finds_good_choices_sooner() -> None:
    space: Space = tiles()
    cold = [best_of(search.load("constrained-genetic", space, seed), smooth, 20) for seed in range(3)]
    warm = [
        best_of(
            search.load("constrained-genetic", space, seed, model=transfer("xgboost-rank", space, records(80, 7))),
            smooth,
            20,
        )
        for seed in range(3)
    ]
    assert sum(warm) > sum(cold)


def test_any_model_guides_a_search() -> None:
    for name in models.all_models():
        strategy = search.load("constrained-genetic", tiles(), 0, model=models.load(name))
        for _ in range(18):
            (choice,) = strategy.propose(1)
            strategy.observe(Trial(choice, smooth(choice)))
        assert strategy.state()["learned_from"] == 16


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    assert models.all_models() == ["forest", "mlp", "none", "xgboost-rank"]
    with pytest.raises(CodegenError, match=r"unknown cost model 'oracle'; known: forest, mlp, none, xgboost-rank"):
        models.load("oracle")


def test_a_library_that_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(CodegenError, match=r"'xgboost-rank' needs xgboost: pip install 'tvmops\[tune\]'"):
        models.load("xgboost-rank")


def test_a_search_without_a_model_imports_no_learning_library() -> None:
    code = """if True:
        import sys
        from unittest.mock import MagicMock
        sys.modules["tvm"] = MagicMock()  # takes seconds to import, and nothing here needs it
        from codegen import models, search
        import codegen.models.transfer, codegen.search.random
        assert search.all_strategies() and models.all_models()
        loaded = {"xgboost", "sklearn", "scipy", "torch", "ortools"} & set(sys.modules)
        assert not loaded, loaded
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
