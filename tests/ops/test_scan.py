"""cumsum and cumprod: values against float64, exclusive and reversed, every dimension and layout, what goes to ATen."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.support import (
    assert_same,
    assert_same_error,
    assert_same_nonfinite,
    assert_same_outcome,
    by_aten,
    called,
    observed,
    randn,
    served,
)

NAMES = ("cumsum", "cumprod")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
names = pytest.mark.parametrize("name", NAMES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
ways = pytest.mark.parametrize(
    "way",
    [{}, {"exclusive": True}, {"reverse": True}, {"exclusive": True, "reverse": True}],
    ids=lambda w: "+".join(w) or "plain",
)

# Around a vector of lanes, a group, a block, a segment; and rows across two, or around a tile of columns.
LENGTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 2100)
INNER = (1, 1, 1, 2, 3, 15, 16, 17, 64, 127, 128, 129, 260)
shapes = st.tuples(st.integers(1, 5), st.sampled_from(LENGTHS), st.sampled_from(INNER)).map(
    lambda s: (1, *s[1:]) if s[1] * s[2] > 20_000 else s
)


def operand(name: str, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Products neither grow nor vanish."""
    x = randn(*shape, seed=seed)
    return (x if name == "cumsum" else x.sign() * (1 + x / 30)).to(dtype)


def exact(name: str, x: Tensor, dim: int, *, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """In float64, by flipping and rolling."""
    x = x.double()
    if reverse:
        x = x.flip(dim)
    y = getattr(torch, name)(x, dim)
    if exclusive:
        y = y.roll(1, dim)
        y.select(dim, 0).fill_(float(name == "cumprod"))
    return y.flip(dim) if reverse else y


def close(y: Tensor, reference: Tensor, magnitude: Tensor | None = None) -> None:
    """One rounding to the storage dtype, and what float64 loses: relative to the largest value on the way."""
    unit = torch.finfo(y.dtype).eps / 2
    slack = 1e-12 * (reference.abs().max() if magnitude is None else magnitude) + torch.finfo(y.dtype).smallest_normal
    # Two roundings, by way of float32.
    worst = ((y.double() - reference).abs() - slack) / reference.abs().clamp(min=1e-300)
    assert bool(((worst <= unit * 1.002) | (y.double() == reference)).all()), worst.max().item() / unit


@names
@ways
@settings(max_examples=40)
@given(shape=shapes, seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES))
def test_rounded_once(name: str, way: dict[str, bool], shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> None:
    x = operand(name, *shape, seed=seed, dtype=dtype)
    y = called("force", getattr(tvmops, name), x, 1, **way)
    assert (y.shape, y.dtype, y.is_contiguous()) == (x.shape, dtype, True)
    close(y, exact(name, x, 1, **way))


@names
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    dim=st.integers(-5, 4),
    seed=st.integers(0, 99),
    order=st.randoms(use_true_random=False),
    step=st.booleans(),
)
def test_any_dimension_of_any_layout(name: str, shape: list[int], dim: int, seed: int, order: Any, step: bool) -> None:
    dims = list(range(len(shape)))
    order.shuffle(dims)
    x = operand(name, *shape, seed=seed).permute(dims)
    x = x[..., ::2] if step else x
    ours, theirs = getattr(tvmops, name), getattr(torch, name)
    if not -x.dim() <= dim < x.dim():
        return assert_same_error(lambda: ours(x, dim), lambda: theirs(x, dim))
    y = called("force", ours, x, dim)
    assert y.stride() == theirs(x, dim).stride()
    close(y, exact(name, x, dim))


@names
@dtypes
def test_expanded_input(name: str, dtype: torch.dtype) -> None:
    x = operand(name, 1, 40, dtype=dtype).expand(9, 40)
    for dim in (0, 1):
        close(called("force", getattr(tvmops, name), x, dim), exact(name, x, dim))


def test_float32_is_at_least_as_exact_as_aten() -> None:
    x = torch.cat([randn(3000, seed=1) * 1e4, randn(3000, seed=2) * 1e-4])
    errors = [(f(x, 0).double() - exact("cumsum", x, 0)).abs().max() for f in (tvmops.cumsum, torch.cumsum)]
    assert errors[0] <= errors[1] * 1.001


@names
@ways
def test_infinities_and_nans_spread_as_in_aten(name: str, way: dict[str, bool]) -> None:
    ours = getattr(tvmops, name)
    for n, inner in ((100, 1), (1500, 1), (40, 19)):
        for values in (
            (math.inf,),
            (math.nan,),
            (math.inf, -math.inf),
            (-math.inf, 0.0),
            (0.0, math.inf),
            (math.nan, 0.0),
        ):
            x = operand(name, 3, n, inner)
            for k, value in enumerate(values):
                x[1, n // 3 + k * n // 5] = value
            y = called("force", ours, x, 1, **way)
            reference = exact(name, x, 1, **way)
            assert_same_nonfinite(y, reference)
            finite = reference.isfinite()
            assert finite.any()
            close(y[finite], reference[finite], reference[finite].abs().max())


@ways
@pytest.mark.parametrize("n", [40, 3000])
def test_products_that_overflow_or_vanish_on_the_way(way: dict[str, bool], n: int) -> None:
    """The product of neighbours alone may be infinite, or zero, where the product so far is not: it must not show."""
    for first, second in ((1e-30, 1e30), (1e30, 1e-30), (0.0, 1e38), (1e38, 0.0), (1e-38, 1e38), (1e-42, 1.0)):
        x = torch.ones(4, n)
        x[1, : n // 2], x[1, n // 2 :] = first, second
        x[2, 5:25] = second
        x[3, 3], x[3, 4:] = first, 4.0  # what follows is infinite by itself, and what precedes may be zero
        y, reference = called("force", tvmops.cumprod, x, 1, **way), exact("cumprod", x, 1, **way)
        assert_same_nonfinite(y.double(), reference.float().double())
        torch.testing.assert_close(y, reference.float(), equal_nan=True)


@names
def test_zeros_keep_torchs_sign(name: str) -> None:
    x = torch.tensor([-0.0, -0.0, 0.0, -1.0, -0.0, 2.0])
    for n in (1, 6):
        y, theirs = called("force", getattr(tvmops, name), x[:n], 0), getattr(torch, name)(x[:n], 0)
        assert_same(y, theirs)
        assert torch.equal(y.signbit(), theirs.signbit())


@names
@ways
def test_the_bits_do_not_depend_on_threads(name: str, way: dict[str, bool]) -> None:
    for shape, dim in (((1_000_000,), 0), ((3, 70_000), 1), ((900, 300), 1), ((300, 900), 0), ((2, 300, 70), 1)):
        x = operand(name, *shape)
        if name == "cumprod" and len(shape) == 1:
            x[500_000] = 1e-20  # one segment goes by another leaf
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(called("force", getattr(tvmops, name), x, dim, **way))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


@names
@ways
def test_large_results_bypass_the_caches(name: str, way: dict[str, bool]) -> None:
    for shape, dim in (((1, 3_200_001), 1), ((3099, 1031), 1), ((1031, 3099), 0)):
        x = operand(name, *shape)
        close(called("force", getattr(tvmops, name), x, dim, **way), exact(name, x, dim, **way))


@names
def test_what_no_kernel_covers_is_torchs(name: str) -> None:
    ours, theirs = getattr(tvmops, name), getattr(torch, name)
    f = operand(name, 4, 5)
    cases: list[tuple[Tensor, int, dict[str, Any]]] = [
        (f.double(), 0, {}),
        (f.to(torch.complex64), 1, {}),
        (torch.arange(6), 0, {}),
        (torch.arange(6, dtype=torch.int8), 0, {}),
        (torch.tensor([True, False, True]), 0, {}),
        (f, 0, {"dtype": torch.float64}),
        (f.half(), 1, {"dtype": torch.float32}),
        (f, 1, {"dtype": torch.int32}),
        (torch.tensor(3.0), 0, {}),
        (torch.tensor(3.0), -1, {}),
        (torch.ones(0), 0, {}),
        (torch.ones(3, 0), 0, {}),
        (torch.ones(0, 3), 1, {}),
        (torch.ones(2, 3, device="meta"), 1, {}),
    ]
    for x, dim, more in cases:
        if x.is_meta:
            assert_same_outcome(functools.partial(ours, x, dim, **more), functools.partial(theirs, x, dim, **more))
            continue
        assert_same(by_aten(ours, x, dim, **more), theirs(x, dim, **more))
        for way in ({"exclusive": True}, {"reverse": True}, {"exclusive": True, "reverse": True}):
            y = by_aten(ours, x, dim, **more, **way)
            expected = theirs(x, dim, **more)
            assert (y.dtype, y.shape) == (expected.dtype, expected.shape)
            if x.dim() and x.numel() and not x.is_complex():
                wanted = exact(name, x.to(more.get("dtype", x.dtype)), dim, **way)
                torch.testing.assert_close(y.double(), wanted)
            elif not x.dim():
                assert y.item() == ((name == "cumprod") if "exclusive" in way else 3.0)
    for way in ({}, {"exclusive": True}):
        assert_same(ours(f, 1, dtype=torch.float32, **way), ours(f, 1, **way))


@names
def test_errors_are_torchs(name: str) -> None:
    ours, theirs = getattr(tvmops, name), getattr(torch, name)
    f = torch.ones(2, 3)
    for x, dim in ((f, 2), (f, -3), (torch.tensor(1.0), 1), (torch.ones(0), 5)):
        assert_same_error(lambda x=x, dim=dim: ours(x, dim), lambda x=x, dim=dim: theirs(x, dim))
        with pytest.raises(IndexError):
            ours(x, dim, exclusive=True)
    for out in (torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.int32)):
        assert_same_error(
            lambda out=out: ours(f, 0, dtype=torch.float32, out=out),
            lambda out=out: theirs(f, 0, dtype=torch.float32, out=out),
        )
        with pytest.raises(RuntimeError, match="Expected out tensor to have dtype"):
            ours(f, 0, dtype=torch.float32, out=out, exclusive=True)
    learning = f.clone().requires_grad_()
    assert_same_error(lambda: ours(learning, 0, out=f), lambda: theirs(learning, 0, out=f))


@names
@ways
def test_out(name: str, way: dict[str, bool]) -> None:
    ours = getattr(tvmops, name)
    x = operand(name, 6, 70)
    for dim in (0, 1):
        expected, out = ours(x, dim, **way), torch.full((6, 70), 7.0)
        version = out._version
        assert called("force", ours, x, dim, out=out, **way) is out
        assert torch.equal(out, expected)
        assert out._version > version
        strided = torch.zeros(70, 6).t()
        assert_same(by_aten(ours, x, dim, out=strided, **way), by_aten(ours, x.double(), dim, **way).float())
        resized = torch.empty(0)
        assert ours(x, dim, out=resized, **way).shape == x.shape
        torch.testing.assert_close(resized, expected)
        wide = ours(x, dim, out=torch.empty(6, 70, dtype=torch.float64), **way)
        torch.testing.assert_close(wide, exact(name, x, dim, **way))
        same = x.clone()
        torch.testing.assert_close(ours(same, dim, out=same, **way), expected)


def test_rows_too_short_to_gain_go_to_aten_by_themselves() -> None:
    x = randn(1000, 4)
    _, decisions = observed(tvmops.cumsum, x, 1)
    kernels = [k for k in tvmops.kernels() if k["op"] == "cumsum" and k["serves"]]
    if kernels and not any(k["plan"] for k in kernels):
        assert not decisions[0].kernel


# --- Gradients. ---


@names
@ways
@settings(max_examples=15)
@given(shape=shapes, seed=st.integers(0, 99))
def test_gradient_against_float64(name: str, way: dict[str, bool], shape: tuple[int, ...], seed: int) -> None:
    x, g = operand(name, *shape, seed=seed), randn(*shape, seed=seed + 1)
    learning = x.clone().requires_grad_()

    def step() -> Tensor:
        y = getattr(tvmops, name)(learning, 1, **way)
        return torch.autograd.grad(y, learning, g)[0]

    mine = called("force", step)
    wide = x.double().requires_grad_()
    double = functools.partial(getattr(tvmops, name), dim=1, **way)  # float64: ATen's formulas
    exact_gradient = torch.autograd.grad(double(wide), wide, g.double())[0]
    torch.testing.assert_close(mine.double(), exact_gradient, rtol=2e-5, atol=2e-5 * shape[1] ** 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@names
def test_gradient_in_low_precision(name: str, dtype: torch.dtype) -> None:
    x = operand(name, 5, 300, dtype=dtype).requires_grad_()
    g = randn(5, 300, seed=3).to(dtype)
    y = served(getattr(tvmops, name), x, 1)
    mine = called("force", torch.autograd.grad, y, x, g)[0]
    wide = x.detach().double().requires_grad_()
    theirs = torch.autograd.grad(getattr(torch, name)(wide, 1), wide, g.double())[0]
    assert mine.dtype == dtype
    torch.testing.assert_close(mine.double(), theirs, rtol=5e-2, atol=20 * torch.finfo(dtype).eps)


@ways
@pytest.mark.parametrize("shape", [(3, 50), (1, 2500), (2, 30, 20)], ids=str)
def test_gradient_of_a_product_with_zeros(way: dict[str, bool], shape: tuple[int, ...]) -> None:
    for zeros in (1, 2):
        x = operand("cumprod", *shape)
        x[0, 7 : 7 + 9 * zeros : 9] = 0.0
        learning = x.clone().requires_grad_()
        y = served(tvmops.cumprod, learning, 1, **way)
        g = randn(*shape, seed=4)
        with tvmops.mode("force"):
            mine, decisions = observed(lambda y=y, learning=learning, g=g: torch.autograd.grad(y, learning, g)[0])
        assert [d.reason for d in decisions][-1] == "a factor is zero"
        wide = x.double().requires_grad_()
        theirs = torch.autograd.grad(tvmops.cumprod(wide, 1, **way), wide, g.double())[0]
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


@ways
def test_a_zero_that_no_product_has_is_no_zero(way: dict[str, bool]) -> None:
    x = operand("cumprod", 2, 40)
    x[:, 0 if way.get("reverse") else -1] = 0.0
    learning = x.requires_grad_()
    y = tvmops.cumprod(learning, 1, **way)
    with tvmops.mode("force"):
        mine, decisions = observed(lambda: torch.autograd.grad(y, learning, torch.ones_like(y))[0])
    assert bool(decisions[-1].kernel) == bool(way.get("exclusive"))
    assert mine.isfinite().all()


@names
@ways
def test_gradgrad(name: str, way: dict[str, bool]) -> None:
    x = randn(3, 4, dtype=torch.float64).requires_grad_()
    for dim in (0, 1):
        function = functools.partial(getattr(tvmops, name), dim=dim, **way)
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)


@names
@ways
def test_second_derivatives_through_a_kernel(name: str, way: dict[str, bool]) -> None:
    def second(x: Tensor) -> Tensor:
        y = getattr(tvmops, name)(x, 1, **way)
        (g,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
        return torch.autograd.grad((g * g).sum(), x)[0]

    x = operand(name, 3, 20)
    with tvmops.mode("force"):
        mine = second(x.clone().requires_grad_())
    torch.testing.assert_close(mine.double(), second(x.double().requires_grad_()), rtol=1e-4, atol=1e-3)


# --- Compile, vmap, the dispatcher. ---


@names
@ways
def test_opcheck(name: str, way: dict[str, bool]) -> None:
    op, flags = getattr(torch.ops.tvmops, name), (way.get("exclusive", False), way.get("reverse", False))
    for x, dim, dtype in (
        (operand(name, 3, 40), 1, None),
        (operand(name, 3, 40).requires_grad_(), 0, None),
        (operand(name, 3, 40).to(torch.bfloat16), -1, torch.float32),
        (torch.arange(5), 0, None),
        (torch.tensor(2.0), 0, None),
        (torch.ones(0, 3), 0, None),
    ):
        torch.library.opcheck(op.default, (x, dim, dtype, *flags))
    if name == "cumprod":
        x = operand(name, 3, 40)
        torch.library.opcheck(
            torch.ops.tvmops.cumprod_backward, (randn(3, 40), x, tvmops.cumprod(x, 1, **way), 1, *flags)
        )


@names
def test_compiled_with_changing_sizes(name: str) -> None:
    scan = getattr(tvmops, name)

    def f(x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        y = scan(x, 1, exclusive=True)
        scan(x, -1, out=out)
        return y * 2, scan(x, 0, dtype=torch.float64)

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((3, 5), (4, 70), (2, 33)):
        x, outs = operand(name, *shape), [torch.zeros(shape) for _ in range(2)]
        for mine, theirs in zip(compiled(x, outs[0]), f(x, outs[1]), strict=True):
            assert_same(mine, theirs)
        assert_same(*outs)


@names
@ways
def test_compiled_gradients(name: str, way: dict[str, bool]) -> None:
    def f(x: Tensor) -> Tensor:
        return getattr(tvmops, name)(x, 1, **way).sin()

    gradients = []
    for run in (torch.compile(f, fullgraph=True, backend="aot_eager"), f):
        x = operand(name, 3, 40).requires_grad_()
        gradients.append(torch.autograd.grad(run(x).sum(), x)[0])
    assert_same(*gradients)


@names
@ways
def test_vmap(name: str, way: dict[str, bool]) -> None:
    f = functools.partial(getattr(tvmops, name), **way)
    x = operand(name, 4, 5, 6)
    for in_dim in range(3):
        for dim in (0, 1, -1):
            mine = torch.vmap(lambda t, dim=dim: f(t, dim), in_dims=in_dim)(x)
            assert_same(mine, torch.stack([f(t, dim) for t in x.unbind(in_dim)]))
    assert_same(torch.vmap(lambda t: f(t, 0))(x[:, 0, 0]), torch.stack([f(t, 0) for t in x[:, 0, 0]]))
    with pytest.raises(IndexError, match="Dimension out of range"):
        torch.vmap(lambda t: f(t, 2))(x)
    twice = torch.vmap(torch.vmap(lambda t: f(t, 0), in_dims=1))(x)
    assert_same(twice, torch.stack([torch.stack([f(t, 0) for t in s.unbind(1)]) for s in x]))


@names
def test_vmapped_gradients(name: str) -> None:
    x = operand(name, 3, 4).requires_grad_()
    y, rows = getattr(tvmops, name)(x, 1), torch.eye(12).reshape(12, 3, 4)
    batched = torch.autograd.grad(y, x, rows, is_grads_batched=True, retain_graph=True)[0]
    one_by_one = torch.stack([torch.autograd.grad(y, x, r, retain_graph=True)[0] for r in rows])
    torch.testing.assert_close(batched, one_by_one)
    gradient = torch.func.vmap(torch.func.grad(lambda t: getattr(tvmops, name)(t, 0).sin().sum()))(x.detach())
    theirs = torch.func.vmap(torch.func.grad(lambda t: getattr(torch, name)(t, 0).sin().sum()))(x.detach())
    torch.testing.assert_close(gradient, theirs)


@names
def test_autocast_on_cpu_leaves_scans_alone(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        for x in (operand(name, 3, 50), operand(name, 3, 50, dtype=torch.bfloat16)):
            assert getattr(tvmops, name)(x, 1).dtype == getattr(torch, name)(x, 1).dtype == x.dtype
