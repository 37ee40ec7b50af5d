"""What is checked and timed of a candidate: a call of tvmops and the same of ATen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

PLANNED = -1  # the route that a plan takes
# Relative Frobenius error that is always allowed: ATen's own may be next to none.
ERROR_FLOOR = 1e-7
# A transcendental function adds an error of its own, a few units in the last place.
ACTIVATION_FLOOR = 1e-6


@dataclass(frozen=True)
class Case:
    """One call, and what it should give: ``exact`` in float64 (None: it is only timed), by each of ``routes``."""

    sizes: Mapping[str, int]
    layout: str
    ours: Callable[[], Any]
    aten: Callable[[], Any]
    exact: Tensor | None = None
    routes: tuple[int, ...] = (PLANNED,)
    floor: float = ERROR_FLOOR
    recorded: bool = True  # its error is the candidate's
