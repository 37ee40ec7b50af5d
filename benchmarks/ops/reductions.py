"""Reductions along rows, down columns and of everything, in L2, in L3, in memory, and where only the call counts.

Names are FUNCTION of SHAPE along DIM; with backward, it is the gradient's own operator, called directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case, Invocation, Problem
from benchmarks.peers import load_tvmops

NAMES = ("sum", "mean", "var", "amax", "argmax")
#: What these sizes fit into is true of most machines. A dim of None is all of them.
SHAPES: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {
    "L2": ((64, 1024), (1, 0, None)),
    "L3": ((2048, 1024), (1, 0, None)),
    "DRAM": ((16384, 1024), (1, 0, None)),
    "call": ((4, 64), (1, 0, None)),
}
#: Few long rows, short rows, few columns, a middle dimension, two dimensions.
ODD: tuple[tuple[tuple[int, ...], Any], ...] = (
    ((4, 1 << 20), 1),
    ((4, 1 << 20), 0),
    ((1 << 16, 16), 1),
    ((1 << 16, 16), 0),
    ((1 << 16, 3), 1),
    ((16, 512, 128), 1),
    ((16, 64, 3136), (0, 2)),
)
BACKWARD = ("var", "amax")
SUITES = (*SHAPES, "odd", "bfloat16", "backward")


def _make(seed: int, name: str, shape: tuple[int, ...], dim: Any, dtype: torch.dtype) -> Problem:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    kwargs = {} if dim is None else {"dim": dim}
    eager, ours = getattr(torch, name), getattr(load_tvmops(), name)

    def traced(x: Tensor) -> Tensor:  # torch.compile takes Python functions, not builtins
        y: Tensor = eager(x, **kwargs)
        return y

    return Problem(
        Invocation(partial(eager, **kwargs), (x,)), Invocation(partial(ours, **kwargs), (x,)), Invocation(traced, (x,))
    )


def _make_backward(seed: int, name: str, shape: tuple[int, ...], dim: int) -> Problem:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    y = getattr(torch, name)(x, dim, keepdim=True)
    load_tvmops()
    ops = torch.ops.tvmops

    def var_backward(g: Tensor, x: Tensor) -> Tensor:
        return 2 / (x.shape[dim] - 1) * g * (x - x.mean(dim, True))

    def amax_backward(g: Tensor, x: Tensor) -> Tensor:
        mask = x == y
        return g * mask / mask.sum(dim, True)

    if name == "var":
        eager = Invocation(var_backward, (y, x))
        return Problem(eager, Invocation(lambda g, x: ops.var_backward(g, x, [dim], 1), (y, x)), eager, no_grad=True)
    eager = Invocation(amax_backward, (y, x))
    return Problem(eager, Invocation(lambda g, x: ops.amax_backward(g, x, y, [dim]), (y, x)), eager, no_grad=True)


def _case(suite: str, name: str, shape: tuple[int, ...], dim: Any, dtype: torch.dtype = torch.float32) -> Case:
    label = f"{name} of {'x'.join(map(str, shape))} along {dim}"
    make = partial(_make, name=name, shape=shape, dim=dim, dtype=dtype)
    return Case("reductions", suite, label, 0, dtype.itemsize * prod(shape), make)


def _cases(suite: str) -> Iterator[Case]:
    match suite:
        case "odd":
            for shape, dim in ODD:
                yield from (_case(suite, n, shape, dim) for n in NAMES if n != "argmax" or isinstance(dim, int))
        case "bfloat16":
            for shape, dims in (SHAPES["L2"], SHAPES["L3"]):
                yield from (_case(suite, n, shape, d, torch.bfloat16) for d in dims for n in NAMES)
        case "backward":
            for size in ("L2", "L3"):
                shape = SHAPES[size][0]
                for name in BACKWARD:
                    for dim in (1, 0):
                        make = partial(_make_backward, name=name, shape=shape, dim=dim)
                        label = f"{name} backward of {'x'.join(map(str, shape))} along {dim}"
                        yield Case("reductions", suite, label, 0, 8 * prod(shape), make)
        case _ if suite in SHAPES:
            shape, dims = SHAPES[suite]
            yield from (_case(suite, n, shape, d) for d in dims for n in NAMES)
        case _:
            raise ValueError(f"reductions has no suite {suite!r}; it has {', '.join(SUITES)}")


def cases(suite: str) -> list[Case]:
    """The cases of one suite; raises ValueError for a name that is not in SUITES."""
    return list(_cases(suite))
