"""A scheduler that spends trials over many searches where a model gains most.

After the task scheduler of Ansor (Zheng et al., "Ansor: Generating High-Performance Tensor Programs for Deep Learning",
OSDI 2020, section 6), which descends the gradient of the model's time f over the trials t_i that each task i got:

    |df/dt_i| ~ w_i * (ALPHA * (g_i(t_i - d) - g_i(t_i)) / d + (1 - ALPHA) * max(g_i / t_i, g_i - BETA * min_k g_k))

g_i(t) is the time of task i after t trials. The first term is what the last d trials gained. The second is what may
come: at the most optimistic, as many trials again bring the time to nothing; or the time comes near that of a task k
that is alike, within a factor of BETA. Trials go, a round at a time, to the task with the largest gradient.

Here w_i is the share of the model's time that ATen would take for the task, and g_i(t) = 1 / max(1, best score), the
time in units of ATen's: where no kernel wins, ATen serves. Tasks are alike if they compute the same operator, and times
in units of ATen's compare where Ansor needs throughputs. Every task gets a first round, the weightiest first. A task
is out once its search is exhausted or its patience ends. Unlike Ansor, no round goes to a random task: given the
outcomes, what is chosen is determined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .records import store

ALPHA = 0.2
BETA = 2.0
# Trials of a round, and rounds that recent progress is judged by.
ROUND = 8
WINDOW = 3


class Steppable(Protocol):
    """What is needed of a search; :class:`codegen.tune.Search` is one."""

    @property
    def scores(self) -> Sequence[float]:
        """Of its trials so far, in order: how many times faster than ATen."""

    @property
    def done(self) -> bool:
        """Whether it has stopped gaining."""

    def step(self, n: int) -> Iterator[store.Record]:
        """Up to ``n`` more trials, added to ``scores``; fewer only where no others are left."""


@dataclass
class Task:
    """A search and what it is worth."""

    name: str
    weight: float  # its share of the model's time
    kind: str  # tasks of one kind are alike
    search: Steppable
    exhausted: bool = False

    @property
    def trials(self) -> int:
        """So far, earlier runs included."""
        return len(self.search.scores)

    @property
    def out(self) -> bool:
        """Whether no more trials go to it."""
        return self.exhausted or self.search.done

    def cost(self, trials: int) -> float:
        """The time after so many trials, in units of ATen's."""
        return 1 / max([1.0, *self.search.scores[:trials]])


def gradient(task: Task, tasks: Sequence[Task], window: int = WINDOW * ROUND) -> float:
    """How much of the model's time another trial of ``task`` is expected to gain; see the module.

    Args:
        task: one that got a trial.
        tasks: all, ``task`` included.
        window: the trials that recent progress is judged by.
    """
    spent, now = task.trials, task.cost(task.trials)
    recent = min(window, spent)
    backward = (task.cost(spent - recent) - now) / recent
    forward = now / spent
    alike = [t.cost(t.trials) for t in tasks if t is not task and t.kind == task.kind and t.trials]
    if alike:
        forward = max(forward, now - BETA * min(alike))
    return task.weight * (ALPHA * backward + (1 - ALPHA) * forward)


def choose(tasks: Sequence[Task], round_size: int = ROUND) -> Task | None:
    """The task that the next round goes to; None if all are out."""
    left = [task for task in tasks if not task.out]
    fresh = [task for task in left if task.trials < round_size]
    if fresh:
        return max(fresh, key=lambda task: task.weight)
    return max(left, key=lambda task: gradient(task, tasks, WINDOW * round_size), default=None)


def schedule(
    tasks: Sequence[Task],
    trials: int | None,
    over: Callable[[], bool],
    report: Callable[[Task, store.Record], None],
    round_size: int = ROUND,
) -> None:
    """Spends trials over the tasks.

    Args:
        tasks: in any order.
        trials: that all of them may have together, those of earlier runs included; None: as many as there is time for.
        over: whether the time is up; asked before each trial.
        report: called with each trial once it is recorded.
        round_size: trials between two decisions.

    Raises:
        CodegenError: a search can't go on, see ``Search.step``.
    """
    while not over():
        left = round_size if trials is None else min(round_size, trials - sum(task.trials for task in tasks))
        task = choose(tasks, round_size)
        if left <= 0 or task is None:
            return
        before = task.trials
        wanted = min(left, round_size - before) if before < round_size else left
        for record in task.search.step(wanted):
            report(task, record)
            if over():
                return
            if task.search.done:
                break
        else:
            task.exhausted = task.trials - before < wanted
