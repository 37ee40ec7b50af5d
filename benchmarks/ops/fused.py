"""Pointwise functions fused with a bias, a residual or a gate, against the operators of torch that they stand for.

Names are FUNCTION activation MxN; "backward" times the operator that makes the gradients.
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

SUITES = ("bias", "residual", "gated", "backward", "overhead")

# In L2, in L3 on most machines, in memory; the last is what a large model has.
SIZES = ((64, 1024), (512, 3072), (2048, 4096))
FUNCTIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda z: z,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
}


def _bias(name: str | None, x: Tensor, bias: Tensor) -> Tensor:
    return FUNCTIONS[name](x + bias)


def _bias_residual(name: str | None, x: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return FUNCTIONS[name](x + bias) + residual


def _add(name: str | None, x: Tensor, other: Tensor) -> Tensor:
    return FUNCTIONS[name](x + other)


def _gated(name: str | None, gate: Tensor, up: Tensor) -> Tensor:
    return FUNCTIONS[name](gate) * up


def _halves(name: str | None, x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return FUNCTIONS[name](gate) * up


def _star_relu(_: str | None, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return scale * torch.relu(x).square() + shift


# By kind: torch's formula, the operator of torch.ops.tvmops, operands' shapes for M and N, and where the activation's
# name stands among the arguments.
KINDS: dict[str, tuple[Callable[..., Tensor], str, Callable[[int, int], list[tuple[int, ...]]], int | None]] = {
    "bias": (_bias, "bias_activation", lambda m, n: [(m, n), (n,)], 2),
    "bias residual": (_bias_residual, "bias_activation", lambda m, n: [(m, n), (n,), (m, n)], 2),
    "add": (_add, "add_activation", lambda m, n: [(m, n), (m, n)], 2),
    "gated": (_gated, "gated_activation", lambda m, n: [(m, n), (m, n)], 2),
    "halves": (_halves, "gated_activation", lambda m, n: [(m, 2 * n)], 2),
    "star_relu": (_star_relu, "star_relu", lambda m, n: [(m, n), (1,), (1,)], None),
}


def _ours(function: Callable[..., Tensor], name: str | None, place: int | None, *tensors: Tensor) -> Tensor:
    if place is None:
        return function(*tensors)
    padded: list[Any] = [*tensors[:place], *[None] * (place - len(tensors[:place])), name, *tensors[place:]]
    return function(*padded)


def _operands(seed: int, shapes: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def _make(seed: int, kind: str, name: str | None, m: int, n: int) -> Problem:
    formula, op, shapes, place = KINDS[kind]
    operands = _operands(seed, shapes(m, n))
    theirs = Invocation(partial(formula, name), operands)
    ours = partial(_ours, getattr(load_tvmops(), op), name, place)
    return Problem(theirs, Invocation(ours, operands), theirs, no_grad=True)


def _gradients(function: Callable[..., Tensor], g: Tensor, *operands: Tensor) -> Tensor:
    """All gradients, one behind the other: what a training step computes after the forward call."""
    wanted = [x.detach().requires_grad_() for x in operands]
    made = torch.autograd.grad(function(*wanted), wanted, g)
    return made[0]


def _make_backward(seed: int, kind: str, name: str | None, m: int, n: int) -> Problem:
    formula, op, shapes, place = KINDS[kind]
    operands = _operands(seed, [(m, n), *shapes(m, n)])
    theirs = Invocation(partial(_gradients, partial(formula, name)), operands)
    ours = partial(_ours, getattr(load_tvmops(), op), name, place)
    return Problem(theirs, Invocation(partial(_gradients, ours), operands), theirs)


def _case(suite: str, kind: str, name: str | None, m: int, n: int) -> Case:
    elements = m * n + sum(torch.Size(shape).numel() for shape in KINDS[kind][2](m, n))
    back = suite == "backward"
    title = " ".join([kind, *([name] if name else []), f"{m}x{n}"])
    make = partial(_make_backward if back else _make, kind=kind, name=name, m=m, n=n)
    # Forward and backward: every operand and the output's gradient are read, and every gradient written, besides.
    return Case("fused", suite, title, 0, 4 * elements * (3 if back else 1), make)


def _cases(suite: str) -> Iterator[Case]:
    match suite:
        case "bias":
            yield from (_case(suite, "bias", name, m, n) for name in FUNCTIONS for m, n in SIZES)
        case "residual":
            yield from (_case(suite, "bias residual", name, m, n) for name in (None, "gelu") for m, n in SIZES)
            yield from (_case(suite, "add", name, m, n) for name in (None, "relu", "silu") for m, n in SIZES)
        case "gated":
            for kind in ("gated", "halves"):
                yield from (_case(suite, kind, name, m, n) for name in ("gelu", "silu") for m, n in SIZES)
            yield from (_case(suite, "star_relu", None, m, n) for m, n in SIZES)
        case "backward":
            for kind in KINDS:
                names = (None,) if KINDS[kind][3] is None else ("relu", "gelu", "silu")
                yield from (_case(suite, kind, name, m, n) for name in names for m, n in SIZES[:2])
        case "overhead":
            yield from (_case(suite, kind, None if kind == "star_relu" else "silu", 4, 64) for kind in KINDS)
        case _:
            raise ValueError(f"fused has no suite {suite!r}; it has {', '.join(SUITES)}")


def cases(suite: str) -> list[Case]:
    """The cases of one suite; raises ValueError for a name that is not in SUITES."""
    return list(_cases(suite))
