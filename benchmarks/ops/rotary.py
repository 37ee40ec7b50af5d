"""Rotary embedding, against what models write in torch's operators.

"halves" is compared with x * cos + rotate_half(x) * sin, as Hugging Face's models have it; "pairs" with a product of
complex numbers, as the first Llama has it. Names are BxSxHxD; "heads first" is a view of [B, H, S, D].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.case import Case, Invocation, Problem
from benchmarks.peers import load_tvmops

SUITES = ("halves", "pairs", "heads first", "backward", "overhead")

# In L2, in L3 on most machines, in memory.
SHAPES = ((1, 64, 16, 64), (1, 512, 16, 128), (2, 2048, 32, 128))


Tables = tuple[Tensor, ...]
Function = Callable[[Tensor, Tables], Tensor]


def _rotate_half(x: Tensor, tables: Tables) -> Tensor:
    cos, sin = tables
    one, other = x.chunk(2, -1)
    return x * cos + torch.cat((-other, one), -1) * sin


def _complex(x: Tensor, tables: Tables) -> Tensor:
    (turns,) = tables
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)


def _call(function: Function, tables: Tables, doubles: Tables, x: Tensor) -> Tensor:
    """With the tables that a model keeps, which are made outside of what is timed; exact ones for the reference."""
    return function(x, doubles if x.dtype == torch.float64 else tables)


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    wanted = x.detach().requires_grad_()
    return torch.autograd.grad(function(wanted), wanted, g)[0]


def _make(seed: int, suite: str, shape: tuple[int, int, int, int]) -> Problem:
    tvmops = load_tvmops()
    generator = torch.Generator().manual_seed(seed)
    _, s, _, d = shape
    angles = torch.outer(torch.arange(s).double(), 10000.0 ** (-torch.arange(0, d, 2).double() / d))
    x, g = (torch.randn(shape, generator=generator) for _ in range(2))
    seq_dim = 2 if suite == "heads first" else 1
    if seq_dim == 2:
        x = x.transpose(1, 2)
    if suite == "pairs":
        formula: Function = _complex
        doubles: Tables = (torch.polar(torch.ones_like(angles), angles)[:, None],)
    else:
        formula = _rotate_half
        both = torch.cat((angles, angles), -1)
        doubles = tuple(t if seq_dim == 2 else t[:, None] for t in (both.cos(), both.sin()))
    kept = tuple(t.to(torch.complex64 if t.is_complex() else torch.float32) for t in doubles)
    theirs = partial(_call, formula, kept, doubles)
    rotate = partial(tvmops.rotary_embedding, interleaved=suite == "pairs", seq_dim=seq_dim)
    cos, sin = angles.cos().float(), angles.sin().float()

    def ours(x: Tensor) -> Tensor:
        return rotate(x, cos, sin)

    if suite == "backward":
        eager = Invocation(partial(_gradient, theirs), (x, g))
        return Problem(eager, Invocation(partial(_gradient, ours), (x, g)), eager)
    eager = Invocation(theirs, (x,))
    return Problem(eager, Invocation(ours, (x,)), eager, no_grad=True)


def _cases(suite: str) -> Iterator[Case]:
    if suite not in SUITES:
        raise ValueError(f"rotary has no suite {suite!r}; it has {', '.join(SUITES)}")
    shapes = ((1, 1, 2, 64), (1, 1, 32, 128)) if suite == "overhead" else SHAPES
    for b, s, h, d in shapes:
        moved = 4 * s * d * (2 * b * h * (2 if suite == "backward" else 1) + 1)
        yield Case("rotary", suite, f"{b}x{s}x{h}x{d}", 0, moved, partial(_make, suite=suite, shape=(b, s, h, d)))


def cases(suite: str) -> list[Case]:
    """The cases of one suite; raises ValueError for a name that is not in SUITES."""
    return list(_cases(suite))
