"""Every valid choice of a small space, in an order that the seed decides: what is best is then known, not guessed."""

from __future__ import annotations

import random

from ..errors import CodegenError
from ..spaces.space import Choice, Space
from ._explorer import Explorer
from .strategy import Strategy

# More choices than this take days to measure.
LIMIT = 10_000


class Exhaustive(Explorer):
    """Goes through a list."""

    def __init__(self, space: Space, seed: int) -> None:
        """Lists the choices.

        Raises:
            CodegenError: they are too many.
        """
        super().__init__(space, seed)
        found = self.solver.listed(LIMIT + 1)
        if len(found) > LIMIT:
            raise CodegenError(
                f"the space {space.name} has more than {LIMIT} valid choices, too many to try all; set some knobs"
            )
        random.Random(seed).shuffle(found)
        self._left = found[::-1]

    def _pick(self, rng: random.Random) -> Choice | None:
        while self._left and not self.is_fresh(self._left[-1]):
            self._left.pop()
        return self._left[-1] if self._left else None


def create(space: Space, seed: int) -> Strategy:
    """A fresh strategy.

    Raises:
        CodegenError: the space has too many choices.
    """
    return Exhaustive(space, seed)
