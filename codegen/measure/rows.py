"""What is checked and timed of a row program, and its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from .. import ops
from ..ops._rows import RowsOperator
from ..workload import Workload
from .case import ACTIVATION_FLOOR, Case, judge

# Rows and their length: the call alone, in L2, in L3 on most machines.
SUITE = ((4, 64), (64, 1024), (2048, 1024))
CHECKED = ((1, 2), (3, 5), (5, 16), (7, 67), (4, 128), (33, 1000), (2, 8200), (130, 257))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What rounding the result to the storage dtype costs.
FLOORS = {"float32": ACTIVATION_FLOOR, "bfloat16": 2.0**-8, "float16": 2.0**-11}
# Where a plan is measured: one length for each bucket of codegen/spaces/rows.py, and two sizes.
LENGTHS = (8, 64, 512, 4096)
ELEMENTS = ((128, 1 << 10), (1 << 12, 1 << 14), (1 << 16, 1 << 18), (1 << 20, 1 << 22), (1 << 24,))
# Timing wants much data, but not all of it different: so many rows are made, then repeated.
DISTINCT = 64


def _operator(workload: Workload) -> RowsOperator:
    operator = ops.load(workload.op)
    assert isinstance(operator, RowsOperator)
    return operator


def _sizes(workload: Workload, m: int, n: int) -> dict[str, int]:
    static = workload.dims["N"]
    if "M" not in workload.dims:
        return {"N": m * n}
    return {"M": m, "N": n if static is None else static}


def case(workload: Workload, sizes: Mapping[str, int], seed: int, *, exact: bool, column: bool = False) -> Case:
    """One call with these sizes; in column form, the row lies along the first dimension."""
    operator = _operator(workload)
    arrays = operator.inputs(workload, sizes, seed) if exact else _repeated(operator, workload, sizes, seed)
    dtype = DTYPES[workload.dtype]

    def tensor(array: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(array)
        x = x.to(dtype) if x.is_floating_point() else x
        return x.t().contiguous() if column and x.dim() == 2 else x

    inputs = [tensor(a) for a in arrays]
    more = {"dim": 0} if column else {}
    reference = None
    if exact:
        result = operator.aten(*(x.double() if x.is_floating_point() else x for x in inputs), **more)
        reference = result[0] if isinstance(result, tuple) else result
    return Case(
        sizes,
        "column" if column else "row",
        lambda: operator.ours(*inputs, **more),
        lambda: operator.aten(*inputs, **more),
        reference,
        floor=FLOORS[workload.dtype],
    )


def _repeated(operator: RowsOperator, workload: Workload, sizes: Mapping[str, int], seed: int) -> list[np.ndarray]:
    """As ``operator.inputs``, but of large ones only the beginning is made, and repeated."""
    leading = next(iter(sizes))  # M, or the N of a flat operator
    most = DISTINCT if leading == "M" else DISTINCT << 10
    few = {**sizes, leading: min(sizes[leading], most)}
    arrays = operator.inputs(workload, few, seed)
    return [np.resize(a, shape) for a, (_, shape) in zip(arrays, operator.shapes(sizes), strict=True)]


def checks(workload: Workload, knobs: Mapping[str, int], seed: int) -> Iterator[Case]:
    """Ragged sizes around vectors and unrolled steps, in every form."""
    shapes = {tuple(_sizes(workload, m, n).items()) for m, n in CHECKED}
    for column in _forms(workload):
        for sizes in sorted(shapes):
            yield case(workload, dict(sizes), seed, exact=True, column=column)


def timings(workload: Workload, seed: int) -> Iterator[Case]:
    """What a candidate's score is made from."""
    for m, n in SUITE:
        yield case(workload, _sizes(workload, m, n), seed, exact=False)
    if True in _forms(workload):
        yield case(workload, {"M": 512, "N": 128}, seed, exact=False, column=True)


def _forms(workload: Workload) -> tuple[bool, ...]:
    return (False, True) if _operator(workload).column and workload.dims["N"] is None else (False,)


def plan(kernel: Mapping[str, Any], threads: Sequence[int]) -> tuple[list[int], list[float]]:
    """By size bucket 1 (the kernel) or 0 (ATen), and the worst ratio; the order is that of rows_plan_bucket."""
    workload = Workload.parse(kernel["workload"])
    by_size = "M" not in workload.dims or workload.dims["N"] is not None
    lengths: Sequence[int] = (workload.dims["N"] or 1024,) if by_size else LENGTHS
    buckets = list(product((False,) if by_size else (False, True), lengths, ELEMENTS))
    forms = _forms(workload)

    def bucket(i: int) -> Iterator[Case]:
        column, n, elements = buckets[i]
        for total in elements if column in forms else ():
            if "M" not in workload.dims or total >= n:
                yield case(workload, _sizes(workload, max(1, total // n), n), 0, exact=False, column=column)

    return judge(len(buckets), bucket, threads)
