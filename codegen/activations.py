"""Pointwise functions with their derivatives, and the activations of the GEMM epilogue, as TIR expressions on float32.

All of them are vector arithmetic on top of :mod:`codegen.mathlib`. What they mean is what ``torch`` says: values at
thresholds, at zeros, NaN and infinities are those of torch's function of the same name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from . import mathlib
from ._tvm import Expr, tirx
from .gelu import (
    GELU_TABULATED,
    GELU_TANH_TABULATED,
    Tabulated,
    gelu,
    gelu_backward,
    gelu_quick,
    gelu_tanh,
    gelu_tanh_backward,
)
from .leaves.lower import f32
from .mathlib import (
    SCALE,
    clamp,
    exp,
    expm1,
    expm1_parts,
    fma,
    log1p,
    negative,
    polynomial,
    rounded_sum,
    sigmoid,
    times_logistic,
)

# (log(1 + e) - e) / e**2 for 0 <= e <= 1, within 2**-27.4 of the logarithm; fitted as those of codegen/mathlib.py.
LOG1P = (
    -0.0032905302941799164,
    0.020086422562599182,
    -0.05745742470026016,
    0.10661137104034424,
    -0.15344882011413574,
    0.19692102074623108,
    -0.24958018958568573,
    0.33330464363098145,
    -0.4999993145465851,
)


def where(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Lane by lane, ``yes`` where the condition holds."""
    return tirx.Select(condition, yes, no)


def relu(x: Expr) -> Expr:
    """max(x, 0); NaN stays, and -0 too."""
    return tirx.max(f32(0.0), x)


def relu_backward(g: Expr, y: Expr) -> Expr:
    """G where not x <= 0: a NaN lets it pass, as in torch's threshold_backward."""
    return where(y <= f32(0.0), f32(0.0), g)


def squared_relu(x: Expr) -> Expr:
    """max(x, 0)**2: So et al., "Primer: Searching for Efficient Transformers", 2021."""
    y = tirx.max(f32(0.0), x)
    return y * y


def squared_relu_backward(g: Expr, x: Expr) -> Expr:
    """2 g max(x, 0), zero whatever g is where x <= 0."""
    return where(x <= f32(0.0), f32(0.0), g * (x + x))


def leaky_relu(x: Expr, negative_slope: Expr) -> Expr:
    """X above zero, else negative_slope x."""
    return where(x > f32(0.0), x, x * negative_slope)


def leaky_relu_backward(g: Expr, x: Expr, negative_slope: Expr) -> Expr:
    """G above zero, else negative_slope g."""
    return where(x > f32(0.0), g, g * negative_slope)


def elu(x: Expr, alpha: Expr) -> Expr:
    """X from zero on, alpha (e**x - 1) below."""
    return where(x < f32(0.0), alpha * expm1(x), x)


def elu_backward(g: Expr, x: Expr, alpha: Expr) -> Expr:
    """G above zero, else alpha g e**x."""
    return where(x > f32(0.0), g, g * alpha * exp(x))


def sigmoid_backward(g: Expr, y: Expr) -> Expr:
    """G y (1 - y)."""
    return g * (f32(1.0) - y) * y


def tanh_backward(g: Expr, y: Expr) -> Expr:
    """G (1 - y**2)."""
    return g * fma(negative(y), y, f32(1.0))


def silu(x: Expr) -> Expr:
    """X / (1 + e**-x)."""
    x = tirx.max(f32(-110.0), x)  # where it is zero
    return times_logistic(x, *expm1_parts(negative(tirx.min(f32(60.0), x)), shift=-SCALE))


def silu_backward(g: Expr, x: Expr) -> Expr:
    """G s (1 + x (1 - s)) with s = sigmoid(x) = 1 / (1 + e**-x) and 1 - s = s e**-x."""
    x = clamp(x, -87.0, 87.0)
    s, q = expm1_parts(negative(x))
    e = fma(s, q, s)
    d = f32(1.0) / (f32(1.0) + e)
    return g * (d * fma(x, e * d, f32(1.0)))


def mish(x: Expr) -> Expr:
    """X tanh(log(1 + e**x)): Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2019.

    With e = e**x = s (1 + q) and D = 1 + e + e**2 / 2 it is x e (1 + e/2) / D = x s (1 + w) / D below zero, where
    w takes in what D loses in rounding; and x - x / D above.
    """
    u = clamp(x, -110.3, 15.0)
    scaled, q = expm1_parts(u, shift=SCALE, exact=True)
    g = q + f32(1.0)
    e = g * (scaled * f32(2.0**-SCALE))
    half = f32(0.5) * e
    h = fma(half, e, e)
    d = rounded_sum(h, f32(1.0))
    lost = (h - (d - f32(1.0))) + fma(half, e, e - h)
    below = u * scaled
    w = fma(half, g, fma(negative(lost), fma(e, f32(-0.35), g), q))
    below = fma(below, w, below)
    return where(x > f32(0.0), u * f32(-(2.0**SCALE)), below) / (d * f32(2.0**SCALE)) + tirx.max(f32(0.0), x)


def mish_backward(g: Expr, x: Expr) -> Expr:
    """G (t + x (1 - t**2) sigmoid(x)) with t = tanh(log(1 + e)) = w / (w + 2), e = e**x and w = e (e + 2).

    As w + 1 = (e + 1)**2, the second term is 4 x e (e + 1) / (w + 2)**2.
    """
    x = clamp(x, -87.0, 20.0)  # beyond, the derivative is 0 or 1
    s, q = expm1_parts(x)
    e = fma(s, q, s)
    w = e * (e + f32(2.0))
    d = f32(1.0) / (w + f32(2.0))
    return g * (d * fma(f32(4.0) * e * (e + f32(1.0)) * x, d, w))


def softplus(x: Expr, beta: Expr, threshold: Expr) -> Expr:
    """log(1 + e**(beta x)) / beta, and x where beta x > threshold.

    As max(z, 0) + log(1 + e**-|z|), whose second term is e P(e) with e = e**-|z| = s (1 + q) in [0, 1].
    """
    z = x * beta
    low = tirx.max(fma(x, beta, negative(z)), f32(-1.0))  # where z is infinite and e zero this is NaN or infinite
    low = tirx.min(low, f32(1.0))
    s, q = expm1_parts(tirx.max(f32(-88.0), negative(tirx.abs(z))), low=low)
    p = q + f32(1.0)
    e = p * s
    value = s + fma(s, fma(p, e * polynomial(e, LOG1P), q), tirx.max(f32(0.0), z))
    return where(z > threshold, x, value / beta)


def softplus_backward(g: Expr, x: Expr, beta: Expr, threshold: Expr) -> Expr:
    """G sigmoid(beta x), and g where beta x > threshold."""
    z = x * beta
    return where(z > threshold, g, g * sigmoid(z))


def hardswish(x: Expr) -> Expr:
    """X min(max(x + 3, 0), 6) / 6."""
    return x * (clamp(x + f32(3.0), 0.0, 6.0) / f32(6.0))


def hardswish_backward(g: Expr, x: Expr) -> Expr:
    """0 below -3, g above 3, g (x/3 + 1/2) between."""
    inner = g * fma(x, f32(1 / 3), f32(0.5))
    return where(x <= f32(-3.0), f32(0.0), where(x >= f32(3.0), g, inner))


def erf_backward(g: Expr, x: Expr) -> Expr:
    """G 2 / sqrt(pi) e**-x**2."""
    return g * (f32(2 / math.sqrt(math.pi)) * exp(negative(x * x)))


@dataclass(frozen=True)
class Pointwise:
    """A function of one number and its derivative, as makers of float32 expressions.

    Attributes:
        forward: ``(x, *params) -> y``.
        backward: ``(g, saved, *params) -> g * dy/dx``.
        params: names of the float32 parameters, in the order of torch's function.
        saves: what ``backward`` reads, "input" or "output".
        low: ``forward`` for results in float16 or bfloat16, where something quicker will do.
        tabulated: ``forward`` for nearly all numbers, with tables, where a vector has 16 elements.
    """

    forward: Callable[..., Expr]
    backward: Callable[..., Expr]
    params: tuple[str, ...] = ()
    saves: str = "input"
    low: Callable[..., Expr] | None = None
    tabulated: Tabulated | None = None


POINTWISE: dict[str, Pointwise] = {
    "relu": Pointwise(relu, relu_backward, saves="output"),
    "leaky_relu": Pointwise(leaky_relu, leaky_relu_backward, ("negative_slope",)),
    "elu": Pointwise(elu, elu_backward, ("alpha",)),
    "sigmoid": Pointwise(sigmoid, sigmoid_backward, saves="output"),
    "tanh": Pointwise(mathlib.tanh, tanh_backward, saves="output"),
    "gelu": Pointwise(gelu, gelu_backward, low=gelu_quick, tabulated=GELU_TABULATED),
    "gelu_tanh": Pointwise(gelu_tanh, gelu_tanh_backward, tabulated=GELU_TANH_TABULATED),
    "silu": Pointwise(silu, silu_backward),
    "mish": Pointwise(mish, mish_backward),
    "softplus": Pointwise(softplus, softplus_backward, ("beta", "threshold")),
    "hardswish": Pointwise(hardswish, hardswish_backward),
    "squared_relu": Pointwise(squared_relu, squared_relu_backward),
    "exp": Pointwise(exp, lambda g, y: g * y, saves="output"),
    "expm1": Pointwise(expm1, lambda g, y: g * (y + f32(1.0)), saves="output"),
    "log": Pointwise(mathlib.log, lambda g, x: g / x),
    "log1p": Pointwise(log1p, lambda g, x: g / (x + f32(1.0))),
    "sqrt": Pointwise(mathlib.sqrt, lambda g, y: g / (y + y), saves="output"),
    "rsqrt": Pointwise(mathlib.rsqrt, lambda g, y: f32(-0.5) * g * (y * y * y), saves="output"),
    "erf": Pointwise(mathlib.erf, erf_backward),
}

ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "none": lambda x: x,
    "gelu": gelu_quick,
    **{name: POINTWISE[name].forward for name in ("relu", "gelu_tanh", "silu", "sigmoid", "tanh")},
}
