"""Scans and rotary embeddings under the CUDA key: what a launch is given, gradients, and what is left to ATen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tvmops
from tests.support import observed, randn

from .gpu import Pack, assert_rounded, by_aten, by_kernel, on_gpu


@pytest.fixture(autouse=True)
def _loaded(pack: Pack) -> None:
    """Every test here calls the kernels of the pack."""


def scanned(x: Tensor, dim: int, exclusive: bool, reverse: bool) -> Tensor:
    """In float64."""
    y = x.double().flip(dim) if reverse else x.double()
    z = y.cumsum(dim) - y if exclusive else y.cumsum(dim)
    return z.flip(dim) if reverse else z


@pytest.mark.parametrize(("shape", "dim"), [((40,), 0), ((3, 17), -1), ((2, 9, 4), 1), ((5, 2, 3), 0)])
def test_cumsum(pack: Pack, shape: tuple[int, ...], dim: int) -> None:
    x = randn(*shape)
    for exclusive, reverse in itertools.product((False, True), repeat=2):
        y = by_kernel("cumsum", x, dim, None, exclusive, reverse)
        assert_rounded(y, scanned(x, dim, exclusive, reverse), x.double().abs().sum(dim, keepdim=True).expand(shape))
        outer = math.prod(shape[: dim % len(shape)])
        assert pack.sizes[:4] == [outer, shape[dim], x.numel() // (outer * shape[dim]), exclusive + 2 * reverse]
        assert pack.buffers[:2] == [x.data_ptr(), y.data_ptr()]
        out = torch.empty(shape)
        assert by_kernel("cumsum.out", x, dim, None, exclusive, reverse, out=out) is out
        assert torch.equal(out, y)


def test_the_gradient_of_products(pack: Pack) -> None:
    x, g = 1 + randn(4, 6, 3) / 8, randn(4, 6, 3, seed=1)
    for reverse in (False, True):
        y = torch.cumprod(x.flip(1) if reverse else x, 1)
        y = y.flip(1) if reverse else y
        leaf = x.double().requires_grad_()
        exact = torch.cumprod(leaf.flip(1) if reverse else leaf, 1)
        (exact.flip(1) if reverse else exact).backward(g.double())
        found = by_kernel("cumprod_backward", g, x, y, 1, False, reverse)
        torch.testing.assert_close(found.double(), leaf.grad, rtol=1e-5, atol=1e-5)
        assert pack.sizes[:4] == [4, 6, 3, 0 if reverse else 2]
        assert pack.buffers[:4] == [g.data_ptr(), x.data_ptr(), y.data_ptr(), found.data_ptr()]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: randn(8, 20)[:, :16], "operands that are not contiguous"),
        (lambda: randn(16, 8).t(), "operands that are not contiguous"),
        (lambda: randn(33)[1:], "an operand does not begin at a multiple of 16 bytes"),
        (lambda: randn(8, 16).double(), "a dtype, device, layout"),
        (lambda: randn(0, 16), "a dtype, device, layout"),
        (lambda: randn(8, 16).half(), "no kernel for this GPU has this operator"),
    ],
    ids=["rows apart", "transposed", "misaligned", "float64", "empty", "float16"],
)
def test_what_scans_leave_to_aten(pack: Pack, make: Callable[[], Tensor], why: str) -> None:
    x, before = make(), pack.launches
    y, said = by_aten("cumsum", x, -1)
    assert said.startswith(why)
    assert torch.equal(y, x.cumsum(-1))
    assert pack.launches == before


def test_scans_of_other_dtypes_and_never_timed_ones() -> None:
    x = randn(3, 40)
    _, why = by_aten("cumsum", x, 1, torch.float64)
    assert why.startswith("a dtype")
    _, why = by_aten("cumsum", x, 1, mode="auto")
    assert why == "never timed on a GPU"
    with tvmops.mode("force"):
        _, decisions = observed(on_gpu, "cumprod", x, 1)
    assert [d.reason for d in decisions] == ["no kernel for this GPU has this operator, dtype and layout"]


def turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, inverse: bool) -> Tensor:
    """In float64; the positions are the second dimension."""
    c, s = cos.double()[:, None], sin.double()[:, None] * (-1 if inverse else 1)
    part = x.double()[..., : 2 * cos.shape[-1]]
    one, other = (part[..., ::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
    pair = (one * c - other * s, other * c + one * s)
    y = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat([y, x.double()[..., 2 * cos.shape[-1] :]], -1)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_embedding(pack: Pack, interleaved: bool) -> None:
    qkv, angles = randn(2, 5, 9, 40, dtype=torch.float16), 3 * randn(5, 16)
    cos, sin = angles.cos(), angles.sin()
    for x in (qkv, qkv[:, :, 3:6], qkv.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)):
        for inverse in (False, True):
            y = by_kernel("rotary_embedding", x, cos, sin, interleaved, 1, inverse)
            assert_rounded(y, turned(x, cos, sin, interleaved, inverse), x.double().abs() * 2)
            assert y.stride() == torch.empty_like(x).stride()
            assert pack.sizes[:5] == [2, 5, x.shape[2], 16, 8]
            assert pack.sizes[5:8] == list(x.stride()[:3])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: randn(2, 5, 3, 64, dtype=torch.float16)[..., ::2], "operands that are not contiguous"),
        (lambda: randn(961, dtype=torch.float16)[1:].view(2, 5, 3, 32), "an operand does not begin at"),
        (lambda: randn(1, 2, 5, 3, 32, dtype=torch.float16), "a dtype, device, layout, shape"),
        (lambda: randn(2, 5, 0, 32, dtype=torch.float16), "a dtype, device, layout, shape"),
        (lambda: randn(2, 5, 3, 32), "no kernel for this GPU has this operator"),
    ],
    ids=["elements apart", "misaligned", "five dimensions", "empty", "float32"],
)
def test_what_rotary_embeddings_leave_to_aten(pack: Pack, make: Callable[[], Tensor], why: str) -> None:
    x, before = make(), pack.launches
    dim = x.dim() - 3
    angles = randn(x.shape[dim], 16)
    arguments: tuple[Any, ...] = (x, angles.cos(), angles.sin(), False, dim, False)
    y, said = by_aten("rotary_embedding", *arguments)
    assert said.startswith(why)
    assert pack.launches == before
    with tvmops.mode("off"):
        assert torch.equal(y, torch.ops.tvmops.rotary_embedding(*arguments))
