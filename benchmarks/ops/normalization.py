"""Normalisation and its gradients, in L2, in L3, in memory, and where only the call counts.

Names are FUNCTION, or FUNCTION backward: through autograd for what ATen has no gradient operator of, else the
gradient's own operator, called directly like ATen's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.case import Case, Invocation, Problem
from benchmarks.peers import load_tvmops

#: Rows and columns. What these sizes fit into is true of most machines.
SHAPES = {"L2": (64, 1024), "L3": (2048, 1024), "DRAM": (16384, 1024), "call": (4, 64)}
#: Of [N, C, H, W] in 32 groups.
GROUPS = {"L2": (1, 64, 28, 28), "L3": (8, 320, 32, 32), "DRAM": (16, 128, 96, 96), "call": (1, 64, 4, 4)}
SUITES = (*SHAPES, "bfloat16")
FUNCTIONS = ("layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm", "group_norm")
# Tensors of the input's size that are read or written, forward and backward.
MOVED = {"layer_norm": (2, 3), "rms_norm": (2, 3), "add_layer_norm": (4, 4), "add_rms_norm": (4, 4)}


def _theirs(name: str) -> Callable[..., Any]:
    """What a user of torch calls."""
    if not name.startswith("add_"):
        found: Callable[..., Any] = getattr(functional, name)
        return found
    norm = getattr(functional, name.removeprefix("add_"))

    def call(x: Tensor, residual: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        total = x + residual
        return norm(total, *rest), total

    return call


def _operands(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Tensor], list[Any]]:
    def randn(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).to(dtype)

    channels = shape[1] if name == "group_norm" else shape[-1]
    inputs = [randn(*shape) for _ in range(2 if name.startswith("add_") else 1)]
    weights = [randn(channels) for _ in range(1 if name.endswith("rms_norm") else 2)]
    return inputs, [32 if name == "group_norm" else (channels,), *weights]


def _make(seed: int, name: str, shape: tuple[int, ...], dtype: torch.dtype, backward: bool) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    inputs, rest = _operands(name, shape, dtype, generator)
    tvmops = load_tvmops()
    ours, theirs = getattr(tvmops, name), _theirs(name)
    if not backward:
        eager = Invocation(theirs, (*inputs, *rest))
        return Problem(eager, Invocation(ours, (*inputs, *rest)), eager, no_grad=True)
    leaves = [x.requires_grad_() for x in (*inputs, *rest[1:])]

    def gradient(function: Callable[..., Any]) -> Callable[..., Any]:
        """Goes backward through a graph that is made once for each dtype."""
        graphs: dict[torch.dtype, Any] = {}

        def call(*args: Any) -> Tensor:
            if args[0].dtype not in graphs:
                out = function(*args)
                results = out if isinstance(out, tuple) else (out,)
                g = torch.Generator().manual_seed(seed + 1)
                gradients = [torch.randn(y.shape, generator=g).to(dtype).to(y.dtype) for y in results]
                graphs[args[0].dtype] = results, [t for t in args if isinstance(t, Tensor)], gradients
            first: Tensor = torch.autograd.grad(*graphs[args[0].dtype], retain_graph=True)[0]
            return first

        return call

    args = (*leaves[: len(inputs)], rest[0], *leaves[len(inputs) :])
    eager = Invocation(gradient(theirs), args)
    return Problem(eager, Invocation(gradient(ours), args), eager)


def _make_direct(seed: int, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Problem:
    """The gradient's operator, where both have one: without the autograd engine, which costs both the same."""
    generator = torch.Generator().manual_seed(seed)
    (x,), (_, weight, bias) = _operands(name, shape, dtype, generator)
    g = torch.randn(shape, generator=generator).to(dtype)
    load_tvmops()
    aten, ours, eps = torch.ops.aten, torch.ops.tvmops, 1e-5
    kept: dict[torch.dtype, tuple[Tensor, Tensor]] = {}  # mean and rstd

    if name == "layer_norm":
        mean, rstd = ours.norm_forward(x, None, 1, weight, bias, eps, False)[2:]

        def call(g: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Any:
            return ours.norm_backward(g, None, x, 1, mean, rstd, w, b, eps, False)

        def eager(g: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Any:
            if x.dtype not in kept:
                kept[x.dtype] = aten.native_layer_norm(x, shape[1:], w, b, eps)[1:]
            return aten.native_layer_norm_backward(g, x, shape[1:], *kept[x.dtype], w, b, [True] * 3)

    else:
        sizes = shape[0], shape[1], torch.Size(shape[2:]).numel(), 32
        mean, rstd = ours.group_norm_forward(x, 32, weight, bias, eps)[1:]

        def call(g: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Any:
            return ours.group_norm_backward(g, x, mean, rstd, 32, w, b, eps)

        def eager(g: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Any:
            if x.dtype not in kept:
                kept[x.dtype] = aten.native_group_norm(x, w, b, *sizes, eps)[1:]
            return aten.native_group_norm_backward(g, x, *kept[x.dtype], w, *sizes, [True] * 3)

    args = (g, x, weight, bias)
    return Problem(Invocation(eager, args), Invocation(call, args), Invocation(eager, args), no_grad=True)


def _cases(suite: str) -> Iterator[Case]:
    if suite not in SUITES:
        raise ValueError(f"normalization has no suite {suite!r}; it has {', '.join(SUITES)}")
    size = "L2" if suite == "bfloat16" else suite
    dtype = torch.bfloat16 if suite == "bfloat16" else torch.float32
    for backward in (False, True):
        for name in FUNCTIONS:
            shape: tuple[int, ...] = GROUPS[size] if name == "group_norm" else SHAPES[size]
            moved = MOVED.get(name, (3, 5))[backward] * dtype.itemsize * torch.Size(shape).numel()
            make = partial(_make, name=name, shape=shape, dtype=dtype, backward=backward)
            if backward and name in ("layer_norm", "group_norm"):
                make = partial(_make_direct, name=name, shape=shape, dtype=dtype)
            yield Case("normalization", suite, f"{name} backward" if backward else name, 0, moved, make)


def cases(suite: str) -> list[Case]:
    """The cases of one suite; raises ValueError for a name that is not in SUITES."""
    return list(_cases(suite))
