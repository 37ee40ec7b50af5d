"""Every pointwise function of one number at all 2**32 float32 numbers: ``python -m tests.exhaustive [NAME...]``.

Prints a table of errors, ours and ATen's, in units in the last place (:mod:`tests.accuracy`): the largest, where it is,
and the mean, of results that are normal numbers; the largest where the exact result is subnormal, in smallest normal
numbers, as such results may flush to zero; and how many results are wrong for infinities and NaN. Takes a minute a
function on two cores. The exit status is 1 if an error of ours exceeds 2 ULP.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

import tvmops
from tests.accuracy import ATEN, PARAMS, exact, ulps

CHUNK = 1 << 16
TASK = 1 << 26
LIMIT = 2.0
TINY = torch.finfo().tiny


@dataclass
class Errors:
    """What is known of a function so far."""

    worst: float = 0.0
    where: float = 0.0
    total: float = 0.0
    count: int = 0
    subnormal: float = 0.0
    special: int = 0  # wrong results where x is infinite or NaN

    def add(self, x: Tensor, value: Tensor, reference: Tensor) -> None:
        """Takes in a chunk."""
        distance = ulps(value, reference)
        finite = x.isfinite()
        if not finite.all():
            self.special += int((distance[~finite] > 0).sum())
            x, reference, distance = x[finite], reference[finite], distance[finite]
        tiny = reference.abs() < TINY
        if tiny.any():
            self.subnormal = max(self.subnormal, float(distance[tiny].max()) * 2.0**-23)
            x, distance = x[~tiny], distance[~tiny]
        if not distance.numel():
            return
        at = int(distance.argmax())
        if distance[at] > self.worst:
            self.worst, self.where = float(distance[at]), float(x[at])
        self.total += float(distance.sum())
        self.count += distance.numel()

    def merge(self, other: Errors) -> None:
        """Takes in what another process knows."""
        if other.worst > self.worst:
            self.worst, self.where = other.worst, other.where
        self.total += other.total
        self.count += other.count
        self.subnormal = max(self.subnormal, other.subnormal)
        self.special += other.special


def function(name: str) -> Callable[[Tensor], Tensor]:
    """The public function, with the parameters of :mod:`tests.accuracy`."""
    if name == "gelu_tanh":
        return lambda x: tvmops.gelu(x, approximate="tanh")
    made: Callable[..., Tensor] = getattr(tvmops, name)
    return lambda x: made(x, *PARAMS.get(name, ()))


def measure(name: str, start: int, stop: int, step: int) -> tuple[Errors, Errors]:
    """The errors of tvmops and of ATen at every ``step``-th float32 whose bits are in a range."""
    ours, theirs = Errors(), Errors()
    call = function(name)
    torch.set_num_threads(1)
    with torch.no_grad(), tvmops.mode("force"):
        assert all(d.kernel for d in tvmops.explain(call, torch.zeros(8))), f"no kernel serves {name}"
        for first in range(start, stop, CHUNK * step):
            bits = torch.arange(first, min(first + CHUNK * step, stop), step, dtype=torch.int64)
            x = bits.to(torch.int32).view(torch.float32)
            reference = exact(name, x)
            ours.add(x, call(x), reference)
            theirs.add(x, ATEN[name](x), reference)
    return ours, theirs


def together(parts: Iterable[tuple[Errors, Errors]]) -> tuple[Errors, Errors]:
    """Of the parts of a function."""
    ours, theirs = Errors(), Errors()
    for part in parts:
        ours.merge(part[0])
        theirs.merge(part[1])
    return ours, theirs


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(ATEN), help=", ".join(ATEN))
    parser.add_argument("--step", type=int, default=1, help="try every STEP-th float32 only")
    args = parser.parse_args()
    header = ("function", "max", "at", "mean", "subnormal", "special", "ATen max", "at", "mean", "special")
    print(f"| {' | '.join(header)} |\n| --- |" + " ---: |" * (len(header) - 1))
    failed = False
    starts = range(-(2**31), 2**31, TASK)
    pool = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))
    tasks = {n: [pool.submit(measure, n, s, s + TASK, args.step) for s in starts] for n in args.names}
    for name in args.names:
        ours, theirs = together(task.result() for task in tasks[name])
        cells = (
            *(f"{ours.worst:.3f}", f"{ours.where:.9g}", f"{ours.total / ours.count:.4f}"),
            *(f"{ours.subnormal:.2g}", str(ours.special)),
            *(f"{theirs.worst:.3g}", f"{theirs.where:.9g}", f"{theirs.total / theirs.count:.4g}", str(theirs.special)),
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        failed |= not (ours.worst <= LIMIT and ours.subnormal <= 1.0 and not ours.special)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
