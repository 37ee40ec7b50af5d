"""When a search stops, and what it does not try."""

from __future__ import annotations

import random

import pytest

from codegen.search.economy import NearBad, Patience, apart
from codegen.search.strategy import Trial


@pytest.mark.parametrize(
    ("scores", "done"),
    [
        ([], False),
        ([1.0, 0.5, 0.5], False),  # three trials, of which the first was one
        ([1.0, 0.5, 0.5, 0.9], True),
        ([1.0, 0.5, 0.5, 1.04], True),  # a gain, but less than 5 %
        ([1.0, 0.5, 0.5, 1.06], False),
        ([1.0, 1.06, 0.0, 0.0], False),
        ([1.0, 1.06, 0.0, 0.0, 0.0], True),
        ([1.0, 1.02, 1.04, 1.07], False),  # small gains that add up
        ([0.0] * 9, False),
        ([0.0, 0.0, 0.0, 0.0, 0.2], False),
    ],
)
def test_patience(scores: list[float], done: bool) -> None:
    assert Patience(3, 0.05).done(scores) is done


def test_any_gain_will_do() -> None:
    assert not Patience(2).done([1.0, 1.0, 1.0 + 1e-9])
    assert Patience(2).done([1.0, 1.0, 1.0])


def cliff(n: int, seed: int = 0) -> list[Trial]:
    """Trials of two knobs, of which all with x = 3 are bad, and else one in ten, anywhere."""
    rng = random.Random(seed)
    trials = []
    for _ in range(n):
        choice = {"x": rng.randrange(8), "y": rng.randrange(8)}
        trials.append(Trial(choice, 0.0 if choice["x"] == 3 or rng.random() < 0.1 else 1.0))
    return trials


def test_candidates_in_a_bad_region_are_refused_and_others_are_not() -> None:
    refused = [{"x": x, "y": y} for x in range(8) for y in range(8) if NearBad().refuses({"x": x, "y": y}, cliff(60))]
    assert sum(c["x"] == 3 for c in refused) >= 5
    assert sum(c["x"] != 3 for c in refused) <= 3


def test_one_bad_neighbour_is_not_enough() -> None:
    trials = [Trial({"x": 0, "y": 0}, 0.0), *(Trial({"x": 5, "y": y}, y % 2) for y in range(8))]
    assert not NearBad().refuses({"x": 0, "y": 1}, trials)


def test_bad_is_what_failed_or_is_far_below_the_best() -> None:
    slow = [Trial({"x": 0, "y": y}, 0.4) for y in range(6)] + [Trial({"x": 1 + y, "y": 6}, 1.0) for y in range(20)]
    assert NearBad(fraction=0.5).refuses({"x": 0, "y": 7}, slow)
    assert not NearBad(fraction=0.3).refuses({"x": 0, "y": 7}, slow)


def test_distance_counts_knobs() -> None:
    assert apart({"x": 1, "y": 2, "z": 3}, {"x": 1, "y": 0, "z": 0}) == 2
    trials = [Trial({"x": 0, "y": y, "z": 0}, 0.0) for y in range(6)]
    trials += [Trial({"x": 1 + y, "y": 9, "z": 9}, 1.0) for y in range(20)]
    candidate = {"x": 0, "y": 7, "z": 1}
    assert not NearBad(distance=1).refuses(candidate, trials)
    assert NearBad(distance=2).refuses(candidate, trials)


def test_not_everything_is_refused() -> None:
    near_bad = NearBad()
    trials = cliff(60)
    bad = [{"x": 3, "y": y} for y in range(8) if near_bad.refuses({"x": 3, "y": y}, trials)]
    least = max(bad, key=lambda c: near_bad.probability(c, trials))
    assert near_bad.keep(bad, trials) == [least]
    assert near_bad.keep([*bad, {"x": 5, "y": 5}], trials) == [{"x": 5, "y": 5}]
    assert near_bad.keep([], trials) == []
    assert near_bad.keep(bad, []) == bad
    assert near_bad.keep(bad, [Trial(c, 0.0) for c in bad]) == bad  # where all is bad, bad is no news
