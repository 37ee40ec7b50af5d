"""linear with every epilogue: values against float64 and ATen, in every shape and layout; what goes to ATen."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.support import (
    ACTIVATIONS,
    MODES,
    assert_accurate,
    assert_same,
    assert_same_error,
    assert_same_nonfinite,
    assert_same_outcome,
    by_aten,
    called,
    layouts,
    matrix,
    observed,
    randn,
    seeds,
    sizes,
    summation_bound,
)

APPLY: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
TAILS = ("gelu", "gelu_tanh", "silu")
modes = st.sampled_from(MODES)
activations = pytest.mark.parametrize("activation", ACTIVATIONS)


def reference(
    x: Tensor, w: Tensor, bias: Tensor | None = None, activation: str | None = None, residual: Tensor | None = None
) -> Tensor:
    y = apply(F.linear(x, w, bias), activation)
    return y if residual is None else y + residual


def apply(x: Tensor, activation: str | None) -> Tensor:
    """torch's, but zero at -inf as the limit is, where torch has the NaN of -inf * 0."""
    y = APPLY[activation](x)
    return torch.where(x.isneginf(), 0.0, y) if activation in TAILS else y


def check(
    mode: str,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    prepack: bool = False,
) -> Tensor:
    value = called(mode, tvmops.linear, x, w, bias, activation, residual, prepack=prepack)
    exact = [None if t is None else t.double() for t in (x, w, bias, residual)]
    expected = reference(exact[0], exact[1], exact[2], activation, exact[3])
    residual_size = None if residual is None else residual.double().abs()
    magnitude = reference(*(None if t is None else t.abs() for t in exact[:3]), None, residual_size)
    bound = summation_bound(w.size(1), magnitude)
    assert_accurate(value, reference(x, w, bias, activation, residual), expected, bound)
    return value


def test_the_names_of_activations_are_all_tested() -> None:
    with pytest.raises(ValueError, match="unknown activation 'swish'; it can be None, relu, gelu") as error:
        tvmops.linear(randn(2, 3), randn(4, 3), None, "swish")
    assert set(str(error.value).split("it can be ")[1].replace(" or ", ", ").split(", ")) == {
        str(a) for a in ACTIVATIONS
    }


@given(
    sizes, sizes, st.integers(1, 150), layouts, layouts, st.sampled_from(ACTIVATIONS), st.booleans(), st.booleans(),
    st.booleans(), seeds, modes,
)  # fmt: skip
def test_linear(
    m: int, n: int, k: int, layout: str, layout_w: str, activation: str | None, biased: bool, residual: bool,
    prepack: bool, seed: int, mode: str,
) -> None:  # fmt: skip
    x, w = matrix(m, k, layout, seed), matrix(n, k, layout_w, seed + 1) / k**0.5
    bias = randn(n, seed=seed + 2) if biased else None
    check(mode, x, w, bias, activation, randn(m, n, seed=seed + 3) if residual else None, prepack)


@pytest.mark.parametrize("prepack", [False, True])
@pytest.mark.parametrize(("biased", "residual"), list(itertools.product([False, True], repeat=2)))
@activations
def test_every_epilogue(activation: str | None, biased: bool, residual: bool, prepack: bool) -> None:
    for m, n, k in [(1, 1, 1), (1, 33, 9), (5, 48, 20), (30, 65, 40), (130, 100, 801)]:
        x, w = randn(m, k), randn(n, k, seed=1) / k**0.5
        bias = randn(n, seed=2) if biased else None
        check("force", x, w, bias, activation, randn(m, n, seed=3) if residual else None, prepack)


@pytest.mark.parametrize("prepack", [False, True])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 2100, 1537), (3, 65, 3000), (14, 1100, 801), (29, 70, 1160), (200, 1057, 769)]
)
def test_beyond_blocks(m: int, n: int, k: int, prepack: bool) -> None:
    check("force", randn(m, k), randn(n, k, seed=1) / k**0.5, randn(n, seed=2), "gelu", randn(m, n, seed=3), prepack)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 3, 7), (2, 1, 5, 7), (1, 1, 1, 1, 7)])
@pytest.mark.parametrize("prepack", [False, True])
def test_inputs_of_any_rank(shape: tuple[int, ...], prepack: bool, mode: str) -> None:
    w, bias = randn(33, 7, seed=1), randn(33, seed=2)
    residual = randn(*shape[:-1], 33, seed=3)
    check(mode, randn(*shape), w, bias, "silu", residual, prepack)
    steps = randn(*(2 * s for s in shape))[tuple(slice(None, None, 2) for _ in shape)]
    check(mode, steps, w, bias, None, None, prepack)
    check(mode, randn(7).expand(shape), w, bias, None, None, prepack)


@given(
    st.sampled_from(ACTIVATIONS),
    st.lists(st.floats(width=32, allow_subnormal=False) | st.floats(-30, 30, width=32), min_size=1, max_size=70),
)
def test_activations_over_the_whole_range(activation: str | None, values: list[float]) -> None:
    """The product is exact, so what differs is the activation: at most 2 ULP of the result and one of the argument."""
    x = torch.tensor(values).reshape(-1, 1)
    value = called("force", tvmops.linear, x, torch.ones(1, 1), None, activation).flatten()
    exact = apply(x.flatten().double(), activation)
    assert_same_nonfinite(value, exact.float())
    finite = exact.float().isfinite()
    allowed = 2.0**-22 * (exact.abs() + x.flatten().abs()) + 2.0**-126
    assert ((value.double() - exact).abs() <= allowed)[finite].all(), (x.flatten(), value, exact)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@activations
def test_nan_and_infinity(activation: str | None, bad: float) -> None:
    x, w, bias, residual = randn(20, 30), randn(40, 30, seed=1), randn(40, seed=2), randn(20, 40, seed=3)
    x[3, 4], bias[6], residual[8, 9] = bad, bad, bad
    for prepack in (False, True):
        value = called("force", tvmops.linear, x, w, bias, activation, residual, prepack=prepack)
        exact = (t.double() for t in (x, w, bias))
        # In float64, as the gelu of ATen in float32 (2.13) makes NaN of infinity.
        assert_same_nonfinite(value, reference(*exact, activation, residual.double()).float())


def test_prepacking_keeps_the_bits_from_call_to_call_and_the_accuracy() -> None:
    x, w = randn(64, 500), randn(96, 500, seed=1)
    first = called("force", tvmops.linear, x, w, prepack=True)
    assert torch.equal(first, called("force", tvmops.linear, x, w, prepack=True))
    exact, aten = x.double() @ w.double().t(), torch.nn.functional.linear(x, w)
    for value in (first, called("force", tvmops.linear, x, w)):  # which may take another route, and round otherwise
        assert_accurate(value, aten, exact)


def test_prepacked_weights_are_remade_when_they_change() -> None:
    x, w = randn(40, 50), randn(60, 50, seed=1)
    for change in (
        lambda: w.mul_(2),
        lambda: w[3].fill_(1),
        lambda: w.t()[2:4].zero_(),
        lambda: torch.nn.init.normal_(w),
        lambda: w.copy_(randn(60, 50, seed=2)),
        lambda: w.set_(randn(60, 50, seed=3)),
        lambda: setattr(w, "data", randn(60, 50, seed=4)),
        lambda: torch.mul(randn(60, 50, seed=5), 2, out=w),
        lambda: tvmops.mm(randn(60, 9, seed=6), randn(9, 50, seed=7), out=w),
    ):
        check("force", x, w, prepack=True)
        change()
        check("force", x, w, prepack=True)


def test_prepacked_weights_that_share_memory() -> None:
    base = randn(200, 100)
    x = randn(5, 50, seed=1)
    for w in (base[:60, :50], base[60:120, :50], base[:60, 50:], base.view(-1)[:3000].view(60, 50), base.t()[:60, :50]):
        check("force", x, w, prepack=True)
        check("force", x, w, prepack=True)
    for _ in range(20):  # memory that comes back is another weight
        check("force", x, randn(60, 50, seed=_), prepack=True)


def test_packed_weights_are_released() -> None:
    tvmops._C.release_packed_weights(True)
    weights = [randn(64, 128, seed=i) for i in range(3)]
    for w in weights:
        called("force", tvmops.linear, randn(40, 128), w, prepack=True)
    held = tvmops._C.release_packed_weights(False)
    assert held >= 3 * 64 * 128 * 4
    del weights[0], w
    assert tvmops._C.release_packed_weights(False) < held
    assert tvmops._C.release_packed_weights(True) == 0
    check("force", randn(40, 128), weights[0], prepack=True)


def test_nothing_to_multiply(mode: str) -> None:
    for x, w in [((0, 4), (3, 4)), ((2, 0), (3, 0)), ((2, 4), (0, 4)), ((2, 0, 4), (3, 4)), ((0,), (3, 0))]:
        for bias in (None, randn(w[0])):
            for prepack in (False, True):
                with tvmops.mode(mode):
                    value = tvmops.linear(randn(*x), randn(*w), bias, "sigmoid", prepack=prepack)
                assert_same(value, reference(randn(*x), randn(*w), bias, "sigmoid"))


# --- What goes to ATen ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    x, w, bias = randn(5, 6).to(dtype), randn(7, 6).to(dtype), randn(7).to(dtype)
    assert_same(by_aten(tvmops.linear, x, w, bias, None, None, prepack=True), F.linear(x, w, bias))
    if not dtype.is_complex:
        assert_same(by_aten(tvmops.linear, x, w, bias, "gelu"), F.gelu(F.linear(x, w, bias)))


@pytest.mark.parametrize("shape", [(), (1,), (1, 7), (5, 7)])
def test_biases_that_broadcast(shape: tuple[int, ...], mode: str) -> None:
    x, w, bias = randn(5, 6), randn(7, 6, seed=1), randn(*shape, seed=2)
    with tvmops.mode(mode):
        assert_same_outcome(lambda: tvmops.linear(x, w, bias), lambda: F.linear(x, w, bias))
    grads = []
    for linear in (tvmops.linear, F.linear):
        leaf = bias.clone().requires_grad_()
        linear(x, w, leaf).square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("shape", [(), (7,), (5, 1), (3, 5, 7)])
def test_residuals_that_broadcast(shape: tuple[int, ...], mode: str) -> None:
    x, w, residual = randn(5, 6), randn(7, 6, seed=1), randn(*shape, seed=2)
    with tvmops.mode(mode):
        torch.testing.assert_close(tvmops.linear(x, w, None, "tanh", residual), torch.tanh(x @ w.t()) + residual)
        doubled = tvmops.linear(x, w, residual=residual.double())
    assert doubled.dtype == (torch.float64 if shape else torch.float32)


def test_weights_that_are_vectors(mode: str) -> None:
    x, w = randn(5, 6), randn(6, seed=1)
    with tvmops.mode(mode):
        assert_same_outcome(lambda: tvmops.linear(x, w), lambda: F.linear(x, w))
        assert_same_outcome(lambda: tvmops.linear(x[0], w), lambda: F.linear(x[0], w))
        assert_same_outcome(lambda: tvmops.linear(x, w, randn()), lambda: F.linear(x, w, randn()))


@pytest.mark.parametrize(
    ("x", "w", "bias"),
    [
        (randn(5, 6), randn(7, 8), None),
        (randn(2, 5, 6), randn(7, 8), randn(7)),
        (randn(5, 6), randn(7, 6), randn(8)),
        (randn(5, 6), randn(2, 7, 6), None),
        (randn(5, 6), randn(7, 6).double(), None),
        (randn(5, 6), randn(7, 6), randn(7).double()),
        (randn(), randn(7, 6), None),
        (randn(6), randn(), None),
        (randn(2, 5, 6), randn(7, 6).int(), randn(7)),
    ],
    ids=lambda x: "" if x is None else f"{x.dtype}{list(x.shape)}",
)
def test_errors_are_those_of_torch(x: Tensor, w: Tensor, bias: Tensor | None, mode: str) -> None:
    with tvmops.mode(mode):
        for prepack in (False, True):
            assert_same_error(lambda p=prepack: tvmops.linear(x, w, bias, prepack=p), lambda: F.linear(x, w, bias))


def test_wrong_arguments() -> None:
    with pytest.raises((TypeError, RuntimeError)):
        tvmops.linear(None, randn(2, 2))
    with pytest.raises((TypeError, RuntimeError)):
        tvmops.linear(randn(2, 2), randn(2, 2), 3.0)
    with pytest.raises((TypeError, RuntimeError)):
        tvmops.linear(randn(2, 2), randn(2, 2), None, 3)


@pytest.mark.parametrize("biased", [False, True])
def test_autocast_as_torch(biased: bool, mode: str) -> None:
    x, w, bias = randn(5, 6), randn(7, 6, seed=1), randn(7, seed=2) if biased else None
    residual = randn(5, 7, seed=3)
    with torch.autocast("cpu", dtype=torch.bfloat16), tvmops.mode(mode):
        assert_same(tvmops.linear(x, w, bias), F.linear(x, w, bias))
        assert_same(tvmops.linear(x, w, bias, "relu", residual), F.relu(F.linear(x, w, bias)) + residual)


def test_modes_agree() -> None:
    x, w, bias = randn(40, 60), randn(50, 60, seed=1), randn(50, seed=2)
    with tvmops.mode("off"):
        value, decisions = observed(tvmops.linear, x, w, bias)
    assert [d.kernel for d in decisions] == [None]
    assert_same(value, F.linear(x, w, bias))
