"""Transcendental functions on float32, branch-free and vectorisable, as TIR expressions.

``te.exp`` and its kin become one libm call per lane; these become vector arithmetic. Each takes and returns a float32
expression. NaN propagates; infinities and zeros are right; a subnormal result may flush to zero.
"""

from __future__ import annotations

import math

from tvm import tirx
from tvm.ir import Expr

from .leaves.lower import f32, i32


def clamp(x: Expr, low: float, high: float) -> Expr:
    """min(max(x, low), high). The constant comes first: TVM's max(a, b) is a > b ? a : b, which keeps a NaN in b."""
    return tirx.min(f32(high), tirx.max(f32(low), x))


def polynomial(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """Horner's rule, highest power first."""
    value = f32(coefficients[0])
    for c in coefficients[1:]:
        value = value * x + f32(c)
    return value


def power_of_two(k: Expr) -> Expr:
    """2**k for an int32 k in [-126, 127], built in the exponent bits."""
    return tirx.reinterpret("float32", tirx.shift_left(k + i32(127), i32(23)))


def exp(x: Expr) -> Expr:
    """e**x within 1 ULP: x = k ln 2 + r, a polynomial of degree 6 for e**r, then 2**k in two steps (k may be 128).

    Source: the coefficients of expf in S. L. Moshier's Cephes library; the reduction is Cody and Waite's.
    """
    x = clamp(x, -104.0, 89.0)
    k = tirx.floor(x * f32(1.4426950408889634) + f32(0.5))
    r = x - k * f32(0.693359375) - k * f32(-2.12194440e-4)
    p = polynomial(
        r, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
    )
    k_int = k.astype("int32")
    half = tirx.shift_right(k_int, i32(1))
    return (p * r * r + r + f32(1.0)) * power_of_two(half) * power_of_two(k_int - half)


def copysign(magnitude: Expr, sign: Expr) -> Expr:
    """The absolute value of ``magnitude`` with the sign of ``sign``."""
    return tirx.call_llvm_pure_intrin("float32", "llvm.copysign", magnitude, sign)


def fma(a: Expr, b: Expr, c: Expr) -> Expr:
    """a b + c, rounded once."""
    return tirx.call_llvm_pure_intrin("float32", "llvm.fma", a, b, c)


def sqrt(x: Expr) -> Expr:
    """The square root, correctly rounded: the instruction."""
    return tirx.sqrt(x)


def rsqrt(x: Expr) -> Expr:
    """1 / sqrt(x), within 1.5 ULP."""
    return f32(1.0) / tirx.sqrt(x)


def expm1(x: Expr) -> Expr:
    """e**x - 1 = (2**k (e**r - 1)) + (2**k - 1), with the reduction of :func:`exp`. The sum does not cancel.

    Source: as :func:`exp`; the form is that of expm1 in fdlibm.
    """
    y = clamp(x, -20.0, 89.0)
    k = tirx.floor(y * f32(1.4426950408889634) + f32(0.5))
    r = y - k * f32(0.693359375) - k * f32(-2.12194440e-4)
    p = polynomial(
        r, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
    )
    half = power_of_two(k.astype("int32") - i32(1))  # k may be 128
    value = fma(half, p * r * r + r, half - f32(0.5))
    return copysign(value + value, x)


def _log(f: Expr, e: Expr) -> Expr:
    """log(1 + f) + e ln 2 for f in [sqrt(1/2) - 1, sqrt(2) - 1]. Source: logf in Cephes."""
    p = polynomial(
        f,
        (
            7.0376836292e-2,
            -1.1514610310e-1,
            1.1676998740e-1,
            -1.2420140846e-1,
            1.4249322787e-1,
            -1.6668057665e-1,
            2.0000714765e-1,
            -2.4999993993e-1,
            3.3333331174e-1,
        ),
    )
    z = f * f
    low = fma(f * z, p, e * f32(-2.12194440e-4)) - f32(0.5) * z
    return e * f32(0.693359375) + (f + low)


def log(x: Expr) -> Expr:
    """The natural logarithm: of the mantissa in [sqrt(1/2), sqrt(2)) as a polynomial, plus the exponent times ln 2.

    Source: logf in Cephes.
    """
    small = x < f32(2.0**-126)
    bits = tirx.reinterpret("int32", tirx.Select(small, x * f32(2.0**23), x))
    e = tirx.shift_right(bits - i32(0x3F3504F3), i32(23))
    m = tirx.reinterpret("float32", bits - tirx.shift_left(e, i32(23)))
    value = _log(m - f32(1.0), (e - tirx.Select(small, i32(23), i32(0))).astype("float32"))
    return _log_limits(value, x, f32(0.0))


def log1p(x: Expr) -> Expr:
    """log(1 + x), where what 1 + x loses is not lost: 2**-e (1 + x) - 1 is one fused multiplication and addition."""
    bits = tirx.reinterpret("int32", x + f32(1.0))
    e = tirx.shift_right(bits - i32(0x3F3504F3), i32(23))
    scale = power_of_two(i32(2) - e)  # four times what it should be, as e may be 128
    f = fma(scale, f32(0.25) * x, fma(scale, f32(0.25), f32(-1.0)))
    value = copysign(_log(f, e.astype("float32")), x)
    return _log_limits(value, x, f32(-1.0))


def _log_limits(value: Expr, x: Expr, pole: Expr) -> Expr:
    """The value of a logarithm with -inf at its pole, NaN below it and for NaN, infinity at infinity."""
    value = tirx.Select(x < f32(math.inf), value, x)  # infinity and NaN
    return tirx.Select(x > pole, value, tirx.Select(tirx.EQ(x, pole), f32(-math.inf), f32(math.nan)))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x)."""
    return f32(1.0) / (f32(1.0) + exp(f32(0.0) - x))


def tanh(x: Expr) -> Expr:
    """tanh within 2 ULP: below 0.625 an odd polynomial, above it 1 - 2 / (e**2|x| + 1) with the sign of x.

    Of |x|, because 2 / (e**2x + 1) is near 2 for a negative x and loses two bits there. Source: tanhf in Cephes.
    """
    z = x * x
    small = polynomial(z, (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1))
    magnitude = tirx.abs(x)
    large = f32(1.0) - f32(2.0) / (exp(magnitude + magnitude) + f32(1.0))
    signed = tirx.Select(x < f32(0.0), f32(0.0) - large, large)
    return tirx.Select(magnitude < f32(0.625), small * z * x + x, signed)


def erf(x: Expr) -> Expr:
    """erf as x P(x**2) / Q(x**2) on [-4, 4]; beyond, float32 cannot tell it from +-1. Absolute error below 4e-7.

    Source: the rational approximation of Eigen's generic_erf (Eigen/src/Core/MathFunctionsImpl.h, 3.4).
    """
    x = clamp(x, -4.0, 4.0)
    z = x * x
    p = polynomial(
        z,
        (
            -2.72614225801306e-10,
            2.77068142495902e-08,
            -2.10102402082508e-06,
            -5.69250639462346e-05,
            -7.34990630326855e-04,
            -2.95459980854025e-03,
            -1.60960333262415e-02,
        ),
    )
    q = polynomial(
        z,
        (
            -1.45660718464996e-05,
            -2.13374055278905e-04,
            -1.68282697438203e-03,
            -7.37332916720468e-03,
            -1.42647390514189e-02,
        ),
    )
    return clamp(x * p / q, -1.0, 1.0)


def exp_nonpositive(x: Expr) -> Expr:
    """e**x within 2 ULP for x at most 0 (in fact 88), 1 at 0; below -87.7 it is 0. Cheaper than :func:`exp`.

    Adding 1.5 2**23 rounds x / ln 2 to the integer k, and leaves k + 127 in the low bits: shifted, they are 2**k, or 0
    for k = -127. x - k ln 2 is one fused step; that ln 2 has 24 bits costs 2.7e-9 |x|, less than the last rounding of a
    difference x is wrong by. Source: the coefficients are a minimax fit of (e**r - 1) / r on [-ln 2 / 2, ln 2 / 2],
    weighted for the relative error of e**r: 2**-23.4.
    """
    x = tirx.max(f32(-88.0), x)
    magic = f32(1.5 * 2**23 + 127)
    shifted = fma(x, f32(1 / math.log(2)), magic)
    r = fma(shifted - magic, f32(-math.log(2)), x)
    p = f32(0.008290272206068039)
    for c in (0.04189816117286682, 0.1666763871908188, 0.4999914765357971, 0.9999997019767761, 1.0):
        p = fma(p, r, f32(c))
    return p * tirx.reinterpret("float32", tirx.shift_left(tirx.reinterpret("int32", shifted), i32(23)))
