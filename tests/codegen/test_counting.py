"""The size of a space: exact where it can be listed, else an estimate that is right on average and says how far off."""

from __future__ import annotations

import math
from itertools import product

import pytest
from typer.testing import CliRunner

from codegen.commands import app
from codegen.spaces import constraints as c
from codegen.spaces import counting
from codegen.spaces.solver import Solver
from codegen.spaces.space import Knob, choices

KEY = "linear(float32;M=*,N=24,K=40)"


class Small:
    """A space by hand."""

    name = "small"

    def __init__(self, knobs: dict[str, range | list[int]], *constraints: c.Constraint) -> None:
        self.knobs = tuple(Knob(name, tuple(values), name) for name, values in knobs.items())
        self.constraints = constraints


LINKED = Small(
    {**{name: range(1, 25) for name in "abc"}, "d": range(1, 9), "e": range(3), "f": [7, 8]},
    c.Split(24, ("a", "b", "c")),
    c.AtMost("bytes", ((4, ("a", "b")), (2, ("d",)), (3, ())), 60),
    c.Relation("e <= 1", ("e",), lambda choice: choice["e"] <= 1),
)


def test_what_can_be_listed_is_counted():
    found = counting.count(LINKED)
    assert found.valid == sum(1 for _ in choices(LINKED))
    assert (found.error, found.estimated, found.parts) == (0, 0, 3)
    assert found.total == 24**3 * 8 * 3 * 2
    assert found.text == f"{found.valid} valid choices of {found.total}, counted"


@pytest.mark.parametrize(
    "constraint",
    [
        c.Split(24, ("a", "b", "c")),
        c.AtMost("bytes", ((4, ("a", "b")), (2, ("c",)), (3, ())), 60),
        c.Relation("ordered", ("a", "b", "c"), lambda choice: choice["a"] <= choice["b"] <= choice["c"]),
        c.Multiple("a", "b"),
        c.Position("a", "b"),
    ],
    ids=lambda constraint: type(constraint).__name__,
)
def test_an_estimate_is_as_near_as_its_error_says(constraint):
    space = Small({name: range(1, 25) for name in "abc"}, constraint)
    exact = sum(1 for _ in choices(space))
    found = counting.count(space, limit=0)
    assert found.estimated == 1
    assert abs(found.valid - exact) <= 4 * found.error + 1e-9 * exact
    assert found.error < 0.1 * exact
    assert "Knuth" in found.text


def test_estimates_of_parts_are_multiplied_and_their_errors_too():
    splits = [c.Split(720, tuple(f"{x}{i}" for i in range(4))) for x in "ab"]
    divisors = [d for d in range(1, 721) if 720 % d == 0]
    space = Small({name: divisors for split in splits for name in split.knobs}, *splits)
    # The ways to write 720 = 2**4 * 3**2 * 5 as an ordered product of four factors.
    one = math.prod(math.comb(power + 3, 3) for power in (4, 2, 1))
    found = counting.count(space, limit=10)
    assert (found.estimated, found.parts) == (2, 2)
    assert abs(found.valid - one**2) <= 4 * found.error
    assert counting.count(space, limit=10) == found
    assert counting.count(space).valid == one**2


def test_looking_ahead_rules_out_only_what_cannot_be():
    for constraint in LINKED.constraints:
        domains = {knob.name: list(knob.values)[:6] for knob in LINKED.knobs}
        names = constraint.knobs
        for values in product(*(domains[name] for name in names[:1])):
            chosen = dict(zip(names[:1], values, strict=True))
            rest = product(*(domains[name] for name in names[1:]))
            possible = any(constraint.holds({**chosen, **dict(zip(names[1:], r, strict=True))}) for r in rest)
            assert counting.may_hold(constraint, chosen, domains) or not possible


class Helped:
    """A constraint whose form for the solver has a variable that the knobs do not determine."""

    text, knobs = "a <= 2, or so", ("a", "b")

    def holds(self, choice: c.Choice) -> bool:
        return choice["a"] <= 2

    def post(self, model, variables, domains) -> None:
        model.add(variables["a"] + model.new_int_var(0, 9, "helper") >= variables["a"])
        model.add(variables["a"] <= 2)


def test_a_choice_counts_once_whatever_helper_variables_a_constraint_has():
    space = Small({"a": [1, 2, 3], "b": [4, 5]}, Helped())
    assert counting.count(space).valid == 4
    assert len(Solver(space).listed(100)) == 4


def test_a_tree_of_too_many_branches_is_estimated(monkeypatch):
    assert counting.count(LINKED).estimated == 0
    monkeypatch.setattr(counting, "VISITS", 20)
    assert counting.count(LINKED).estimated == 1


def test_an_infeasible_space_has_no_choice():
    space = Small({"a": [2, 4], "b": [2, 4]}, c.Split(9, ("a", "b")))
    assert counting.count(space).valid == 0
    assert counting.count(space, limit=-1).valid == 0


def show(*arguments: str) -> object:
    return CliRunner().invoke(app, ["show", KEY, "--target", "x86-64-v4", *arguments])


def test_show_space_tells_knobs_domains_constraints_and_size():
    result = show("--space")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("gemm: ")
    assert "valid choices of" in result.stdout
    for text in ("mr   ", "[14]", "rows of the register tile", "nc is a multiple of nr", "tile.14x32"):
        assert text in result.stdout
    assert show("--what", "space").stdout == result.stdout
    part = show("--space", "--knob", "mr=12", "--knob", "kc=512")
    assert " [12] " in part.stdout
    assert "[14]" not in part.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--knob", "mr=16", "--knob", "nr=64"], "has no valid choice with mr=16, nr=64, as these clash: registers"),
        (["--knob", "tile=3"], "unknown knob 'tile'; known: mr, "),
        (["--knob", "mr=99"], "mr=99 is not one of 4, 5"),
        (["--space-name", "secret"], "has no space 'secret'; known: gemm"),
    ],
)
def test_what_cannot_be_shown_is_named_in_one_sentence(arguments, said):
    result = show("--space", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
