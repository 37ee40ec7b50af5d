"""The two forms of gelu, x Phi(x) and its approximation with tanh, with derivatives, as TIR expressions on float32.

Their negative tails are products of small numbers; in float32 they are right to the last bits only if what the exponent
and each factor lose in rounding is carried along (T. Dekker, 1971: with a fused multiplication and addition, what a
product or a Horner step loses is one more of them).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._tvm import Expr, tirx
from .leaves.lower import f32
from .mathlib import (
    LOG2E,
    SCALE,
    clamp,
    exp2m1_parts,
    expm1_parts,
    fma,
    negative,
    polynomial,
    rounded_sum,
    times_logistic,
)

# Where e**(-t**2 / 2) is zero.
FAR = 13.26
# Phi(-t) e**(t**2 / 2) (t + SHIFT) in powers of y = 1 / (t + SHIFT) for 0 <= t <= FAR, within 2**-28.6 of itself; and
# the derivative of log(Phi(-t) e**(t**2 / 2)) by log(y), within 2%. Fitted as the coefficients of codegen/mathlib.py;
# the last two have few bits, so that h - fma(_, y, h) is exact.
SHIFT = 3.375
MILLS = (
    -3935.421142578125,
    6581.69677734375,
    -4148.41748046875,
    1119.3033447265625,
    -152.13360595703125,
    47.85700607299805,
    9.632575988769531,
    4.224320411682129,
    1.3442802429199219,
    0.3989677429199219,
)
MILLS_SLOPE = (6.18906325, 0.84835634)
# The same with 3.25 for SHIFT, within 2**-22.9 of itself.
QUICK_SHIFT = 3.25
QUICK = (
    451.18951416015625,
    -562.3038940429688,
    198.99624633789062,
    -9.071470260620117,
    12.808584213256836,
    3.6348583698272705,
    1.3023960590362549,
    0.3988639712333679,
)
TANH_SLOPE, TANH_CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715


def gelu(x: Expr) -> Expr:
    """x Phi(x) = max(x, 0) - t Phi(-t) with t = |x|, where Phi(-t) = e**(-t**2 / 2) y H(y) and y = 1 / (t + SHIFT)."""
    t = tirx.min(f32(FAR), tirx.abs(x))
    d = rounded_sum(t, f32(SHIFT))
    y = f32(1.0) / d
    error = fma((d - f32(SHIFT)) - t, y, fma(negative(y), d, f32(1.0)))  # of y, relative; goes into the exponent
    half = f32(-0.5) * t
    u = half * t
    s, q = expm1_parts(u, low=fma(polynomial(y, MILLS_SLOPE), error, fma(half, t, negative(u))))
    inner = polynomial(y, MILLS[:-2])
    c = fma(inner, y, f32(MILLS[-2]))
    c_low = fma(inner, y, f32(MILLS[-2]) - c)
    h = fma(c, y, f32(MILLS[-1]))
    h_low = fma(c_low, y, fma(c, y, f32(MILLS[-1]) - h))
    # s t y (1 + q) H
    st = s * t
    b = st * y
    b_low = fma(st, y, negative(b))
    rest = fma(h, q, h_low * (q + f32(1.0)))
    return tirx.max(f32(0.0), x) - fma(b, h, fma(b, rest, b_low * (h + rest)))


def _quick(x: Expr) -> tuple[Expr, Expr, Expr]:
    """t = |x|, e**(-t**2 / 2), and Phi(-t) divided by it."""
    t = tirx.min(f32(FAR), tirx.abs(x))
    y = f32(1.0) / (t + f32(QUICK_SHIFT))
    s, q = expm1_parts(f32(-0.5) * t * t)
    return t, fma(s, q, s), y * polynomial(y, QUICK)


def gelu_quick(x: Expr) -> Expr:
    """x Phi(x) in half the time, with a relative error of 1e-5 in the far tail and 4e-7 before.

    For what is rounded to low precision, and for sums of many products, which are no more accurate.
    """
    t, e, tail = _quick(x)
    return fma(negative(t * e), tail, tirx.max(f32(0.0), x))


# The quick forms with tables, for vectors of 16 floats: x Phi(x) = max(x, 0) - t P(t) with t = |x|, where P is a
# polynomial around the nearest of 32 points. These reach so far that x is the result above.
POINTS, VECTOR, STEP = 32, 16, 11 / 64
ROUND = 1.5 * 2**23  # adding it rounds to an integer


@dataclass(frozen=True)
class Tabulated:
    """``tail``: P, in float64; ``degree``: of the polynomials; ``bound``: below, they are wrong."""

    tail: Callable[[float], float]
    degree: int
    bound: float = -(POINTS - 1) * STEP

    def tables(self) -> dict[str, list[float]]:
        """The coefficients, lowest first, of polynomials around each point that are next to P, and the points."""
        columns = np.array([self._around(self._point(k)) for k in range(POINTS)]).T
        return {
            f"{part}{k}": column[start : start + VECTOR].tolist()
            for k, column in enumerate(columns)
            for part, start in (("low", 0), ("high", VECTOR))
        }

    def _around(self, point: float) -> list[float]:
        """The coefficients at a point, and the point.

        Relative least squares at Chebyshev nodes; each coefficient is rounded before those above it are fitted.
        """
        count = self.degree + 1
        nodes = np.cos(np.pi * (np.arange(8 * count) + 0.5) / (8 * count)) * STEP / 2
        values = np.array([self.tail(point + u) for u in nodes])
        powers = nodes[:, None] ** np.arange(count) / values[:, None]
        rest, fixed = np.ones(len(nodes)), []
        for k in range(count):
            fitted = np.linalg.lstsq(powers[:, k:], rest, rcond=None)[0][0]
            fixed.append(float(np.float32(fitted)))
            rest = rest - fixed[-1] * powers[:, k]
        return [*fixed, point]

    def _point(self, k: int) -> float:
        """Of the floats at ``k * STEP`` and a few after it, that at which P is nearest to a float.

        S. Gal, "Computing elementary functions: a new approach for achieving high accuracy and good performance", 1985.
        """
        near = np.float32(k * STEP) * (1 + np.arange(64 if k else 1) * 2.0**-23)
        points = [float(p) for p in near.astype("float32")]
        return min(points, key=lambda p: abs(float(np.float32(self.tail(p))) / self.tail(p) - 1))

    def __call__(self, x: Expr, tables: Any) -> Expr:
        """The function at x; ``tables`` has :meth:`tables` as attributes."""
        t = tirx.min(f32(-self.bound), tirx.abs(x))
        index = tirx.reinterpret("int32", fma(t, f32(1 / STEP), f32(ROUND)))  # whose last five bits count

        def coefficient(k: int) -> Expr:
            pair = getattr(tables, f"low{k}"), getattr(tables, f"high{k}")
            return tirx.call_llvm_pure_intrin("float32", "llvm.x86.avx512.vpermi2var.ps.512", pair[0], index, pair[1])

        u = t - coefficient(self.degree + 1)
        p = coefficient(self.degree)
        for k in reversed(range(self.degree)):
            p = fma(p, u, coefficient(k))
        return fma(negative(t), p, tirx.max(f32(0.0), x))


GELU_TABULATED = Tabulated(lambda t: 0.5 * math.erfc(t * math.sqrt(0.5)), 6)
GELU_TANH_TABULATED = Tabulated(lambda t: 1 / (1 + math.exp(TANH_SLOPE * (t + TANH_CUBIC * t**3))), 7)


def gelu_backward(g: Expr, x: Expr) -> Expr:
    """g (Phi(x) + x phi(x)), with the normal distribution's Phi and its density phi = e**(-x**2 / 2) / sqrt(2 pi)."""
    t, e, tail = _quick(x)
    below = e * fma(t, f32(-1 / math.sqrt(2 * math.pi)), tail)
    return g * tirx.Select(x > f32(0.0), f32(1.0) - below, below)


def _tanh_argument(x: Expr) -> tuple[Expr, Expr]:
    """2 sqrt(2/pi) (x + 0.044715 x**3) / ln 2, as a sum of two numbers."""
    slope, cubic = TANH_SLOPE * LOG2E, TANH_SLOPE * LOG2E * TANH_CUBIC
    slope_high = round(slope * 2**18) / 2**18  # so that slope_high - p is exact
    cubic_high = float(np.float32(cubic))
    square = x * x
    square_low = fma(x, x, negative(square))
    p = fma(f32(cubic_high), square, f32(slope_high))
    lost = fma(f32(cubic_high), square, f32(slope_high) - p)
    p_low = lost + fma(f32(cubic_high), square_low, fma(f32(cubic - cubic_high), square, f32(slope - slope_high)))
    u = x * p
    return u, fma(x, p_low, fma(x, p, negative(u)))


def gelu_tanh(x: Expr) -> Expr:
    """x sigmoid(2 sqrt(2/pi) (x + 0.044715 x**3)): Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016."""
    x = tirx.max(f32(-10.8), x)  # where it is zero
    u, low = _tanh_argument(tirx.min(f32(8.0), x))
    return times_logistic(x, *exp2m1_parts(negative(u), negative(low), shift=-SCALE))


def gelu_tanh_backward(g: Expr, x: Expr) -> Expr:
    """g (p + x u' p (1 - p)) with p = sigmoid(u) = 1 / (1 + e) and 1 - p = e p."""
    x = clamp(x, -10.0, 10.0)  # beyond, the derivative is 0 or 1
    s, q = exp2m1_parts(*map(negative, _tanh_argument(x)))
    e = fma(s, q, s)
    p = f32(1.0) / (f32(1.0) + e)
    slope = f32(TANH_SLOPE) * fma(f32(3 * TANH_CUBIC) * x, x, f32(1.0))
    return g * (p * fma(x * slope, e * p, f32(1.0)))
