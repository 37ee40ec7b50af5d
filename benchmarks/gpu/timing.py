"""Times of a device: peers take turns, over buffers that together do not fit into its cache."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median, quantiles

from benchmarks.gpu.devices import Call, Device
from benchmarks.timing import order

# At least so many samples of each peer, however little time is left.
FEWEST = 3
# Calls in one graph at least, if they are short: from one graph to the next the device waits a little.
GRAPH, SHORT = 16, 2e-4


def sets(device: Device, moved: int) -> int:
    """How many sets of buffers, each of ``moved`` bytes, to rotate among so that none is found in the cache again."""
    return max(2, min(256, math.ceil(2 * device.l2_bytes / max(moved, 1))))


def interleaved(
    device: Device, peers: Mapping[str, Sequence[Call]], rounds: int, seconds: float = math.inf
) -> dict[str, list[float]]:
    """Seconds a call, by peer, one value a round. Each peer brings a call for every set of buffers.

    Args:
        device: that the calls are launched on.
        peers: calls by name.
        rounds: samples of each; fewer, though at least three, where ``seconds`` are over.
        seconds: that this may take, preparation apart.
    """
    ready: dict[str, tuple[Call, int]] = {}
    for name, calls in peers.items():
        for call in calls:
            call()
        device.synchronize()
        once = min(device.elapsed(partial(_all, calls)) for _ in range(2)) / len(calls)
        every = [*calls] * (math.ceil(GRAPH / len(calls)) if once < SHORT else 1)
        graph = device.repeated(every)
        took = min(device.elapsed(graph) for _ in range(3))  # the first replay also uploads it
        turns = max(1, math.ceil(device.sample / took))
        ready[name] = (partial(_all, [graph] * turns), turns * len(every))
    names, found = list(ready), {name: list[float]() for name in ready}
    start = time.monotonic()
    for turn in range(rounds):
        if turn >= FEWEST and time.monotonic() - start > seconds:
            break
        for name in order(names, turn):
            run, count = ready[name]
            found[name].append(device.elapsed(run) / count)
    return found


def _all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def spread(values: Sequence[float]) -> float:
    """Interquartile range over median."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / median(values)
