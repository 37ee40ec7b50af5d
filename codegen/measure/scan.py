"""What is checked and timed of a scan, and its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch

import tvmops

from .. import ops
from ..workload import Workload
from .case import Case, judge
from .rows import DTYPES

# [M, N, I]: the call alone, in L2, in L3 on most machines; across the rows.
SUITE = ((4, 64, 1), (64, 1024, 1), (2048, 1024, 1), (16, 512, 128))
CHECKED = (
    *((1, 1, 1), (3, 5, 1), (7, 67, 1), (33, 1000, 1), (2, 8200, 1), (130, 257, 1)),
    *((1, 3, 2), (2, 9, 17), (3, 40, 128), (2, 33, 300)),
)
# What rounding the result to the storage dtype costs.
FLOORS = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-11}
# Where a plan is measured: both ends of each bucket of codegen/spaces/scan.py, and one or two sizes. LENGTH is that of
# the scanned dimension where lanes lie across it.
SPANS = ((2, 4), (5, 8), (9, 16), (17, 64), (65, 256), (257, 1024), (1025, 4096))
ELEMENTS = ((128, 1 << 10), (1 << 14,), (1 << 18,), (1 << 22,), (1 << 24,))
LENGTH = 128


def case(workload: Workload, size: tuple[int, int, int], seed: int, *, exact: bool) -> Case:
    """One call with [M, N, I]."""
    operator, sizes = ops.load(workload.op), dict(zip(workload.dims, size, strict=True))
    inputs = [torch.from_numpy(a).to(DTYPES[workload.dtype]) for a in operator.inputs(workload, sizes, seed)]
    name = workload.op
    if name == "cumprod_backward":
        g, x, y = inputs

        def ours() -> Any:
            return torch.ops.tvmops.cumprod_backward(g, x, y, 1)
    else:

        def ours() -> Any:
            return getattr(tvmops, name)(inputs[0], 1)

    return Case(
        sizes,
        "row" if size[2] == 1 else "column",
        ours,
        lambda: operator.aten(*inputs),
        operator.aten(*(x.double() for x in inputs)) if exact else None,
        floor=FLOORS[workload.dtype],
    )


def checks(workload: Workload, knobs: Mapping[str, int], seed: int) -> Iterator[Case]:
    """Ragged sizes around groups, segments and tiles."""
    for size in CHECKED:
        yield case(workload, size, seed, exact=True)


def timings(workload: Workload, seed: int) -> Iterator[Case]:
    """What a candidate's score is made from."""
    for size in SUITE:
        yield case(workload, size, seed, exact=False)


def plan(kernel: Mapping[str, Any], threads: Sequence[int]) -> tuple[list[int], list[float]]:
    """By size bucket 1 (the kernel) or 0 (ATen), and the worst ratio; the order is that of scan_plan_bucket."""
    workload = Workload.parse(kernel["workload"])
    buckets = list(product((False, True), SPANS, ELEMENTS))

    def bucket(i: int) -> Iterator[Case]:
        column, spans, elements = buckets[i]
        for span, total in product(spans, elements):
            if total < span * (2 if column else 1):
                continue
            n = min(LENGTH, total // span) if column else span
            size = (max(1, total // (span * n)), n, span) if column else (max(1, total // n), n, 1)
            yield case(workload, size, 0, exact=False)

    return judge(len(buckets), bucket, threads)
