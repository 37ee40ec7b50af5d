"""The forest and the limits of the machine."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from codegen.errors import CodegenError
from codegen.report import forest, limits
from tests.records import LIMITS, failed, ok


def choices(count: int, seed: int = 0) -> list[dict[str, int]]:
    """Different from each other."""
    rng = random.Random(seed)
    return [
        {"id_free": i % 7, **{n: rng.choice((1, 2, 4, 8, 16)) for n in ("tile", "unroll", "lanes")}, "fixed": 3}
        for i in range(count)
    ]


def test_the_only_knob_that_matters_is_found():
    knobs = choices(60)
    scores = [choice["unroll"] / 8 for choice in knobs]
    found = forest.importance(knobs, scores)
    assert found.knobs[0] == "unroll"
    assert found.means[0] > 1
    assert np.abs(found.means[1:]).max() < 0.1
    assert found.constant == ["fixed"]
    assert found.trials == 60
    assert found.explained > 0.9
    assert forest.importance(knobs, scores).means.tolist() == found.means.tolist()


def test_noise_explains_nothing():
    rng = random.Random(1)
    assert forest.importance(choices(60), [rng.random() for _ in range(60)]).explained < 0.2


def test_ranks_are_predicted_where_there_is_something_to_learn():
    knobs = choices(100)
    found = forest.calibrate(knobs, [choice["tile"] + 0.1 * choice["lanes"] for choice in knobs])
    assert found.rho > 0.9
    rng = random.Random(1)
    assert abs(forest.calibrate(knobs, [rng.random() for _ in knobs]).rho) < 0.4


def test_a_prediction_does_not_know_its_own_score():
    knobs, scores = choices(30), [float(i % 11) for i in range(30)]
    before = forest.predict(knobs, scores)
    scores[7] += 100
    after = forest.predict(knobs, scores)
    assert after[7] == before[7]
    assert (after != before).any()


def test_another_model_can_be_judged():
    knobs, scores = choices(30), [float(i) for i in range(30)]
    right = forest.calibrate(knobs, scores, lambda _, known: 2 * np.array(known))
    assert right.rho == pytest.approx(1)
    assert right.measured[-1] == right.predicted[-1] == 1
    assert forest.calibrate(knobs, scores, lambda _, known: np.zeros(len(known))).rho == 0


@pytest.mark.parametrize(
    ("count", "scale", "said"), [(19, 1.0, "takes 20 distinct choices that were ok, not 19"), (30, 0.0, "equally fast")]
)
def test_too_little_is_refused(count, scale, said):
    scores = [scale * i for i in range(count)]
    for function in (forest.importance, forest.calibrate):
        with pytest.raises(forest.TooFewError, match=said):
            function(choices(count), scores)


def test_samples_are_distinct_and_of_one_space():
    trials = [ok(9.0, {"old": 1}), ok(2.0, {"mr": 1}), failed("hung", "late"), ok(8.0, {"mr": 1}), ok(1.0, {"mr": 2})]
    assert forest.samples(trials) == ([{"mr": 1}, {"mr": 2}], [2.0, 0.0])


# Limits


def test_the_limit_is_the_longer_of_arithmetic_and_traffic(tmp_path):
    path = tmp_path / "limits.json"
    path.write_text(json.dumps(LIMITS))
    known = limits.read(path)
    assert "A CPU" in known.source

    def seconds(key: str, threads: int, **sizes: int) -> float | None:
        return known.seconds(key, {"sizes": sizes, "threads": threads})

    matmul = "matmul(float32;M=*,N=*,K=*)"
    assert seconds(matmul, 1, M=2, N=2, K=2) == pytest.approx(4 * 12 / 10e9)
    assert seconds(matmul, 1, M=200, N=200, K=200) == pytest.approx(16e6 / 100e9)
    assert seconds(matmul, 2, M=2, N=2, K=2) is None
    assert seconds(matmul, 1, M=2) is None
    assert seconds("matmul(bfloat16;M=*,N=*,K=*)", 1, M=2, N=2, K=2) is None
    assert seconds("unknown(float32;M=*)", 1, M=2) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't read the limits"),
        ("{", "is not JSON"),
        ("[]", "holds no limits"),
        ('{"threads": {}}', "no limits"),
    ],
)
def test_limits_that_are_none_are_named(tmp_path, content, said):
    path = tmp_path / "limits.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CodegenError, match=said) as caught:
        limits.read(path)
    assert str(path) in str(caught.value)
