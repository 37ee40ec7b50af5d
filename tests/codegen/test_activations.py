"""The table of pointwise functions and derivatives, as leaves for every target that this machine runs."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

import tvmops
from codegen.activations import POINTWISE
from codegen.export import symbols
from codegen.target import TARGETS
from tests.accuracy import ATEN, PARAMS, TAILS, exact, split, ulps
from tests.pointwise_leaves import PointwiseLeaves
from tests.support import randn, relative_error

SPECIAL = (
    math.nan,
    math.inf,
    -math.inf,
    0.0,
    -0.0,
    1e-40,
    -1e-40,
    1.0,
    -1.0,
    3.0,
    -3.0,
    20.0,
    -20.0,
    100.0,
    -100.0,
    3e38,
)
POSITIVE = ("log", "log1p", "sqrt", "rsqrt")
names = pytest.mark.parametrize("name", POINTWISE)


@pytest.fixture(scope="module", params=TARGETS)
def leaves(request, tmp_path_factory) -> PointwiseLeaves:
    if request.param not in tvmops._C.usable_targets():
        pytest.skip(f"this machine does not run {request.param}")
    return PointwiseLeaves(request.param, tmp_path_factory.mktemp("pointwise"))


def forward(leaves: PointwiseLeaves, name: str, x: Tensor, params: tuple[float, ...] | None = None) -> Tensor:
    return torch.from_numpy(leaves.forward(name, x.numpy(), *(PARAMS.get(name, ()) if params is None else params)))


def backward(leaves: PointwiseLeaves, name: str, g: Tensor, x: Tensor) -> Tensor:
    saved = x if POINTWISE[name].saves == "input" else forward(leaves, name, x)
    return torch.from_numpy(leaves.backward(name, g.numpy(), saved.numpy(), *PARAMS.get(name, ())))


def gradient(name: str, g: Tensor, x: Tensor) -> Tensor:
    """ATen's, in the dtype of x."""
    x = x.clone().requires_grad_()
    (result,) = torch.autograd.grad(ATEN[name](x), x, g.to(x.dtype))
    return result


def operand(name: str, n: int) -> Tensor:
    x = randn(n, seed=1) * 3
    return x.abs() + 0.01 if name in POSITIVE else x


@functools.cache
def sample(name: str) -> tuple[Tensor, Tensor]:
    """Numbers from all of float32, more of them where functions bend or change their formula, and the exact values."""
    bits = np.arange(0, 2**32, 1021 * 8, dtype=np.uint64).astype("uint32")
    spans = [(-1, 1), (-0.01, 0.01), (-20, 20), (-110, 110), (-3.01, -2.99), (2.99, 3.01), (19.99, 20.01), (0.99, 1.01)]
    spans += [(0.3, 0.4), (0.99, 1.01), (-17.4, -15.9), (87, 89), (-88.5, -86.5), (-14, -12), (-1.5, -1.3)]
    x = np.concatenate([bits.view("float32"), *(np.linspace(a, b, 20_000, dtype="float32") for a, b in spans)])
    x = torch.from_numpy(x[np.isfinite(x)])
    return x, exact(name, x)


def test_every_function_is_checked():
    assert ATEN.keys() == POINTWISE.keys()
    assert all(len(f.params) == len(PARAMS.get(name, ())) for name, f in POINTWISE.items())
    assert {f.saves for f in POINTWISE.values()} == {"input", "output"}


@names
def test_within_two_ulps_over_the_finite_range(leaves, name):
    x, reference = sample(name)
    normal, subnormal = split(ulps(forward(leaves, name, x), reference), reference)
    assert normal.max() <= 2.0
    assert subnormal.numel() == 0 or subnormal.max() <= 1.0  # may flush to zero


def test_ulps():
    one, tiny = torch.ones(1), torch.full((1,), torch.finfo().tiny)
    for value, reference, distance in [
        (one + 2**-22, one, 2.0),
        (one, one - 2**-24, 1.0),
        (one / 3, one.double() / 3, 1 / 3),
        (one * math.inf, one * 3e38, (2.0**128 - 3e38) / 2**104),
        (one * math.nan, one, math.inf),
        (one * math.nan, one * math.nan, 0.0),
        (one * math.inf, one.double() * 1e300, 0.0),
        (one * 0, tiny / 2, 2.0**22),
    ]:
        assert ulps(value, reference.double()).item() == pytest.approx(distance, rel=1e-6)


@names
def test_special_values_are_torchs(leaves, name):
    x = torch.tensor(SPECIAL * 4)  # as float64: ATen's own float32 says that gelu(inf) is NaN, that of 3e38 infinite
    y, theirs = forward(leaves, name, x), exact(name, x).float()
    torch.testing.assert_close(y, theirs, rtol=1e-6, atol=torch.finfo().tiny, equal_nan=True)
    zero = theirs == 0
    assert torch.equal(torch.signbit(y[zero & (x == 0)]), torch.signbit(theirs[zero & (x == 0)]))


@pytest.mark.parametrize(
    ("name", "params"),
    [("leaky_relu", (-0.5,)), ("elu", (2.5,)), ("elu", (-2.0,)), ("softplus", (2.0, 5.0)), ("softplus", (-1.5, 20.0))],
)
def test_parameters(leaves, name, params):
    x = torch.cat([randn(1000) * 20, torch.tensor(SPECIAL)])
    theirs = getattr(torch.nn.functional, name)(x.double(), *params)
    inside = theirs.float().isfinite() & (theirs.abs() >= torch.finfo().tiny)
    y = forward(leaves, name, x, params)
    assert ulps(y[inside], theirs[inside]).max() <= 2.5  # a rounding more
    torch.testing.assert_close(y[~inside], theirs[~inside].float(), equal_nan=True)


@names
def test_gradient(leaves, name):
    """As close to float64 as ATen's, all in all, and no element far off."""
    x, g = operand(name, 40_000), randn(40_000, seed=2)
    ours, theirs, reference = backward(leaves, name, g, x), gradient(name, g, x), gradient(name, g, x.double())
    assert relative_error(ours, reference) <= 2 * relative_error(theirs, reference) + 2.0**-26
    slope = gradient(name, torch.ones_like(g), x.double()).abs()
    assert ((ours - reference).abs() <= 4e-7 * g.abs() * slope.clamp(min=1)).all()


@names
def test_gradient_over_the_finite_range(leaves, name):
    x, _ = sample(name)
    x = x[::7]
    reference = gradient(name, torch.ones_like(x), x.double())
    if name in TAILS:  # where float64 has inf * 0
        reference = torch.where(x.abs() > 1e9, (x > 0).double(), reference)
    ours = backward(leaves, name, torch.ones_like(x), x)
    kept = reference.float().isfinite()
    if name == "rsqrt":
        kept &= x > 1e-20  # the third power of the output overflows before the gradient does
    if name == "sqrt":
        kept &= x > 0
    error = (ours - reference).abs() / reference.abs().clamp(min=1)
    assert error[kept].max() <= 1e-6


@names
def test_gradient_at_special_values_is_torchs(leaves, name):
    x = torch.tensor([*SPECIAL[:-3], 30.0, -30.0] * 4)
    for g in (torch.ones_like(x), torch.full_like(x, -2.0)):
        ours, theirs = backward(leaves, name, g, x), gradient(name, g, x.double()).float()
        # At infinities ATen has the NaN of inf * 0 where the derivative is 0 or 1; at NaN it is of two minds.
        kept = ~(x.isnan() & (ours.isnan() | theirs.isnan())) & ~(x.isinf() & theirs.isnan())
        torch.testing.assert_close(ours[kept], theirs[kept], rtol=1e-6, atol=1e-7, equal_nan=True)
        if name not in ("relu", "leaky_relu"):
            assert ours[x.isnan()].isnan().all()


@pytest.mark.parametrize("name", ["relu", "squared_relu", "hardswish"])
@pytest.mark.parametrize("g", [math.inf, -math.inf, math.nan])
def test_no_gradient_where_the_function_is_constant(leaves, name, g):
    x = torch.tensor([-4.0, -5.0, -math.inf] * 8)
    assert (backward(leaves, name, torch.full_like(x, g), x) == 0).all()


def test_no_function_of_a_math_library_is_called(leaves):
    assert symbols.undefined(leaves.object) <= symbols.ALLOWED
    text = leaves.object.with_suffix(".ll").read_text()
    calls = set(re.findall(r"\bcall\b[^@\n]*@([\w.]+)", text))
    assert {name for name in calls if not name.startswith("llvm.")} <= symbols.ALLOWED
    assert {f"{kind}_{name}" for name in POINTWISE for kind in ("forward", "backward")} <= set(
        re.findall(r"define [^@]*@(\w+)", text)
    )


def test_every_function_is_vector_arithmetic(leaves):
    """No float is computed alone: what LLVM leaves scalar, it leaves outside of the loop."""
    text = leaves.object.with_suffix(".ll").read_text()
    wide = re.findall(rf"= (?:fmul|fdiv|fadd|fsub) (?:\w+ )*<{leaves.lanes} x float>", text)
    scalar = re.findall(r"= (?:fmul|fdiv|fadd|fsub) (?:\w+ )*float ", text)
    assert len(wide) > 100
    assert len(scalar) <= 4
