"""torch.vmap and the transforms of torch.func over every operator and every place of the batch."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tvmops
from tests.ops.test_linear import reference
from tests.support import observed, randn

B, C = 3, 2

# Ours, torch's, and the shapes that the mapped function sees.
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "mm": (tvmops.mm, torch.mm, [(4, 5), (5, 6)]),
    "bmm": (tvmops.bmm, torch.bmm, [(2, 4, 5), (2, 5, 6)]),
    "mv": (tvmops.mv, torch.mv, [(4, 5), (5,)]),
    "addmm, vector": (tvmops.addmm, torch.addmm, [(6,), (4, 5), (5, 6)]),
    "addmm, column": (tvmops.addmm, torch.addmm, [(4, 1), (4, 5), (5, 6)]),
    "addmm, scalar": (tvmops.addmm, torch.addmm, [(), (4, 5), (5, 6)]),
    "addmm, factors": (
        lambda c, a, b: tvmops.addmm(c, a, b, beta=0.5, alpha=-2),
        lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=-2),
        [(4, 6), (4, 5), (5, 6)],
    ),
    "addmm, no input": (
        lambda c, a, b: tvmops.addmm(c * float("nan"), a, b, beta=0),
        lambda c, a, b: torch.mm(a, b) + 0 * c,
        [(4, 6), (4, 5), (5, 6)],
    ),
    "linear": (tvmops.linear, torch.nn.functional.linear, [(4, 5), (6, 5), (6,)]),
    "linear, no bias": (tvmops.linear, torch.nn.functional.linear, [(4, 5), (6, 5)]),
    "linear, vector": (tvmops.linear, torch.nn.functional.linear, [(5,), (6, 5), (6,)]),
    "linear, 3-D": (tvmops.linear, torch.nn.functional.linear, [(2, 4, 5), (6, 5), (6,)]),
    "linear, epilogue": (
        lambda x, w, b, r: tvmops.linear(x, w, b, "gelu", r, prepack=True),
        lambda x, w, b, r: reference(x, w, b, "gelu", r),
        [(4, 5), (6, 5), (6,), (4, 6)],
    ),
    "linear, residual of fewer dimensions": (
        lambda x, w, r: tvmops.linear(x, w, None, "tanh", r),
        lambda x, w, r: reference(x, w, None, "tanh", r),
        [(4, 5), (6, 5), (6,)],
    ),
    "linear, residual of more dimensions": (
        lambda x, w, r: tvmops.linear(x, w, None, "relu", r),
        lambda x, w, r: reference(x, w, None, "relu", r),
        [(5,), (6, 5), (4, 6)],
    ),
}
for _shapes in [
    [(5,), (5,)], [(5,), (5, 6)], [(4, 5), (5,)], [(4, 5), (5, 6)], [(5,), (2, 5, 6)], [(2, 4, 5), (5,)],
    [(2, 4, 5), (5, 6)], [(4, 5), (2, 5, 6)], [(2, 4, 5), (2, 5, 6)], [(2, 1, 4, 5), (3, 5, 6)],
]:  # fmt: skip
    CASES[f"matmul {_shapes[0]} {_shapes[1]}"] = (tvmops.matmul, torch.matmul, _shapes)
cases = pytest.mark.parametrize("case", CASES)


@pytest.fixture(autouse=True)
def forced() -> Iterator[None]:
    with tvmops.mode("force"), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*batching rule.*")
        yield


def batched(shape: tuple[int, ...], place: int | None, size: int, seed: int) -> Tensor:
    if place is None:
        return randn(*shape, seed=seed)
    return randn(*shape[:place], size, *shape[place:], seed=seed)


def places(shapes: list[tuple[int, ...]]) -> Iterator[tuple[int | None, ...]]:
    """Every choice of a batch dimension for each operand, at least one having any."""
    for choice in itertools.product(*([None, *range(len(shape) + 1)] for shape in shapes)):
        if any(place is not None for place in choice):
            yield choice


@cases
def test_every_place_of_the_batch(case: str) -> None:
    ours, theirs, shapes = CASES[case]
    choices = list(places(shapes))
    for in_dims in choices if len(choices) <= 80 else choices[::3]:
        operands = [batched(s, p, B, i) for i, (s, p) in enumerate(zip(shapes, in_dims, strict=True))]
        value = torch.vmap(ours, in_dims)(*operands)
        torch.testing.assert_close(value, torch.vmap(theirs, in_dims)(*operands), msg=lambda m, d=in_dims: f"{d}: {m}")


@cases
def test_the_result_of_a_loop(case: str) -> None:
    ours, _, shapes = CASES[case]
    operands = [batched(s, 0, B, i) for i, s in enumerate(shapes)]
    torch.testing.assert_close(
        torch.vmap(ours)(*operands), torch.stack([ours(*x) for x in zip(*operands, strict=True)])
    )
    torch.testing.assert_close(torch.vmap(ours, out_dims=-1)(*operands), torch.vmap(ours)(*operands).movedim(0, -1))


@cases
def test_nested(case: str) -> None:
    ours, theirs, shapes = CASES[case]
    for outer, inner in itertools.product(itertools.product([None, 0], repeat=len(shapes)), repeat=2):
        if not any(p == 0 for p in outer) or not any(p == 0 for p in inner):
            continue
        operands = []
        for i, shape in enumerate(shapes):
            lead = (*((C,) if outer[i] == 0 else ()), *((B,) if inner[i] == 0 else ()))
            operands.append(randn(*lead, *shape, seed=i))
        value = torch.vmap(torch.vmap(ours, inner), outer)(*operands)
        torch.testing.assert_close(value, torch.vmap(torch.vmap(theirs, inner), outer)(*operands))


def test_kernels_serve_what_is_mapped() -> None:
    """Not ATen, and not one call per element."""
    x, w = randn(B, 40, 50), randn(60, 50)
    _, decisions = observed(torch.vmap(lambda row: tvmops.linear(row, w)), x)
    assert len(decisions) == 1
    assert decisions[0].kernel
    _, decisions = observed(torch.vmap(tvmops.mm), x, randn(B, 50, 60))
    assert len(decisions) == 1
    assert decisions[0].kernel


@cases
def test_gradients_of_what_is_mapped(case: str) -> None:
    ours, theirs, shapes = CASES[case]
    grads = []
    for function in (ours, theirs):
        operands = [batched(s, 0, B, i).requires_grad_() for i, s in enumerate(shapes)]
        torch.vmap(function)(*operands).sin().sum().backward()
        grads.append([x.grad if x.grad is not None else torch.zeros_like(x) for x in operands])
    if case != "addmm, no input":  # whose NaN reach the gradient of the product by zero
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


@cases
def test_gradients_per_sample(case: str) -> None:
    """vmap over grad, grad over vmap, and hessians: ATen's derivatives, as no kernel knows these transforms."""
    if case == "addmm, no input":
        return
    ours, theirs, shapes = CASES[case]
    operands = [batched(s, 0, B, i) for i, s in enumerate(shapes)]

    def loss(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *a: function(*a).sin().sum()

    argnums = tuple(range(len(shapes)))
    transforms: list[Callable[[Callable[..., Tensor]], Any]] = [
        lambda f: torch.vmap(torch.func.grad(loss(f), argnums))(*operands),
        lambda f: torch.func.grad(loss(torch.vmap(f)), argnums)(*operands),
        lambda f: torch.func.hessian(loss(f))(*(x[0] for x in operands)),
        lambda f: torch.func.jacrev(f)(*(x[0] for x in operands)),
        lambda f: torch.func.jacfwd(f)(*(x[0] for x in operands)),
        lambda f: torch.func.jvp(torch.vmap(f), tuple(operands), tuple(map(torch.ones_like, operands))),
        lambda f: torch.func.vjp(torch.vmap(f), *operands)[1](torch.ones_like(torch.vmap(f)(*operands))),
    ]
    for transform in transforms:
        torch.testing.assert_close(transform(ours), transform(theirs), rtol=1e-4, atol=1e-4)


def test_ensembles_of_modules() -> None:
    """One call for the weights of many models."""
    models = [tvmops.nn.Linear(5, 6) for _ in range(B)]
    parameters, buffers = torch.func.stack_module_state(models)
    x = randn(4, 5)

    def call(p: Any, b: Any) -> Tensor:
        return torch.func.functional_call(models[0], (p, b), (x,))

    value = torch.vmap(call)(parameters, buffers)
    torch.testing.assert_close(value, torch.stack([m(x) for m in models]))
    value.sum().backward()


ERRORS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "mm": (tvmops.mm, torch.mm, [(4, 5), (6, 7)]),
    "mm, 3-D": (tvmops.mm, torch.mm, [(2, 4, 5), (5, 6)]),
    "mm, 1-D": (tvmops.mm, torch.mm, [(5,), (5, 6)]),
    "bmm": (tvmops.bmm, torch.bmm, [(1, 4, 5), (2, 5, 6)]),
    "mv": (tvmops.mv, torch.mv, [(4, 5), (6,)]),
    "mv, 2-D": (tvmops.mv, torch.mv, [(4, 5), (5, 6)]),
    "addmm": (tvmops.addmm, torch.addmm, [(7,), (4, 5), (5, 6)]),
    "addmm, larger input": (tvmops.addmm, torch.addmm, [(3, 6), (1, 5), (5, 6)]),
    "addmm, 3-D input": (tvmops.addmm, torch.addmm, [(1, 4, 6), (4, 5), (5, 6)]),
    "matmul": (tvmops.matmul, torch.matmul, [(4, 5), (4, 5)]),
    "matmul, scalar": (tvmops.matmul, torch.matmul, [(), (4, 5)]),
    "linear": (tvmops.linear, torch.nn.functional.linear, [(4, 5), (6, 4)]),
    "linear, 3-D weight": (tvmops.linear, torch.nn.functional.linear, [(4, 5), (2, 6, 5)]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_shapes_that_do_not_go_together(case: str) -> None:
    """Not accepted because a batch dimension happens to broadcast."""
    ours, _, shapes = ERRORS[case]
    for in_dims in itertools.product([None, 0], repeat=len(shapes)):
        if any(p == 0 for p in in_dims):
            operands = [batched(s, p, B, i) for i, (s, p) in enumerate(zip(shapes, in_dims, strict=True))]
            with pytest.raises(RuntimeError):
                torch.vmap(ours, in_dims)(*operands)
