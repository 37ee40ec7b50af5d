"""nn.Linear with its weight packed once, against torch's functional.linear called directly.

Names are MxNxK, for x[M,K] and weight[N,K].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.case import Case, Invocation, Problem
from benchmarks.ops import matmul
from benchmarks.peers import load_tvmops

SUITES = ("bias", "fused", "prepacked", "overhead")

BIAS_M = (1, 4, 8, 16, 32, 64, 128, 512)
BIAS_NK = ((384, 384), (1536, 384), (768, 768), (3072, 768), (768, 3072), (4096, 4096))
FUSED = (128, 3072, 768)
PREPACKED = (512, 768, 1024, 1536, 2048)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def _layer(seed: int, m: int, n: int, k: int, bias: bool) -> tuple[Tensor, nn.Linear]:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(k, n, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / k**0.5)
    return torch.randn((m, k), generator=generator), layer.eval()


def _eager(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return ACTIVATIONS[activation](functional.linear(x, weight, bias))


def _make(seed: int, m: int, n: int, k: int, bias: bool, activation: str | None, unpacked: bool) -> Problem:
    tvmops = load_tvmops()
    x, layer = _layer(seed, m, n, k, bias)
    args = (x, layer.weight) if layer.bias is None else (x, layer.weight, layer.bias)
    eager = functional.linear if activation is None else partial(_eager, activation=activation)

    def traced(x: Tensor) -> Tensor:
        y: Tensor = layer(x)
        return y if activation is None else ACTIVATIONS[activation](y)

    if unpacked:
        ours = Invocation(partial(tvmops.linear, activation=activation), args)
    else:
        packed = tvmops.nn.Linear(k, n, bias=bias, activation=activation)
        packed.load_state_dict(layer.state_dict())
        ours = Invocation(packed.eval(), (x,))
    return Problem(Invocation(eager, args), ours, Invocation(traced, (x,)), frozen=True, no_grad=True)


def _case(
    suite: str,
    m: int,
    n: int,
    k: int,
    *,
    bias: bool = True,
    activation: str | None = None,
    unpacked: bool = False,
) -> Case:
    name = f"{m}x{n}x{k}" + (f" {activation}" if activation else "") + (" (functional)" if unpacked else "")
    moved = 4 * (m * k + n * k + m * n + (n if bias else 0))
    make = partial(_make, m=m, n=n, k=k, bias=bias, activation=activation, unpacked=unpacked)
    return Case("linear", suite, name, 2 * m * n * k, moved, make)


def _cases(suite: str) -> Iterator[Case]:
    match suite:
        case "bias":
            yield from (_case(suite, m, n, k) for n, k in BIAS_NK for m in BIAS_M)
        case "fused":
            for unpacked in (False, True):
                yield from (_case(suite, *FUSED, activation=a, unpacked=unpacked) for a in ACTIVATIONS)
        case "prepacked":
            yield from (_case(suite, n, n, n, bias=False) for n in PREPACKED)
        case "overhead":
            yield matmul.case(suite, "matmul 16x16x16", (16, 16), (16, 16), op="linear")
        case _:
            raise ValueError(f"linear has no suite {suite!r}; it has {', '.join(SUITES)}")


def cases(suite: str) -> list[Case]:
    """The cases of one suite; raises ValueError for a name that is not in SUITES."""
    return list(_cases(suite))
