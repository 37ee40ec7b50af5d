"""Pointwise functions and their gradients, in L2, in L3, in memory, and where only the call counts.

Names are FUNCTION, or FUNCTION backward: the gradient's own operator, called directly like ATen's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.case import Case, Invocation, Problem
from benchmarks.peers import load_tvmops
from codegen.ops.pointwise import FUNCTIONS, POSITIVE

#: Rows and columns. What these sizes fit into is true of most machines.
SHAPES = {"L2": (64, 1024), "L3": (2048, 1024), "DRAM": (16384, 1024), "call": (4, 64)}
SUITES = tuple(SHAPES)


def _ours(name: str) -> Callable[..., Any]:
    tvmops = load_tvmops()
    found: Callable[..., Any] = getattr(tvmops, name, None) or partial(tvmops.gelu, approximate="tanh")
    return found


def _theirs(name: str) -> Callable[..., Any]:
    """What a user of torch calls: the quickest way into ATen."""
    functional = torch.nn.functional
    found: dict[str, Callable[..., Any]] = {
        "gelu_tanh": partial(functional.gelu, approximate="tanh"),
        "squared_relu": lambda x: torch.relu(x).square(),
    }
    return found.get(name) or getattr(torch, name, None) or getattr(functional, name)


def _make(seed: int, name: str, shape: tuple[int, int], backward: bool) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    if name in POSITIVE:
        x = x.abs() + 0.1
    _, aten_backward, params = FUNCTIONS[name]
    if not backward:
        theirs = _theirs(name)
        return Problem(Invocation(theirs, (x,)), Invocation(_ours(name), (x,)), Invocation(theirs, (x,)))
    load_tvmops()
    op = getattr(torch.ops.tvmops, f"{name}_backward")
    g = torch.randn(shape, generator=generator)
    eager = Invocation(aten_backward, (g, x))
    return Problem(eager, Invocation(lambda g, x: op(g, x, *params), (g, x)), eager, no_grad=True)


def _cases(suite: str) -> Iterator[Case]:
    if suite not in SHAPES:
        raise ValueError(f"pointwise has no suite {suite!r}; it has {', '.join(SUITES)}")
    shape = SHAPES[suite]
    for backward in (False, True):
        for name in FUNCTIONS:
            moved = 4 * shape[0] * shape[1] * (3 if backward else 2)
            make = partial(_make, name=name, shape=shape, backward=backward)
            yield Case("pointwise", suite, f"{name} backward" if backward else name, 0, moved, make)


def cases(suite: str) -> list[Case]:
    """The cases of one suite; raises ValueError for a name that is not in SUITES."""
    return list(_cases(suite))
