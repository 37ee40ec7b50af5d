"""Derivatives of every operator, and that each is what torch expects of an operator (opcheck)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tvmops
from tests.ops.test_linear import reference
from tests.support import ACTIVATIONS, called, observed, randn

Call = Callable[..., Tensor]

# Operator of torch.ops.tvmops, torch's own, and operands.
CASES: dict[str, tuple[str, Call, Callable[[], tuple[Any, ...]], dict[str, Any]]] = {
    "mm": ("mm", torch.mm, lambda: (randn(5, 7), randn(7, 6, seed=1)), {}),
    "mm, transposed": ("mm", torch.mm, lambda: (randn(7, 5).t(), randn(6, 7, seed=1).t()), {}),
    "mm, steps": ("mm", torch.mm, lambda: (randn(10, 14)[::2, ::2], randn(7, 18, seed=1)[:, ::3]), {}),
    "mm, empty": ("mm", torch.mm, lambda: (randn(0, 7), randn(7, 6, seed=1)), {}),
    "bmm": ("bmm", torch.bmm, lambda: (randn(3, 5, 7), randn(3, 7, 6, seed=1)), {}),
    "bmm, expanded": ("bmm", torch.bmm, lambda: (randn(5, 7).expand(3, 5, 7), randn(3, 6, 7).transpose(1, 2)), {}),
    "mv": ("mv", torch.mv, lambda: (randn(5, 7), randn(7, seed=1)), {}),
    "addmm": ("addmm", torch.addmm, lambda: (randn(6, seed=2), randn(5, 7), randn(7, 6, seed=1)), {}),
    "addmm, factors": (
        "addmm", torch.addmm, lambda: (randn(5, 1, seed=2), randn(5, 7), randn(7, 6, seed=1)),
        {"beta": 0.5, "alpha": -2},
    ),
    "addmm, no input": (
        "addmm", torch.addmm, lambda: (randn(5, 6, seed=2), randn(5, 7), randn(7, 6, seed=1)), {"beta": 0},
    ),
    "matmul 2-2": ("matmul", torch.matmul, lambda: (randn(5, 7), randn(7, 6, seed=1)), {}),
    "matmul 1-1": ("matmul", torch.matmul, lambda: (randn(7), randn(7, seed=1)), {}),
    "matmul 1-2": ("matmul", torch.matmul, lambda: (randn(7), randn(7, 6, seed=1)), {}),
    "matmul 1-3": ("matmul", torch.matmul, lambda: (randn(7), randn(2, 7, 6, seed=1)), {}),
    "matmul 3-1": ("matmul", torch.matmul, lambda: (randn(2, 5, 7), randn(7, seed=1)), {}),
    "matmul 3-2": ("matmul", torch.matmul, lambda: (randn(2, 5, 7), randn(7, 6, seed=1)), {}),
    "matmul 2-3": ("matmul", torch.matmul, lambda: (randn(5, 7), randn(2, 7, 6, seed=1)), {}),
    "matmul, broadcast": ("matmul", torch.matmul, lambda: (randn(3, 1, 5, 7), randn(2, 7, 6, seed=1)), {}),
    "linear": ("linear", F.linear, lambda: (randn(5, 7), randn(6, 7, seed=1), randn(6, seed=2)), {}),
    "linear, 1-D": ("linear", F.linear, lambda: (randn(7), randn(6, 7, seed=1), randn(6, seed=2)), {}),
    "linear, 4-D": ("linear", F.linear, lambda: (randn(2, 1, 5, 7), randn(6, 7, seed=1), None), {}),
    "linear, prepacked": (
        "linear", lambda *a, prepack: F.linear(*a), lambda: (randn(5, 7), randn(6, 7, seed=1), randn(6, seed=2)),
        {"prepack": True},
    ),
    "linear, no features": ("linear", F.linear, lambda: (randn(5, 7), randn(0, 7), randn(0)), {}),
}  # fmt: skip
for _name in ACTIVATIONS:
    CASES[f"linear, {_name}"] = (
        "linear", reference,
        lambda name=_name: (randn(2, 5, 7), randn(6, 7, seed=1), randn(6, seed=2), name, randn(2, 5, 6, seed=3)),
        {},
    )  # fmt: skip
cases = pytest.mark.parametrize("case", CASES)


def leaves(operands: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """Operands of the same strides that want a gradient."""

    def leaf(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        like = torch.empty_like(x, dtype=dtype) if x.is_contiguous() else x.detach().to(dtype)
        return like.copy_(x).requires_grad_() if x.is_contiguous() else like.requires_grad_()

    return tuple(leaf(x) for x in operands)


@cases
@pytest.mark.parametrize("wanted", [False, True])
def test_opcheck(case: str, wanted: bool) -> None:
    name, _, make, kwargs = CASES[case]
    operands = leaves(make(), torch.float32) if wanted else make()
    with tvmops.mode("force"):
        torch.library.opcheck(getattr(torch.ops.tvmops, name).default, operands, kwargs)


@pytest.mark.parametrize("name", ["mm", "bmm", "mv", "addmm", "matmul"])
def test_opcheck_of_out(name: str) -> None:
    _, theirs, make, kwargs = CASES["matmul 2-2" if name == "matmul" else name]
    operands = make()
    with tvmops.mode("force"):
        torch.library.opcheck(
            getattr(torch.ops.tvmops, name).out, operands, {**kwargs, "out": theirs(*operands)},
            test_utils=("test_schema", "test_faketensor"),
        )  # fmt: skip


@cases
def test_gradcheck(case: str) -> None:
    """In float64, which ATen computes: what is checked is that our formulas of derivatives are right."""
    name, _, make, kwargs = CASES[case]
    op = getattr(torch.ops.tvmops, name)
    operands = leaves(make(), torch.float64)
    assert torch.autograd.gradcheck(lambda *a: op(*a, **kwargs), operands)
    assert torch.autograd.gradgradcheck(lambda *a: op(*a, **kwargs), operands)


def derivatives(function: Call, operands: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The result, first derivatives, and derivatives of those."""
    wanted = [x for x in operands if isinstance(x, Tensor)]
    y = function(*operands, **kwargs)
    first = torch.autograd.grad(y.cos().sum(), wanted, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted, allow_unused=True)
    return [y, *first, *(torch.zeros(()) if g is None else g for g in second)]


@cases
def test_derivatives_as_torch(case: str, mode: str) -> None:
    name, theirs, make, kwargs = CASES[case]
    with tvmops.mode(mode):
        values, decisions = observed(derivatives, getattr(tvmops, name), leaves(make(), torch.float32), kwargs)
    expected = derivatives(theirs, leaves(make(), torch.float32), kwargs)
    for value, other in zip(values, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=2e-4, atol=2e-4)
    if mode == "force" and "empty" not in case and "no features" not in case and "1-1" not in case:
        assert sum(d.kernel is not None for d in decisions) >= 3, str(decisions)


@cases
def test_only_the_gradients_that_are_wanted(case: str) -> None:
    name, theirs, make, kwargs = CASES[case]
    for i, x in enumerate(make()):
        if not isinstance(x, Tensor):
            continue
        both = []
        for function in (getattr(tvmops, name), theirs):
            operands = list(make())
            operands[i] = operands[i].clone().requires_grad_()
            y = function(*operands, **kwargs)
            y.sum().backward()
            both.append(operands[i].grad)
            assert not any(o.grad is not None for j, o in enumerate(operands) if j != i and isinstance(o, Tensor))
        torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-5)


@cases
def test_without_gradients_there_is_no_graph(case: str, mode: str) -> None:
    name, _, make, kwargs = CASES[case]
    function = getattr(tvmops, name)
    with tvmops.mode(mode):
        assert not function(*make(), **kwargs).requires_grad
        wanted = leaves(make(), torch.float32)
        with torch.no_grad():
            assert not function(*wanted, **kwargs).requires_grad
        with torch.inference_mode():
            assert function(*wanted, **kwargs).is_inference()
        y = function(*wanted, **kwargs)
        assert y.requires_grad
        assert y.grad_fn is not None


@cases
def test_forward_mode(case: str) -> None:
    """ATen's, as no kernel knows tangents."""
    name, theirs, make, kwargs = CASES[case]
    primals = tuple(x.contiguous() if 0 in x.stride() else x for x in make() if isinstance(x, Tensor))
    places = [i for i, x in enumerate(make()) if isinstance(x, Tensor)]

    def of(function: Call) -> Callable[..., Tensor]:
        def call(*tensors: Tensor) -> Tensor:
            operands = list(make())
            for place, x in zip(places, tensors, strict=True):
                operands[place] = x
            return function(*operands, **kwargs)

        return call

    tangents = tuple(torch.ones_like(x) for x in primals)
    ours, mine = torch.func.jvp(of(getattr(tvmops, name)), primals, tangents)
    expected, other = torch.func.jvp(of(theirs), primals, tangents)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_a_changed_operand_is_noticed_in_backward() -> None:
    a, b = randn(5, 7).requires_grad_(), randn(7, 6).requires_grad_()
    y = called("force", tvmops.mm, a, b)
    with torch.no_grad():
        b.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_changed_out_is_noticed_in_backward() -> None:
    a, b, w = randn(5, 7), randn(7, 6), randn(5, 6).requires_grad_()
    out = torch.ones(5, 6)
    y = w * out
    called("force", tvmops.mm, a, b, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
