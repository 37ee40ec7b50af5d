from __future__ import annotations

import pytest

from codegen import ops, search
from codegen.errors import CodegenError
from codegen.search.strategy import Trial, identity
from codegen.spaces import space as spaces
from codegen.spaces.constraints import Relation
from codegen.spaces.space import Choice, Knob, broken
from codegen.target import TARGETS, find
from codegen.workload import Workload

WORKLOADS = ["matmul(float32;M=*,N=*,K=*)", "linear(float32;M=*,N=384,K=1536)"]


def gemm(target: str, key: str = WORKLOADS[0]) -> spaces.Space:
    workload = Workload.parse(key)
    return ops.load(workload.op).space(workload, find(target))


class Small:
    """Six valid choices of nine."""

    name = driver = "small"
    knobs = (Knob("a", (1, 2, 3), ""), Knob("b", (1, 2, 3), ""))
    constraints = (Relation("a <= b", ("a", "b"), lambda c: c["a"] <= c["b"]),)

    def default(self) -> dict[str, int]:
        return {"a": 1, "b": 1}

    def params(self, choice: Choice) -> dict[str, int]:
        return dict(choice)

    def apply(self, choice: Choice) -> list[spaces.Leaf]:
        return []

    def plan_size(self) -> int:
        return 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("key", WORKLOADS)
def test_the_default_is_valid_and_what_it_becomes_is_whole(target, key):
    space = gemm(target, key)
    choice = space.default()
    assert broken(space, choice) == []
    names = [leaf.name for leaf in space.apply(choice)]
    assert len(set(names)) == len(names)
    assert {f"tile.{choice['mr']}x{choice['nr']}", "copy", "transpose", "epilogue.gelu"} <= set(names)
    assert space.plan_size() == (10 if "384" in key else 1920)


@pytest.mark.parametrize(("target", "registers", "lanes"), [("x86-64-v3", 16, 8), ("x86-64-v4", 32, 16)])
def test_a_register_tile_that_would_spill_is_no_choice(target, registers, lanes):
    space = gemm(target)
    spilling = [
        (mr, nr)
        for mr in space.knobs[0].values
        for nr in space.knobs[1].values
        if mr * nr // lanes + nr // lanes + 1 > registers
    ]
    assert spilling
    for mr, nr in spilling:
        said = broken(space, {**space.default(), "mr": mr, "nr": nr})
        assert any("registers" in text for text in said), (mr, nr)


def test_what_is_wrong_with_a_choice_is_said():
    space = gemm("x86-64-v4")
    assert broken(space, {**space.default(), "tile": 3}) == ["unknown knob 'tile'"]
    assert "mr=99 is not one of" in broken(space, {**space.default(), "mr": 99})[0]
    without = {k: v for k, v in space.default().items() if k != "kc"}
    assert broken(space, without) == ["knob 'kc' has no value"]


def test_enumeration_finds_the_valid_choices_and_no_others():
    assert [tuple(c.values()) for c in spaces.choices(Small())] == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)]
    assert spaces.size(Small()) == (9, 6)


def test_pinned_knobs_stay():
    space = gemm("x86-64-v4")
    spaces.pin(space, {"mr": 8, "nr": 32})
    drawn = search.load("random", space, 0).propose(20)
    assert {(c["mr"], c["nr"]) for c in drawn} == {(8, 32)}
    with pytest.raises(CodegenError, match="unknown knob 'tile'; known: mr, nr"):
        spaces.pin(space, {"tile": 1})
    with pytest.raises(CodegenError, match="kc=5 is not one of"):
        spaces.pin(space, {"kc": 5})


def test_an_unknown_strategy_is_refused_with_the_known_ones():
    assert not {"strategy", "economy", "_explorer"} & set(search.all_strategies())
    with pytest.raises(CodegenError, match=r"unknown strategy 'luck'; known: .*random"):
        search.load("luck", Small(), 0)


# What every strategy of large spaces keeps to, by the interface; tests of each are in test_strategies.py.
@pytest.mark.parametrize("name", [name for name in search.all_strategies() if name != "exhaustive"])
class TestEveryStrategy:
    @pytest.mark.parametrize("target", TARGETS)
    def test_proposes_valid_choices_none_twice(self, name, target):
        space = gemm(target)
        strategy = search.load(name, space, 1)
        taken = [c for _ in range(10) for c in strategy.propose(20)]
        assert len(taken) == 200 == len({identity(c) for c in taken})
        assert all(broken(space, c) == [] for c in taken)
        assert strategy.state()["proposed"] == 200

    def test_the_seed_decides(self, name):
        first, again, other = (search.load(name, gemm("x86-64-v4"), seed).propose(20) for seed in (5, 5, 6))
        assert first == again
        assert first != other

    def test_a_search_that_resumes_goes_on(self, name):
        strategy = search.load(name, gemm("x86-64-v4"), 2)
        before = strategy.propose(15)
        resumed = search.load(name, gemm("x86-64-v4"), 2)
        for choice in before:
            resumed.observe(Trial(choice, 1.0))
        assert resumed.state()["observed"] == 15
        assert not {identity(c) for c in resumed.propose(30)} & {identity(c) for c in before}

    def test_stops_when_nothing_is_left(self, name):
        strategy = search.load(name, Small(), 0)
        strategy.observe(Trial({"a": 2, "b": 2}, 1.0))
        taken = [*strategy.propose(2), *strategy.propose(100)]
        assert sorted(tuple(c.values()) for c in taken) == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3)]
        assert list(strategy.propose(1)) == []
