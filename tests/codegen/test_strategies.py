"""Strategies over spaces whose scores are formulas: what each keeps to, and that what learns beats what does not."""

from __future__ import annotations

import random
import statistics
import sys

import pytest

from codegen import search
from codegen.errors import CodegenError
from codegen.search import _explorer, constrained_genetic, exhaustive
from codegen.search.strategy import Trial, identity
from codegen.spaces.constraints import Multiple, Relation
from codegen.spaces.space import broken, choices
from tests.codegen.landscapes import Made, Score, best_of, deceptive, factors, smooth, tiles

ALL = search.all_strategies()
OF_LARGE_SPACES = [name for name in ALL if name != "exhaustive"]


def few() -> Made:
    """52 valid choices of 96, one knob without a choice."""
    return Made(
        {"a": (1, 2, 3, 4), "b": (1, 2, 3, 4, 6, 12), "c": (0, 1), "d": (7,), "e": (0, 5)},
        Multiple("b", "a"),
        Relation("c goes with e", ("c", "e"), lambda c: c["c"] <= c["e"]),
    )


def score_of_few(choice: dict[str, int]) -> float:
    return choice["a"] * 0.1 + choice["c"] + 1 / choice["b"]


def test_names_have_hyphens() -> None:
    assert set(ALL) == {
        "annealing",
        "constrained-genetic",
        "exhaustive",
        "genetic",
        "metaschedule",
        "qlearning",
        "random",
    }


def test_options_are_passed_on_to_those_that_take_them() -> None:
    assert search.load("constrained-genetic", few(), 0, model=None)
    with pytest.raises(CodegenError, match="'annealing' takes no option 'model'"):
        search.load("annealing", few(), 0, model=None)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_a_small_space_is_exhausted(name: str, batch: int) -> None:
    space = few()
    valid = {identity(c) for c in choices(space)}
    strategy = search.load(name, space, 3)
    strategy.observe(Trial(space.default(), 0.5))
    found = [identity(space.default())]
    while proposed := strategy.propose(batch):
        assert len(proposed) == min(batch, len(valid) - len(found))
        found += [identity(c) for c in proposed]
        for choice in proposed:
            strategy.observe(Trial(choice, score_of_few(choice)))
    assert len(found) == len(set(found))
    assert set(found) == valid
    assert strategy.state() | {"proposed": len(valid) - 1, "observed": len(valid)} == strategy.state()


@pytest.mark.parametrize("name", ALL)
def test_a_space_without_a_choice_gives_none(name: str) -> None:
    space = Made({"a": (1, 2), "b": (3, 4)}, Relation("never", ("a", "b"), lambda c: False))
    assert list(search.load(name, space, 0).propose(3)) == []


@pytest.mark.parametrize("name", OF_LARGE_SPACES)
@pytest.mark.parametrize(("space", "score"), [(tiles(), deceptive), (factors(), lambda c: c["a"] / c["x"] / c["z"])])
def test_proposals_are_valid_distinct_and_the_same_again(name: str, space: Made, score: Score) -> None:
    def run(seed: int, batches: tuple[int, ...]) -> list[dict[str, int]]:
        strategy = search.load(name, space, seed)
        proposed = []
        for n in batches:
            batch = strategy.propose(n)
            proposed += batch
            for choice in batch:
                strategy.observe(Trial(choice, score(choice)))
        return proposed + [dict(c) for c in strategy.propose(4)]

    first = run(1, (1,) * 18 + (3, 5))
    assert len(first) == 30 == len({identity(c) for c in first})
    assert [text for c in first for text in broken(space, c)] == []
    assert run(1, (1,) * 18 + (3, 5)) == first
    assert run(2, (1, 1)) != first[:6]


@pytest.mark.parametrize(
    ("name", "space", "score"),
    [*((name, few(), score_of_few) for name in ALL), *((name, tiles(), deceptive) for name in OF_LARGE_SPACES)],
)
@pytest.mark.parametrize("killed_after", [3, 21])
def test_a_resumed_search_proposes_what_it_would_have(name: str, space: Made, score: Score, killed_after: int) -> None:
    strategy = search.load(name, space, 4)
    seen = [Trial(next(iter(choices(space))), 0.3)]
    strategy.observe(seen[0])
    for i in range(28):
        if i == killed_after:
            resumed = search.load(name, space, 4)
            for trial in seen:
                resumed.observe(trial)
        (choice,) = strategy.propose(1)
        if i >= killed_after:
            assert list(resumed.propose(1)) == [choice], i
            resumed.observe(Trial(choice, score(choice)))
        seen.append(Trial(choice, score(choice)))
        strategy.observe(seen[-1])


@pytest.mark.parametrize("name", ALL)
def test_failures_only_are_borne(name: str) -> None:
    strategy = search.load(name, few(), 0)
    for _ in range(30):
        (choice,) = strategy.propose(1)
        strategy.observe(Trial(choice, 0.0))
    assert strategy.state()["observed"] == 30


@pytest.mark.parametrize("name", OF_LARGE_SPACES)
def test_a_trial_measured_again_and_one_nobody_proposed_are_taken(name: str) -> None:
    space = tiles()
    strategy = search.load(name, space, 0)
    for choice in strategy.propose(10):
        strategy.observe(Trial(choice, smooth(choice)))
        strategy.observe(Trial(choice, smooth(choice) * 0.99))
    foreign = next(iter(choices(space)))
    strategy.observe(Trial(foreign, 9.0))
    following = [c for _ in range(3) for c in strategy.propose(4)]
    assert foreign not in following
    assert len({identity(c) for c in following}) == 12


def test_a_large_space_is_not_tried_exhaustively() -> None:
    with pytest.raises(CodegenError, match=f"more than {exhaustive.LIMIT} valid choices"):
        search.load("exhaustive", tiles(), 0)


@pytest.mark.parametrize(
    ("name", "seeds"), [("genetic", 9), ("annealing", 9), ("qlearning", 9), ("constrained-genetic", 3)]
)
def test_what_learns_beats_random_at_equal_trials(name: str, seeds: int) -> None:
    trials = 56
    by_chance = [best_of(search.load("random", tiles(), seed), smooth, trials) for seed in range(15)]
    learned = [best_of(search.load(name, tiles(), seed), smooth, trials) for seed in range(seeds)]
    assert statistics.median(learned) > statistics.median(by_chance) + 0.1


def test_the_best_of_a_deceptive_landscape_is_found() -> None:
    """What leads away from the best everywhere but beside it needs restarts, mutation or chance."""
    for name in OF_LARGE_SPACES:
        assert best_of(search.load(name, tiles(), 0), deceptive, 60) > 2, name


@pytest.mark.parametrize("name", ["annealing", "genetic", "qlearning"])
def test_what_breaks_constraints_is_completed_by_the_solver(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no change of one knob is valid, a strategy has its own ideas still: no random choice stands in."""
    space = factors()
    strategy = search.load(name, space, 0)
    for choice in strategy.propose(16):
        strategy.observe(Trial(choice, choice["a"] / choice["x"]))

    def stand_in(*_: object) -> None:
        pytest.fail("a random choice stands in")

    monkeypatch.setattr(strategy, "fresh", stand_in)
    for _ in range(6):
        (choice,) = strategy.propose(1)
        assert broken(space, choice) == []
        strategy.observe(Trial(choice, choice["a"] / choice["x"]))


def test_children_keep_to_their_parents_key_knobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constrained_genetic, "LEFT_OUT", 0.0)
    strategy = constrained_genetic.ConstrainedGenetic(factors(), 0)
    parents = [{"a": 4, "b": 4, "c": 16, "x": 8, "y": 16, "z": 1}, {"a": 16, "b": 8, "c": 2, "x": 2, "y": 64, "z": 3}]
    for seed in range(20):
        child = strategy._child(random.Random(seed), parents, ["a", "x"])
        assert child is not None
        assert broken(strategy.space, child) == []
        assert child["a"] in (4, 16)
        assert child["x"] in (8, 2)


@pytest.mark.parametrize("samples", [0, 5])
def test_choices_too_many_to_list_and_too_rare_to_draw_are_found(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_explorer, "DRAWS", 3)
    monkeypatch.setattr(_explorer, "LISTED", 10)
    monkeypatch.setattr(_explorer, "SAMPLES", samples)
    strategy = search.load("random", few(), 0)
    found = [identity(c) for c in strategy.propose(1000)]
    assert len(found) == len(set(found))
    assert set(found) == {identity(c) for c in choices(few())}


def test_a_solver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "codegen.spaces.solver", raising=False)
    monkeypatch.setitem(sys.modules, "ortools", None)
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(CodegenError, match=r"needs ortools.*: pip install 'tvmops\[tune\]'"):
        search.load("exhaustive", few(), 0)
    assert len(search.load("random", tiles(), 0).propose(5)) == 5
