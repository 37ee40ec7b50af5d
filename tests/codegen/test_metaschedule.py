"""TVM's design space as knobs and constraints, and TVM's search over it; the same search over other spaces."""

from __future__ import annotations

import functools
import importlib.util
import random
import statistics
import subprocess
import sys

import numpy as np
import pytest
import torch
import tvm
from tvm.s_tir import Schedule, Trace
from tvm.s_tir import meta_schedule as ms

from codegen import ops, search, spaces
from codegen.errors import CodegenError
from codegen.export import objects
from codegen.models.none import create as no_model
from codegen.search import metaschedule
from codegen.search._evolutionary import TvmEvolution
from codegen.search._tune_tir import tune_default
from codegen.search.strategy import Trial, identity
from codegen.spaces import sketches
from codegen.spaces.metaschedule import MetaScheduleSpace
from codegen.spaces.solver import Solver
from codegen.spaces.space import broken
from codegen.target import find
from codegen.workload import Workload
from tests.codegen.landscapes import best_of, factors, smooth, tiles

TARGET = find("x86-64-v3")
MATMUL, SOFTMAX, GELU = "matmul(float32;M=16,N=32,K=24)", "softmax(float32;M=6,N=40)", "gelu(float32;N=4096)"
NORM = "layer_norm(float32;M=4,N=16)"


@functools.cache
def space_of(key: str) -> MetaScheduleSpace:
    space = spaces.find(Workload.parse(key), TARGET, "metaschedule")
    assert isinstance(space, MetaScheduleSpace)
    return space


def sampled(space: MetaScheduleSpace, index: int, seed: int) -> Schedule:
    """A sketch with decisions that TVM draws."""
    sketch = space.sketches[index]
    schedule = Schedule(sketch.mod, seed=seed)
    Trace(sketch.instructions, {}).apply_to_schedule(schedule, remove_postproc=True)
    return schedule


@pytest.mark.parametrize("key", [MATMUL, SOFTMAX, GELU])
def test_choices_become_schedules_and_schedules_choices(key: str) -> None:
    space = space_of(key)
    drawn = search.load("random", space, 3).propose(6)
    assert len(drawn) >= 5  # gelu has no more than bounds of parallel iterations
    for choice in [space.default(), *drawn]:
        assert broken(space, choice) == []
        schedule = space.schedule(choice)
        assert space.choice_of(schedule) == choice == space.choice_of(schedule.trace)


@pytest.mark.parametrize("key", [MATMUL, SOFTMAX, NORM])
def test_whatever_tvm_draws_is_a_valid_choice(key: str) -> None:
    space = space_of(key)
    for index in range(len(space.sketches)):
        for seed in range(1, 5):
            schedule = sampled(space, index, seed)
            choice = space.choice_of(schedule)
            assert choice["sketch"] == index
            assert broken(space, choice) == []
            again = space.sketches[index].replay(choice)
            assert again.mod.script() == schedule.mod.script()


def test_knobs_are_named_after_what_they_decide() -> None:
    assert [knob.name for knob in space_of(MATMUL).knobs] == [
        "sketch",
        *(f"C_{loop}_{i}" for loop, count in (("i", 4), ("j", 4), ("k", 2)) for i in range(count)),
        "parallel",
        "unroll",
    ]
    assert {"s_at", "m_at", "s_rf_at", "s_k_0"} <= {knob.name for knob in space_of(SOFTMAX).knobs}


def test_what_breaks_a_constraint_is_said() -> None:
    matmul, softmax = space_of(MATMUL), space_of(SOFTMAX)
    tiled = {**matmul.default(), "C_k_0": 1, "C_k_1": 1}
    assert broken(matmul, tiled) == ["C_k_0 * C_k_1 = 24"]
    plain = {**softmax.default(), "sketch": 0, "s_at": -1, "m_at": -1}
    assert broken(softmax, plain) == []
    unasked = broken(softmax, {**plain, "s_k_0": 20, "s_k_1": 2})
    assert unasked == [f"s_k_{i} is {n} unless the sketch is one of 1, 2" for i, n in ((0, 40), (1, 1))]
    # The maximum can't be computed within rows of sums that are computed nowhere in particular.
    (moved,) = broken(softmax, {**plain, "m_at": 1})
    assert moved == "of sketch 0: s_at, m_at are loops at which TVM can compute these blocks"


def test_equal_schedules_are_equal_choices_apart_from_parallel() -> None:
    space = space_of(SOFTMAX)
    drawn = [{**c, "parallel": space.default()["parallel"]} for c in search.load("random", space, 1).propose(24)]
    different = {identity(c): c for c in drawn}
    texts = {space.schedule(c).mod.script() for c in different.values()}
    assert len(texts) == len(different)


def test_the_solver_samples_every_sketch() -> None:
    space, rng = space_of(NORM), random.Random(0)
    solver = Solver(space)
    found = [solver.sample(rng, {"sketch": [i]}) for i in range(len(space.sketches))]
    assert all(choice is not None and broken(space, choice) == [] for choice in found)
    assert all(space.choice_of(space.schedule(choice)) == choice for choice in found if choice)


def test_too_many_tiles_make_locations_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "MOST_PATTERNS", 1)
    space = spaces.find(Workload.parse(SOFTMAX), TARGET, "metaschedule")
    assert isinstance(space, MetaScheduleSpace)
    assert [sketch.exact for sketch in space.sketches] == [True, False, False]
    wish = Solver(space).sample(random.Random(2), {"sketch": [1], "m_at": [1], "s_at": [-1]})
    assert wish is not None
    assert space.choice_of(space.schedule(wish))["m_at"] < 1


def test_a_computation_that_tvms_rules_fail_on_is_refused() -> None:
    with pytest.raises(CodegenError, match="TVM's rules do not apply to layer_norm_backward"):
        spaces.find(Workload.parse("layer_norm_backward(float32;M=48,N=48)"), TARGET, "metaschedule")


def test_a_trace_of_something_else_and_a_symbolic_size_are_refused() -> None:
    with pytest.raises(CodegenError, match=r"is of none of the 1 sketches of gelu\(float32;N=4096\)"):
        space_of(GELU).choice_of(space_of(MATMUL).schedule(space_of(MATMUL).default()))
    with pytest.raises(CodegenError, match=r"needs static sizes; M of matmul.* is symbolic"):
        spaces.find(Workload.parse("matmul(float32;M=*,N=32,K=32)"), TARGET, "metaschedule")


def test_intrinsics_of_other_architectures_stay_available() -> None:
    code = """
from codegen import spaces; from codegen.target import find; from codegen.workload import Workload; import sys
spaces.find(Workload.parse("gelu(float32;N=64)"), find("x86-64-v3"), "metaschedule")
assert "tvm.s_tir.tensor_intrin.cuda" not in sys.modules and "tvm.s_tir.tensor_intrin" not in sys.modules
from tvm.s_tir.tensor_intrin.x86 import VNNI_DOT_16x4_INTRIN
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="needs AVX2")
@pytest.mark.parametrize("key", [MATMUL, SOFTMAX])
def test_a_kernel_is_right(key: str) -> None:
    space = space_of(key)
    workload = space.workload
    operator = ops.load(workload.op)
    inputs = operator.inputs(workload, {n: s for n, s in workload.dims.items() if s is not None}, 0)
    exact = operator.reference(*inputs)
    for choice in [space.default(), *search.load("random", space, 7).propose(2)]:
        leaves = space.apply(choice)
        run = objects.compile_module(objects.module(leaves), TARGET, whole=True)[leaves[0].symbol]
        out = tvm.runtime.tensor(np.zeros(exact.shape, "float32"))
        run(*map(tvm.runtime.tensor, _as_defined(space, inputs)), out)
        assert np.linalg.norm(out.numpy() - exact) <= 1e-5 * np.linalg.norm(exact), choice


def _as_defined(space: MetaScheduleSpace, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The inputs, and 1 for each param that the definition has besides."""
    expected = space.definition[: space.params({})["arguments"] - space.params({})["outputs"]]
    shapes = [tuple(int(n) for n in tensor.shape) for tensor in expected]
    more = [np.ones(shape, "float32") for shape in shapes[len(inputs) :]]
    return [array.reshape(shape) for array, shape in zip([*inputs, *more], shapes, strict=True)]


def small_search(space: MetaScheduleSpace, seed: int, batch: int = 8) -> TvmEvolution:
    """TVM's search with less of everything, so that it takes a second a batch."""
    evolution = ms.SearchStrategy.create(
        "evolutionary", population_size=50, init_min_unmeasured=30, genetic_num_iters=3
    )
    model = ms.CostModel.create("xgb", num_tuning_cores=1, num_warmup_samples=batch)
    return TvmEvolution(space, seed, batch, evolution, model, threads=1)


def wide(choice: dict[str, int]) -> float:
    """A score that TVM's cost model can learn: inner loops over columns, not too long."""
    return 1.0 / (1 + abs(choice["C_j_3"] - 16) + abs(choice["C_k_1"] - 4)) + (choice["unroll"] > 0)


def test_tvms_search_proposes_distinct_valid_choices_and_learns() -> None:
    np.random.seed(0)  # TVM's cost model draws from it until it has learned
    space = space_of(MATMUL)
    by_chance = [wide(choice) for choice in search.load("random", space, 0).propose(40)]
    strategy = small_search(space, 1)
    scores, seen = [], set()
    for _ in range(48):
        (choice,) = strategy.propose(1)
        assert broken(space, choice) == []
        seen.add(identity(choice))
        scores.append(wide(choice))
        strategy.observe(Trial(choice, scores[-1]))
    assert len(seen) == 48
    assert strategy.state() == {"proposed": 48, "observed": 48, "batches": 6}
    assert statistics.mean(scores[-16:]) > statistics.mean(by_chance) + 0.1


def test_tvms_search_resumes_from_trials_of_others_and_bears_failures() -> None:
    space = space_of(MATMUL)
    before = [Trial(c, 0.0 if i % 3 else wide(c)) for i, c in enumerate(search.load("random", space, 5).propose(12))]
    strategy = small_search(space, 1, batch=6)
    for trial in before:
        strategy.observe(trial)
    # More than a batch, without results between.
    taken = strategy.propose(9)
    assert len({identity(c) for c in taken} - {identity(t.choice) for t in before}) == 9
    assert [text for c in taken for text in broken(space, c)] == []
    assert strategy.state()["observed"] == 12
    assert strategy._cost_model.data_size == 12


def test_tvms_search_exhausts_a_small_space() -> None:
    space = space_of(GELU)
    strategy = small_search(space, 0)
    found = [identity(c) for c in strategy.propose(100)]
    assert len(found) == len(set(found)) == len(space.knobs[1].values)
    assert list(strategy.propose(1)) == []


def test_the_strategy_is_tvms_own_over_tvms_space_only() -> None:
    assert isinstance(search.load("metaschedule", space_of(MATMUL), 0), TvmEvolution)
    assert isinstance(search.load("metaschedule", tiles(), 0), metaschedule.Evolution)
    with pytest.raises(CodegenError, match="has TVM's own cost model only"):
        search.load("metaschedule", space_of(MATMUL), 0, model=no_model(0))


def test_the_algorithm_over_other_spaces_beats_random() -> None:
    by_chance = [best_of(search.load("random", tiles(), seed), smooth, 56) for seed in range(15)]
    learned = [best_of(search.load("metaschedule", tiles(), seed), smooth, 56) for seed in range(3)]
    assert statistics.median(learned) > statistics.median(by_chance) + 0.1


def test_mutants_move_factors_within_a_split() -> None:
    strategy = metaschedule.Evolution(factors(), 0)
    parent = {"a": 4, "b": 4, "c": 16, "x": 8, "y": 16, "z": 1}
    mutants = [m for seed in range(40) if (m := strategy._mutant(random.Random(seed), parent)) is not None]
    assert len(mutants) > 20
    assert [text for m in mutants for text in broken(strategy.space, m)] == []
    changed = {frozenset(name for name in parent if m[name] != parent[name]) for m in mutants}
    assert frozenset("z") in changed
    assert changed - {frozenset("z")} <= {frozenset(pair) for pair in ("ab", "ac", "bc", "xy")}


def test_a_work_directory_that_is_in_use_and_a_missing_library_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CodegenError, match="needs psutil: pip install psutil"):
        tune_default(Workload.parse(MATMUL), TARGET, 1, 0, tmp_path / "new")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    (tmp_path / "database_tuning_record.json").write_text("")
    with pytest.raises(CodegenError, match="is not empty"):
        tune_default(Workload.parse(MATMUL), TARGET, 1, 0, tmp_path)
