"""layer_norm, rms_norm, group_norm, the first two of a sum; their gradients: against float64 and ATen."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.support import assert_same_error, by_aten, called, observed, randn, relative_error, served

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FLOORS = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def add_layer_norm(x: Tensor, residual: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return F.layer_norm(x + residual, *rest), x + residual


def add_rms_norm(x: Tensor, residual: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return F.rms_norm(x + residual, *rest), x + residual


# tvmops's function, torch's, how many tensors are normalised, how many weights there may be.
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any], int, int]] = {
    "layer_norm": (tvmops.layer_norm, F.layer_norm, 1, 2),
    "rms_norm": (tvmops.rms_norm, F.rms_norm, 1, 1),
    "add_layer_norm": (tvmops.add_layer_norm, add_layer_norm, 2, 2),
    "add_rms_norm": (tvmops.add_rms_norm, add_rms_norm, 2, 1),
    "group_norm": (tvmops.group_norm, F.group_norm, 1, 2),
}
functions = pytest.mark.parametrize("name", FUNCTIONS)
of_rows = pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "group_norm"])


def operands(
    name: str, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (6, 40), weights: int | None = None
) -> list[Any]:
    """The positional arguments of a call: rows of the last dimension, or 4 groups."""
    _, _, rows, most = FUNCTIONS[name]
    group = name == "group_norm"
    if group and len(shape) == 2:
        shape = (2, 8, *shape)
    n = shape[1] if group else shape[-1]
    inputs = [randn(*shape, seed=i, dtype=dtype) for i in range(rows)]
    count = most if weights is None else min(weights, most)
    return [*inputs, 4 if group else (n,), *(randn(n, seed=5 + i, dtype=dtype) for i in range(count))]


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) else x


def exact(name: str, args: list[Any]) -> tuple[Tensor, ...]:
    """In float64; a sum is the one that was stored."""
    theirs, rows = FUNCTIONS[name][1:3]
    if rows == 1:
        return as_tuple(theirs(*map(double, args)))
    total = (args[0] + args[1]).double()
    y, _ = theirs(total, torch.zeros_like(total), *map(double, args[2:]))
    return y, total


def assert_close_to(name: str, ours: Any, args: list[Any]) -> None:
    """At most twice ATen's error against float64, or about one rounding."""
    theirs = as_tuple(FUNCTIONS[name][1](*args))
    for value, aten, reference in zip(as_tuple(ours), theirs, exact(name, args), strict=True):
        assert (value.shape, value.dtype) == (aten.shape, aten.dtype)
        assert value.is_contiguous()
        assert relative_error(value, reference) <= 2 * relative_error(aten, reference) + FLOORS[value.dtype]


@functions
@dtypes
@pytest.mark.parametrize("weights", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 2, 7, 16, 63, 64, 129, 768, 1000, 5000])
def test_against_float64(name: str, dtype: torch.dtype, weights: int, n: int, mode: str) -> None:
    for rows in (1, 2, 5):
        args = operands(name, dtype, (rows, n), weights)
        assert_close_to(name, called(mode, FUNCTIONS[name][0], *args), args)


@functions
@dtypes
def test_rows_far_from_zero(name: str, dtype: torch.dtype) -> None:
    """What is subtracted from what must not cancel twice."""
    for offset in (100.0, 1e4) if dtype == torch.float32 else (100.0,):
        args = operands(name, dtype, (8, 1000))
        args[0] = (args[0].double() + offset).to(dtype)
        assert_close_to(name, called("force", FUNCTIONS[name][0], *args), args)


@of_rows
def test_large_and_small_numbers(name: str) -> None:
    for scale in (1e-30, 1e-6, 1e6, 1e15):
        args = operands(name, shape=(4, 300))
        args[0] *= scale
        assert_close_to(name, called("force", FUNCTIONS[name][0], *args), args)


@functions
def test_nan_and_infinity_are_torchs(name: str) -> None:
    for bad in (math.nan, math.inf, -math.inf):
        args = operands(name)
        args[0].view(-1)[3] = bad
        for y, expected in zip(
            as_tuple(called("force", FUNCTIONS[name][0], *args)), as_tuple(FUNCTIONS[name][1](*args)), strict=True
        ):
            torch.testing.assert_close(y, expected, equal_nan=True)


def test_eps() -> None:
    x, w, b = randn(3, 50) * 1e-3, randn(50, seed=1), randn(50, seed=2)
    for eps in (1e-12, 1e-3, 1.0, 1):
        torch.testing.assert_close(
            called("force", tvmops.layer_norm, x, (50,), w, b, eps), F.layer_norm(x, (50,), w, b, eps)
        )
        torch.testing.assert_close(called("force", tvmops.rms_norm, x, (50,), w, eps), F.rms_norm(x, (50,), w, eps))
    for dtype in DTYPES:
        tiny = (x * 1e-2).to(dtype)
        torch.testing.assert_close(called("force", tvmops.rms_norm, tiny, (50,)), F.rms_norm(tiny, (50,)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@functions
def test_float32_weights_of_low_precision(name: str, dtype: torch.dtype) -> None:
    """What autocast leaves of a model with float32 parameters."""
    args = [x.to(dtype) if isinstance(x, Tensor) and x.dim() > 1 else x for x in operands(name, shape=(6, 333))]
    assert_close_to(name, called("force", FUNCTIONS[name][0], *args), args)
    plain = operands(name, shape=(6, 333))
    with torch.autocast("cpu", dtype=dtype):
        ours, theirs = (as_tuple(f(*plain)) for f in FUNCTIONS[name][:2])
    for y, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(y, expected)


@of_rows
def test_several_normalised_dimensions(name: str) -> None:
    ours, theirs, rows, weights = FUNCTIONS[name]
    inputs = [randn(2, 3, 4, 5, seed=i) for i in range(rows)]
    for dims in (1, 2, 3, 4):
        shape = inputs[0].shape[-dims:]
        args = [*inputs, shape, *(randn(*shape, seed=7 + i) for i in range(weights))]
        assert_close_to(name, called("force", ours, *args), args)
        args[rows] = list(shape)
        assert_close_to(name, called("force", ours, *args), args)
    assert theirs is not ours


sizes = st.integers(1, 6)


@of_rows
@settings(max_examples=40)
@given(
    outer=st.lists(sizes, max_size=3),
    n=st.integers(1, 70),
    order=st.randoms(use_true_random=False),
    step=st.sampled_from([1, 2]),
    dtype=st.sampled_from(DTYPES),
    rest=st.integers(0, 3),
)
def test_any_layout(name: str, outer: list[int], n: int, order: Any, step: int, dtype: torch.dtype, rest: int) -> None:
    """Rows apart, permuted, with steps inside the row: read in place or copied, never wrong."""
    ours, _, rows, weights = FUNCTIONS[name]
    dims = list(range(len(outer)))
    order.shuffle(dims)
    inputs = [
        randn(*outer, n * step + rest, seed=i, dtype=dtype)[..., : n * step : step].permute(*dims, len(outer))
        for i in range(rows)
    ]
    args = [*inputs, (n,), *(randn(n * 2, seed=8 + i, dtype=dtype)[::2] for i in range(weights))]
    assert_close_to(name, called("force", ours, *args), args)


@settings(max_examples=40)
@given(
    batch=sizes,
    groups=st.integers(1, 5),
    per=st.integers(1, 5),
    spatial=st.lists(sizes, max_size=3),
    dtype=st.sampled_from(DTYPES),
)
def test_group_norm_of_any_shape(batch: int, groups: int, per: int, spatial: list[int], dtype: torch.dtype) -> None:
    channels = groups * per
    x = randn(batch, channels, *spatial, dtype=dtype)
    args = [x, groups, randn(channels, seed=1, dtype=dtype), randn(channels, seed=2, dtype=dtype)]
    if x.numel() >= 2 * groups and batch * per * math.prod(spatial) > 1:
        assert_close_to("group_norm", called("force", tvmops.group_norm, *args), args)


def test_groups_in_several_blocks() -> None:
    for shape, groups in (((3, 16, 70, 90), 4), ((2, 8, 300, 301), 1), ((5, 64, 40, 40), 32)):
        args = [randn(*shape), groups, randn(shape[1], seed=1), randn(shape[1], seed=2)]
        assert_close_to("group_norm", called("force", tvmops.group_norm, *args), args)


def test_what_goes_to_aten() -> None:
    x, w = randn(4, 8), randn(8, seed=1)
    for ours, theirs, args in (
        (tvmops.layer_norm, F.layer_norm, (x.double(), (8,), w.double())),
        (tvmops.layer_norm, F.layer_norm, (x[:0], (8,), w)),
        (tvmops.layer_norm, F.layer_norm, (randn(3, 0), (0,))),
        (tvmops.rms_norm, F.rms_norm, (x, (8,), w.bfloat16())),
        (tvmops.rms_norm, F.rms_norm, (x.double(), (8,))),
        (tvmops.add_rms_norm, add_rms_norm, (x, x[0], (8,), w)),
        (tvmops.add_layer_norm, add_layer_norm, (x, x.bfloat16(), (8,), w)),
        (tvmops.group_norm, F.group_norm, (randn(2, 8, 3, 3).to(memory_format=torch.channels_last), 2, w)),
        (tvmops.group_norm, F.group_norm, (randn(8, 2, 3).transpose(0, 1), 2, w)),
        (tvmops.group_norm, F.group_norm, (randn(0, 8, 3), 2, w)),
    ):
        for y, expected in zip(as_tuple(by_aten(ours, *args)), as_tuple(theirs(*args)), strict=True):
            torch.testing.assert_close(y, expected)
            assert y.stride() == expected.stride()


def test_errors_are_torchs() -> None:
    x, w = randn(4, 8), randn(8)
    for ours, theirs, args in (
        (tvmops.layer_norm, F.layer_norm, (x, ())),
        (tvmops.layer_norm, F.layer_norm, (x, (7,))),
        (tvmops.layer_norm, F.layer_norm, (x, (4, 8, 2))),
        (tvmops.layer_norm, F.layer_norm, (x, (8,), w[:3])),
        (tvmops.layer_norm, F.layer_norm, (x, (8,), w, w[:5])),
        (tvmops.layer_norm, F.layer_norm, (x, (8,), w.double())),
        (tvmops.layer_norm, F.layer_norm, (x.bfloat16(), (8,), w, w.bfloat16())),
        (tvmops.layer_norm, F.layer_norm, (torch.arange(8), (8,))),
        (tvmops.rms_norm, F.rms_norm, (x, (7,))),
        (tvmops.rms_norm, F.rms_norm, (x, (8,), w[:2])),
        (tvmops.add_layer_norm, add_layer_norm, (x, x[:, :3], (8,))),
        (tvmops.group_norm, F.group_norm, (randn(2, 8, 4), 3)),
        (tvmops.group_norm, F.group_norm, (randn(2, 8, 4), 2, w[:3])),
        (tvmops.group_norm, F.group_norm, (randn(2, 8, 4), 0)),
        (tvmops.group_norm, F.group_norm, (randn(8), 2)),
        (tvmops.group_norm, F.group_norm, (randn(1, 2, 1), 2)),
    ):
        assert_same_error(lambda f=ours, a=args: f(*a), lambda f=theirs, a=args: f(*a))  # type: ignore[misc]
        if args[0].is_floating_point() and args[0].numel() > 8:
            wanted = (args[0].clone().requires_grad_(), *args[1:])
            assert_same_error(lambda f=ours, a=wanted: f(*a), lambda f=theirs, a=wanted: f(*a))  # type: ignore[misc]


# -- Gradients ---------------------------------------------------------------------------------------------------------


def gradients(function: Callable[..., Any], args: list[Any], outs: int | None = None) -> list[Tensor]:
    """Of every tensor, for fixed gradients of the results."""
    leaves = [a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in args]
    results = as_tuple(function(*leaves))[:outs]
    g = [randn(*y.shape, seed=20 + i, dtype=torch.float64).to(y.dtype) for i, y in enumerate(results)]
    return list(torch.autograd.grad(results, [a for a in leaves if isinstance(a, Tensor)], g))


@functions
@dtypes
@pytest.mark.parametrize("weights", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 5), (3, 16), (40, 129), (200, 768)])
def test_gradients_against_float64(name: str, dtype: torch.dtype, weights: int, shape: tuple[int, ...]) -> None:
    args = operands(name, dtype, shape, weights)
    args[0] = (args[0].double() * 2 + 1).to(dtype)
    ours, theirs, _, _ = FUNCTIONS[name]
    with tvmops.mode("force"):
        mine, decisions = observed(gradients, ours, args)
    assert {d.op for d in decisions} == {name, name + "_backward"}
    assert all(d.kernel for d in decisions), str(decisions)
    reference = gradients(theirs, [double(a) for a in args])
    aten = gradients(theirs, args)
    for value, its, expected in zip(mine, aten, reference, strict=True):
        assert (value.shape, value.dtype) == (its.shape, its.dtype)
        allowed = 2 * relative_error(its, expected) + 2 * FLOORS[dtype]
        assert relative_error(value, expected) <= allowed


@pytest.mark.parametrize("name", ["add_layer_norm", "add_rms_norm"])
def test_gradients_of_one_result(name: str) -> None:
    args = operands(name, shape=(30, 50))
    ours, theirs, _, _ = FUNCTIONS[name]
    for mine, expected in zip(gradients(ours, args, 1), gradients(theirs, args, 1), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    leaves = [a.requires_grad_() if isinstance(a, Tensor) else a for a in args]
    (dx,) = torch.autograd.grad(ours(*leaves)[1].sum(), leaves[0])
    assert torch.equal(dx, torch.ones_like(dx))


@functions
def test_gradients_for_expanded_and_strided_gradients(name: str) -> None:
    ours, theirs, rows, _ = FUNCTIONS[name]
    args = operands(name, shape=(6, 40))
    grads = []
    for function in (ours, theirs):
        leaves = [a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in args]
        y = as_tuple(function(*leaves))[0]
        y.sum().backward(retain_graph=True)
        (y * torch.ones(y.shape[-1]).expand(y.shape)).transpose(-1, -2).square().sum().backward()
        grads.append([a.grad for a in leaves if isinstance(a, Tensor)])
    for mine, expected in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    assert rows


@functions
def test_gradgradcheck(name: str) -> None:
    args = operands(name, torch.float64, (3, 4))
    tensors = [a.requires_grad_() for a in args if isinstance(a, Tensor)]
    at = FUNCTIONS[name][2]

    def call(*tensors: Tensor) -> Any:
        return getattr(torch.ops.tvmops, name)(*tensors[:at], args[at], *tensors[at:])

    assert torch.autograd.gradcheck(call, tensors)
    assert torch.autograd.gradgradcheck(call, tensors)


@functions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_second_derivatives_of_kernels(name: str, dtype: torch.dtype) -> None:
    """First by a kernel with create_graph, which must hand over to ATen."""
    args = operands(name, dtype, (5, 12))

    def second(function: Callable[..., Any], args: list[Any]) -> list[Tensor]:
        leaves = [a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in args]
        tensors = [a for a in leaves if isinstance(a, Tensor)]
        loss = sum(y.cos().sum() for y in as_tuple(function(*leaves)))
        first = torch.autograd.grad(loss, tensors, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), tensors, allow_unused=True))

    with tvmops.mode("force"):
        mine = second(FUNCTIONS[name][0], args)
    expected = second(FUNCTIONS[name][1], [double(a) for a in args])
    for value, reference in zip(mine, expected, strict=True):
        if value is not None and reference is not None:
            assert relative_error(value, reference) <= (1e-4 if dtype == torch.float32 else 0.1)


@functions
def test_only_the_gradients_that_are_wanted(name: str) -> None:
    ours, theirs, _, _ = FUNCTIONS[name]
    args = operands(name)
    for i, a in enumerate(args):
        if not isinstance(a, Tensor):
            continue
        both = []
        for function in (ours, theirs):
            some = [b.clone() if isinstance(b, Tensor) else b for b in args]
            some[i].requires_grad_()
            as_tuple(function(*some))[0].square().sum().backward()
            both.append(some[i].grad)
            assert all(b.grad is None for j, b in enumerate(some) if j != i and isinstance(b, Tensor))
        torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-4)


def test_a_changed_operand_is_noticed_in_backward() -> None:
    x, w = randn(4, 8).requires_grad_(), randn(8, seed=1)
    y = called("force", tvmops.layer_norm, x, (8,), w)
    w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# -- What torch expects of operators -----------------------------------------------------------------------------------


@functions
@pytest.mark.parametrize("wanted", [False, True])
def test_opcheck(name: str, wanted: bool) -> None:
    args = [a.requires_grad_(wanted) if isinstance(a, Tensor) else a for a in operands(name)]
    with tvmops.mode("force"):
        torch.library.opcheck(getattr(torch.ops.tvmops, name).default, args)


@functions
def test_compiled_without_a_break(name: str) -> None:
    torch.compiler.reset()
    ours, theirs, at, _ = FUNCTIONS[name]

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: sum(as_tuple(function(args[0] * 2, *args[1:])))

    compiled = torch.compile(around(ours), fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 7):
        args = operands(name, shape=(rows, 12))
        leaves = [a.requires_grad_() if isinstance(a, Tensor) else a for a in args]
        y = compiled(*leaves)
        torch.testing.assert_close(y, around(theirs)(*args))
        mine = torch.autograd.grad(y.cos().sum(), leaves[0])[0]
        expected = torch.autograd.grad(around(theirs)(*leaves).cos().sum(), leaves[0])[0]
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(compiled(*args), around(theirs)(*args))
    assert at


@functions
@pytest.mark.parametrize(
    "batched", [(True, False, False), (True, True, False), (False, True, True), (True, True, True)]
)
def test_vmap(name: str, batched: tuple[bool, bool, bool]) -> None:
    ours, theirs, at, _ = FUNCTIONS[name]
    plain = operands(name, shape=(5, 6, 7) if name != "group_norm" else (2, 8, 3))
    args, dims, weight = [], [], 0
    for i, a in enumerate(plain):
        weight += i > at
        wants = isinstance(a, Tensor) and (batched[0] if i < at else batched[weight])
        dims.append((1 if a.dim() > 1 else 0) if wants else None)
        args.append(torch.stack([a, a * 2 + 1, a - 3], dims[-1]) if wants else a)
    for y, expected in zip(
        as_tuple(torch.vmap(ours, tuple(dims))(*args)), as_tuple(torch.vmap(theirs, tuple(dims))(*args)), strict=True
    ):
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


@functions
def test_forward_mode_and_functional_gradients(name: str) -> None:
    ours, theirs, _, _ = FUNCTIONS[name]
    args = operands(name, shape=(3, 6))
    x = args[0]

    def of(function: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        return lambda x: as_tuple(function(x, *args[1:]))[0].cos().sum()

    for transform in (lambda f: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1], lambda f: torch.func.grad(f)(x)):
        torch.testing.assert_close(transform(of(ours)), transform(of(theirs)), rtol=1e-4, atol=1e-5)


@functions
@dtypes
def test_bits_do_not_depend_on_threads(name: str, dtype: torch.dtype) -> None:
    args = operands(name, dtype, (301, 257))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append([*as_tuple(called("force", FUNCTIONS[name][0], *args)), *gradients(FUNCTIONS[name][0], args)])
    for other in results[1:]:
        for value, first in zip(other, results[0], strict=True):
            assert torch.equal(value, first)


def test_modules() -> None:
    nn = torch.nn
    for module, x in (
        (nn.LayerNorm(12), randn(5, 12)),
        (nn.LayerNorm((3, 4), eps=1e-3), randn(5, 3, 4)),
        (nn.LayerNorm(12, bias=False), randn(5, 12)),
        (nn.LayerNorm(12, elementwise_affine=False), randn(5, 12)),
        (nn.RMSNorm(12), randn(5, 12)),
        (nn.RMSNorm(12, eps=1e-2, elementwise_affine=False), randn(5, 12)),
        (nn.GroupNorm(3, 6), randn(2, 6, 5)),
        (nn.GroupNorm(3, 6, affine=False), randn(2, 6, 5)),
    ):
        for p in module.parameters():
            nn.init.normal_(p)
        net = nn.Sequential(copy.deepcopy(module))
        assert tvmops.nn.replace(net)
        assert type(net[0]) is getattr(tvmops.nn, type(module).__name__)
        assert net[0].state_dict().keys() == module.state_dict().keys()
        with torch.no_grad():
            torch.testing.assert_close(called("force", net, x), module(x))


@pytest.mark.parametrize("rms", [False, True])
def test_modules_of_a_sum(rms: bool) -> None:
    plain: Any = torch.nn.RMSNorm(12) if rms else torch.nn.LayerNorm(12)
    torch.nn.init.normal_(plain.weight)
    ours: Any = tvmops.nn.AddRMSNorm(12) if rms else tvmops.nn.AddLayerNorm(12)
    ours.load_state_dict(plain.state_dict())
    x, r = randn(5, 12), randn(5, 12, seed=1)
    with torch.no_grad():
        y, total = called("force", ours, x, r)
        torch.testing.assert_close(y, plain(x + r))
    assert torch.equal(total, x + r)


def test_modes_and_inference() -> None:
    x = randn(3, 8)
    with tvmops.mode("off"):
        _, decisions = observed(tvmops.layer_norm, x, (8,))
    assert [(d.op, d.kernel, d.reason) for d in decisions] == [("layer_norm", None, "mode is off")]
    with torch.inference_mode():
        assert served(tvmops.rms_norm, x, (8,)).is_inference()
    assert not tvmops.layer_norm(x, (8,)).requires_grad
    with torch.no_grad():
        assert not tvmops.layer_norm(x.clone().requires_grad_(), (8,)).requires_grad
