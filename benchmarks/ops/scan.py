"""Prefix sums and products along the last dimension, the middle one, and one long row; and their gradients.

Gradients are ATen's own formulas, called directly: what its autograd runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case, Invocation, Problem
from benchmarks.peers import load_tvmops

#: Shape and dimension. What these sizes fit into is true of most machines.
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "L2": ((64, 1024), 1),
    "L3": ((2048, 1024), 1),
    "DRAM": ((16384, 1024), 1),
    "call": ((4, 64), 1),
    "dim1": ((16, 512, 128), 1),
    "dim0": ((1024, 1024), 0),
    "row": ((1 << 24,), 0),
}
SUITES = tuple(SHAPES)
#: In every suite: name, arguments of the forward function beyond torch's, whether it is the gradient.
VARIANTS: tuple[tuple[str, dict[str, bool], bool], ...] = (
    ("cumsum", {}, False),
    ("cumsum exclusive", {"exclusive": True}, False),
    ("cumsum reverse", {"reverse": True}, False),
    ("cumsum backward", {}, True),
    ("cumprod", {}, False),
    ("cumprod backward", {}, True),
)


def _theirs(
    x: Tensor, dim: int, function: Callable[..., Tensor], exclusive: bool = False, reverse: bool = False
) -> Tensor:
    """What a user of torch writes."""
    if reverse:
        x = x.flip(dim)
    y = function(x, dim)
    if exclusive:
        y = y - x
    return y.flip(dim) if reverse else y


def _make(seed: int, name: str, shape: tuple[int, ...], dim: int, ways: dict[str, bool], backward: bool) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    tvmops, function = load_tvmops(), name.split()[0]
    x = torch.randn(shape, generator=generator)
    if function == "cumprod":  # neither growing nor vanishing
        x = x.sign() * (1 + x / 1000)
    theirs, ours = getattr(torch, function), getattr(tvmops, function)
    if not backward:
        eager: Callable[..., Any] = (
            partial(_theirs, dim=dim, function=theirs, **ways) if ways else partial(theirs, dim=dim)
        )
        args: tuple[Tensor, ...] = (x,)
        mine: Callable[..., Any] = partial(ours, dim=dim, **ways)
    elif function == "cumsum":
        eager, mine, args = (
            partial(_theirs, dim=dim, function=theirs, reverse=True),
            partial(ours, dim=dim, reverse=True),
            (x,),
        )
    else:
        args = (torch.randn(shape, generator=generator), x, theirs(x, dim))
        aten, op = torch.ops.aten.cumprod_backward, torch.ops.tvmops.cumprod_backward
        eager, mine = (lambda g, x, y: aten(g, x, dim, y)), (lambda g, x, y: op(g, x, y, dim))
    return Problem(Invocation(eager, args), Invocation(mine, args), Invocation(eager, args), no_grad=True)


def _cases(suite: str) -> Iterator[Case]:
    if suite not in SHAPES:
        raise ValueError(f"scan has no suite {suite!r}; it has {', '.join(SUITES)}")
    shape, dim = SHAPES[suite]
    for name, ways, backward in VARIANTS:
        moved = 4 * prod(shape) * (4 if name == "cumprod backward" else 2)
        make = partial(_make, name=name, shape=shape, dim=dim, ways=ways, backward=backward)
        yield Case("scan", suite, name, 0, moved, make)


def cases(suite: str) -> list[Case]:
    """The cases of one suite; raises ValueError for a name that is not in SUITES."""
    return list(_cases(suite))
