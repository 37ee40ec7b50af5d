"""Row-wise and pointwise operators under the CUDA key: what a launch is given, and what is left to ATen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support import randn

from .gpu import Pack, assert_rounded, by_aten, by_kernel


@pytest.fixture(autouse=True)
def _loaded(pack: Pack) -> None:
    """Every test here calls the kernels of the pack."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(5,), (7, 33), (2, 3, 40)])
def test_softmax(pack: Pack, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = randn(*shape, dtype=dtype)
    y = by_kernel("softmax", x, -1)
    assert_rounded(y, x.double().softmax(-1), depth=shape[-1])
    assert y.dtype == dtype
    assert pack.sizes[:2] == [x.numel() // shape[-1], shape[-1]]
    assert pack.buffers[:2] == [x.data_ptr(), y.data_ptr()]


@pytest.mark.parametrize(
    ("make", "dim", "why"),
    [
        (lambda: randn(8, 16, 4), 1, "rows that lie across memory"),
        (lambda: randn(8, 18)[:, :16], 1, "rows do not begin at multiples of 16 bytes"),
        (lambda: randn(16, 8).t(), 1, "operands that are not contiguous"),
        (lambda: randn(33)[1:], 0, "an operand does not begin at a multiple of 16 bytes"),
        (lambda: randn(8, 16).double(), 1, "a dtype, device, layout"),
        (lambda: randn(0, 16), 1, "a dtype, device, layout"),
    ],
    ids=["across", "rows apart", "transposed", "misaligned", "float64", "empty"],
)
def test_what_is_left_to_aten(pack: Pack, make: Callable[[], Tensor], dim: int, why: str) -> None:
    x, before = make(), pack.launches
    y, said = by_aten("softmax", x, dim)
    assert said.startswith(why)
    assert torch.equal(y, x.softmax(dim))
    assert pack.launches == before


def test_a_dimension_of_size_one_behind() -> None:
    x = randn(8, 16, 1)
    assert_rounded(by_kernel("softmax", x, 1), x.double().softmax(1), depth=16)


def test_pointwise(pack: Pack) -> None:
    x = randn(6, 35)
    exact = torch.nn.functional.gelu(x.double())
    y = by_kernel("gelu", x)
    assert_rounded(y, exact, x.double().abs())
    assert pack.sizes[:2] == [1, 210]
    out = torch.empty(6, 35)
    assert by_kernel("gelu.out", x, out=out) is out
    assert torch.equal(out, y)
    assert by_kernel("gelu_", x).data_ptr() == x.data_ptr()
    assert torch.equal(x, y)


def test_pointwise_in_another_order_of_memory() -> None:
    x = randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    y = by_kernel("gelu", x)
    assert y.stride() == x.stride()
    assert_rounded(y, torch.nn.functional.gelu(x.double()), x.double().abs())
    by_aten("gelu", randn(8, 20)[:, :16])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_that_are_apart(pack: Pack, dtype: torch.dtype) -> None:
    """Halves of a row and the like: a launch gets the stride of each operand."""
    x = randn(8, 48, dtype=dtype)[:, 8:24]
    y = by_kernel("softmax", x, 1)
    assert_rounded(y, x.double().softmax(1), depth=16)
    assert pack.sizes[:4] == [8, 16, 48, 16]


def test_halves(pack: Pack) -> None:
    x = randn(2, 5, 48)
    gate, up = x.double().chunk(2, -1)
    exact = torch.nn.functional.silu(gate) * up
    y = by_kernel("gated_halves", x, "silu")
    assert_rounded(y, exact, x.double().abs().amax() ** 2 * torch.ones_like(exact))
    assert pack.sizes[:5] == [10, 24, 48, 48, 24]
    assert pack.buffers[1] == pack.buffers[0] + 24 * 4
    for wide in (randn(5, 44), randn(5, 46)):  # the second half does not begin at 16 bytes; nor do rows
        y, why = by_aten("gated_halves", wide, "silu")
        assert "multiple" in why
        gate, up = wide.chunk(2, -1)
        torch.testing.assert_close(y, torch.nn.functional.silu(gate) * up)


def test_misaligned_in_place() -> None:
    x = randn(41)[1:]
    expected = torch.nn.functional.gelu(x.clone())
    y, why = by_aten("gelu_", x)
    assert why == "an operand does not begin at a multiple of 16 bytes"
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("weights", ["both", "float32", "none", "weight"])
def test_layer_norm(pack: Pack, weights: str) -> None:
    x = randn(5, 3, 48, dtype=torch.float16)
    dtype = torch.float32 if weights == "float32" else torch.float16
    weight = None if weights == "none" else randn(48, seed=1, dtype=dtype)
    bias = None if weights in ("none", "weight") else randn(48, seed=2, dtype=dtype)
    y = by_kernel("layer_norm", x, [48], weight, bias, 1e-3)
    wide = [None if t is None else t.double() for t in (weight, bias)]
    exact = torch.nn.functional.layer_norm(x.double(), [48], wide[0], wide[1], 1e-3)
    assert_rounded(y, exact, exact.abs() + 4, depth=48)
    assert pack.sizes[:2] == [15, 48]


def test_layer_norm_for_a_gradient() -> None:
    """Its statistics are results too."""
    x = randn(5, 48, dtype=torch.float16)
    y, _, mean, rstd = by_kernel("norm_forward", x, None, 1, None, None, 1e-5, False)
    wide = x.double()
    torch.testing.assert_close(mean.double(), wide.mean(-1, True), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rstd.double(), (wide.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt())
    assert mean.shape == rstd.shape == (5, 1)
    assert y.dtype == torch.float16


@pytest.mark.parametrize("weighted", [True, False])
def test_layer_norm_backward(pack: Pack, weighted: bool) -> None:
    """Sums over all rows; without weights the kernel still has memory to write them to."""
    x, g = randn(9, 24), randn(9, 24, seed=1)
    weight, bias = (randn(24, seed=2), randn(24, seed=3)) if weighted else (None, None)
    leaves = [t.double().requires_grad_() for t in (x, weight, bias) if t is not None]
    exact = torch.nn.functional.layer_norm(leaves[0], [24], *leaves[1:], eps=1e-5)
    exact.backward(g.double())
    mean = x.mean(-1, True)
    rstd = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
    found = by_kernel("norm_backward", g, None, x, 1, mean, rstd, weight, bias, 1e-5, False)
    for value, leaf in zip(found, leaves, strict=False):
        torch.testing.assert_close(value.double(), leaf.grad, rtol=1e-4, atol=1e-4)
    assert pack.last.workspace % 256 == 0
    assert all(pack.buffers[:8])


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_a_launch_for_each_activation(pack: Pack, activation: str | None) -> None:
    x, bias = randn(6, 35), randn(35, seed=1)
    y = by_kernel("bias_activation", x, bias, activation)
    exact = x.double() + bias.double()
    exact = torch.nn.functional.gelu(exact) if activation else exact
    assert_rounded(y, exact, x.double().abs() + bias.double().abs())
    assert pack.sizes[:2] == [6, 35]


def test_an_activation_without_a_launch() -> None:
    x, bias = randn(6, 35), randn(35, seed=1)
    y, why = by_aten("bias_activation", x, bias, "silu")
    assert why == "no kernel for this activation"
    assert torch.equal(y, torch.nn.functional.silu(x + bias))
