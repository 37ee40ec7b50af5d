"""softmax, log_softmax and logsumexp along a row, and their gradients.

With m the largest element of a row and s the sum of e**(x - m): softmax is e**(x - m) / s, log_softmax (x - m) - log s,
logsumexp m + log s. Where a row has NaN, infinity, or nothing but -infinity, the results are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._rows import RowsOperator

if TYPE_CHECKING:
    from ..program import Program

Call = Callable[..., Any]
# What measures fastest over lengths from 64 to 32000: more rows side by side hide more latency in caches, and are more
# streams of memory than is good beyond them.
KNOBS = {"unroll": 2}
KNOBS_LOW = {"unroll": 1, "height": 4}


def _softmax() -> Program:
    """The exponentials are stored where the result will be, and scaled in place."""
    from ..leaves.lower import f32
    from ..mathlib import exp_nonpositive
    from ..program import Operand, Pass, Program, Scalars

    return Program(
        (Operand("x"), Operand("y", written=True)),
        (
            Pass(reduce={"m": ("max", lambda v: v.x)}),
            Pass(
                values={"e": lambda v: exp_nonpositive(v.x - v.m)},
                reduce={"s": ("sum", lambda v: v.e)},
                store={"y": lambda v: v.e},
                prefetch=("x",),
            ),
            Scalars({"scale": lambda v: f32(1.0) / v.s}),
            Pass(store={"y": lambda v: v.y * v.scale}),
        ),
    )


def _softmax_low() -> Program:
    """The exponentials are kept in float32."""
    from ..leaves.lower import f32
    from ..mathlib import exp_nonpositive
    from ..program import Operand, Pass, Program, Scalars

    return Program(
        (Operand("x"), Operand("y", written=True), Operand("kept", "scratch", written=True, dtype="float32")),
        (
            Pass(reduce={"m": ("max", lambda v: v.x)}),
            Pass(
                values={"e": lambda v: exp_nonpositive(v.x - v.m)},
                reduce={"s": ("sum", lambda v: v.e)},
                store={"kept": lambda v: v.e},
                prefetch=("x",),
            ),
            Scalars({"scale": lambda v: f32(1.0) / v.s}),
            Pass(store={"y": lambda v: v.kept * v.scale}),
        ),
    )


def _softmax_backward() -> Program:
    """Y (g - sum(g y))."""
    from ..program import Operand, Pass, Program

    return Program(
        (Operand("g"), Operand("y"), Operand("dx", written=True)),
        (
            Pass(reduce={"d": ("sum", lambda v: v.g * v.y)}),
            Pass(store={"dx": lambda v: v.y * (v.g - v.d)}),
        ),
    )


def _log_softmax() -> Program:
    from ..mathlib import exp_nonpositive, log_normal
    from ..program import Operand, Pass, Program, Scalars

    return Program(
        (Operand("x"), Operand("y", written=True)),
        (
            Pass(reduce={"m": ("max", lambda v: v.x)}),
            Pass(reduce={"s": ("sum", lambda v: exp_nonpositive(v.x - v.m))}, prefetch=("x", "y")),
            Scalars({"l": lambda v: log_normal(v.s)}),
            Pass(store={"y": lambda v: (v.x - v.m) - v.l}),
        ),
    )


def _log_softmax_backward() -> Program:
    """G - e**y sum(g)."""
    from ..mathlib import exp_nonpositive
    from ..program import Operand, Pass, Program

    return Program(
        (Operand("g"), Operand("y"), Operand("dx", written=True)),
        (
            Pass(reduce={"d": ("sum", lambda v: v.g)}),
            Pass(store={"dx": lambda v: v.g - exp_nonpositive(v.y) * v.d}),
        ),
    )


def _logsumexp() -> Program:
    """Infinite maxima are not subtracted: then s is NaN only if the row has one, and the result else the maximum."""
    from .._tvm import tirx
    from ..leaves.lower import f32
    from ..mathlib import exp_nonpositive, fma, log_normal
    from ..program import Operand, Pass, Program, Scalars

    def finite(x: Any) -> Any:
        return tirx.abs(x) < f32(math.inf)

    return Program(
        (Operand("x"), Operand("y", "scalar", written=True)),
        (
            Pass(reduce={"m": ("max", lambda v: v.x)}),
            Scalars({"shift": lambda v: tirx.Select(finite(v.m), v.m, f32(0.0))}),
            Pass(reduce={"s": ("sum", lambda v: exp_nonpositive(tirx.min(f32(0.0), v.x - v.shift)))}, prefetch=("x",)),
            Scalars(
                store={"y": lambda v: v.m + tirx.Select(finite(v.m), log_normal(v.s), fma(v.s, f32(0.0), f32(0.0)))}
            ),
        ),
    )


def _logsumexp_backward() -> Program:
    """G e**(x - y)."""
    from ..mathlib import exp_nonpositive
    from ..program import Operand, Pass, Program

    return Program(
        (Operand("g", "scalar"), Operand("x"), Operand("y", "scalar"), Operand("dx", written=True)),
        (Pass(store={"dx": lambda v: v.g * exp_nonpositive(v.x - v.y)}),),
    )


def _named(namespace: str, op: str, *more: Any) -> Call:
    """The operator of that name with ``more`` behind the row's dimension."""

    def call(*tensors: Any, dim: int = -1) -> Any:
        import torch

        return getattr(getattr(torch.ops, namespace), op)(*tensors, dim, *more)

    return call


def _aten_backward(op: str) -> Call:
    """ATen's gradient, which wants to know the input's dtype."""

    def call(g: Any, y: Any, dim: int = -1) -> Any:
        import torch

        return getattr(torch.ops.aten, op)(g, y, dim, y.dtype)

    return call


def _aten_logsumexp_backward(g: Any, x: Any, y: Any, dim: int = -1) -> Any:
    """The formula that ATen differentiates with."""
    return g.unsqueeze(dim) * (x - y.unsqueeze(dim)).exp()


def _logarithms(name: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """``y`` as logarithms of probabilities."""
    values = rng.standard_normal(shape, "float32")
    return -np.abs(values) if name == "y" else values


def _large(name: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """``y`` above every ``x``."""
    values = rng.standard_normal(shape, "float32")
    return values + np.float32(8) if name == "y" else values


def _operators() -> dict[str, RowsOperator]:
    made = (
        RowsOperator(
            "softmax", _softmax, _named("aten", "softmax"), _named("tvmops", "softmax"),
            column=True, flops_per_element=20, low=_softmax_low, knobs=KNOBS, knobs_low=KNOBS_LOW,
            device_default=True, device=_softmax_low,
        ),
        RowsOperator(
            "softmax_backward", _softmax_backward, _aten_backward("_softmax_backward_data"),
            _named("tvmops", "softmax_backward"), column=True, flops_per_element=4, knobs=KNOBS, knobs_low=KNOBS_LOW,
            device_default=True,
        ),
        RowsOperator(
            "log_softmax", _log_softmax, _named("aten", "log_softmax"), _named("tvmops", "log_softmax"),
            column=True, flops_per_element=20, knobs=KNOBS, knobs_low=KNOBS_LOW, device_default=True,
            device_knobs_low={"unroll": 4},
        ),
        RowsOperator(
            "log_softmax_backward", _log_softmax_backward, _aten_backward("_log_softmax_backward_data"),
            _named("tvmops", "log_softmax_backward"), column=True, flops_per_element=20, fill=_logarithms, knobs=KNOBS,
            device_default=True,
        ),
        RowsOperator(
            "logsumexp", _logsumexp, _named("aten", "logsumexp"), _named("tvmops", "logsumexp"),
            column=True, flops_per_element=20, knobs=KNOBS, knobs_low=KNOBS_LOW,
        ),
        RowsOperator(
            "logsumexp_backward", _logsumexp_backward, _aten_logsumexp_backward,
            _named("tvmops", "logsumexp_backward"), column=True, flops_per_element=20, fill=_large, knobs=KNOBS,
        ),
    )  # fmt: skip
    return {operator.name: operator for operator in made}


OPERATORS = _operators()
