"""Elementary functions on float32, branch-free and vectorisable, as TIR expressions.

``te.exp`` and its kin become one libm call per lane; these become vector arithmetic. Each takes and returns a float32
expression. NaN propagates; infinities and zeros are right; a subnormal result may flush to zero. A bound "within n ULP"
is the largest error seen over all float32 numbers (``make test-exhaustive``, docs/accuracy.md).
"""

from __future__ import annotations

import math

from ._tvm import Expr, tirx
from .leaves.lower import f32, i32

LOG2E = math.log2(math.e)
# ln 2 = LN2_HIGH + LN2_LOW (Cody and Waite, 1980); the first is ln 2 rounded to float32, and k LN2_HIGH is only ever a
# term of a fused multiplication and addition.
LN2_HIGH, LN2_LOW = 0.693147182464599609375, -1.904654299957768e-09
# Added to a number below 2**22, it leaves the nearest integer in the low bits.
ROUND = 1.5 * 2.0**23
# (e**r - 1 - r) / r**2 on |r| <= ln(2)/2 and on 0 <= r <= ln 2, relative to e**r within 2**-28.3: minimax, by linear
# programming on Chebyshev points, coefficients rounded to float32 one after the other, the rest fitted again each time.
EXPM1_CENTRED = (
    0.0013819574378430843,
    0.00836869329214096,
    0.041668280959129333,
    0.1666652113199234,
    0.4999999403953552,
)
EXPM1_ABOVE = (0.0019120648503303528, 0.00786927342414856, 0.0418543703854084, 0.16663210093975067, 0.5000022649765015)
# (2**r - 1 - r ln 2) / r**2 on |r| <= 1/2, within 2**-28.2 of 2**r; in the same way.
EXP2M1 = (0.00015324735431931913, 0.0013390255626291037, 0.009618510492146015, 0.05550362169742584, 0.24022647738456726)
# (tanh(x) - x) / x**3 in powers of x**2, for |x| < 0.36, within 2**-30.4 of tanh; as above.
TANH_SMALL = 0.36
TANH = (0.01923096738755703, -0.053681835532188416, 0.1333208978176117, -0.33333316445350647)


def clamp(x: Expr, low: float, high: float) -> Expr:
    """min(max(x, low), high). The constant comes first: TVM's max(a, b) is a > b ? a : b, which keeps a NaN in b."""
    return tirx.min(f32(high), tirx.max(f32(low), x))


def negative(x: Expr) -> Expr:
    """-x: the form that LLVM knows as a negation and folds into others."""
    return f32(-0.0) - x


def fma(a: Expr, b: Expr, c: Expr) -> Expr:
    """a b + c, rounded once."""
    return tirx.call_llvm_pure_intrin("float32", "llvm.fma", a, b, c)


def rounded_sum(a: Expr, b: Expr) -> Expr:
    """a + b: in a form in which TVM does not simplify (a + b) - b to a."""
    return fma(a, f32(1.0), b)


def copysign(magnitude: Expr, sign: Expr) -> Expr:
    """The absolute value of ``magnitude`` with the sign of ``sign``."""
    return tirx.call_llvm_pure_intrin("float32", "llvm.copysign", magnitude, sign)


def polynomial(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """Horner's rule, highest power first."""
    value = f32(coefficients[0])
    for c in coefficients[1:]:
        value = fma(value, x, f32(c))
    return value


def quartic(x: Expr, square: Expr, c: tuple[float, ...]) -> Expr:
    """A polynomial of degree 4, highest power first, with a shorter chain than Horner's: G. Estrin, 1960."""
    high = fma(f32(c[0]), square, fma(f32(c[1]), x, f32(c[2])))
    return fma(high, square, fma(f32(c[3]), x, f32(c[4])))


def bits(x: Expr) -> Expr:
    """The bits of a float32, as an int32."""
    return tirx.reinterpret("int32", x)


def number(x: Expr) -> Expr:
    """The float32 of these bits."""
    return tirx.reinterpret("float32", x)


def is_nan(x: Expr) -> Expr:
    """Whether a float32 is NaN. TVM takes x != x for false."""
    return tirx.bitwise_and(bits(x), i32(0x7FFFFFFF)) > i32(0x7F800000)


def maximum(a: Expr, x: Expr) -> Expr:
    """The larger one; NaN if one of them is."""
    return _or_nan(tirx.max(x, a), x)


def minimum(a: Expr, x: Expr) -> Expr:
    """The smaller one; NaN if one of them is."""
    return _or_nan(tirx.min(x, a), x)


def _or_nan(best: Expr, x: Expr) -> Expr:
    """``best``, which is its second operand if that is NaN, as x86 has it; NaN if ``x`` is. A select would be merged
    with that of ``best`` into comparisons, whose latency adds up.
    """
    return number(tirx.bitwise_or(bits(best), tirx.Select(is_nan(x), i32(-1), i32(0))))


def power(t: Expr) -> Expr:
    """2**k for t = ROUND + 127 + k; 0 for k = -127 and infinity for k = 128."""
    return number(tirx.shift_left(bits(t), i32(23)))


def expm1_parts(x: Expr, shift: int = 0, low: Expr | None = None, exact: bool = False) -> tuple[Expr, Expr]:
    """2**(k + shift) and q with e**(x + low) = 2**k (1 + q), k the integer nearest to x / ln 2; |k + shift| <= 127.

    That 1 + q is not added up saves a rounding error in what follows. ``exact`` saves that of the reduced argument.
    """
    offset = f32(ROUND + 127 + shift)
    t = fma(x, f32(LOG2E), offset)
    k = t - offset
    r = fma(k, f32(-LN2_HIGH), x)  # exact
    high = r
    r = fma(k, f32(-LN2_LOW), r) if low is None else r + fma(k, f32(-LN2_LOW), low)
    square = r * r
    if exact:
        return power(t), r + fma(square, quartic(r, square, EXPM1_CENTRED), fma(k, f32(-LN2_LOW), high - r))
    return power(t), fma(square, quartic(r, square, EXPM1_CENTRED), r)


def exp2m1_parts(x: Expr, low: Expr, shift: int = 0) -> tuple[Expr, Expr]:
    """The same of 2**(x + low)."""
    offset = f32(ROUND + 127 + shift)
    t = rounded_sum(x, offset)
    r = (x - (t - offset)) + low
    return power(t), fma(r, f32(LN2_HIGH), r * polynomial(r, (*EXP2M1, LN2_LOW)))


def exp(x: Expr) -> Expr:
    """e**x = 2**k (1 + q), k = floor(x / ln 2): as 1 <= 1 + q < 2, 2**k reaches to both ends of the range."""
    x = clamp(x, -88.0, 89.0)
    offset = f32(ROUND + 127)
    t = rounded_sum(fma(x, f32(LOG2E), f32(-0.5 + 2.0**-17)), offset)
    k = t - offset
    r = fma(k, f32(-LN2_LOW), fma(k, f32(-LN2_HIGH), x))
    square = r * r
    s, q = power(t), fma(square, quartic(r, square, EXPM1_ABOVE), r)
    return fma(s, q, s)


def expm1(x: Expr) -> Expr:
    """e**x - 1 = 2**k q + (2**k - 1), which does not cancel: the form of expm1 in fdlibm."""
    half, q = expm1_parts(clamp(x, -20.0, 89.0), shift=-1)  # k may be 128
    value = fma(half, q, half - f32(0.5))
    return copysign(value + value, x)


def tanh(x: Expr) -> Expr:
    """E / (E + 2) with E = e**2|x| - 1, and the sign of x; an odd polynomial for small x."""
    a = tirx.abs(x)
    bounded = tirx.min(f32(9.2), a)
    s, q = expm1_parts(bounded + bounded)
    e = fma(s, q, s - f32(1.0))
    z = x * x
    value = tirx.Select(a < f32(TANH_SMALL), fma(z * a, polynomial(z, TANH), a), e / (e + f32(2.0)))
    return copysign(value, x)


# 1 + e**-u as 2**-32 of it, in which e**-u reaches to where 1 / (1 + e**-u) is zero.
SCALE = 32


def logistic_denominator(s: Expr, q: Expr) -> Expr:
    """2**-SCALE + s (1 + q)."""
    one = f32(2.0**-SCALE)
    whole = rounded_sum(s, one)
    return whole + fma(s, q, (s - whole) + one)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x)."""
    s, q = expm1_parts(negative(clamp(x, -104.0, 60.0)), shift=-SCALE)
    return f32(2.0**-SCALE) / logistic_denominator(s, q)


def times_logistic(x: Expr, s: Expr, q: Expr) -> Expr:
    """x / (1 + e**-u), where 2**SCALE s (1 + q) = e**-u and u has the sign of x."""
    value = x / logistic_denominator(s, q) * f32(2.0**-SCALE)
    return tirx.min(tirx.abs(x), value)  # the quotient of a large x overflows


def sqrt(x: Expr) -> Expr:
    """The square root, correctly rounded: the instruction."""
    return tirx.sqrt(x)


def rsqrt(x: Expr) -> Expr:
    """1 / sqrt(x)."""
    return f32(1.0) / tirx.sqrt(x)


# (log(1 + f) - f + f**2 / 2) / f**3 for sqrt(1/2) <= 1 + f <= sqrt(2), within 2**-27.3 of the logarithm; as above.
LOG = (
    -0.07636356353759766,
    0.12762144207954407,
    -0.13159599900245667,
    0.14201585948467255,
    -0.1662341058254242,
    0.2000124156475067,
    -0.2500081956386566,
    0.3333333134651184,
)


def _log(f: Expr, e: Expr) -> Expr:
    """log(1 + f) + e ln 2 for sqrt(1/2) <= 1 + f <= sqrt(2)."""
    z = f * f
    low = fma(f * z, polynomial(f, LOG), fma(f32(-0.5), z, e * f32(-2.12194440e-4)))
    return fma(e, f32(0.693359375), f + low)


def log(x: Expr) -> Expr:
    """The natural logarithm: of the mantissa in [sqrt(1/2), sqrt(2)) as a polynomial, plus the exponent times ln 2."""
    small = x < f32(2.0**-126)
    b = bits(tirx.Select(small, x * f32(2.0**23), x))
    e = tirx.shift_right(b - i32(0x3F3504F3), i32(23))
    m = number(b - tirx.shift_left(e, i32(23)))
    value = _log(m - f32(1.0), (e - tirx.Select(small, i32(23), i32(0))).astype("float32"))
    return _log_limits(value, x, f32(0.0))


def log1p(x: Expr) -> Expr:
    """log(1 + x); what is lost in 1 + x goes into the mantissa's distance from 1."""
    u = rounded_sum(x, f32(1.0))
    lost = x - (u - f32(1.0))
    e = tirx.shift_right(bits(u) - i32(0x3F3504F3), i32(23))
    shift = tirx.shift_left(e, i32(23))
    twice = number(i32(0x40000000) - shift)  # 2**(1 - e), as e may be 128
    f = fma(f32(0.5) * lost, twice, number(bits(u) - shift) - f32(1.0))
    return _log_limits(copysign(_log(f, e.astype("float32")), x), x, f32(-1.0))


def _log_limits(value: Expr, x: Expr, pole: Expr) -> Expr:
    """The value of a logarithm with -inf at its pole, NaN below it and for NaN, infinity at infinity."""
    value = tirx.Select(x < f32(math.inf), value, x)  # infinity and NaN
    return tirx.Select(x > pole, value, tirx.Select(tirx.EQ(x, pole), f32(-math.inf), f32(math.nan)))


# (erf(x) - x) / x in powers of x**2 for |x| < 1, within 2**-29.4 of erf, and log(1 - erf(x)) for 1 <= x <= 3.95, within
# 2**-29.8 of erf; as above.
ERF_SMALL = (
    7.806903158780187e-05,
    -0.0007997853099368513,
    0.005187162198126316,
    -0.026853347197175026,
    0.11283578723669052,
    -0.3761262595653534,
    0.12837916612625122,
)
LOG_ERFC = (
    0.0001863758370745927,
    -0.002947636414319277,
    0.021838005632162094,
    -0.10310667008161545,
    -0.6381449103355408,
    -1.1270891427993774,
    -0.0003415374958422035,
)


def erf(x: Expr) -> Expr:
    """The error function: an odd polynomial below 1, 1 - e**p(|x|) above, as in N. Juffa's erff."""
    a = tirx.abs(x)
    s, q = expm1_parts(polynomial(tirx.min(f32(3.95), a), LOG_ERFC))
    large = fma(negative(s), q, f32(1.0) - s)
    return copysign(tirx.Select(a < f32(1.0), fma(a, polynomial(x * x, ERF_SMALL), a), large), x)


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


def log_normal(x: Expr) -> Expr:
    """The natural logarithm of a positive, normal, finite number, as :func:`log` but cheaper; NaN stays."""
    nan = fma(x, f32(0.0), f32(0.0))  # else 0; TVM makes 0 of x - x
    e = tirx.shift_right(bits(x) - i32(0x3F3504F3), i32(23))
    m = number(bits(x) - tirx.shift_left(e, i32(23)))
    return _log(m - f32(1.0), e.astype("float32")) + nan
