"""Cross entropy and its gradient: values against float64, every option, what goes to ATen."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.guarded import Guarded
from tests.support import assert_same_error, by_aten, called, observed, randn, seeds, served

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
REDUCTIONS = ("mean", "sum", "none")
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def classes(shape: tuple[int, ...], count: int, seed: int = 0, ignored: int | None = None) -> Tensor:
    """Random ones; a third of them ``ignored``."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(count, shape, generator=generator)
    return target if ignored is None else target.where(torch.rand(shape, generator=generator) > 0.3, ignored)


def problem(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [N, C, ...] and classes."""
    return (randn(*shape, seed=seed) * 3).to(dtype), classes((shape[0], *shape[2:]), shape[1], seed)


def exact(x: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
    if kwargs.get("weight") is not None:
        kwargs["weight"] = kwargs["weight"].double()
    return F.cross_entropy(x.double(), target, **kwargs)


def assert_close_to_exact(y: Tensor, x: Tensor, target: Tensor, **kwargs: Any) -> None:
    reference = exact(x, target, **kwargs)
    assert (y.shape, y.dtype) == (reference.shape, x.dtype)
    relative = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[x.dtype]
    torch.testing.assert_close(y.double(), reference, rtol=relative, atol=2e-6, equal_nan=True)


@given(
    shape=st.lists(st.integers(1, 20), min_size=2, max_size=4), seed=seeds, dtype=st.sampled_from(DTYPES),
    reduction=st.sampled_from(REDUCTIONS), smoothing=st.sampled_from((0.0, 0.1, 1.0)),
    weighted=st.booleans(), ignored=st.sampled_from((None, -100, 0, 3)),
)  # fmt: skip
def test_every_option(
    shape: list[int], seed: int, dtype: torch.dtype, reduction: str, smoothing: float, weighted: bool,
    ignored: int | None,
) -> None:  # fmt: skip
    x, target = problem(tuple(shape), dtype, seed)
    target = classes(tuple(target.shape), shape[1], seed, ignored)
    weight = (randn(shape[1], seed=seed).abs() + 0.1).to(dtype) if weighted and not smoothing else None
    options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
    if ignored is not None:
        options["ignore_index"] = ignored
    assert_close_to_exact(called("force", tvmops.cross_entropy, x, target, **options), x, target, **options)


@dtypes
def test_every_length(dtype: torch.dtype) -> None:
    for n in [*range(1, 70), 128, 1000, 4097, 50_257]:
        x, target = problem((3, n), dtype, seed=n)
        assert_close_to_exact(called("force", tvmops.cross_entropy, x, target), x, target)


def test_shapes_and_layouts() -> None:
    x, target = randn(9), torch.tensor(4)
    y = called("force", tvmops.cross_entropy, x, target)
    torch.testing.assert_close(y, F.cross_entropy(x, target))
    none = called("force", tvmops.cross_entropy, x, target, reduction="none")
    torch.testing.assert_close(none, F.cross_entropy(x, target, reduction="none"))
    for x in (randn(9, 7).t(), randn(7, 20)[:, 3:12], randn(1, 9).expand(7, 9), randn(14, 18)[::2, ::2]):
        for target in (classes((7,), 9), classes((7, 2), 9)[:, 1]):
            assert_close_to_exact(called("force", tvmops.cross_entropy, x, target), x, target)
    x, target = randn(2, 5, 6, 7).transpose(2, 3), classes((2, 6, 7), 5).transpose(1, 2)
    assert_close_to_exact(called("force", tvmops.cross_entropy, x, target), x, target)
    for legacy in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
        x, target = problem((4, 5))
        with pytest.warns(UserWarning, match="deprecated"):
            ours = tvmops.cross_entropy(x, target, **legacy)
        with pytest.warns(UserWarning, match="deprecated"):
            torch.testing.assert_close(ours, F.cross_entropy(x, target, **legacy))


def test_many_rows_are_summed_in_float64() -> None:
    x, target = randn(70_000, 10), classes((70_000,), 10)
    for reduction in ("mean", "sum"):
        y = called("force", tvmops.cross_entropy, x, target, reduction=reduction)
        assert (y.double() - exact(x, target, reduction=reduction)).abs() <= 3e-7 * y


@dtypes
def test_special_rows_are_torchs(dtype: torch.dtype) -> None:
    inf, nan = math.inf, math.nan
    large = 1e30 if dtype != torch.float16 else 6e4
    rows = [
        [0.0, 1.0, inf], [-inf, -inf, -inf], [nan, 1.0, 2.0], [-inf, nan, 1.0], [inf, inf, 1.0], [-inf, 2.0, 1.0],
        [large, large, 0.0], [-large, large, 0.0], [1e4, 1e4 - 1, 0.0],
    ]  # fmt: skip
    x = torch.tensor(rows, dtype=dtype)
    for c in range(3):
        target = torch.full((len(rows),), c)
        values, gradients = [], []
        for function in (tvmops.cross_entropy, F.cross_entropy):
            leaf = x.clone().requires_grad_()
            with tvmops.mode("force"):
                y = function(leaf, target, reduction="none")
                y.backward(torch.ones_like(y))
            values.append(y.detach())
            gradients.append(leaf.grad)
        torch.testing.assert_close(*values, equal_nan=True)
        torch.testing.assert_close(*gradients, equal_nan=True)


def test_everything_ignored() -> None:
    x, target = randn(3, 4).requires_grad_(), torch.full((3,), -100)
    assert called("force", tvmops.cross_entropy, x, target).isnan()
    assert called("force", tvmops.cross_entropy, x, target, reduction="sum") == 0
    called("force", tvmops.cross_entropy, x, target).backward()
    assert torch.equal(x.grad, torch.zeros(3, 4))


def test_what_goes_to_aten() -> None:
    x, target = problem((3, 4))
    calls: list[tuple[tuple[Tensor, Tensor], dict[str, Any]]] = [
        ((x.double(), target), {}),
        ((x, x.softmax(1)), {}),
        ((x, target.to(torch.uint8)), {}),
        ((x, target), {"weight": torch.rand(4), "label_smoothing": 0.2}),
        ((torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), {"reduction": "sum"}),
    ]
    for args, kwargs in calls:
        torch.testing.assert_close(by_aten(tvmops.cross_entropy, *args, **kwargs), F.cross_entropy(*args, **kwargs))
    weight = torch.rand(4, requires_grad=True)
    assert_same_error(lambda: tvmops.cross_entropy(x, target, weight), lambda: F.cross_entropy(x, target, weight))


@pytest.mark.parametrize(
    ("target", "kwargs"),
    [
        ([0, 4, 1], {}),
        ([0, -1, 1], {}),
        ([0, 1], {}),
        ([0, 1, 2], {"weight": torch.ones(3)}),
        ([0, 1, 2], {"weight": torch.ones(4, dtype=torch.float64)}),
        ([0, 1, 2], {"label_smoothing": 1.5}),
        ([0, 1, 2], {"reduction": "other"}),
    ],
)
def test_errors_are_torchs(target: list[int], kwargs: dict[str, Any]) -> None:
    for wanted in (False, True):
        x = randn(3, 4).requires_grad_(wanted)
        t = torch.tensor(target)
        assert_same_error(lambda: tvmops.cross_entropy(x, t, **kwargs), lambda: F.cross_entropy(x, t, **kwargs))  # noqa: B023
    assert_same_error(
        lambda: tvmops.cross_entropy(randn(3, 4), torch.zeros(3, dtype=torch.int32)),
        lambda: F.cross_entropy(randn(3, 4), torch.zeros(3, dtype=torch.int32)),
    )


@dtypes
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(40, 33), (5, 257), (3, 19, 21)], ids=str)
def test_gradients_against_float64(dtype: torch.dtype, reduction: str, shape: tuple[int, ...]) -> None:
    x, _ = problem(shape, dtype)
    target = classes((shape[0], *shape[2:]), shape[1], 1, ignored=-100)
    weight = torch.rand(shape[1]).to(dtype) + 0.5
    for options in ({}, {"weight": weight}, {"label_smoothing": 0.2}):
        wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in options.items()}
        gradients = []
        for f, dt, more in ((tvmops.cross_entropy, dtype, options), (F.cross_entropy, torch.float64, wide),
                            (F.cross_entropy, dtype, options)):  # fmt: skip
            leaf = x.to(dt).requires_grad_()
            with tvmops.mode("force"):
                y = f(leaf, target, reduction=reduction, **more)
                g = randn(*y.shape, seed=3).to(dtype).to(dt)
                (grad,), decisions = observed(torch.autograd.grad, y, leaf, g)
            if f is tvmops.cross_entropy:
                assert [d.op for d in decisions if d.kernel] == ["cross_entropy_backward"]
            gradients.append(grad)
        assert gradients[0].dtype == dtype
        error, its = ((v.double() - gradients[1]).norm() for v in (gradients[0], gradients[2]))
        assert error <= 2 * its + 2.0**-22 * gradients[1].norm()


@pytest.mark.parametrize(
    ("reduction", "options"),
    [("mean", {}), ("sum", {"weight": torch.rand(4, dtype=torch.float64)}), ("none", {"label_smoothing": 0.2})],
)
def test_gradients_of_gradients(reduction: str, options: dict[str, Any]) -> None:
    target = torch.tensor([0, 3, -100])

    def loss(x: Tensor) -> Tensor:
        more = {k: v.to(x.dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
        return tvmops.cross_entropy(x, target, reduction=reduction, **more)

    x = randn(3, 4, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(loss, x)
    torch.autograd.gradgradcheck(loss, x)
    seconds = []
    with tvmops.mode("force"):
        for v in (x.detach().float().requires_grad_(), x):
            (first,) = torch.autograd.grad(loss(v).square().sum(), v, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), v)
            seconds.append(second.double())
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-5)


def test_gradients_of_strided_logits() -> None:
    for make in (lambda: randn(9, 12).t(), lambda: randn(12, 30)[:, 3:12], lambda: randn(1, 9).expand(12, 9)):
        target = classes((12,), 9)
        x, again = make().requires_grad_(), make().double().requires_grad_()
        with tvmops.mode("force"):
            served(lambda x=x, t=target: tvmops.cross_entropy(x, t).backward())
        F.cross_entropy(again, target).backward()
        torch.testing.assert_close(x.grad, again.grad.float(), atol=1e-7, rtol=1e-5)


def test_bits_do_not_depend_on_threads() -> None:
    x, target = randn(9000, 133), classes((9000,), 133, ignored=-100)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        y = called("force", tvmops.cross_entropy, leaf, target, label_smoothing=0.1)
        y.backward()
        results.append((y.detach(), leaf.grad))
    for y, grad in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_nothing_beyond_the_operands_is_touched() -> None:
    with tvmops.mode("force"), Guarded() as guard:
        for n in (1, 7, 16, 33, 64):
            for at_start in (False, True):
                target, x = classes((5,), n), guard(randn(5, n), at_start)
                assert_close_to_exact(tvmops.cross_entropy(x, target), x, target)
                y = tvmops.cross_entropy(x.requires_grad_(), target)
                y.backward()
                del x, y


@pytest.mark.parametrize("reduction", [0, 1, 2])
def test_opcheck(reduction: int) -> None:
    ops, x, target = torch.ops.tvmops, randn(4, 5), torch.tensor([0, -100, 4, 2])
    with tvmops.mode("force"):
        for weight, smoothing in ((None, 0.1), (torch.rand(5), 0.0)):
            options = (reduction, -100, smoothing)
            torch.library.opcheck(ops.cross_entropy.default, (x, target, weight, *options))
            torch.library.opcheck(ops.cross_entropy.default, (x.clone().requires_grad_(), target, weight, *options))
            torch.library.opcheck(ops.cross_entropy_forward.default, (x, target, weight, *options))
            loss, stats, total = ops.cross_entropy_forward(x, target, weight, *options)
            args = (torch.ones_like(loss), x, target, weight, stats, total, *options)
            torch.library.opcheck(ops.cross_entropy_backward.default, args)


def test_forward_and_backward_without_kernels_agree() -> None:
    """What a compiled graph comes to where the mode is off."""
    ops, target = torch.ops.tvmops, torch.tensor([[0, -100, 4], [2, 1, 1]])
    x = randn(2, 5, 3)
    for reduction in (0, 1, 2):
        for weight, smoothing in ((None, 0.1), (torch.rand(5), 0.0)):
            options, results = (reduction, -100, smoothing), []
            for mode in ("force", "off"):
                with tvmops.mode(mode):
                    loss, stats, total = ops.cross_entropy_forward(x, target, weight, *options)
                    g = randn(*loss.shape)
                    dx = ops.cross_entropy_backward(g, x, target, weight, stats, total, *options)
                results.append((loss, stats, total, dx))
            for ours, theirs in zip(*results, strict=True):
                torch.testing.assert_close(ours, theirs)


def test_compiled_without_a_break() -> None:
    torch.compiler.reset()
    for reduction in REDUCTIONS:

        def loss(x: Tensor, t: Tensor, reduction: str = reduction) -> Tensor:
            return tvmops.cross_entropy(x * 2, t, reduction=reduction) + 1

        compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
        for n in (3, 8):
            x, t = randn(n, 5).requires_grad_(), classes((n,), 5)
            y = compiled(x, t)
            torch.testing.assert_close(y, F.cross_entropy(x * 2, t, reduction=reduction) + 1)
            y.sum().backward()
            assert x.grad is not None


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_vmap(reduction: str) -> None:
    x, target = randn(3, 4, 5), classes((3, 4), 5, ignored=2)
    options: dict[str, Any] = {"reduction": reduction, "ignore_index": 2}

    def both(in_dims: tuple[int | None, ...], *args: Tensor, **more: Any) -> None:
        ours = torch.vmap(lambda *a: tvmops.cross_entropy(*a, **options, **more), in_dims)(*args)
        each = [
            [t if d is None else t.select(d, i) for t, d in zip(args, in_dims, strict=True)] for i in range(len(ours))
        ]
        expected = torch.stack([F.cross_entropy(*a, **options, **more) for a in each])
        torch.testing.assert_close(ours, expected, equal_nan=True)

    both((0, 0), x, target)
    both((0, 0), x, target, label_smoothing=0.1)
    both((0, None), x, target[0])
    both((None, 0), x[0], target)
    both((1, 1), x, target)
    both((0, 0), x[:, 0], target[:, 0])
    both((0, 0, None), x, target, torch.rand(5))
    both((0, 0, 0), x, target, torch.rand(3, 5))
    options.pop("ignore_index")
    both((0, 0), x, x.softmax(-1))


def test_autocast_computes_in_float32() -> None:
    x, target = problem((4, 5), torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = tvmops.cross_entropy(x, target), F.cross_entropy(x, target)
    assert ours.dtype == theirs.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


def test_module_and_replace() -> None:
    module = torch.nn.CrossEntropyLoss(torch.rand(5), ignore_index=1, reduction="sum")
    ours = tvmops.nn.counterpart(module)
    assert type(ours) is tvmops.nn.CrossEntropyLoss
    x, target = problem((4, 5))
    torch.testing.assert_close(called("force", ours, x, target), module(x, target))
    smooth = tvmops.nn.CrossEntropyLoss(label_smoothing=0.1)
    torch.testing.assert_close(called("force", smooth, x, target), F.cross_entropy(x, target, label_smoothing=0.1))


def test_modes_and_reasons() -> None:
    x, target = problem((4, 5))
    with tvmops.mode("off"):
        _, decisions = observed(tvmops.cross_entropy, x, target)
    assert [(d.op, d.kernel, d.reason) for d in decisions] == [("cross_entropy", None, "mode is off")]
    _, decisions = observed(tvmops.cross_entropy, x, target)
    assert decisions[0].kernel
