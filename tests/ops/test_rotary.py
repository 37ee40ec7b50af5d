"""Rotary embedding: values, gradients, layouts, what goes to ATen, transforms, the module."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.support import assert_same_nonfinite, by_aten, called, observed, python, randn, seeds

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Elements of a head, and how many of them are turned: around vectors of 8 and 16, all or a part.
WIDTHS = ((2, 2), (6, 4), (16, 16), (32, 32), (37, 20), (64, 64), (66, 66), (80, 32), (128, 128))


def tables(positions: int, turned: int, *batch: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    angles = 3 * randn(*batch, positions, turned // 2, seed=seed)
    return angles.cos(), angles.sin()


def formula(
    x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, seq_dim: int = 1, inverse: bool = False
) -> Tensor:
    """By complex numbers: another way than the operator's own."""
    half, seq_dim = cos.shape[-1], seq_dim % x.dim()
    part = x[..., : 2 * half]
    one, other = (part[..., ::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
    shape = [1] * x.dim()
    shape[seq_dim], shape[-1] = x.shape[seq_dim], half
    if cos.dim() == 3:
        shape[0] = cos.shape[0]
    turned = torch.complex(one, other) * torch.complex(cos, -sin if inverse else sin).reshape(shape)
    y = torch.stack([turned.real, turned.imag], -1).flatten(-2)
    if not interleaved:
        y = torch.cat([turned.real, turned.imag], -1)
    return torch.cat([y, x[..., 2 * half :]], -1)


def check(mode: str, x: Tensor, cos: Tensor, sin: Tensor, **kwargs: Any) -> None:
    """Value and gradient, each within a rounding or two of float64; a kernel makes both."""
    wanted = x.detach().requires_grad_()
    y = called(mode, tvmops.rotary_embedding, wanted, cos, sin, **kwargs)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    exact_x = x.detach().double().requires_grad_()
    exact = formula(exact_x, cos.double(), sin.double(), **kwargs)
    g = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
    (dx,) = called(mode, torch.autograd.grad, y, wanted, g)
    (exact_dx,) = torch.autograd.grad(exact, exact_x, g.double())
    eps = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[x.dtype]
    for value, reference in ((y, exact), (dx, exact_dx)):
        scale = reference.abs().max().item() + 1
        assert ((value.double() - reference).abs() <= eps * scale).all()


@pytest.mark.parametrize(("width", "turned"), WIDTHS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(width: int, turned: int, interleaved: bool, dtype: torch.dtype, mode: str) -> None:
    x = randn(2, 5, 3, width, dtype=dtype)
    check(mode, x, *tables(5, turned), interleaved=interleaved)
    check(mode, x, *tables(3, turned, 2), interleaved=interleaved, seq_dim=2)


layouts = st.sampled_from(["contiguous", "permuted", "wider rows", "steps", "expanded", "part of qkv"])


def laid_out(shape: list[int], layout: str, seed: int) -> Tensor:
    match layout:
        case "permuted":
            order = [*range(len(shape) - 2, -1, -1), len(shape) - 1]
            return randn(*(shape[d] for d in order), seed=seed).permute(order)
        case "wider rows":
            return randn(*shape[:-1], shape[-1] + 5, seed=seed)[..., 3 : 3 + shape[-1]]
        case "steps":
            return randn(*shape[:-1], 2 * shape[-1], seed=seed)[..., ::2]
        case "expanded":
            return randn(1, *shape[1:], seed=seed).expand(shape)
        case "part of qkv":
            return randn(*shape[:-2], 3 * shape[-2], shape[-1], seed=seed)[..., shape[-2] : 2 * shape[-2], :]
    return randn(*shape, seed=seed)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3), st.sampled_from(WIDTHS), layouts, st.booleans(), st.booleans(),
    st.booleans(), st.integers(0, 2), seeds,
)  # fmt: skip
def test_layouts(
    leading: list[int], width: tuple[int, int], layout: str, interleaved: bool, inverse: bool, batched: bool,
    place: int, seed: int,
) -> None:  # fmt: skip
    """Every layout of up to four dimensions is a kernel's, and the result is laid out as torch would."""
    x = laid_out([*leading, width[0]], layout, seed)
    seq_dim = place % len(leading)
    batch = leading[:1] if batched and seq_dim > 0 else []
    cos, sin = tables(leading[seq_dim], width[1], *batch, seed=seed)
    check("force", x, cos, sin, interleaved=interleaved, seq_dim=seq_dim, inverse=inverse)
    y = tvmops.rotary_embedding(x, cos, sin, interleaved=interleaved, seq_dim=seq_dim - x.dim(), inverse=inverse)
    expected = torch.empty_like(x).stride()
    assert all(a == b for a, b, size in zip(y.stride(), expected, y.shape, strict=True) if size > 1)


@pytest.mark.parametrize("interleaved", [False, True])
def test_turning_back(interleaved: bool) -> None:
    x, (cos, sin) = randn(2, 7, 3, 40), tables(7, 32)
    y = called("force", tvmops.rotary_embedding, x, cos, sin, interleaved=interleaved)
    back = called("force", tvmops.rotary_embedding, y, cos, sin, interleaved=interleaved, inverse=True)
    torch.testing.assert_close(back, x)
    assert torch.equal(y[..., 32:], x[..., 32:])


def test_tables_of_other_dtypes_and_layouts() -> None:
    x, (cos, sin) = randn(2, 7, 3, 32).bfloat16(), tables(7, 32)
    for table in (
        lambda t: t.bfloat16(),
        lambda t: t.half(),
        lambda t: t.t().contiguous().t(),
        lambda t: t[:1].expand(7, 16),
    ):
        check("force", x, table(cos), table(sin))
    whole = torch.cat([cos, sin], -1)
    check("force", x, *whole.chunk(2, -1))
    assert tvmops.rotary_embedding(x, cos, sin).dtype == torch.bfloat16


@pytest.mark.parametrize("interleaved", [False, True])
def test_gradcheck(interleaved: bool) -> None:
    """In float64, of the angles too: ATen's."""
    operands = [t.double().requires_grad_() for t in (randn(2, 3, 2, 6), *tables(3, 4))]
    function = lambda x, c, s: tvmops.rotary_embedding(x, c, s, interleaved=interleaved)  # noqa: E731
    assert torch.autograd.gradcheck(function, operands)
    assert torch.autograd.gradgradcheck(function, operands)


def test_second_derivatives_are_kernels_too() -> None:
    x, (cos, sin) = randn(2, 5, 3, 32).requires_grad_(), tables(5, 32)
    with tvmops.mode("force"):
        (first,) = torch.autograd.grad(tvmops.rotary_embedding(x, cos, sin).pow(3).sum(), x, create_graph=True)
        (second,), decisions = observed(torch.autograd.grad, first.square().sum(), x)
    assert all(d.kernel for d in decisions)
    exact = x.detach().double().requires_grad_()
    (one,) = torch.autograd.grad(formula(exact, cos.double(), sin.double()).pow(3).sum(), exact, create_graph=True)
    (two,) = torch.autograd.grad(one.square().sum(), exact)
    torch.testing.assert_close(second.double(), two, rtol=1e-4, atol=1e-3)


def test_gradients_of_the_angles() -> None:
    """By torch's operators."""
    operands = [t.requires_grad_() for t in (randn(2, 5, 3, 32), *tables(5, 32))]
    copies = [t.detach().clone().requires_grad_() for t in operands]
    by_aten(tvmops.rotary_embedding, *operands).sin().sum().backward()
    formula(*copies).sin().sum().backward()
    for mine, other in zip(operands, copies, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "permuted", "wider rows"])
def test_opcheck(wanted: bool, interleaved: bool, layout: str) -> None:
    x = laid_out([2, 5, 3, 40], layout, 0).detach().requires_grad_(wanted)
    with tvmops.mode("force"):
        torch.library.opcheck(torch.ops.tvmops.rotary_embedding.default, (x, *tables(5, 32), interleaved, 1, False))


def test_what_goes_to_aten() -> None:
    x, (cos, sin) = randn(2, 7, 3, 32), tables(7, 32)
    values = {
        "float64": (x.double(), cos.double(), sin.double()),
        "five dimensions": (x[:, :, None], cos, sin),
        "dense, but steps in a row": (randn(2, 7, 32, 3).transpose(2, 3), cos, sin),
        "no positions": (x[:, :0], cos[:0], sin[:0]),
        "no angles": (x, cos[:, :0], sin[:, :0]),
    }
    for operands in values.values():
        value = by_aten(tvmops.rotary_embedding, *operands)
        torch.testing.assert_close(value, formula(*operands), check_stride=False)
        assert value.stride() == torch.empty_like(operands[0]).stride()


def test_off_is_aten_in_the_same_layout() -> None:
    x, (cos, sin) = randn(2, 3, 7, 32).transpose(1, 2), tables(7, 32)
    with tvmops.mode("off"):
        y = tvmops.rotary_embedding(x, cos, sin)
    assert y.stride() == x.stride()
    torch.testing.assert_close(y, formula(x, cos, sin), check_stride=False)


def test_nonfinite() -> None:
    x, (cos, sin) = randn(1, 4, 2, 64), tables(4, 64)
    x[0, 0, 0, 0], x[0, 1, 0, 33], x[0, 2, 1, 5] = float("nan"), float("inf"), -float("inf")
    value = called("force", tvmops.rotary_embedding, x, cos, sin)
    exact = by_aten(tvmops.rotary_embedding, x.double(), cos.double(), sin.double())
    assert_same_nonfinite(value.double(), exact)


def test_errors() -> None:
    x, (cos, sin) = randn(2, 7, 3, 32), tables(7, 32)
    for message, operands, kwargs in (
        ("the input has 3 positions, cos and sin have 7", (x, cos, sin), {"seq_dim": 2}),
        ("cos and sin differ in shape", (x, cos, sin[:, :4]), {}),
        ("16 angles for rows of only 30 elements", (x[..., :30], cos, sin), {}),
        ("can't be seq_dim", (x, cos, sin), {"seq_dim": -1}),
        ("of at least 2 dimensions, got 1", (x[0, 0, 0], cos, sin), {"seq_dim": 0}),
        ("expected cos and sin of 2 dimensions", (x, cos[0], sin[0]), {}),
        ("a batch of 2, cos and sin have 3", (x, *tables(7, 32, 3)), {}),
        ("expected a floating-point input", (x.int(), cos, sin), {}),
    ):
        with pytest.raises(RuntimeError, match=message):
            tvmops.rotary_embedding(*operands, **kwargs)
    with pytest.raises(IndexError, match="Dimension out of range"):
        tvmops.rotary_embedding(x, cos, sin, seq_dim=4)


def test_same_bits_for_every_number_of_threads() -> None:
    for shape, seq_dim in (((2, 300, 8, 64), 1), ((1, 999, 1, 128), 1), ((3, 7, 130, 66), 2)):
        x, (cos, sin) = randn(*shape), tables(shape[seq_dim], shape[-1])
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(called("force", tvmops.rotary_embedding, x, cos, sin, seq_dim=seq_dim))
        assert all(torch.equal(r, results[0]) for r in results[1:])
        torch.testing.assert_close(results[0], formula(x, cos, sin, seq_dim=seq_dim))


@pytest.mark.parametrize("wanted", [False, True])
def test_compiled(wanted: bool) -> None:
    torch.compiler.reset()
    function = lambda x, c, s: tvmops.rotary_embedding(x * 2, c, s, interleaved=True).sin()  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for positions in (5, 17):
        x, (cos, sin) = randn(2, positions, 3, 32).requires_grad_(wanted), tables(positions, 32)
        with tvmops.mode("force"):
            value, decisions = observed(compiled, x, cos, sin)
        assert any(d.kernel for d in decisions)
        torch.testing.assert_close(value, function(x, cos, sin))
        if wanted:
            gradients = [torch.autograd.grad(f(x, cos, sin).sum(), x)[0] for f in (compiled, function)]
            torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("seq_dim", "batched"), [(0, False), (1, False), (1, True), (-2, False), (-2, True)])
def test_vmap(seq_dim: int, batched: bool) -> None:
    shape = (4, 5, 3, 16)
    place = seq_dim % 4
    count = shape[place]
    operands = (randn(*shape), *tables(count, 12, *([4] if batched else [])))
    for dims in itertools.product((None, 0, -1), repeat=3):
        if dims == (None, None, None):
            continue
        stacked = [
            x if d is None else torch.stack([x, 2 * x], 0 if d == 0 else x.dim())
            for x, d in zip(operands, dims, strict=True)
        ]
        ours = torch.vmap(lambda x, c, s: tvmops.rotary_embedding(x, c, s, seq_dim=seq_dim, inverse=True), dims)
        one = [[x if d is None else x.select(d, i) for x, d in zip(stacked, dims, strict=True)] for i in range(2)]
        expected = torch.stack([formula(*o, seq_dim=seq_dim, inverse=True) for o in one])
        torch.testing.assert_close(ours(*stacked), expected)


def test_errors_under_vmap_are_those_of_one_element() -> None:
    x, (cos, sin) = randn(2, 3, 4), tables(3, 4)
    with pytest.raises(RuntimeError, match="can't be seq_dim"):
        torch.vmap(lambda x: tvmops.rotary_embedding(x, cos, sin, seq_dim=1))(x)


def test_transforms_of_func() -> None:
    x, (cos, sin) = randn(2, 5, 3, 16), tables(5, 16)
    both = [lambda x, f=f: f(x, cos, sin).sin().sum() for f in (tvmops.rotary_embedding, formula)]
    torch.testing.assert_close(*(torch.func.grad(f)(x) for f in both))
    torch.testing.assert_close(*(torch.func.jvp(f, (x,), (x,)) for f in both))


def test_module() -> None:
    rope = tvmops.nn.RotaryEmbedding(32, base=500.0, max_position=64)
    assert not rope.state_dict()
    x = randn(2, 7, 3, 40)
    angles = torch.outer(torch.arange(64).double(), 500.0 ** (-torch.arange(16).double() / 16))
    cos, sin = angles.cos().float(), angles.sin().float()
    torch.testing.assert_close(called("force", rope, x), formula(x, cos[:7], sin[:7]))
    torch.testing.assert_close(called("force", rope, x, offset=20), formula(x, cos[20:27], sin[20:27]))
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [9, 3, 60, 63, 0, 1, 2]])
    torch.testing.assert_close(
        called("force", rope, x, positions=positions), formula(x, cos[positions], sin[positions])
    )
    with pytest.raises(ValueError, match="positions 60 to 67 of tables of 64"):
        rope(x, offset=60)
    with pytest.raises(ValueError, match="even number"):
        tvmops.nn.RotaryEmbedding(7)
    half = tvmops.nn.RotaryEmbedding(32, interleaved=True, seq_dim=2, max_position=64).to(torch.bfloat16)
    assert half.cos.dtype == torch.float32
    assert torch.equal(half.cos, tvmops.nn.RotaryEmbedding(32, max_position=64).cos)
    y = called("force", half, x.transpose(1, 2).bfloat16())
    assert y.dtype == torch.bfloat16
    empty = tvmops.nn.RotaryEmbedding(32, max_position=64, device="meta").to_empty(device="cpu")
    assert torch.equal(empty.cos, half.cos)
    assert repr(rope) == "RotaryEmbedding(32, base=500.0, interleaved=False, max_position=64, seq_dim=1)"
    compiled = torch.compile(rope, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, offset=3), rope(x, offset=3))


def test_no_byte_beyond_the_operands_is_touched() -> None:
    python("""
import torch, tvmops
from tests.guarded import Guarded
from tests.ops.test_rotary import WIDTHS, tables
with tvmops.mode("force"):
    for width, turned in WIDTHS:
        for interleaved in (False, True):
            for at_start in (False, True):
                with Guarded() as guard:
                    x = guard(torch.randn(1, 3, 2, width), at_start)
                    cos, sin = (guard(t, at_start) for t in tables(3, turned))
                    tvmops.rotary_embedding(x, cos, sin, interleaved=interleaved)
                    del x, cos, sin
""")
