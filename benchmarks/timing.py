"""Interleaved timing: callables take turns within a round, and ratios are formed round by round.

Clock speed and neighbours drift over seconds, so two callables are only comparable when timed next to each other.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from statistics import median, quantiles
from time import perf_counter_ns

import torch

Call = Callable[[], object]

#: A single call says less than a sample of many, so short calls get this many times the rounds when timed cold.
_COLD_TIMES = 3
_COLD_SHORT_NS = 1e6

#: A call longer than this many times the minimum sample is timed without a warming call before each sample.
_WARMING_LIMIT = 10


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    q1: float
    q3: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        """Median and quartiles of one or more values; raises ValueError for none."""
        if not values:
            raise ValueError("no values to summarise")
        if len(values) == 1:
            return Spread(values[0], values[0], values[0])
        q1, _, q3 = quantiles(values, n=4, method="inclusive")
        return Spread(median(values), q1, q3)


@dataclass(frozen=True)
class Series:
    """Nanoseconds per call, one value a round, each the mean of `inner` calls in a row."""

    inner: int
    ns: list[float]

    def spread(self) -> Spread:
        """Median and quartiles over the rounds, in nanoseconds."""
        return Spread.of(self.ns)


@dataclass(frozen=True)
class Ratio:
    """How many times longer A takes than B: over 1, B is faster."""

    by_round: Spread
    of_medians: float


def ratio(a: Series, b: Series) -> Ratio:
    """A over B, as the median of the ratios of each round and as the ratio of the medians."""
    return Ratio(
        Spread.of([x / y for x, y in zip(a.ns, b.ns, strict=True)]),
        median(a.ns) / median(b.ns),
    )


def sample(call: Call, inner: int) -> int:
    """Nanoseconds that `inner` calls in a row take."""
    turns = repeat(None, inner)
    start = perf_counter_ns()
    for _ in turns:
        call()
    return perf_counter_ns() - start


def inner_count(call: Call, min_ns: float) -> int:
    """How many calls in a row take at least `min_ns`."""
    call()
    inner = 1
    while True:
        # The shorter of two: an interruption must not pass for a slow call.
        took = max(1, min(sample(call, inner), sample(call, inner)))
        if took >= min_ns:
            return inner
        inner = max(inner + 1, min(inner * 10, math.ceil(1.1 * inner * min_ns / took)))


def order(names: list[str], turn: int) -> list[str]:
    """The order of a round: rotated each round, and backwards after each full turn, so that neighbours change too."""
    at = turn % len(names)
    rotated = names[at:] + names[:at]
    return rotated[::-1] if (turn // len(names)) % 2 else rotated


@contextmanager
def _no_gc() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def warm(calls: Mapping[str, Call], rounds: int, min_time: float) -> dict[str, Series]:
    """Times each call in turn, `rounds` times, samples of at least `min_time` seconds, data in cache where it fits."""
    min_ns = min_time * 1e9
    names = list(calls)
    with _no_gc():
        inner = {name: inner_count(call, min_ns) for name, call in calls.items()}
        warming = {name: inner[name] > 1 or sample(calls[name], 1) < _WARMING_LIMIT * min_ns for name in names}
        ns: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            for name in order(names, turn):
                call = calls[name]
                if warming[name]:
                    call()
                ns[name].append(sample(call, inner[name]) / inner[name])
    return {name: Series(inner[name], ns[name]) for name in names}


class Evictor:
    """Streams through a buffer larger than the last cache, with the threads in use, so that nothing else stays."""

    def __init__(self, last_cache_bytes: int) -> None:
        size = min(max(2 * last_cache_bytes, 64 << 20), 1 << 30)
        self._buffer = torch.zeros(size // 4)

    def __call__(self) -> None:
        self._buffer.add_(1.0)


def cold(calls: Mapping[str, Call], rounds: int, evict: Call) -> dict[str, Series]:
    """Times single calls, each after `evict()`. The interpreter's own data is cold too, for every peer alike."""
    names = list(calls)
    ns: dict[str, list[float]] = {name: [] for name in names}
    with _no_gc():
        short = min(sample(call, 1) for call in calls.values()) < _COLD_SHORT_NS
        for turn in range(rounds * _COLD_TIMES if short else rounds):
            for name in order(names, turn):
                call = calls[name]
                evict()
                ns[name].append(float(sample(call, 1)))
    return {name: Series(1, ns[name]) for name in names}
