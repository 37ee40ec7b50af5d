from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import tvm
from tvm import te

import tvmops
from codegen import ops, spaces
from codegen.errors import CodegenError
from codegen.export import objects
from codegen.spaces.computation import stages
from codegen.spaces.constraints import Relation
from codegen.spaces.derived import DerivedSpace
from codegen.spaces.solver import Solver
from codegen.spaces.space import Choice, Knob, broken
from codegen.target import TARGETS, Target, find
from codegen.workload import Workload

OPERATORS = (
    "matmul(float32;M=48,N=64,K=40)",
    "matmul(float32;M=1,N=7,K=13)",
    "matmul(float32;M=16,N=32,K=512)",
    "linear(float32;M=12,N=96,K=320)",
    "softmax(float32;M=6,N=128)",
    "log_softmax(float32;M=5,N=67)",
    "layer_norm(float32;M=4,N=192)",
    "rms_norm(float32;M=3,N=256)",
    "gelu(float32;N=4096)",
    "bias_activation(float32;M=5,N=48)",
    "gated_activation(float32;M=5,N=48)",
    "mean(float32;M=7,N=256)",
    "amax(float32;M=7,N=64)",
    "var(float32;M=7,N=128)",
    "logsumexp(float32;M=4,N=80)",
    "softmax_backward(float32;M=4,N=96)",
)


@pytest.fixture(scope="module")
def target() -> Target:
    return find(next(name for name in tvmops._C.usable_targets() if name in TARGETS))


def run(space: DerivedSpace, choice: Choice, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The results of a choice, compiled and run by TVM."""
    (leaf,) = space.apply(choice)
    executable = objects.compile_module(objects.module([leaf]), space.target, leaf.whole)
    tensors = []
    for i, tensor in enumerate(space.definition):
        shape, dtype = [int(size) for size in tensor.shape], str(tvm.DataType(tensor.dtype))
        given = arrays[i].reshape(shape).astype(dtype) if i < len(arrays) else np.full(shape, 7, dtype)
        tensors.append(tvm.runtime.tensor(given))
    executable[leaf.symbol](*tensors)
    return [tensor.numpy() for tensor in tensors[len(arrays) :]]


def choices(space: DerivedSpace, count: int, seed: int) -> list[dict[str, int]]:
    solver, rng = Solver(space), random.Random(seed)
    found = [solver.sample(rng) for _ in range(count)]
    return [space.default(), *(choice for choice in found if choice is not None)]


def error(result: np.ndarray, exact: np.ndarray) -> float:
    difference = result.astype(np.float64).reshape(exact.shape) - exact
    return float(np.linalg.norm(difference) / np.linalg.norm(exact))


@pytest.mark.parametrize("key", OPERATORS)
def test_every_valid_choice_computes_the_operator(key, target):
    workload = Workload.parse(key)
    operator = ops.load(workload.op)
    space = spaces.find(workload, target, "derived")
    arrays = operator.inputs(workload, workload.dims, 0)
    params = operator.arguments(workload.dims) if hasattr(operator, "arguments") else ()
    exact = operator.reference(*arrays)
    every = choices(space, 6, seed=len(key))
    assert len(every) == 7
    for choice in every:
        assert broken(space, choice) == []
        result, *_ = run(space, choice, [*arrays, *(np.array([p], "float32") for p in params)])
        assert error(result, exact) < 1e-6, choice


@pytest.mark.parametrize("name", TARGETS)
def test_no_size_leaves_a_space_without_a_choice(name):
    rng = random.Random(5)
    awkward = [1, 2, 3, 7, 29, 31, 37, 61, 127, 257, 509, 512, 521, 1000]
    for _ in range(60):
        m, n, k = (rng.choice(awkward) for _ in range(3))
        space = spaces.find(Workload.parse(f"linear(float32;M={m},N={n},K={k})"), find(name), "derived")
        assert broken(space, space.default()) == [], (m, n, k)


def convolution() -> list[te.Tensor]:
    """Two images of 8 x 8 x 16 (height, width, channels), 3 x 3, to 32 channels, with a bias and a maximum with 0."""
    x = te.placeholder((2, 10, 10, 16), "float32", "X")
    w = te.placeholder((3, 3, 16, 32), "float32", "W")
    bias = te.placeholder((32,), "float32", "bias")
    kh, kw, c = (te.reduce_axis((0, n), name) for n, name in ((3, "kh"), (3, "kw"), (16, "c")))
    y = te.compute(
        (2, 8, 8, 32),
        lambda n, i, j, o: te.sum(x[n, i + kh, j + kw, c] * w[kh, kw, c, o], axis=[kh, kw, c]),
        "convolved",
    )
    shifted = te.compute(y.shape, lambda n, i, j, o: y[n, i, j, o] + bias[o], "shifted")
    return [x, w, bias, te.compute(y.shape, lambda *at: te.max(shifted[at], tvm.tirx.const(0.0, "float32")), "Y")]


def test_a_new_operator_has_a_space_without_writing_one(target):
    space = DerivedSpace(Workload("convolution", "float32", {"N": 2}), target, definition=convolution())
    rng = np.random.default_rng(0)
    x, w, bias = (rng.standard_normal([int(s) for s in t.shape], "float32") for t in space.definition[:3])
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), axis=(1, 2))
    exact = np.maximum(np.einsum("nijchw,hwco->nijo", windows, w.astype(np.float64)) + bias, 0)
    for choice in choices(space, 5, seed=3):
        (result,) = run(space, choice, [x, w, bias])
        assert error(result, exact) < 1e-6, choice
    assert {"convolved_pack_W", "v_kh_outer", "v_o_inner"} <= {knob.name for knob in space.knobs}


def test_what_the_rules_see():
    workload = Workload.parse("softmax(float32;M=6,N=128)")
    found = {s.name: s for s in stages(te.create_prim_func(ops.load("softmax").definition(workload)))}
    assert not any(s.reuses for s in found.values())
    assert [s.combiner for s in found.values() if s.reduced] == ["Max", "Add"]
    product, biased = stages(
        te.create_prim_func(ops.load("linear").definition(Workload.parse("linear(float32;M=4,N=6,K=8)")))
    )
    assert product.reuses
    assert [a.extent for a in product.reduced] == [8]
    assert biased.output
    assert biased.injective


def test_a_reduction_in_lanes_ends_in_a_tensor_intrinsic(target):
    lanes = target.lanes()
    space = spaces.find(Workload.parse(f"mean(float32;M=2,N={8 * lanes})"), target, "derived")
    (name,) = [k.name for k in space.knobs if k.name.endswith("_lanes")]
    script = space.schedule({**space.default(), name: 4 * lanes}).mod.script()
    assert "T.Shuffle" in script
    assert f"T.vectorized({4 * lanes})" in script
    assert "T.Shuffle" not in space.schedule({**space.default(), name: 1}).mod.script()


def test_maxima_start_from_minus_infinity(target):
    space = spaces.find(Workload.parse("softmax(float32;M=2,N=128)"), target, "derived")
    script = space.schedule(space.default()).mod.script()
    assert 'T.float32("-inf")' in script
    assert "3402823" not in script


def test_stages_that_are_inlined_leave_no_knobs_free(target):
    space = spaces.find(Workload.parse("softmax(float32;M=6,N=128)"), target, "derived")
    for choice in choices(space, 40, seed=1):
        assert choice["e_at"] >= choice["s_at"] or choice["e_inline"]
        if choice["e_inline"]:
            assert choice["e_at"] == 1


def test_a_hand_written_space_adds_and_replaces_knobs(target):
    workload = Workload.parse("gelu(float32;N=4096)")
    derived = spaces.find(workload, target, "derived")
    width = target.lanes()
    steps = []
    space = DerivedSpace(
        workload,
        target,
        extra={Knob("y_vector", (width,), "one vector"): width, Knob("stream", (0, 1), "ours"): 1},
        constraints=[
            Relation("stream needs threads", ("stream", "y_parallel"), lambda c: c["stream"] <= c["y_parallel"])
        ],
        steps=[lambda schedule, choice: steps.append(choice["stream"])],
    )
    assert [k.name for k in space.knobs] == [*(k.name for k in derived.knobs), "stream"]
    assert next(k for k in space.knobs if k.name == "y_vector").values == (width,)
    choice = space.default()
    assert broken(space, choice) == []
    assert choice["stream"] == choice["y_parallel"]
    space.schedule(choice)
    assert steps == [choice["stream"]]


def test_symbolic_sizes_are_refused(target):
    with pytest.raises(CodegenError, match=r"the space derived needs static sizes; M of softmax\(.*\) is symbolic"):
        spaces.find(Workload.parse("softmax(float32;M=*,N=64)"), target, "derived")


def test_spaces_are_found_by_name_and_by_what_a_workload_is(target):
    general, static = Workload.parse("softmax(float32;M=*,N=*)"), Workload.parse("softmax(float32;M=8,N=64)")
    assert spaces.find(general, target).name == "rows"
    assert spaces.find(static, target).name == "derived"
    assert spaces.find(Workload.parse("matmul(float32;M=32,N=32,K=32)"), target).name == "gemm"
    with pytest.raises(CodegenError, match=r"has no space 'gemm'; known: rows, derived, metaschedule"):
        spaces.find(general, target, "gemm")
