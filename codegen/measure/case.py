"""What is checked and timed of a candidate: a call of tvmops and the same of ATen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tvmops import _C
from tvmops._calibrate import MARGIN, times
from tvmops._modes import _index

ROUND = 0.008  # seconds for each of the two calls of a plan's measurement
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
    explained: bool = True  # ``tvmops.explain`` can tell that the candidate serves it


def ratio(one: Case) -> float:
    """The time of the operator where it leaves the call to ATen, over the kernel's: a plan decides between these two.

    What seems to lose is measured up to four times more, and the median counts. Large results are first touched in
    memory that a host may have to find first: one such turn tells nothing.
    """

    def within(mode: str) -> Callable[[], Any]:
        number = _index(mode)

        def call() -> Any:
            _C.set_thread_mode(number)
            return one.ours()

        return call

    found: list[float] = []
    before = _C.set_thread_mode(-1)
    try:
        without = within("off") if one.explained else one.aten
        try:
            without()
        except RuntimeError:  # a part of an operator, which has no other way
            without = one.aten
        while len(found) < 5 and not (len(found) == 1 and found[0] >= MARGIN):
            mine, its = times([within("force"), without], ROUND)
            found.append(its / mine)
    finally:
        _C.set_thread_mode(before)
    return statistics.median(found)


def judge(count: int, bucket: Callable[[int], Iterable[Case]], threads: Sequence[int]) -> tuple[list[int], list[float]]:
    """The plan of a kernel: by size bucket 1 (the kernel) or 0 (ATen), and the worst ratio.

    ``bucket`` makes the cases of one of ``count`` buckets. One without any is too small for the kernel's sizes and goes
    by the bucket before.
    """
    ratios = [math.inf] * count
    with torch.inference_mode():
        for number in sorted(set(threads)):
            torch.set_num_threads(number)
            for i in range(count):
                ratios[i] = min([ratios[i], *map(ratio, bucket(i))])
    known = [0.0 if math.isinf(r) else r for r in ratios]
    for i, r in enumerate(known):
        if not r and i:
            known[i] = known[i - 1]
    return [int(r >= MARGIN) for r in known], [round(r, 3) for r in known]
