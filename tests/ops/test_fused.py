"""Fused pointwise functions: values, gradients, layouts, what goes to ATen, transforms, modules."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.support import (
    ACTIVATIONS,
    assert_accurate,
    assert_same,
    assert_same_error,
    assert_same_nonfinite,
    by_aten,
    called,
    layouts,
    matrix,
    observed,
    python,
    randn,
    seeds,
    sizes,
)

Call = Callable[..., Tensor]
FUNCTIONS: dict[str | None, Call] = {
    None: lambda z: z,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def bias_formula(x: Tensor, bias: Tensor | None = None, name: str | None = None, residual: Tensor | None = None) -> Any:
    y = FUNCTIONS[name](x if bias is None else x + bias)
    return y if residual is None else y + residual


def halves_formula(x: Tensor, name: str | None) -> Tensor:
    gate, up = x.chunk(2, -1)
    return FUNCTIONS[name](gate) * up


# Ours, torch's, and operands for a shape and an activation.
CASES: dict[str, tuple[Call, Call, Callable[[tuple[int, ...], str | None], tuple[Any, ...]]]] = {
    "bias": (
        tvmops.bias_activation, bias_formula,
        lambda s, a: (randn(*s), randn(s[-1], seed=1), a),
    ),
    "bias, residual": (
        tvmops.bias_activation, bias_formula,
        lambda s, a: (randn(*s), randn(s[-1], seed=1), a, randn(*s, seed=2)),
    ),
    "no bias, residual": (
        tvmops.bias_activation, bias_formula,
        lambda s, a: (randn(*s), None, a, randn(*s, seed=2)),
    ),
    "add": (
        tvmops.add_activation, lambda x, y, name: FUNCTIONS[name](x + y),
        lambda s, a: (randn(*s), randn(*s, seed=1), a),
    ),
    "gated": (
        tvmops.gated_activation, lambda x, y, name: FUNCTIONS[name](x) * y,
        lambda s, a: (randn(*s), randn(*s, seed=1), a),
    ),
    "halves": (
        lambda x, name: tvmops.gated_activation(x, None, name), halves_formula,
        lambda s, a: (randn(*s[:-1], 2 * s[-1]), a),
    ),
    "star_relu": (
        tvmops.star_relu, lambda x, scale, shift: scale * F.relu(x) ** 2 + shift,
        lambda s, a: (randn(*s), torch.tensor([0.9]), torch.tensor([-0.4])),
    ),
}  # fmt: skip
ALL = [(case, a) for case, a in itertools.product(CASES, ACTIVATIONS) if case != "star_relu" or a is None]
cases = pytest.mark.parametrize("case", CASES)
everything = pytest.mark.parametrize(("case", "activation"), ALL)


def cast(operands: tuple[Any, ...], dtype: torch.dtype, wanted: bool = False) -> tuple[Any, ...]:
    return tuple(x.detach().to(dtype).requires_grad_(wanted) if isinstance(x, Tensor) else x for x in operands)


def gradients(function: Call, operands: tuple[Any, ...]) -> list[Tensor]:
    y = function(*operands)
    wanted = [x for x in operands if isinstance(x, Tensor)]
    # A gradient that differs from element to element.
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
    return [y, *torch.autograd.grad(y, wanted, weights)]


def assert_gradients(case: str, operands: tuple[Any, ...], mode: str = "force") -> None:
    """The result and every gradient, each at most twice as far from float64 as ATen's."""
    ours, theirs, _ = CASES[case]
    dtype = operands[0].dtype
    values = called(mode, gradients, ours, cast(operands, dtype, True))
    aten = gradients(theirs, cast(operands, dtype, True))
    exact = gradients(theirs, cast(operands, torch.float64, True))
    for value, other, reference in zip(values, aten, exact, strict=True):
        few = reference.numel() < 256  # where ATen may be exact by chance
        assert_accurate(value, other, reference, 2.0**-22 * reference.abs() + 2.0**-24 if few else None)


@everything
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(case: str, activation: str | None, dtype: torch.dtype) -> None:
    if dtype != torch.float32 and activation in ("gelu_tanh", "sigmoid"):
        return  # what the dtype changes is common to all
    assert_gradients(case, cast(CASES[case][2]((5, 67), activation), dtype))
    if dtype == torch.float32:
        assert_gradients(case, CASES[case][2]((2, 3, 130), activation))


@cases
def test_sizes(case: str, mode: str) -> None:
    for shape in ((1,), (7,), (1, 1), (5, 1), (3, 16), (2, 2, 17), (1, 300, 33), (2, 4100)):
        assert_gradients(case, CASES[case][2](shape, "silu"), mode)


@cases
def test_large(case: str) -> None:
    """Cut for threads and streamed past the caches."""
    assert_gradients(case, CASES[case][2]((700, 4000), "relu"))


@given(st.sampled_from(sorted(CASES)), sizes, sizes, layouts, layouts, seeds, st.sampled_from(ACTIVATIONS))
def test_layouts(case: str, m: int, n: int, one: str, other: str, seed: int, activation: str | None) -> None:
    """Whatever the strides: a kernel's result or ATen's."""
    ours, theirs, make = CASES[case]
    operands = list(make((m, n), activation))
    places = [i for i, x in enumerate(operands) if isinstance(x, Tensor) and x.dim() == 2]
    for i, layout in zip(places, (one, other), strict=False):
        operands[i] = matrix(m, operands[i].shape[1], layout, seed + i)
    with tvmops.mode("force"):
        value = ours(*operands)
        assert_same_strides = theirs(*operands).stride() == value.stride()
    exact = theirs(*cast(tuple(operands), torch.float64))
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)
    assert assert_same_strides or 1 in value.shape
    wanted = [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in operands]
    with tvmops.mode("force"):
        values = gradients(ours, tuple(wanted))
    expected = gradients(theirs, cast(tuple(operands), torch.float64, True))
    for mine, reference in zip(values, expected, strict=True):
        scale = 1 + reference.abs().max().item()
        torch.testing.assert_close(mine.double() / scale, reference / scale, rtol=1e-5, atol=1e-5)


def test_rows_and_other_dense_memory_are_read_as_they_are() -> None:
    wide = randn(6, 9, 64)
    gate, up = wide.chunk(2, -1)
    for x in (gate, randn(9, 6, 32).transpose(0, 1), randn(4, 3, 5, 6).to(memory_format=torch.channels_last)):
        y = up if x is gate else torch.randn_like(x)
        assert y.stride() == x.stride()
        for case in ("add", "gated"):
            value = called("force", CASES[case][0], x, y, "silu")
            torch.testing.assert_close(value, CASES[case][1](x, y, "silu"))
            assert value.stride() == CASES[case][1](x, y, "silu").stride()
    value = called("force", tvmops.bias_activation, gate, randn(32), "silu", up)
    torch.testing.assert_close(value, bias_formula(gate, randn(32), "silu", up))


@cases
def test_an_expanded_gradient(case: str) -> None:
    """As that of a sum is."""
    ours, theirs, make = CASES[case]
    mine, other = cast(make((5, 33), "gelu"), torch.float32, True), cast(make((5, 33), "gelu"), torch.float32, True)
    _, decisions = observed(lambda: ours(*mine).sum().backward())
    assert decisions
    theirs(*other).sum().backward()
    for x, y in zip(mine, other, strict=True):
        if isinstance(x, Tensor):
            torch.testing.assert_close(x.grad, y.grad)


def test_only_the_gradients_that_are_wanted() -> None:
    for case in CASES:
        ours, theirs, make = CASES[case]
        operands = make((5, 33), "tanh")
        for i, x in enumerate(operands):
            if not isinstance(x, Tensor):
                continue
            both = []
            for function in (ours, theirs):
                one = [*operands]
                one[i] = x.clone().requires_grad_()
                with tvmops.mode("force"):
                    function(*one).cos().sum().backward()
                both.append(one[i].grad)
            torch.testing.assert_close(*both)


@everything
def test_gradcheck(case: str, activation: str | None) -> None:
    """In float64, which ATen computes: what is checked is that our formulas of derivatives are right."""
    ours, _, make = CASES[case]
    operands = cast(make((3, 4), activation), torch.float64, True)
    assert torch.autograd.gradcheck(ours, operands)
    assert torch.autograd.gradgradcheck(ours, operands)


@everything
def test_second_derivatives_of_what_kernels_computed(case: str, activation: str | None) -> None:
    ours, theirs, make = CASES[case]

    def second(function: Call, operands: tuple[Any, ...]) -> list[Tensor]:
        wanted = [x for x in operands if isinstance(x, Tensor)]
        first = torch.autograd.grad(function(*operands).cos().sum(), wanted, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), wanted))

    with tvmops.mode("force"):
        values = second(ours, cast(make((5, 9), activation), torch.float32, True))
    exact = second(theirs, cast(make((5, 9), activation), torch.float64, True))
    for value, reference in zip(values, exact, strict=True):
        torch.testing.assert_close(value.double(), reference, rtol=1e-3, atol=1e-4)


OPERATORS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "bias_activation": lambda: (randn(5, 33), randn(33, seed=1), "gelu", randn(5, 33, seed=2)),
    "bias_activation_backward": lambda: (randn(5, 33), randn(5, 33, seed=1), randn(33, seed=2), "gelu"),
    "add_activation": lambda: (randn(5, 33), randn(5, 33, seed=1), "silu"),
    "add_activation_backward": lambda: (randn(5, 33), randn(5, 33, seed=1), randn(5, 33, seed=2), "silu"),
    "gated_activation": lambda: (randn(5, 33), randn(5, 33, seed=1), "silu"),
    "gated_activation_backward": lambda: (randn(5, 33), randn(5, 33, seed=1), randn(5, 33, seed=2), "silu"),
    "gated_halves": lambda: (randn(5, 66), "tanh"),
    "gated_halves_backward": lambda: (randn(5, 33), randn(5, 66, seed=1), "tanh"),
    "star_relu": lambda: (randn(5, 33), torch.tensor([0.9]), torch.tensor([-0.4])),
    "star_relu_backward": lambda: (randn(5, 33), randn(5, 33, seed=1), torch.tensor([0.9]), torch.tensor([-0.4])),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("wanted", [False, True])
def test_opcheck(name: str, wanted: bool) -> None:
    operands = cast(OPERATORS[name](), torch.float32, wanted)
    with tvmops.mode("force"):
        torch.library.opcheck(getattr(torch.ops.tvmops, name).default, operands)


@pytest.mark.parametrize("name", [None, "relu"])
def test_opcheck_without_bias(name: str | None) -> None:
    for residual in (None, randn(5, 33)):
        torch.library.opcheck(torch.ops.tvmops.bias_activation.default, (randn(5, 33), None, name, residual))


@cases
def test_nothing_and_nonfinite(case: str) -> None:
    ours, theirs, make = CASES[case]
    for shape in ((0, 5), (3, 0), (0,)):
        operands = make(shape, "gelu")
        assert_same(by_aten(ours, *operands), theirs(*operands))
    for activation in ACTIVATIONS:
        special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e38, -1e38, 3.0])
        if activation in ("gelu", "gelu_tanh", "silu"):  # zero at -inf, where torch makes NaN of -inf * 0
            special[2] = -5.0
        operands = [
            special.repeat(8, 1) if i == 0 else special[:, None].repeat(1, 8) if isinstance(x, Tensor) and x.dim() > 1
            else x for i, x in enumerate(make((8, 8), activation))
        ]  # fmt: skip
        value = called("force", ours, *operands)
        # Of float64: oneDNN, which computes ATen's gelu of float32, makes NaN of infinity.
        assert_same_nonfinite(value, theirs(*cast(tuple(operands), torch.float64)).float())


UNCOVERED: dict[str, Callable[[], Tensor]] = {
    "float64": lambda: tvmops.bias_activation(randn(3, 4).double(), randn(4).double(), "gelu"),
    "promotion": lambda: tvmops.bias_activation(randn(3, 4).bfloat16(), randn(4), "gelu"),
    "a bias per row": lambda: tvmops.bias_activation(randn(3, 4), randn(3, 1), "gelu"),
    "a residual for all rows": lambda: tvmops.bias_activation(randn(3, 4), randn(4), "gelu", randn(4)),
    "transposed": lambda: tvmops.bias_activation(randn(4, 3).t(), randn(4), "gelu"),
    "a scalar": lambda: tvmops.bias_activation(randn(1)[0], randn(4), "gelu"),
    "add, broadcast": lambda: tvmops.add_activation(randn(3, 4), randn(3, 1), "relu"),
    "add, promotion": lambda: tvmops.add_activation(randn(3, 4), randn(3, 4).half(), "relu"),
    "add, of two orders": lambda: tvmops.add_activation(randn(3, 4), randn(4, 3).t(), "relu"),
    "gated, broadcast": lambda: tvmops.swiglu(randn(3, 4), randn(4)),
    "gated, integers": lambda: tvmops.gated_activation(torch.arange(4), torch.arange(4)),
    "halves, steps": lambda: tvmops.geglu(randn(3, 8)[:, ::2]),
    "star_relu, per column": lambda: tvmops.star_relu(randn(3, 4), randn(4), randn(1)),
    "star_relu, promotion": lambda: tvmops.star_relu(randn(3, 4).half(), randn(1), randn(1)),
}


@pytest.mark.parametrize("what", UNCOVERED)
def test_what_goes_to_aten(what: str) -> None:
    value = by_aten(UNCOVERED[what])
    with tvmops.mode("off"):
        assert_same(value, UNCOVERED[what]())


def test_promotion_and_broadcasting_are_torchs() -> None:
    x, bias = randn(3, 4).bfloat16(), randn(4)
    assert_same(tvmops.bias_activation(x, bias, "gelu", randn(2, 1, 4)), F.gelu(x + bias) + randn(2, 1, 4))
    assert_same(tvmops.swiglu(x, randn(3, 1)), F.silu(x) * randn(3, 1))


def test_errors() -> None:
    x = randn(3, 4)
    for call in (
        lambda: tvmops.bias_activation(x, x[0], "swish"),
        lambda: tvmops.add_activation(x, x, "GELU"),
        lambda: tvmops.gated_activation(x, None, "none"),
    ):
        with pytest.raises(ValueError, match=r"unknown activation '.*'; it can be None, relu, gelu"):
            call()
    assert_same_error(lambda: tvmops.bias_activation(x, randn(5), "gelu"), lambda: F.gelu(x + randn(5)))
    assert_same_error(lambda: tvmops.swiglu(x, randn(5)), lambda: F.silu(x) * randn(5))
    assert_same_error(lambda: tvmops.geglu(x, x, "erf"), lambda: F.gelu(x, approximate="erf"))
    with pytest.raises(RuntimeError, match="can't be halved, its size is 3"):
        tvmops.swiglu(randn(2, 3))
    with pytest.raises(RuntimeError, match="a scalar has no halves"):
        tvmops.swiglu(x[0, 0])


def test_nothing_to_do_is_a_copy() -> None:
    x = randn(3, 4)
    y = tvmops.bias_activation(x)
    assert_same(y, x)
    assert y.data_ptr() != x.data_ptr()


@cases
def test_same_bits_for_every_number_of_threads(case: str) -> None:
    ours, _, make = CASES[case]
    operands = cast(make((300, 1000), "gelu"), torch.float32, True)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(called("force", gradients, ours, operands))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            assert torch.equal(a, b)


@cases
@pytest.mark.parametrize("wanted", [False, True])
def test_compiled(case: str, wanted: bool) -> None:
    """No graph break, one dynamic graph, the same gradients."""
    torch.compiler.reset()
    ours, _, make = CASES[case]
    around = lambda *operands: ours(*operands).sin() * 2  # noqa: E731
    compiled = torch.compile(around, fullgraph=True, dynamic=True, backend="aot_eager")
    for m in (5, 17):
        operands = cast(make((m, 33), "silu"), torch.float32, wanted)
        with tvmops.mode("force"):
            value, decisions = observed(compiled, *operands)
        assert any(d.kernel for d in decisions)
        torch.testing.assert_close(value, around(*operands))
        if wanted:
            mine, decisions = observed(gradients, compiled, operands)
            assert any("backward" in d.op for d in decisions) or case == "no bias, residual"
            for a, b in zip(mine, gradients(around, operands), strict=True):
                torch.testing.assert_close(a, b)


@cases
def test_vmap(case: str) -> None:
    ours, theirs, make = CASES[case]
    operands = make((4, 6), "silu")
    tensors = [i for i, x in enumerate(operands) if isinstance(x, Tensor)]
    for dims in itertools.product((None, 0, -1), repeat=len(tensors)):
        if not any(d is not None for d in dims):
            continue
        batched = [*operands]
        for i, d in zip(tensors, dims, strict=True):
            x = operands[i]
            batched[i] = x if d is None else torch.stack([x, x.flip(-1), x * 2], 0 if d == 0 else x.dim())

        def over(function: Call, batched: list[Any] = batched, dims: Any = dims) -> Tensor:
            def call(*tensors_: Tensor) -> Tensor:
                whole = [*operands]
                for i, x in zip(tensors, tensors_, strict=True):
                    whole[i] = x
                return function(*whole)

            return torch.vmap(call, dims)(*(batched[i] for i in tensors))

        torch.testing.assert_close(over(ours), over(theirs))


@cases
def test_transforms_of_func(case: str) -> None:
    ours, theirs, make = CASES[case]
    operands = make((4, 6), "tanh")
    first = lambda function: lambda x: function(x, *operands[1:]).cos().sum()  # noqa: E731
    torch.testing.assert_close(torch.func.grad(first(ours))(operands[0]), torch.func.grad(first(theirs))(operands[0]))
    both = [torch.func.jvp(first(f), (operands[0],), (operands[0],)) for f in (ours, theirs)]
    torch.testing.assert_close(*both)


def test_autocast_is_as_for_the_formula() -> None:
    x, bias = randn(3, 4), randn(4)
    with torch.autocast("cpu", torch.bfloat16):
        h = torch.mm(x, randn(4, 4))
        assert_same(tvmops.bias_activation(h, bias, "gelu"), F.gelu(h + bias))
        assert tvmops.swiglu(h).dtype == torch.bfloat16


def test_modules() -> None:
    x = randn(3, 5, 16)
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(called("force", tvmops.nn.SwiGLU(), x), F.silu(gate) * up)
    torch.testing.assert_close(called("force", tvmops.nn.GEGLU(), x), F.gelu(gate) * up)
    tanh = tvmops.nn.GEGLU("tanh")
    torch.testing.assert_close(called("force", tanh, x), F.gelu(gate, approximate="tanh") * up)
    assert repr(tanh) == "GEGLU(approximate='tanh')"
    with pytest.raises(ValueError, match="'none' or 'tanh'"):
        tvmops.nn.GEGLU("erf")
    torch.testing.assert_close(called("force", tvmops.nn.SquaredReLU(), x), x.relu() ** 2)
    with pytest.raises(ValueError, match="learnable"):
        tvmops.nn.SquaredReLU(scale=2.0)
    star = tvmops.nn.SquaredReLU(learnable=True, scale=0.5, shift=-1.0)
    assert {k: v.tolist() for k, v in star.state_dict().items()} == {"scale": [0.5], "shift": [-1.0]}
    y = called("force", star, x)
    torch.testing.assert_close(y, 0.5 * x.relu() ** 2 - 1)
    y.sum().backward()
    torch.testing.assert_close(star.scale.grad, (x.relu() ** 2).sum().reshape(1))
    torch.testing.assert_close(star.shift.grad, torch.tensor([float(x.numel())]))
    assert repr(star) == "SquaredReLU(learnable=True)"


def test_no_byte_beyond_the_operands_is_touched() -> None:
    python("""
import torch, tvmops
from tests.guarded import Guarded
from tests.ops.test_fused import CASES, gradients
with tvmops.mode("force"):
    for case, (ours, _, make) in CASES.items():
        for shape in ((1, 1), (3, 5), (5, 16), (2, 67), (70, 33)):
            for at_start in (False, True):
                with Guarded() as guard:
                    operands = [guard(x, at_start).requires_grad_() if isinstance(x, torch.Tensor) else x
                                for x in make(shape, "silu")]
                    gradients(ours, tuple(operands))
                    del operands
""")
