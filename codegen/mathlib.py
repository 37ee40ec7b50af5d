"""Transcendental functions on float32, branch-free and vectorisable, as TIR expressions.

``te.exp`` and its kin become one libm call per lane; these become vector arithmetic. Each takes and returns a float32
expression. NaN propagates; infinities and zeros are right; a subnormal result may flush to zero.
"""

from __future__ import annotations

from collections.abc import Callable

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


def relu(x: Expr) -> Expr:
    """max(x, 0)."""
    return tirx.max(f32(0.0), x)


def gelu(x: Expr) -> Expr:
    """x Phi(x), with erf."""
    return f32(0.5) * x * (f32(1.0) + erf(x * f32(0.7071067811865476)))


def gelu_tanh(x: Expr) -> Expr:
    """The tanh form of gelu, x sigmoid(2 sqrt(2/pi) (x + 0.044715 x**3)): Hendrycks and Gimpel, 2016."""
    return x * sigmoid(f32(1.5957691216057308) * x * (f32(1.0) + f32(0.044715) * x * x))


def silu(x: Expr) -> Expr:
    """x sigmoid(x)."""
    return x * sigmoid(x)


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "none": lambda x: x,
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "sigmoid": sigmoid,
    "tanh": tanh,
}
