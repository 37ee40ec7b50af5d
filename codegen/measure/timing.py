"""How long a call takes: samples of several calls that take turns, and what is made of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

# A sample is at least this long, in seconds, so that the clock and the interpreter do not count; so is the warm-up.
SAMPLE = 1e-3
# All samples of a call take at least so many seconds together, but there are at most so many times the rounds of them.
DURATION, MOST = 5e-3, 4
# Of the samples, this fraction at either end does not count; at least one, where two are left then.
TRIM = 0.2
# The last level cache is thought this large, in bytes, where the system does not tell.
LAST_LEVEL = 32 << 20

Call = Callable[[], Any]


def samples(calls: Sequence[Call], rounds: int, flush: Call | None = None) -> list[list[float]]:
    """Seconds a call, for each of the calls, which take turns: ``rounds`` samples or more.

    The caches are warm; with ``flush``, which is called before each sample, they are not, and a sample is one call.
    """
    counts = [_count(call) for call in calls] if flush is None else [1] * len(calls)
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(MOST * rounds):
        if turn >= rounds and all(sum(own) * n >= DURATION for own, n in zip(taken, counts, strict=True)):
            break
        for i in range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls))):
            if flush is not None:
                flush()
            taken[i].append(_sample(calls[i], counts[i]))
    return taken


def _sample(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def _count(call: Call) -> int:
    """Warms up; how many calls make a sample."""
    call()
    fastest, spent = math.inf, 0.0
    while spent < SAMPLE or math.isinf(fastest):
        taken = _sample(call, 1)
        fastest, spent = min(fastest, taken), spent + taken
    return max(1, math.ceil(SAMPLE / max(1e-9, fastest)))


def trimmed_mean(values: Sequence[float]) -> float:
    """The mean without the :data:`TRIM` smallest and largest."""
    cut = min(math.ceil(TRIM * len(values)), (len(values) - 1) // 2)
    kept = sorted(values)[cut : len(values) - cut]
    return sum(kept) / len(kept)


def spread(values: Sequence[float]) -> float:
    """How much the samples differ: the interquartile range over the median; 0 of one sample."""
    low, middle, high = (_quantile(values, q) for q in (0.25, 0.5, 0.75))
    return (high - low) / middle if middle else 0.0


def _quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def flusher() -> Call:
    """A function that empties the caches of what the calls use: it writes to twice the last level's size."""
    buffer = torch.zeros(2 * last_level() // 4)
    return lambda: buffer.add_(1)


def last_level(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """The size of the largest cache, in bytes."""
    found = []
    for path in root.glob("index*/size"):
        text = path.read_text().strip()
        if text[:-1].isdecimal() and text[-1] in "KMG":
            found.append(int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]])
    return max(found, default=LAST_LEVEL)
