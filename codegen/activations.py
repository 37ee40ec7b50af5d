"""Pointwise functions with their derivatives, and the activations of the GEMM epilogue, as TIR expressions on float32.

All of them are vector arithmetic on top of :mod:`codegen.mathlib`. What they mean is what ``torch`` says: values at
thresholds, at zeros, NaN and infinities are those of torch's function of the same name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr

from . import mathlib
from .leaves.lower import f32
from .mathlib import clamp, exp, expm1, fma, log1p, sigmoid

ZERO, HALF, ONE, TWO = f32(0.0), f32(0.5), f32(1.0), f32(2.0)


def where(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Lane by lane, ``yes`` where the condition holds."""
    return tirx.Select(condition, yes, no)


def relu(x: Expr) -> Expr:
    """max(x, 0); NaN stays, and -0 too."""
    return tirx.max(ZERO, x)


def relu_backward(g: Expr, y: Expr) -> Expr:
    """G where not x <= 0: a NaN lets it pass, as in torch's threshold_backward."""
    return where(y <= ZERO, ZERO, g)


def squared_relu(x: Expr) -> Expr:
    """max(x, 0)**2: So et al., "Primer: Searching for Efficient Transformers", 2021."""
    y = tirx.max(ZERO, x)
    return y * y


def squared_relu_backward(g: Expr, x: Expr) -> Expr:
    """2 g max(x, 0), zero whatever g is where x <= 0."""
    return where(x <= ZERO, ZERO, g * (x + x))


def leaky_relu(x: Expr, negative_slope: Expr) -> Expr:
    """X above zero, else negative_slope x."""
    return where(x > ZERO, x, x * negative_slope)


def leaky_relu_backward(g: Expr, x: Expr, negative_slope: Expr) -> Expr:
    """G above zero, else negative_slope g."""
    return where(x > ZERO, g, g * negative_slope)


def elu(x: Expr, alpha: Expr) -> Expr:
    """X from zero on, alpha (e**x - 1) below."""
    return where(x < ZERO, alpha * expm1(x), x)


def elu_backward(g: Expr, x: Expr, alpha: Expr) -> Expr:
    """G above zero, else alpha g e**x."""
    return where(x > ZERO, g, g * alpha * exp(x))


def sigmoid_backward(g: Expr, y: Expr) -> Expr:
    """G y (1 - y)."""
    return g * (ONE - y) * y


def tanh_backward(g: Expr, y: Expr) -> Expr:
    """G (1 - y**2)."""
    return g * fma(ZERO - y, y, ONE)


def gelu(x: Expr) -> Expr:
    """X Phi(x), with erf."""
    return HALF * x * (ONE + mathlib.erf(x * f32(math.sqrt(0.5))))


def gelu_backward(g: Expr, x: Expr) -> Expr:
    """G (Phi(x) + x phi(x)), with the normal distribution's Phi and its density phi."""
    cdf = HALF * (ONE + mathlib.erf(x * f32(math.sqrt(0.5))))
    pdf = f32(1 / math.sqrt(2 * math.pi)) * exp(f32(-0.5) * x * x)
    return g * fma(x, pdf, cdf)


def _tanh_argument(x: Expr) -> Expr:
    """2 sqrt(2/pi) (x + 0.044715 x**3)."""
    return f32(2 * math.sqrt(2 / math.pi)) * x * fma(f32(0.044715) * x, x, ONE)


def gelu_tanh(x: Expr) -> Expr:
    """The tanh form of gelu, x sigmoid(2 sqrt(2/pi) (x + 0.044715 x**3)): Hendrycks and Gimpel, 2016."""
    return x * sigmoid(_tanh_argument(x))


def gelu_tanh_backward(g: Expr, x: Expr) -> Expr:
    """G (s + x u' s (1 - s)) with s = sigmoid(u)."""
    x = clamp(x, -16.0, 16.0)  # beyond, the derivative is 0 or 1, and powers of x overflow
    s = sigmoid(_tanh_argument(x))
    slope = f32(2 * math.sqrt(2 / math.pi)) * fma(f32(3 * 0.044715) * x, x, ONE)
    return g * fma(x * slope * s, ONE - s, s)


def silu(x: Expr) -> Expr:
    """X sigmoid(x)."""
    return x * sigmoid(x)


def silu_backward(g: Expr, x: Expr) -> Expr:
    """G s (1 + x (1 - s)) with s = sigmoid(x)."""
    s = sigmoid(x)
    return g * (s * fma(x, ONE - s, ONE))


def _mish_parts(x: Expr) -> tuple[Expr, Expr]:
    """E = e**x and w = e (e + 2), for x at most 20: tanh(log(1 + e)) = w / (w + 2)."""
    e = exp(tirx.min(f32(20.0), x))
    return e, e * (e + TWO)


def mish(x: Expr) -> Expr:
    """X tanh(log(1 + e**x)): Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2019."""
    _, w = _mish_parts(x)
    return where(x > f32(20.0), x, x * w / (w + TWO))


def mish_backward(g: Expr, x: Expr) -> Expr:
    """G (t + x (1 - t**2) sigmoid(x)) with t = w / (w + 2), where 1 - t**2 = 4 (w + 1) / (w + 2)**2.

    As w + 1 = (e + 1)**2, the second term is 4 x e (e + 1) / (w + 2)**2.
    """
    e, w = _mish_parts(x)
    d = ONE / (w + TWO)
    return g * where(x > f32(20.0), ONE, d * fma(f32(4.0) * e * (e + ONE) * x, d, w))


def softplus(x: Expr, beta: Expr, threshold: Expr) -> Expr:
    """log(1 + e**(beta x)) / beta, and x where beta x > threshold."""
    z = x * beta
    return where(z > threshold, x, log1p(exp(z)) / beta)


def softplus_backward(g: Expr, x: Expr, beta: Expr, threshold: Expr) -> Expr:
    """G sigmoid(beta x), and g where beta x > threshold."""
    z = x * beta
    return where(z > threshold, g, g * sigmoid(z))


def hardswish(x: Expr) -> Expr:
    """X min(max(x + 3, 0), 6) / 6."""
    return x * (clamp(x + f32(3.0), 0.0, 6.0) / f32(6.0))


def hardswish_backward(g: Expr, x: Expr) -> Expr:
    """0 below -3, g above 3, g (x/3 + 1/2) between."""
    inner = g * fma(x, f32(1 / 3), HALF)
    return where(x <= f32(-3.0), ZERO, where(x >= f32(3.0), g, inner))


def erf_backward(g: Expr, x: Expr) -> Expr:
    """G 2 / sqrt(pi) e**-x**2."""
    return g * (f32(2 / math.sqrt(math.pi)) * exp(ZERO - x * x))


@dataclass(frozen=True)
class Pointwise:
    """A function of one number and its derivative, as makers of float32 expressions.

    Attributes:
        forward: ``(x, *params) -> y``.
        backward: ``(g, saved, *params) -> g * dy/dx``.
        params: names of the float32 parameters, in the order of torch's function.
        saves: what ``backward`` reads, "input" or "output".
    """

    forward: Callable[..., Expr]
    backward: Callable[..., Expr]
    params: tuple[str, ...] = ()
    saves: str = "input"


POINTWISE: dict[str, Pointwise] = {
    "relu": Pointwise(relu, relu_backward, saves="output"),
    "leaky_relu": Pointwise(leaky_relu, leaky_relu_backward, ("negative_slope",)),
    "elu": Pointwise(elu, elu_backward, ("alpha",)),
    "sigmoid": Pointwise(sigmoid, sigmoid_backward, saves="output"),
    "tanh": Pointwise(mathlib.tanh, tanh_backward, saves="output"),
    "gelu": Pointwise(gelu, gelu_backward),
    "gelu_tanh": Pointwise(gelu_tanh, gelu_tanh_backward),
    "silu": Pointwise(silu, silu_backward),
    "mish": Pointwise(mish, mish_backward),
    "softplus": Pointwise(softplus, softplus_backward, ("beta", "threshold")),
    "hardswish": Pointwise(hardswish, hardswish_backward),
    "squared_relu": Pointwise(squared_relu, squared_relu_backward),
    "exp": Pointwise(exp, lambda g, y: g * y, saves="output"),
    "expm1": Pointwise(expm1, lambda g, y: g * (y + ONE), saves="output"),
    "log": Pointwise(mathlib.log, lambda g, x: g / x),
    "log1p": Pointwise(log1p, lambda g, x: g / (x + ONE)),
    "sqrt": Pointwise(mathlib.sqrt, lambda g, y: g / (y + y), saves="output"),
    "rsqrt": Pointwise(mathlib.rsqrt, lambda g, y: f32(-0.5) * g * (y * y * y), saves="output"),
    "erf": Pointwise(mathlib.erf, erf_backward),
}

ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "none": lambda x: x,
    **{name: POINTWISE[name].forward for name in ("relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")},
}
