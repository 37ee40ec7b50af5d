"""The interface of a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..spaces.space import Choice


@dataclass(frozen=True)
class Trial:
    """A choice that was tried, and its score: how many times faster than ATen, 0 where it failed."""

    choice: Choice
    score: float


class Strategy(Protocol):
    """Proposes choices and learns from what became of them.

    All of its state is the seed and what it observed, in order: a search that resumes shows the trials in its records
    to ``observe`` and goes on. What was observed or proposed is not proposed again.
    """

    @property
    def batch(self) -> int:
        """So many proposals make sense now before the first of them is observed; 1: the next depends on this one."""

    def propose(self, n: int) -> Sequence[dict[str, int]]:
        """Up to ``n`` valid choices to try next; fewer only where no others are left, which ends the search."""

    def observe(self, trial: Trial) -> None:
        """Takes note of a trial, proposed by this strategy or not."""

    def state(self) -> dict[str, int]:
        """Figures about where it stands, for a person: at least how many were ``proposed`` and ``observed``."""


def identity(choice: Choice) -> tuple[tuple[str, int], ...]:
    """A choice as something to put in a set."""
    return tuple(sorted(choice.items()))
