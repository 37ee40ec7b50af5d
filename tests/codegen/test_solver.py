"""The constraint solver: every choice it gives is valid, every valid choice can come, a clash is told."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen import ops
from codegen.errors import CodegenError
from codegen.spaces import constraints as c
from codegen.spaces.solver import Solver
from codegen.spaces.space import Knob, broken, choices, size
from codegen.target import TARGETS


class Small:
    """A space by hand."""

    name = "small"

    def __init__(self, knobs: dict[str, Sequence[int]], *constraints: c.Constraint) -> None:
        self.knobs = tuple(Knob(name, tuple(values), name) for name, values in knobs.items())
        self.constraints = constraints


FORMS: dict[str, c.Constraint] = {
    "relation": c.Relation("x <= y", ("x", "y"), lambda choice: choice["x"] <= choice["y"]),
    "split": c.Split(24, ("x", "y", "z")),
    "at most": c.AtMost("bytes", ((4, ("x", "y")), (2, ("z",)), (3, ())), 60),
    "multiple": c.Multiple("x", "y"),
    "position": c.Position("x", "z"),
}


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_a_form_means_the_same_to_solver_and_python(form: str, data: st.DataObject) -> None:
    values = st.lists(st.integers(1, 24), min_size=1, max_size=5, unique=True)
    space = Small({name: data.draw(values) for name in "xyz"}, FORMS[form])
    valid = list(choices(space))
    solver = Solver(space)
    found = solver.sample(random.Random(0))
    assert (found is None) == (not valid)
    assert found is None or found in valid
    for choice in data.draw(st.lists(st.fixed_dictionaries({k.name: st.sampled_from(k.values) for k in space.knobs}))):
        given = solver.solve({name: [value] for name, value in choice.items()})
        assert (given is not None) == (choice in valid)
    assert bool(solver.clash()) == (not valid)


def test_every_valid_choice_comes() -> None:
    space = Small({"x": range(1, 13), "y": range(1, 13), "z": (1, 2, 3)}, c.Split(12, ("x", "y")))
    rng, solver = random.Random(1), Solver(space)
    seen = Counter(tuple(solver.sample(rng).values()) for _ in range(400))  # type: ignore[union-attr]
    assert set(seen) == {tuple(choice.values()) for choice in choices(space)}
    assert max(seen.values()) < 10 * min(seen.values())


def test_the_same_seed_gives_the_same_choices() -> None:
    space = Small({"x": range(1, 30), "y": range(1, 30)}, c.AtMost("sum", ((1, ("x",)), (1, ("y",))), 30))
    draws = [[Solver(space).sample(random.Random(7)) for _ in range(5)] for _ in range(2)]
    assert draws[0] == draws[1]


def test_within_and_near() -> None:
    space = Small({"x": range(1, 13), "y": range(1, 13)}, c.Split(12, ("x", "y")))
    solver = Solver(space)
    assert solver.sample(random.Random(0), {"x": [3, 99]}) == {"x": 3, "y": 4}
    assert solver.sample(random.Random(0), {"x": [5]}) is None
    near = solver.solve({}, near={"x": 2, "y": 7})
    assert near in ({"x": 2, "y": 6},)


def test_choices_are_listed_up_to_a_limit() -> None:
    space = Small({"x": (3, 1, 2), "y": (1, 2, 3), "z": (5,)}, FORMS["relation"])
    valid = sorted(choices(space), key=lambda choice: tuple(choice.values()))
    solver = Solver(space)
    assert solver.listed(100) == solver.listed(6) == valid
    assert len(solver.listed(5)) == 5
    assert all(choice in valid for choice in solver.listed(5))


def test_a_clash_names_what_clashes_and_nothing_else() -> None:
    innocent, one, other = (
        c.Multiple("z", "y"),
        c.Relation("x is small", ("x",), lambda choice: choice["x"] < 3),
        c.Split(100, ("x", "y")),
    )
    space = Small({"x": range(1, 11), "y": range(1, 11), "z": range(1, 11)}, innocent, one, other)
    assert Solver(space).clash() == [one.text, other.text]
    wide = Small({name: range(100) for name in "xyz"}, c.Relation("any", ("x", "y", "z"), lambda choice: True))
    with pytest.raises(CodegenError, match="combinations"):
        Solver(wide)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
@pytest.mark.parametrize("op", ["matmul", "linear", "softmax", "gelu", "sum", "cumsum", "rotary_embedding"])
def test_spaces_of_operators(op: str, target: object) -> None:
    for workload in ops.load(op).workloads()[:2]:
        space = ops.load(op).space(workload, target)  # type: ignore[arg-type]
        rng, solver = random.Random(3), Solver(space)
        assert not solver.clash()
        drawn = [solver.sample(rng) for _ in range(8)]
        assert all(choice is not None and not broken(space, choice) for choice in drawn)
        if size(space)[1] > 100:
            assert len({tuple(choice.items()) for choice in drawn if choice}) > 5
