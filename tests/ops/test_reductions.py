"""Reductions and their gradients: values against float64, every way to cut a tensor, what goes to ATen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.support import (
    assert_same,
    assert_same_error,
    assert_same_outcome,
    by_aten,
    called,
    observed,
    randn,
    relative_error,
    served,
)

VALUES = ("sum", "mean", "var", "amax", "amin")
INDICES = ("argmax", "argmin")
NAMES = VALUES + INDICES
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Below it an error is that of rounding the result.
FLOORS = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
names = pytest.mark.parametrize("name", NAMES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# [.., n, ..] and the dimension: one row and many, long enough for pieces, few neighbours, ragged tiles.
SHAPES: list[tuple[tuple[int, ...], int | tuple[int, ...]]] = [
    ((3, 17), 1),
    ((40, 16), 1),
    ((33, 1000), 1),
    ((1, 16385), 1),
    ((3, 40_001), 1),
    ((70, 20_000), 1),
    ((17, 3), 0),
    ((1000, 33), 0),
    ((131, 1500), 0),
    ((5003, 3), 0),
    ((4999, 100), 0),
    ((2, 700, 1030), 1),
    ((3, 2001, 7), 1),
    ((40, 300, 65), 1),
    ((6, 5, 400), (0, 2)),
    ((300, 9, 3), (0, 2)),
    ((3, 4, 5, 6, 7), (1, 3)),
]


def both(name: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The function of tvmops, and torch's."""
    return getattr(tvmops, name), getattr(torch, name)


def largest(x: Tensor) -> float:
    return float(x.abs().max())


def assert_right(name: str, x: Tensor, dim: Any, **kwargs: Any) -> None:
    """By a kernel, and as accurate as ATen: twice its error at most, or one rounding of what is summed."""
    ours, theirs = both(name)
    y, expected = called("force", ours, x, dim, **kwargs), theirs(x, dim, **kwargs)
    assert (y.shape, y.dtype, y.stride()) == (expected.shape, expected.dtype, expected.stride())
    if name in ("sum", "mean"):
        exact, size = theirs(x.double(), dim, **kwargs), theirs(x.double().abs(), dim, **kwargs)
        allowed = 2 * largest(expected - exact) + FLOORS[x.dtype] * largest(exact) + 2.0**-24 * largest(size)
        assert largest(y - exact) <= allowed
    elif name == "var":
        exact = theirs(x.double(), dim, **kwargs)
        assert relative_error(y, exact) <= 2 * relative_error(expected, exact) + 2 * FLOORS[x.dtype]
    else:
        assert_same(y, expected)


@names
@dtypes
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
def test_every_way_to_cut(name: str, dtype: torch.dtype, shape: tuple[int, ...], dim: Any) -> None:
    if name in INDICES and isinstance(dim, tuple):
        dim = None
    assert_right(name, randn(*shape, seed=7).to(dtype), dim)


lengths = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 33, 70]))


@names
@given(data=st.data())
def test_any_dims_and_order(name: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(lengths, min_size=1, max_size=4))
    order = data.draw(st.permutations(range(len(shape))))
    one = st.integers(-len(shape), len(shape) - 1)
    many = st.lists(st.integers(0, len(shape) - 1), unique=True).map(tuple)
    dim = data.draw(st.one_of(one, st.none()) if name in INDICES else st.one_of(one, many))
    keepdim, dtype = data.draw(st.booleans()), data.draw(st.sampled_from(DTYPES))
    x = randn(*shape, seed=data.draw(st.integers(0, 99))).to(dtype).permute(order)
    kwargs = {"correction": 0} if name == "var" else {}
    ours, theirs = both(name)
    with tvmops.mode("force"):
        y, decisions = observed(ours, x, dim, keepdim=keepdim, **kwargs)
    expected = theirs(x, dim, keepdim=keepdim, **kwargs)
    assert (y.shape, y.dtype, y.stride()) == (expected.shape, expected.dtype, expected.stride())
    if decisions[0].kernel:
        assert_right(name, x, dim, keepdim=keepdim, **kwargs)
    else:
        assert_same(y, expected)


@names
def test_all_dims_of_dense_tensors_and_slices(name: str) -> None:
    x = randn(6, 50, 40)
    for dense in (x, x.permute(2, 0, 1), x[2:5], x.transpose(0, 1)):
        assert_right(name, dense, None if name in INDICES else ())
    dim = 2 if name in INDICES else (0, 1, 2)
    for part in (x[:, :, 3:20], x[:, 5:20]):
        assert_right(name, part, dim)
    ours, theirs = both(name)
    torch.testing.assert_close(ours(x[1:, :, :1], dim), theirs(x[1:, :, :1], dim), equal_nan=True)
    assert_right(name, x[:, :, :30], 2)
    assert_right(name, x[:, :, 5:30].transpose(1, 2)[1], 1)
    assert_right(name, randn(400, 90)[:, 7:80], 0)


@pytest.mark.parametrize("name", INDICES)
@dtypes
@pytest.mark.parametrize(("shape", "dim"), [s for s in SHAPES if isinstance(s[1], int)], ids=str)
def test_the_first_of_equals(name: str, dtype: torch.dtype, shape: tuple[int, ...], dim: int) -> None:
    x = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours, theirs = both(name)
    for one in (dim, None):
        assert_same(called("force", ours, x, one), theirs(x, one))
    x[x == x.max()] = math.nan
    assert_same(called("force", ours, x, dim), theirs(x, dim))
    for same in (math.inf, -math.inf, math.nan, 0.0):
        assert not called("force", ours, torch.full(shape, same, dtype=dtype), dim).any()


@names
@dtypes
@pytest.mark.parametrize("n", [5, 16, 40, 20_000])
def test_nan_and_infinity(name: str, dtype: torch.dtype, n: int) -> None:
    ours, theirs = both(name)
    for specials in ([math.nan], [math.inf], [-math.inf], [math.inf, -math.inf], [math.inf, math.nan]):
        for first in (0, n // 2, n - len(specials)):
            x = randn(3, n, seed=2).to(dtype)
            x[1, first : first + len(specials)] = torch.tensor(specials, dtype=dtype)
            for dense, dim in ((x, 1), (x.t().contiguous(), 0)):
                tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {}
                y = called("force", ours, dense, dim)
                torch.testing.assert_close(y, theirs(dense, dim), equal_nan=True, **tolerance)


@pytest.mark.parametrize("mixed", [False, True])
def test_long_sums(mixed: bool) -> None:
    n = 1 << 24
    x = torch.full((n,), 0.1) if not mixed else randn(n, seed=3).mul_(torch.logspace(-4, 4, n))
    for name in ("sum", "mean"):
        ours, theirs = both(name)
        exact = theirs(x.double())
        for dense, dim in ((x, None), (x.view(4, -1), 1), (x.view(-1, 16), 0)):
            reference = exact if dim is None else theirs(dense.double(), dim)
            y, aten = called("force", ours, dense, dim), theirs(dense) if dim is None else theirs(dense, dim)
            size = dense.double().abs().sum() if dim is None else dense.double().abs().sum(dim)
            limit = 2 * (aten - reference).abs().max() + 2.0**-23 * reference.abs().max() + 1e-9 * size.max()
            assert (y - reference).abs().max() <= limit


def test_variance_of_large_means() -> None:
    n = 1 << 20
    for mean, deviation in ((1000.0, 0.01), (-1e6, 1.0), (3e37, 1e31), (1.0, 1e-4)):
        x = (mean + deviation * randn(n, seed=4, dtype=torch.float64)).float()
        if deviation > 1e18:  # the variance itself is beyond float32
            assert called("force", tvmops.var, x).isinf()
            continue
        for dense, dim in (
            (x, None),
            (x.view(64, -1), 1),
            (x.view(-1, 64), 0),
            (x.view(-1, 16), 1),
            (x.view(8, -1, 8), (0, 2)),
        ):
            y, exact = called("force", tvmops.var, dense, dim), torch.var(dense.double(), dim)
            assert relative_error(y, exact) < 1e-6, (mean, deviation, dim)
    constant = torch.full((300, 700), 3e37)
    for dim in (0, 1, None):
        assert (called("force", tvmops.var, constant, dim) <= (1e-6 * 3e37) ** 2).all()
    assert not called("force", tvmops.var, torch.full((64, 256), 0.5), 1).any()


def test_corrections() -> None:
    x = randn(9, 30)
    for correction in (0, 1, 2, 2.5, 29):
        y = called("force", tvmops.var, x, 1, correction=correction)
        torch.testing.assert_close(y, torch.var(x, 1, correction=correction))
    for correction in (30, 31):
        with pytest.warns(UserWarning, match="degrees of freedom"):
            y = by_aten(tvmops.var, x, 1, correction=correction)
        assert (y.isinf() | y.isnan()).all()


@names
def test_what_goes_to_aten(name: str) -> None:
    ours, theirs = both(name)
    dim = 1
    for x in (
        randn(5, 7, dtype=torch.float64),
        torch.randint(0, 9, (5, 7)),
        randn(1, 7).expand(5, 7)[:, :, None].expand(5, 7, 2),
        torch.empty(0, 7),
        torch.empty(5, 0),
        torch.zeros(5, 7, dtype=torch.complex64),
        torch.zeros(5, 7, device="meta"),
    ):
        if name in ("var", *INDICES) and x.dim() == 3:
            continue  # copied first
        assert_same_outcome(lambda x=x: by_aten(ours, x, dim), lambda x=x: theirs(x, dim))  # type: ignore[misc]
    for scalar in (torch.tensor(3.0), torch.tensor(math.nan)):
        kwargs = {"correction": 0} if name == "var" else {}
        for d in (0, -1, *([] if name in INDICES else [()])):
            assert_same(by_aten(ours, scalar, d, **kwargs), theirs(scalar, d, **kwargs))
    x = randn(5, 7)
    wrong: list[Any] = [2, -3] + ([] if name in INDICES else [(0, 0), (0, 5)])
    for d in wrong:
        assert_same_error(lambda d=d: ours(x, d), lambda d=d: theirs(x, d))  # type: ignore[misc]


@pytest.mark.parametrize("name", ["sum", "mean"])
def test_the_dtype_argument(name: str) -> None:
    ours, theirs = both(name)
    x = randn(8, 9).bfloat16()
    for dtype in (torch.float32, torch.float64, torch.bfloat16, None):
        y, expected = ours(x, 1, dtype=dtype), theirs(x, 1, dtype=dtype)
        assert y.dtype == expected.dtype
        torch.testing.assert_close(y, expected)
    out = torch.empty(8)
    assert ours(x, 1, dtype=torch.float32, out=out) is out
    assert_same(out, theirs(x, 1, dtype=torch.float32))


@names
def test_out(name: str) -> None:
    ours, theirs = both(name)
    x = randn(6, 11)
    dtype = torch.int64 if name in INDICES else torch.float32
    out = torch.zeros(6, dtype=dtype)
    version = out._version
    assert called("force", ours, x, 1, out=out) is out
    torch.testing.assert_close(out, theirs(x, 1))
    assert out._version > version
    every_other = torch.zeros(12, dtype=dtype)
    ours(x, 1, out=every_other[::2])
    torch.testing.assert_close(every_other[::2], theirs(x, 1))
    assert not every_other[1::2].any()
    with pytest.warns(UserWarning, match="was resized"):
        ours(x, 1, out=torch.empty(3, dtype=dtype))
    other = torch.float64 if name not in INDICES else torch.int32
    assert_same_outcome(
        lambda: ours(x, 1, out=torch.empty(6, dtype=other)), lambda: theirs(x, 1, out=torch.empty(6, dtype=other))
    )
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        ours(x.clone().requires_grad_(), 1, out=torch.zeros(6, dtype=dtype))


@pytest.mark.parametrize("name", VALUES)
@dtypes
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [0, 1, -1, (0, 2), (), (1, 2)], ids=str)
def test_gradients_against_float64(name: str, dtype: torch.dtype, keepdim: bool, dim: Any) -> None:
    ours, theirs = both(name)
    # Multiples of a half: with maxima that are equal, and the same in every dtype.
    x = (randn(7, 40, 33, seed=6) * 2).round().div(2).to(dtype).requires_grad_()
    with tvmops.mode("force"):
        y = served(ours, x, dim, keepdim=keepdim)
        g = randn(*y.shape, seed=5).to(dtype)
        (grad,), decisions = observed(torch.autograd.grad, y, x, g)
    if name not in ("sum", "mean"):
        assert [d.op for d in decisions] == ["var_backward" if name == "var" else "amax_backward"]
        assert bool(decisions[0].kernel) == (dim != (0, 2))
    again = x.detach().double().requires_grad_()
    its = None if name == "var" and dim == () else dim  # of torch's var, () has an infinite gradient
    (expected,) = torch.autograd.grad(theirs(again, its, keepdim=keepdim), again, g.double())
    (aten,) = torch.autograd.grad(theirs(x, its, keepdim=keepdim), x, g)
    assert grad.dtype == aten.dtype
    assert grad.shape == aten.shape
    assert relative_error(grad, expected) <= 2 * relative_error(aten, expected) + FLOORS[dtype]


def test_gradients_of_other_layouts() -> None:
    for name in VALUES:
        ours, theirs = both(name)
        for make in (lambda: randn(5, 6, 7).permute(2, 0, 1), lambda: randn(5, 9)[:, 2:7], lambda: randn(5, 6).t()):
            for dim in (0, 1):
                a, b = make().requires_grad_(), make().requires_grad_()
                with tvmops.mode("force"):
                    y = ours(a, dim)
                    (y * randn(*y.shape, seed=3)).sum().backward()
                z = theirs(b, dim)
                (z * randn(*z.shape, seed=3)).sum().backward()
                torch.testing.assert_close(a.grad, b.grad)


def test_gradients_where_the_maximum_is_nan() -> None:
    x = randn(4, 9)
    x[1, 3] = math.nan
    grads = []
    for function in (tvmops.amax, torch.amax):
        leaf = x.clone().requires_grad_()
        with tvmops.mode("force"):
            function(leaf, 1).sum().backward()
        grads.append(leaf.grad)
    assert grads[1] is not None
    torch.testing.assert_close(*grads, equal_nan=True)


@pytest.mark.parametrize("name", VALUES)
def test_gradients_of_gradients(name: str) -> None:
    ours = both(name)[0]
    x = randn(3, 4, 5).double().requires_grad_()
    for dim in (1, (0, 2), ()):
        torch.autograd.gradcheck(lambda x, d=dim: ours(x, d), x)
        torch.autograd.gradgradcheck(lambda x, d=dim: ours(x, d), x)
    seconds = []
    for dtype in (torch.float32, torch.float64):
        leaf = randn(6, 8).to(dtype).requires_grad_()
        with tvmops.mode("force"):
            (first,) = torch.autograd.grad((ours(leaf, 1) ** 2).sum(), leaf, create_graph=True)
            seconds.append(torch.autograd.grad((first**2).sum(), leaf)[0].double())
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-5)


@names
def test_opcheck(name: str) -> None:
    op = getattr(torch.ops.tvmops, name)
    x = randn(4, 5)
    arguments: list[tuple[Any, ...]] = [(x, 1, True), (x, 0), (x,)]
    for args in arguments:
        torch.library.opcheck(op.default, args)
    if name not in INDICES:
        torch.library.opcheck(op.default, (x.clone().requires_grad_(), [0, 1]))
    column = randn(4, 1)
    if name == "var":
        torch.library.opcheck(torch.ops.tvmops.var_backward.default, (column, x, [1], 1))
    if name == "amax":
        torch.library.opcheck(torch.ops.tvmops.amax_backward.default, (column, x, x.amax(1, True), [1]))


@names
def test_compiled_without_a_break(name: str) -> None:
    torch.compiler.reset()
    ours, theirs = both(name)
    dim = 1 if name in INDICES else (1, -1)
    compiled = torch.compile(lambda x: ours(x * 2, dim) + 1, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (3, 8):
        x = randn(n, 5, 4).requires_grad_()
        y, expected = compiled(x), theirs(x * 2, dim) + 1
        torch.testing.assert_close(y, expected)
        if name not in INDICES:
            (grad,) = torch.autograd.grad(y.sum(), x)
            torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), x)[0])


@names
def test_vmap(name: str) -> None:
    ours, theirs = both(name)
    x = randn(3, 4, 5, 6)
    dims: list[Any] = [0, -1, None] + ([] if name in INDICES else [(0, 2), ()])
    for batch in (0, 1, -1):
        for dim in dims:
            for keepdim in (False, True):
                y = torch.vmap(lambda x: ours(x, dim, keepdim=keepdim), batch)(x)  # noqa: B023
                each = [theirs(one, dim, keepdim=keepdim) for one in x.unbind(batch)]
                torch.testing.assert_close(y, torch.stack(each))
    if name != "var":
        assert_same(torch.vmap(ours)(x[0, 0, 0]), torch.vmap(theirs)(x[0, 0, 0]))
    if name not in INDICES:
        leaf = x[0].clone().requires_grad_()
        g = randn(7, 4, 6, seed=1)
        grads = [torch.autograd.grad(f(leaf, 1), leaf, g, is_grads_batched=True)[0] for f in (ours, theirs)]
        torch.testing.assert_close(*grads)


@names
@pytest.mark.parametrize(("shape", "dim"), [((3, 300_007), 1), ((100_003, 5), 0), ((700, 700), 0), ((900, 800), 1)])
def test_bits_do_not_depend_on_threads(name: str, shape: tuple[int, ...], dim: int) -> None:
    before, x = torch.get_num_threads(), randn(*shape, seed=8)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(called("force", both(name)[0], x, dim))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_modes_and_reasons() -> None:
    x = randn(8, 9)
    with tvmops.mode("off"):
        _, decisions = observed(tvmops.argmax, x, 1)
    assert [(d.kernel, d.reason) for d in decisions] == [(None, "mode is off")]
    _, decisions = observed(tvmops.var, x.double())
    assert decisions[0].kernel is None
