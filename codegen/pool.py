"""Measurers of many searches, of which only a few keep helper processes: each has some, and they hold TVM or torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .measure.measurer import ROUNDS, Outcome
from .spaces.space import Choice
from .tune import PlanningMeasurer

# So many are open at a time.
OPEN = 3

Make = Callable[[], contextlib.AbstractContextManager[PlanningMeasurer]]


class Pool:
    """Opens measurers when they are needed and closes the one that was not for longest. A context manager."""

    def __init__(self, most: int = OPEN) -> None:
        self._most = most
        self._open: dict[Pooled, tuple[contextlib.AbstractContextManager[PlanningMeasurer], PlanningMeasurer]] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for pooled in list(self._open):
            self._close(pooled)

    def measurer(self, make: Make) -> Pooled:
        """A measurer that is opened, by entering what ``make`` gives, when it is first used."""
        return Pooled(self, make)

    def opened(self, pooled: Pooled, make: Make) -> PlanningMeasurer:
        """The measurer itself, ready for use."""
        context, measurer = self._open.pop(pooled) if pooled in self._open else self._enter(make)
        self._open[pooled] = context, measurer  # the last is the one used last
        return measurer

    def _enter(self, make: Make) -> tuple[contextlib.AbstractContextManager[PlanningMeasurer], PlanningMeasurer]:
        while len(self._open) >= self._most:
            self._close(next(iter(self._open)))
        context = make()
        return context, context.__enter__()

    def _close(self, pooled: Pooled) -> None:
        context, _ = self._open.pop(pooled)
        context.__exit__(None, None, None)


class Pooled:
    """One measurer of a pool."""

    def __init__(self, pool: Pool, make: Make) -> None:
        self._pool, self._make = pool, make

    def measure(self, choice: Choice, rounds: int = ROUNDS) -> Outcome:
        """See :class:`.measure.measurer.Measurer`."""
        return self._pool.opened(self, self._make).measure(choice, rounds)

    def measure_all(self, choices: Sequence[Choice], rounds: int = ROUNDS) -> Iterator[Outcome]:
        """See :class:`.measure.measurer.Measurer`."""
        return self._pool.opened(self, self._make).measure_all(choices, rounds)

    def plan(self, choice: Choice) -> dict[str, Any]:
        """See :class:`.tune.PlanningMeasurer`."""
        return self._pool.opened(self, self._make).plan(choice)
