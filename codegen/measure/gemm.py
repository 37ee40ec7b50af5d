"""What is checked and timed of a kernel of the GEMM driver: cases, each a call of tvmops and the same of ATen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

import tvmops

from .. import ops
from ..workload import Workload
from .case import ACTIVATION_FLOOR, PLANNED, Case

# Rows that are timed where N and K are static: one for each size bucket of a plan.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 1024)
# For the kernel of all sizes. The layers among them have sizes that no specialised kernel is shipped for.
SUITE = (
    ("row", 128, 128, 128),
    ("row", 512, 512, 512),
    ("row", 1024, 1024, 1024),
    ("row", 127, 769, 1001),
    ("row", 8, 2048, 1024),
    ("row", 2, 1024, 2048),
    ("transposed", 256, 768, 768),
    ("transposed", 16, 1000, 1024),
    ("transposed a", 384, 384, 512),
    ("packed", 1, 1000, 1000),
    ("packed", 8, 1000, 1000),
    ("packed", 128, 1000, 1000),
    ("packed", 640, 1000, 1000),
)
# The routes of csrc/drivers/gemm.h that a plan may take where B is not packed ahead of time.
ROUTES = (1, 2, 3)
SQUARE_ROUTES = (1, 2)
LAYOUTS = ("row", "transposed", "transposed a", "packed")
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
# Results that an error is judged by: the norm of the errors of a few is mostly chance.
ENOUGH = 1000
# Calls with more arithmetic than this take too long to time again and again.
LARGEST = 20e9


def checks(workload: Workload, knobs: Mapping[str, int], seed: int) -> Iterator[Case]:
    """Ragged sizes around the tile's, and every epilogue."""
    if workload.dims["N"] is None:
        yield from _check_general(workload, knobs, seed)
    elif workload.op == "matmul":
        yield from _squares(workload, seed, SQUARE_ROUTES)
    else:
        yield from _check_linear(workload, knobs, seed)


def timings(workload: Workload, seed: int) -> Iterator[Case]:
    """What a candidate's score is made from."""
    operator = ops.load(workload.op)
    if workload.dims["N"] is None:
        for layout, *size in SUITE:
            sizes = dict(zip("MNK", size, strict=True))
            a, b = map(torch.from_numpy, operator.inputs(workload, sizes, seed))
            yield Case(sizes, layout, *_calls(a, b, layout))
        return
    if workload.op == "matmul":
        yield from _squares(workload, seed, (PLANNED,))
        return
    rows = [m for m in ROWS if operator.flops(_sizes(workload, m)) <= LARGEST]
    x, w, bias = map(torch.from_numpy, operator.inputs(workload, _sizes(workload, rows[-1]), seed))
    for m in rows:
        yield _linear_case(workload, x[:m], w, bias)


def _sizes(workload: Workload, m: int) -> dict[str, int]:
    return {name: m if size is None else size for name, size in workload.dims.items()}


def _pooled(workload: Workload, m: int) -> int:
    """The rows, of calls of ``m`` rows each, whose results together are enough to judge an error by."""
    return m * -(-ENOUGH // (m * (workload.dims["N"] or 1)))


def _linear_case(
    workload: Workload, x: Tensor, w: Tensor, bias: Tensor, exact: Tensor | None = None, rows: int | None = None
) -> Case:
    """``rows``: of one call; all of ``x`` unless given."""
    parts = x.split(rows or len(x))
    if len(parts) == 1:
        ours = lambda: tvmops.linear(x, w, bias, prepack=True)  # noqa: E731 - what is timed is the call alone
        aten = lambda: torch.nn.functional.linear(x, w, bias)  # noqa: E731
    else:
        ours = lambda: torch.cat([tvmops.linear(part, w, bias, prepack=True) for part in parts])  # noqa: E731
        aten = lambda: torch.cat([torch.nn.functional.linear(part, w, bias) for part in parts])  # noqa: E731
    return Case(_sizes(workload, rows or len(x)), "packed", ours, aten, exact)


def _squares(workload: Workload, seed: int, routes: tuple[int, ...]) -> Iterator[Case]:
    operator, sizes = ops.load(workload.op), _sizes(workload, 0)
    arrays = operator.inputs(workload, sizes, seed)
    a, b = map(torch.from_numpy, arrays)
    yield Case(sizes, "row", *_calls(a, b, "row"), torch.from_numpy(operator.reference(*arrays)), routes)


def _check_linear(workload: Workload, knobs: Mapping[str, int], seed: int) -> Iterator[Case]:
    operator, mr = ops.load(workload.op), knobs["mr"]
    rows = sorted({1, 2, mr - 1, mr, mr + 1, 2 * mr + 3, knobs["skinny_rows"] + mr // 2})
    arrays = operator.inputs(workload, _sizes(workload, max(_pooled(workload, m) for m in rows)), seed)
    exact = torch.from_numpy(operator.reference(*arrays))
    x, w, bias = map(torch.from_numpy, arrays)
    for m in rows:
        pooled = _pooled(workload, m)
        yield _linear_case(workload, x[:pooled], w, bias, exact[:pooled], m)
    m = mr + 1
    x, exact = x[:m], exact[:m]
    residual = torch.from_numpy(np.random.default_rng(seed).standard_normal(exact.shape, "float32"))
    for name, function in ACTIVATIONS.items():
        yield Case(
            _sizes(workload, m),
            name,
            lambda name=name: tvmops.linear(x, w, bias, name, residual, prepack=True),  # type: ignore[misc]
            lambda function=function: function(torch.nn.functional.linear(x, w, bias)) + residual,  # type: ignore[misc]
            function(exact) + residual,
            floor=ACTIVATION_FLOOR,
            recorded=False,
        )


def _check_general(workload: Workload, knobs: Mapping[str, int], seed: int) -> Iterator[Case]:
    operator = ops.load(workload.op)
    mr, nr, kc = knobs["mr"], knobs["nr"], knobs["kc"]
    every = (
        (1, 1, 1),
        (1, 4 * nr + 3, 37),
        (mr + 1, nr + 1, 17),
        (mr - 1, nr // 2 - 1, kc + 9),
        (5, 4 * nr, 300),
        (67, 2 * nr + 5, 2 * kc + 1),
        (2 * knobs["mc"] + 1, 3 * nr - 1, 40),
        (96, knobs["nc"] + nr + 1, 64),
    )
    for size in every:
        sizes = dict(zip("MNK", size, strict=True))
        arrays = operator.inputs(workload, sizes, seed)
        exact = torch.from_numpy(operator.reference(*arrays))
        a, b = map(torch.from_numpy, arrays)
        for layout in LAYOUTS:
            routes = (PLANNED,) if layout == "packed" else ROUTES
            yield Case(sizes, layout, *_calls(a, b, layout), exact, routes)
    bias = torch.from_numpy(np.random.default_rng(seed).standard_normal(exact.shape[1], "float32"))
    weight = b.t().contiguous()
    for name, function in ACTIVATIONS.items():
        yield Case(
            sizes,
            name,
            lambda name=name: tvmops.linear(a, weight, bias, name),  # type: ignore[misc]
            lambda function=function: function(torch.nn.functional.linear(a, weight, bias)),  # type: ignore[misc]
            function(exact + bias),
            floor=ACTIVATION_FLOOR,
            recorded=False,
        )


def _calls(a: Tensor, b: Tensor, layout: str) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    if layout == "packed":
        weight = b.t().contiguous()
        return lambda: tvmops.linear(a, weight, prepack=True), lambda: torch.nn.functional.linear(a, weight)
    if layout == "transposed":
        b = b.t().contiguous().t()
    elif layout == "transposed a":
        a = a.t().contiguous().t()
    return lambda: tvmops.matmul(a, b), lambda: torch.matmul(a, b)
