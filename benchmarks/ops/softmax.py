"""softmax, log_softmax, logsumexp, cross_entropy and their gradients, along the last dimension or the one before.

Names are FUNCTION SHAPE, with the dimension in brackets where it is not the last; a gradient is the operator that
autograd calls, called directly like ATen's.
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

#: Shapes and dimensions. What the first sizes fit into is true of most machines.
SHAPES: dict[str, tuple[tuple[tuple[int, ...], int], ...]] = {
    "L2": (((64, 1024), -1),),
    "L3": (((2048, 1024), -1),),
    "DRAM": (((16384, 1024), -1),),
    "call": (((4, 64), -1),),
    "short": (((8192, 10), -1), ((4096, 64), -1), ((12 * 197, 197), -1), ((2048, 128), -1)),
    "long": (((64, 32_000), -1), ((16, 128_256), -1)),
    "column": (((1024, 1024), 0), ((16, 512, 128), 1), ((8, 21, 4096), 1)),
}
SUITES = tuple(SHAPES)
FORWARD = ("softmax", "log_softmax", "logsumexp")


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Of a graph that is kept, by autograd."""
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    g = torch.ones_like(y) if g is None else g

    def call(given: Tensor) -> Tensor:
        if given.dtype == x.dtype:
            return torch.autograd.grad(y, leaf, g, retain_graph=True)[0]
        exact = given.requires_grad_()  # the reference, in float64
        return torch.autograd.grad(function(exact), exact, g.to(given.dtype))[0]

    return call


def _make(seed: int, name: str, shape: tuple[int, ...], dim: int, backward: bool) -> Problem:
    tvmops = load_tvmops()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    if name == "cross_entropy":
        if dim == 0:
            x = x.unsqueeze(0)
        classes = torch.randint(x.size(1), (x.size(0), *x.shape[2:]), generator=generator)
        ours: Callable[[Tensor], Tensor] = partial(tvmops.cross_entropy, target=classes)
        theirs: Callable[[Tensor], Tensor] = partial(torch.nn.functional.cross_entropy, target=classes)
        g = None
    else:
        ours, theirs = partial(getattr(tvmops, name), dim=dim), partial(getattr(torch, name), dim=dim)
        g = torch.randn(theirs(x).shape, generator=generator)
    if backward:
        ours, theirs = _gradient(ours, x, g), _gradient(theirs, x, g)
    eager = Invocation(theirs, (x,))
    return Problem(eager, Invocation(ours, (x,)), eager)


def _bytes(name: str, elements: int, backward: bool) -> int:
    """Tensors of the input's size that are read or written; those of one element a row count for nothing."""
    saves_output = name in ("softmax", "log_softmax")
    tensors = (3 if saves_output else 2) if backward else (2 if saves_output else 1)
    return 4 * elements * tensors


def _cases(suite: str) -> Iterator[Case]:
    if suite not in SHAPES:
        raise ValueError(f"softmax has no suite {suite!r}; it has {', '.join(SUITES)}")
    for backward in (False, True):
        for shape, dim in SHAPES[suite]:
            for name in (*FORWARD, "cross_entropy"):
                where = f" ({dim})" if dim != -1 else ""
                text = f"{name}{' backward' if backward else ''} {'x'.join(map(str, shape))}{where}"
                make: Any = partial(_make, name=name, shape=shape, dim=dim, backward=backward)
                yield Case("softmax", suite, text, 0, _bytes(name, prod(shape), backward), make)


def cases(suite: str) -> list[Case]:
    """The cases of one suite; raises ValueError for a name that is not in SUITES."""
    return list(_cases(suite))
