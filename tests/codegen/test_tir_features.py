from __future__ import annotations

import random

import numpy as np
import pytest

from codegen import models, search, spaces
from codegen.errors import CodegenError
from codegen.models.features import Features
from codegen.models.tir_features import TirFeatures
from codegen.search.strategy import Trial
from codegen.spaces.solver import Solver
from codegen.target import find
from codegen.workload import Workload

TARGET = find("x86-64-v3")
MATMUL = Workload.parse("matmul(float32;M=64,N=64,K=64)")


@pytest.fixture(scope="module")
def features() -> TirFeatures:
    return TirFeatures(spaces.find(MATMUL, TARGET, "derived"))


def choices(count: int) -> list[dict[str, int]]:
    solver, rng = (
        Solver(spaces.find(MATMUL, TARGET, "derived")),
        random.Random(0),
    )
    return [choice for _ in range(count) if (choice := solver.sample(rng)) is not None]


def test_programs_that_differ_have_features_that_differ(features):
    some = choices(12)
    matrix = features.matrix(some)
    of_knobs = Features(spaces.find(MATMUL, TARGET, "derived"))
    own = matrix[:, len(of_knobs.columns) :]
    assert matrix.shape == (len(some), len(features.columns))
    np.testing.assert_array_equal(matrix[:, : len(of_knobs.columns)], of_knobs.matrix(some))
    assert np.isfinite(own).all()
    assert len({tuple(row) for row in own}) == len({tuple(sorted(c.items())) for c in some})
    np.testing.assert_array_equal(features.matrix(some), matrix)


def test_a_choice_that_tvm_refuses_has_none():
    space = spaces.find(Workload.parse("softmax(float32;M=6,N=128)"), TARGET, "derived")
    features = TirFeatures(space)
    # The last stage in the loop over rows, and what it reads after that loop.
    refused, good = features.matrix([{**space.default(), "s_at": 0}, space.default()])
    assert not refused[-328:].any()
    assert good[-328:].any()


def test_a_model_learns_from_them(features):
    some = choices(60)
    scores = np.array([c["v_i_inner"] * c["v_j_inner"] for c in some], dtype=np.float64)
    model = models.load("forest", 0)
    model.fit(features.matrix(some[:40]), scores[:40])
    predicted = model.predict(features.matrix(some[40:]))
    assert np.corrcoef(np.argsort(np.argsort(predicted)), np.argsort(np.argsort(scores[40:])))[0, 1] > 0.5
    assert set(features.by_knob(model.importance())) == set(features.knobs)


def test_a_search_uses_them():
    space = spaces.find(Workload.parse("matmul(float32;M=32,N=32,K=32)"), TARGET, "derived")
    strategy = search.load("constrained-genetic", space, 0, features=models.features_of("tir", space))
    for _ in range(3):
        for choice in strategy.propose(8):
            strategy.observe(Trial(choice, float(choice["v_j_inner"])))
    assert strategy.state()["learned_from"] == 16


def test_kernels_of_leaves_have_none():
    space = spaces.find(Workload.parse("softmax(float32;M=*,N=*)"), TARGET)
    with pytest.raises(CodegenError, match="the space rows has no features of TIR: its kernels are made of leaves"):
        models.features_of("tir", space)
    with pytest.raises(CodegenError, match="unknown features 'taste'; known: knobs, tir"):
        models.features_of("taste", space)
