"""matmul and its relatives in auto mode, nothing prepacked. Names are MxNxK, with the batch before a colon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from benchmarks.case import Case, Invocation, Problem
from benchmarks.peers import load_tvmops

SUITES = ("squares", "skinny", "tall", "ragged", "transposed", "batched", "mv")

SQUARES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
SKINNY_M = (1, 2, 4, 8, 16, 32)
SKINNY_NK = ((768, 768), (3072, 768), (768, 3072), (4096, 4096))
TALL_N = (16, 24, 32, 48, 64)
RAGGED = (
    (127, 769, 1001),
    (5, 1000, 2048),
    (1111, 333, 555),
    (33, 65, 127),
    (129, 257, 4097),
    (1000, 17, 1000),
    (17, 3000, 17),
    (250, 250, 250),
    (100, 100, 100),
    (31, 31, 31),
    (65, 65, 65),
)
TRANSPOSED = ((64, 64, 64), (256, 256, 256), (512, 768, 384), (127, 769, 1001), (8, 3072, 768), (1, 4096, 4096))
#: T for each operand that is a transposed view: A, then B.
LAYOUTS = ("TN", "NT", "TT")
#: batch, M, N, K
BATCHED = ((12, 512, 64, 512), (12, 512, 512, 64), (96, 64, 64, 64), (64, 16, 16, 16), (32, 10, 100, 30))
#: shapes of both operands, for what is not one plain batch
BROADCAST = (((8, 128, 768), (768, 768)), ((4, 1, 64, 64), (8, 64, 64)))
MV = ((1000, 1000), (4096, 4096))


def operands(seed: int, a: tuple[int, ...], b: tuple[int, ...], layout: str = "NN") -> tuple[Tensor, Tensor]:
    """float32 normal tensors of shapes `a` and `b`; a T in `layout` makes that operand a transposed view."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape: tuple[int, ...], transposed: bool) -> Tensor:
        if not transposed:
            return torch.randn(shape, generator=generator)
        return torch.randn((*shape[:-2], shape[-1], shape[-2]), generator=generator).mT

    return one(a, layout[0] == "T"), one(b, layout[1] == "T")


def _make(seed: int, function: str, a: tuple[int, ...], b: tuple[int, ...], layout: str) -> Problem:
    eager: Callable[..., Tensor] = getattr(torch, function)
    args = operands(seed, a, b, layout)

    def traced(x: Tensor, y: Tensor) -> Tensor:  # torch.compile takes Python functions, not builtins
        return eager(x, y)

    ours = getattr(load_tvmops(), function)
    return Problem(Invocation(eager, args), Invocation(ours, args), Invocation(traced, args))


def case(
    suite: str,
    name: str,
    a: tuple[int, ...],
    b: tuple[int, ...],
    layout: str = "NN",
    function: str = "matmul",
    op: str = "matmul",
) -> Case:
    """A case of operands shaped `a` and `b`; `function` is the name both in torch and in tvmops."""
    rows, inner = a[-2:]
    columns = b[-1] if len(b) > 1 else 1
    batch = prod(np.broadcast_shapes(a[:-2], b[:-2]))
    moved = 4 * (prod(a) + prod(b) + batch * rows * columns)
    make = partial(_make, function=function, a=a, b=b, layout=layout)
    return Case(op, suite, name, 2 * batch * rows * columns * inner, moved, make)


def _plain(suite: str, m: int, n: int, k: int, layout: str = "NN") -> Case:
    suffix = "" if layout == "NN" else f" {layout}"
    return case(suite, f"{m}x{n}x{k}{suffix}", (m, k), (k, n), layout)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _cases(suite: str) -> Iterator[Case]:
    match suite:
        case "squares":
            yield from (_plain(suite, n, n, n) for n in SQUARES)
        case "skinny":
            yield from (_plain(suite, m, n, k) for n, k in SKINNY_NK for m in SKINNY_M)
        case "tall":
            yield from (_plain(suite, 3072, n, 768) for n in TALL_N)
        case "ragged":
            yield from (_plain(suite, *mnk) for mnk in RAGGED)
        case "transposed":
            yield from (_plain(suite, *mnk, layout) for mnk in TRANSPOSED for layout in LAYOUTS)
        case "batched":
            yield from (case(suite, f"{b}:{m}x{n}x{k}", (b, m, k), (b, k, n)) for b, m, n, k in BATCHED)
            yield from (case(suite, f"{_shape(a)} @ {_shape(b)}", a, b) for a, b in BROADCAST)
        case "mv":
            yield from (case(suite, f"{m}x{k}", (m, k), (k,), function="mv") for m, k in MV)
        case _:
            raise ValueError(f"matmul has no suite {suite!r}; it has {', '.join(SUITES)}")


def cases(suite: str) -> list[Case]:
    """The cases of one suite; raises ValueError for a name that is not in SUITES."""
    return list(_cases(suite))
