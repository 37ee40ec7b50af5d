"""Where the scheduler spends trials: searches whose outcomes are formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from codegen.scheduler import ROUND, Task, choose, gradient, schedule
from codegen.search.economy import Patience


@dataclass
class Curve:
    """A search whose n-th trial scores ``ratio(n)``."""

    ratio: Callable[[int], float]
    size: int = 10_000
    patience: Patience | None = None
    scores: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.patience is not None and self.patience.done(self.scores)

    def step(self, n: int) -> Iterator[Any]:
        self.steps.append(n)
        for _ in range(min(n, self.size - len(self.scores))):
            self.scores.append(self.ratio(len(self.scores)))
            yield self.scores[-1]


def rising(n: int) -> float:
    return 1.0 + n / 20


def flat(_: int) -> float:
    return 1.5


def task(name: str, weight: float, curve: Curve, kind: str | None = None) -> Task:
    return Task(name, weight, kind or name, curve)


def spend(tasks: list[Task], trials: int | None, over: Callable[[], bool] = lambda: False) -> list[str]:
    order: list[str] = []
    schedule(tasks, trials, over, lambda t, _: order.append(t.name))
    return order


def test_every_task_gets_a_first_round_the_weightiest_first() -> None:
    tasks = [task("a", 0.1, Curve(flat)), task("b", 0.6, Curve(flat)), task("c", 0.3, Curve(flat))]
    assert spend(tasks, 3 * ROUND) == ["b"] * ROUND + ["c"] * ROUND + ["a"] * ROUND


def test_trials_go_where_they_gained_of_late() -> None:
    early = task("early", 0.5, Curve(lambda n: 2.0))
    late = task("late", 0.5, Curve(lambda n: 1.0 if n < 60 else 2.0))
    for one in (early, late):
        list(one.search.step(64))
    assert early.cost(64) == late.cost(64)
    assert choose([early, late]) is late
    list(late.search.step(64))
    assert choose([early, late]) is early


def test_trials_go_where_the_time_is() -> None:
    tasks = [task("small", 0.02, Curve(flat)), task("large", 0.98, Curve(flat))]
    spend(tasks, 20 * ROUND)
    assert tasks[0].trials == ROUND
    assert tasks[1].trials == 19 * ROUND


def test_a_task_far_behind_its_kin_is_given_more() -> None:
    def share(kind: str) -> int:
        tasks = [task("slow", 0.3, Curve(lambda _: 1.0), "linear"), task("fast", 0.7, Curve(lambda _: 8.0), kind)]
        tasks.append(task("other", 0.7, Curve(flat)))
        spend(tasks, 20 * ROUND)
        return tasks[0].trials

    assert share("linear") > share("softmax")


def test_the_gradient_by_hand() -> None:
    a, b = task("a", 0.5, Curve(rising), "x"), task("b", 0.5, Curve(lambda _: 10.0), "x")
    list(a.search.step(8))
    assert a.cost(8) == pytest.approx(1 / 1.35)
    assert gradient(a, [a, b]) == pytest.approx(0.5 * (0.2 * (1 - 1 / 1.35) / 8 + 0.8 / 1.35 / 8))
    list(b.search.step(8))
    assert gradient(a, [a, b]) == pytest.approx(0.5 * (0.2 * (1 - 1 / 1.35) / 8 + 0.8 * (1 / 1.35 - 2 / 10)))


def test_a_kernel_slower_than_aten_costs_what_aten_does() -> None:
    a = task("a", 1.0, Curve(lambda _: 0.5))
    list(a.search.step(4))
    assert a.cost(4) == a.cost(0) == 1.0


def test_a_task_without_gains_is_left_and_one_without_choices_too() -> None:
    tasks = [
        task("patient", 0.6, Curve(flat, patience=Patience(10, 0.01))),
        task("small", 0.3, Curve(rising, size=5)),
        task("rest", 0.1, Curve(flat, patience=Patience(30, 0.01))),
    ]
    order = spend(tasks, None)
    assert [t.trials for t in tasks] == [11, 5, 31]
    assert len(order) == 47
    assert choose(tasks) is None
    assert spend(tasks, None) == []


def test_trials_and_time_both_end_it() -> None:
    assert len(spend([task("a", 1.0, Curve(flat)), task("b", 1.0, Curve(flat))], 21)) == 21
    clock = iter(range(100))
    assert len(spend([task("a", 1.0, Curve(flat))], 50, lambda: next(clock) >= 14)) < 14
    assert spend([task("a", 1.0, Curve(flat))], 50, lambda: True) == []


def test_it_goes_on_from_earlier_trials() -> None:
    def tasks() -> list[Task]:
        return [task("a", 0.5, Curve(rising)), task("b", 0.4, Curve(flat)), task("c", 0.1, Curve(rising))]

    whole, parts = tasks(), tasks()
    expected = spend(whole, 80)
    assert expected == spend(tasks(), 80)  # nothing is drawn at random
    first = spend(parts, 32)
    again = [Task(t.name, t.weight, t.kind, t.search) for t in parts]
    assert first + spend(again, 80) == expected
