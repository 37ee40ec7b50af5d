"""What is checked and timed of a rotary embedding, and its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

import tvmops

from .. import ops
from ..workload import Workload
from .case import Case, judge
from .rows import DTYPES

# Positions, heads, elements of a head: the call alone, one token, then prompts in L2, L3 and memory.
SUITE = ((1, 2, 64), (1, 32, 128), (64, 16, 64), (512, 32, 128), (2048, 32, 128))
CHECKED = ((1, 1, 2), (3, 2, 10), (5, 3, 32), (7, 1, 66), (33, 4, 80), (70, 8, 128))
# What rounding the result to the storage dtype costs.
FLOORS = {"float32": 2.0**-22, "bfloat16": 2.0**-8, "float16": 2.0**-11}
# Where a plan is measured: two sizes for each bucket of codegen/spaces/rotary.py, with the heads of each.
HEADS, LENGTH = 8, 64
PLANNED = ((1 << 9, 1 << 10), (1 << 12, 1 << 14), (1 << 16, 1 << 18), (1 << 20, 1 << 22), (1 << 23, 1 << 24))


def case(workload: Workload, sizes: Mapping[str, int], seed: int, *, exact: bool, interleaved: bool = False) -> Case:
    """One call with these sizes; ``interleaved`` pairs are those of the same numbers in another order."""
    operator = ops.load(workload.op)
    arrays = operator.inputs(workload, sizes, seed)
    dtype, n = DTYPES[workload.dtype], sizes["N"]
    x, cos, sin = (torch.from_numpy(a) for a in arrays)
    x = x.to(dtype)
    order = torch.arange(n).view(2, -1).t().flatten() if interleaved else torch.arange(n)
    given = x[..., order].unsqueeze(0)
    reference = torch.from_numpy(operator.reference(x.double().numpy(), *arrays[1:])) if exact else None
    return Case(
        sizes,
        "pairs" if interleaved else "halves",
        lambda: tvmops.rotary_embedding(given, cos, sin, interleaved=interleaved),
        lambda: operator.aten(x, cos, sin),
        reference[..., order].unsqueeze(0) if reference is not None else None,
        floor=FLOORS[workload.dtype],
    )


def _sizes(workload: Workload, sizes: Sequence[int]) -> dict[str, int]:
    return dict(zip(workload.dims, sizes, strict=True))


def checks(workload: Workload, knobs: Mapping[str, int], seed: int) -> Iterator[Case]:
    """Ragged sizes around vectors, both pairings."""
    for sizes in CHECKED:
        for interleaved in (False, True):
            yield case(workload, _sizes(workload, sizes), seed, exact=True, interleaved=interleaved)


def timings(workload: Workload, seed: int) -> Iterator[Case]:
    """What a candidate's score is made from."""
    for sizes in SUITE:
        yield case(workload, _sizes(workload, sizes), seed, exact=False)


def plan(kernel: Mapping[str, Any], threads: Sequence[int]) -> tuple[list[int], list[float]]:
    """By size bucket 1 (the kernel) or 0 (ATen), and the worst ratio; the order is that of rotary_plan_bucket."""
    workload = Workload.parse(kernel["workload"])

    def bucket(i: int) -> Iterator[Case]:
        for total in PLANNED[i]:
            yield case(workload, _sizes(workload, (total // (HEADS * LENGTH), HEADS, LENGTH)), 0, exact=False)

    return judge(len(PLANNED), bucket, threads)
