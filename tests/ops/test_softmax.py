"""softmax, log_softmax, logsumexp and their gradients: values against float64, layouts, what goes to ATen."""

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
from tests.guarded import Guarded
from tests.support import assert_same_error, by_aten, called, matrix, observed, randn, seeds, served

Function = Callable[..., Tensor]

# tvmops's function, torch's.
FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "softmax": (tvmops.softmax, torch.softmax),
    "log_softmax": (tvmops.log_softmax, torch.log_softmax),
    "logsumexp": (tvmops.logsumexp, torch.logsumexp),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The relative error of rounding from float32.
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# Around vectors, unrolled steps and the lengths that have kernels of their own.
LENGTHS = (1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 128, 130, 257)
functions = pytest.mark.parametrize("name", FUNCTIONS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def assert_close_to_exact(name: str, y: Tensor, x: Tensor, dim: int) -> None:
    """Every element, against float64: a rounding of each difference from the maximum, some of the sum, and the last."""
    reference = FUNCTIONS[name][1](x.double(), dim)
    assert (y.shape, y.dtype) == (reference.shape, x.dtype)
    assert y.is_contiguous()
    distance = x.double().amax(dim, keepdim=True) - x.double()
    once = ROUNDING[y.dtype]
    relative = 2.0**-24 * (distance + 24) + once
    tiny = torch.finfo(y.dtype).tiny  # subnormal results may be 0
    error = (y.double() - reference).abs()
    if name == "softmax":
        assert (error <= reference * relative + tiny).all()
    elif name == "log_softmax":
        assert (error <= 2.0**-24 * (2 * distance + 24) + once * reference.abs()).all()
    else:
        assert (error <= 2.0**-22 * (reference.abs() + 1) + once * reference.abs()).all()


shapes = st.lists(st.integers(1, 20), min_size=1, max_size=4)


@functions
@given(shape=shapes, dim=st.integers(0, 3), seed=seeds, dtype=st.sampled_from(DTYPES), scale=st.sampled_from((1, 9)))
def test_any_shape_and_dimension(
    name: str, shape: list[int], dim: int, seed: int, dtype: torch.dtype, scale: float
) -> None:
    x = (randn(*shape, seed=seed) * scale).to(dtype)
    dim = dim % len(shape) - len(shape) * (seed % 2)
    assert_close_to_exact(name, called("force", FUNCTIONS[name][0], x, dim), x, dim)


@functions
@dtypes
def test_every_length(name: str, dtype: torch.dtype) -> None:
    for n in [*range(1, 140), 255, 512, 1000, 1024, 4097]:
        for x, dim in ((randn(3, n, seed=n), 1), (randn(2, 3, n, seed=n), 1), (randn(n, 5, seed=n), 0)):
            x = (x * 3).to(dtype)
            assert_close_to_exact(name, called("force", FUNCTIONS[name][0], x, dim), x, dim)


@functions
@given(
    rows=st.integers(1, 9), n=st.sampled_from(LENGTHS), layout=st.sampled_from(
        ("transposed", "rows of a wider matrix", "columns of a taller matrix", "steps in both dimensions",
         "one row for all", "one column for all")
    ),
    dim=st.integers(0, 1), seed=seeds,
)  # fmt: skip
def test_any_layout(name: str, rows: int, n: int, layout: str, dim: int, seed: int) -> None:
    x = matrix(rows, n, layout, seed)
    assert_close_to_exact(name, called("force", FUNCTIONS[name][0], x, dim), x, dim)


def test_evenly_lying_rows_are_not_copied() -> None:
    x = randn(4, 6, 40)[:, :, 3:23]
    assert x.stride() == (240, 40, 1)
    for name in FUNCTIONS:
        assert_close_to_exact(name, called("force", FUNCTIONS[name][0], x, -1), x, -1)
        uneven = randn(4, 6, 40)[:, 1:5, 3:23]
        assert_close_to_exact(name, called("force", FUNCTIONS[name][0], uneven, -1), uneven, -1)
        single = randn(6, 1, 40)[::2, :, 3:23]
        assert_close_to_exact(name, called("force", FUNCTIONS[name][0], single, 2), single, 2)
        assert_close_to_exact(name, called("force", FUNCTIONS[name][0], single, 0), single, 0)


@functions
def test_long_rows_and_many(name: str) -> None:
    for shape, dim in (((3, 70_001), 1), ((70_001, 3), 0), ((9000, 1000), 1), ((2, 9000, 501), 1)):
        x = randn(*shape)
        assert_close_to_exact(name, called("force", FUNCTIONS[name][0], x, dim), x, dim)


@functions
@dtypes
def test_special_rows_are_torchs(name: str, dtype: torch.dtype) -> None:
    inf, nan, large = math.inf, math.nan, 3e38 if dtype != torch.float16 else 6e4
    rows = [
        [0.0, 1.0, inf], [-inf, -inf, -inf], [nan, 1.0, 2.0], [inf, nan, 0.0], [-inf, nan, 1.0], [5.0, nan, -inf],
        [inf, inf, 1.0], [-inf, 2.0, 1.0], [inf, -inf, 0.0], [large, large, 0.0], [-large, large, 0.0],
        [-large, -large, -large], [large, large - 2, 1.0], [1e4, 1e4 - 1, 0.0],
    ]  # fmt: skip
    for n in (3, 20, 64):
        x = torch.cat([torch.tensor(rows), torch.full((len(rows), n - 3), -inf)], 1).to(dtype)
        ours, theirs = FUNCTIONS[name]
        expected = theirs(x, 1)
        torch.testing.assert_close(called("force", ours, x, 1), expected, equal_nan=True)
        torch.testing.assert_close(called("force", ours, x.t().contiguous(), 0), theirs(x.t(), 0), equal_nan=True)


def test_probabilities_are_exact_where_they_can_be() -> None:
    with tvmops.mode("force"):
        assert torch.equal(tvmops.softmax(randn(5, 1), 1), torch.ones(5, 1))
        assert torch.equal(tvmops.softmax(torch.zeros(3, 64), 1), torch.full((3, 64), 1 / 64))
        assert torch.equal(tvmops.log_softmax(torch.full((3, 1), 1e30), 1), torch.zeros(3, 1))
        assert torch.equal(tvmops.softmax(torch.tensor([[0.0, -200.0]]), 1), torch.tensor([[1.0, 0.0]]))


def test_nothing_beyond_the_operands_is_touched() -> None:
    with tvmops.mode("force"), Guarded() as guard:
        for n in LENGTHS:
            for at_start in (False, True):
                row, column = guard(randn(3, n), at_start), guard(randn(n, 5), at_start)
                for name, (ours, _) in FUNCTIONS.items():
                    assert_close_to_exact(name, ours(row, 1), row, 1)
                    assert_close_to_exact(name, ours(column, 0), column, 0)
                del row, column


def test_logsumexp_over_several_dimensions() -> None:
    x = randn(3, 4, 5, 6)
    for dims in ((0, 1), (-1, 2), (1, 2, 3), (0, 1, 2, 3), (2,), [3]):
        for keepdim in (False, True):
            y = called("force", tvmops.logsumexp, x, dims, keepdim)
            torch.testing.assert_close(y, torch.logsumexp(x, dims, keepdim))
    torch.testing.assert_close(by_aten(tvmops.logsumexp, x, (0, 2)), torch.logsumexp(x, (0, 2)))
    y = called("force", tvmops.logsumexp, x.transpose(0, 3), (1, 2))
    torch.testing.assert_close(y, torch.logsumexp(x.transpose(0, 3), (1, 2)))
    assert_same_error(lambda: tvmops.logsumexp(x, (0, 0)), lambda: torch.logsumexp(x, (0, 0)))
    assert_same_error(lambda: tvmops.logsumexp(x, ()), lambda: torch.logsumexp(x, ()))


@functions
def test_what_goes_to_aten(name: str) -> None:
    ours, theirs = FUNCTIONS[name]
    for x in (randn(3, 4).double(), torch.zeros(0, 3), torch.zeros(3, 0), torch.tensor(2.5), torch.zeros(2, 0, 3)):
        for dim in range(max(x.dim(), 1)):
            torch.testing.assert_close(by_aten(ours, x, dim), theirs(x, dim))
    for bad in (2, -3):
        assert_same_error(lambda bad=bad: ours(randn(3, 4), bad), lambda bad=bad: theirs(randn(3, 4), bad))
    assert_same_error(lambda: ours(randn(3, 4), "x"), lambda: ours(randn(3, 4), "x"))
    if name == "logsumexp":
        torch.testing.assert_close(by_aten(ours, torch.arange(6), 0), theirs(torch.arange(6), 0))
        return
    assert_same_error(lambda: ours(torch.arange(6), 0), lambda: theirs(torch.arange(6), 0))
    x = randn(3, 4)
    torch.testing.assert_close(by_aten(ours, x, 1, torch.float64), theirs(x, 1, torch.float64))
    torch.testing.assert_close(by_aten(ours, torch.arange(6), 0, torch.float32), theirs(torch.arange(6.0), 0))
    torch.testing.assert_close(called("force", ours, x, 1, dtype=torch.float32), theirs(x, 1))
    low = x.bfloat16().requires_grad_()
    by_aten(ours, low, 1, torch.float32).sum().backward()
    assert low.grad is not None


@functions
@dtypes
def test_bits_do_not_depend_on_threads(name: str, dtype: torch.dtype) -> None:
    ours = FUNCTIONS[name][0]
    for shape, dim in (((700, 333), 1), ((7, 100, 333), 1)):
        x = randn(*shape, dtype=dtype)
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(called("force", ours, x, dim))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


@functions
@dtypes
@pytest.mark.parametrize("dim", [0, 1])
def test_gradients_against_float64(name: str, dtype: torch.dtype, dim: int) -> None:
    ours, theirs = FUNCTIONS[name]
    for shape in ((40, 33), (5, 257), (64, 64)):
        x = (randn(*shape) * 2).to(dtype).requires_grad_()
        with tvmops.mode("force"):
            y = ours(x, dim)
            g = randn(*y.shape, seed=5).to(dtype)
            (grad,), decisions = observed(torch.autograd.grad, y, x, g)
        assert decisions[0].kernel
        assert decisions[0].op == name + "_backward"
        exact = x.detach().double().requires_grad_()
        (expected,) = torch.autograd.grad(theirs(exact, dim), exact, g.double())
        (aten,) = torch.autograd.grad(theirs(x, dim), x, g)
        assert grad.dtype == dtype
        error, its = ((v.double() - expected).norm() for v in (grad, aten))
        assert error <= 2 * its + 2.0**-22 * expected.norm()


@functions
def test_gradients_of_strided_and_expanded_operands(name: str) -> None:
    ours, theirs = FUNCTIONS[name]
    for make in (lambda: randn(9, 12).t(), lambda: randn(9, 30)[:, 3:20], lambda: randn(3, 8, 5)[:, ::2]):
        for dim in (0, 1):
            x, again = make().requires_grad_(), make().double().requires_grad_()
            with tvmops.mode("force"):
                served(lambda x=x, dim=dim: (ours(x, dim) * 3).sum().backward())
            (theirs(again, dim) * 3).sum().backward()
            torch.testing.assert_close(x.grad, again.grad.float(), atol=2e-6, rtol=1e-5)


@functions
def test_gradients_of_gradients(name: str) -> None:
    ours = FUNCTIONS[name][0]
    for dim in (0, 1):
        x = randn(3, 4, dtype=torch.float64).requires_grad_()
        torch.autograd.gradcheck(lambda x, dim=dim: ours(x, dim), x)
        torch.autograd.gradgradcheck(lambda x, dim=dim: ours(x, dim), x)
        seconds = []
        with tvmops.mode("force"):
            for v in (x.detach().float().requires_grad_(), x):
                (first,) = torch.autograd.grad(ours(v, dim).square().sum(), v, create_graph=True)
                (second,) = torch.autograd.grad(first.square().sum(), v)
                seconds.append(second.double())
        torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-5)


@functions
@pytest.mark.parametrize("dim", [0, 1])
def test_opcheck(name: str, dim: int) -> None:
    ops, x = torch.ops.tvmops, randn(4, 5)
    forward, backward = getattr(ops, name).default, getattr(ops, name + "_backward").default
    along: Any = [dim] if name == "logsumexp" else dim
    y = forward(x, along)
    with tvmops.mode("force"):
        torch.library.opcheck(forward, (x, along))
        torch.library.opcheck(forward, (x.clone().requires_grad_(), along))
        torch.library.opcheck(backward, (y, x, y, along) if name == "logsumexp" else (y, y, along))


@functions
def test_compiled_without_a_break(name: str) -> None:
    torch.compiler.reset()
    ours, theirs = FUNCTIONS[name]
    compiled = torch.compile(lambda x: ours(x * 2, 1) + 1, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (3, 8):
        x = randn(n, 5).requires_grad_()
        y = compiled(x)
        torch.testing.assert_close(y, theirs(x * 2, 1) + 1)
        y.sum().backward()
        assert x.grad is not None


@functions
def test_vmap(name: str) -> None:
    ours, theirs = FUNCTIONS[name]
    x = randn(3, 4, 5)
    for batch in (0, 1, -1):
        for dim in (0, 1, -1, -2):
            value = torch.vmap(lambda x, dim=dim: ours(x, dim), batch)(x)
            torch.testing.assert_close(value, torch.vmap(lambda x, dim=dim: theirs(x, dim), batch)(x))
    torch.testing.assert_close(torch.vmap(torch.vmap(lambda x: ours(x, 0)))(x), theirs(x, 2))
    number = torch.vmap(lambda x: ours(x, 0))(x[0, 0])
    torch.testing.assert_close(number, torch.vmap(lambda x: theirs(x, 0))(x[0, 0]))
    with pytest.raises(IndexError, match="Dimension out of range"):
        torch.vmap(lambda x: ours(x, 2))(x)
    g = randn(*theirs(x, 2).shape)
    loss = torch.vmap(lambda x, g: (ours(x, 1) * g).sum())
    expected = torch.autograd.functional.jacobian(lambda x: (theirs(x, 2) * g).sum(), x)
    torch.testing.assert_close(torch.func.grad(lambda x: loss(x, g).sum())(x), expected)


def test_modules_and_replace() -> None:
    for module in (torch.nn.Softmax(1), torch.nn.Softmax(-2), torch.nn.LogSoftmax(-1)):
        net = torch.nn.Sequential(module)
        (swapped,) = tvmops.nn.replace(net)
        assert type(net[0]) is getattr(tvmops.nn, type(module).__name__)
        assert swapped.before == swapped.after == repr(module)
        x = randn(2, 5, 6)
        torch.testing.assert_close(called("force", net, x), module(x))
    for ours, theirs in ((tvmops.nn.Softmax(), torch.nn.Softmax()), (tvmops.nn.LogSoftmax(), torch.nn.LogSoftmax())):
        with pytest.warns(UserWarning, match="Implicit dimension"):
            value = ours(randn(3, 4))
        with pytest.warns(UserWarning, match="Implicit dimension"):
            torch.testing.assert_close(value, theirs(randn(3, 4)))


@functions
def test_modes_and_reasons(name: str) -> None:
    ours = FUNCTIONS[name][0]
    with tvmops.mode("off"):
        _, decisions = observed(ours, randn(3, 4), 1)
    assert [(d.op, d.kernel, d.reason) for d in decisions] == [(name, None, "mode is off")]
    _, decisions = observed(ours, randn(3, 4), 1)
    assert decisions[0].kernel
    assert decisions[0].shape == "(3,4)"
    with torch.inference_mode():
        assert ours(randn(3, 4), 1).is_inference()
    assert not ours(randn(3, 4), 1).requires_grad
