"""What happens to a finished sum of a GEMM, in float32, before it is rounded: bias, activation, residual.

All of it is data of the launch, the same for every thread, so that one kernel serves all: its branches never diverge.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

HAS_BIAS, HAS_RESIDUAL = 1, 2  # of the size "flags"
# As csrc/drivers/activation.h numbers them; 0 is none.
RELU, GELU, GELU_TANH, SILU, SIGMOID, TANH = range(1, 7)
VECTOR = 8  # 16-bit elements that a thread loads or stores at once


def _f32(value: float) -> Expr:
    return tirx.const(float(np.float32(value)), "float32")


def relu(x: Expr) -> Expr:
    """max(x, 0); NaN stays."""
    return tirx.Select(x < _f32(0), _f32(0), x)


def gelu(x: Expr) -> Expr:
    """X Phi(x), as x/2 (1 + erf(x / sqrt(2)))."""
    return x * _f32(0.5) * (_f32(1) + T.erf(x * _f32(math.sqrt(0.5))))


def gelu_tanh(x: Expr) -> Expr:
    """x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))): Hendrycks and Gimpel, 2016."""
    inner = _f32(math.sqrt(2 / math.pi)) * (x + _f32(0.044715) * x * x * x)
    return x * _f32(0.5) * (_f32(1) + T.tanh(inner))


def silu(x: Expr) -> Expr:
    """X / (1 + e**-x)."""
    return x / (_f32(1) + T.exp(_f32(0) - x))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x)."""
    return _f32(1) / (_f32(1) + T.exp(_f32(0) - x))


ACTIVATIONS = {RELU: relu, GELU: gelu, GELU_TANH: gelu_tanh, SILU: silu, SIGMOID: sigmoid, TANH: T.tanh}


def chosen(x: Expr, activation: Expr) -> Expr:
    """activation(x) as one expression."""
    value = x
    for number, function in ACTIVATIONS.items():
        value = tirx.if_then_else(activation == number, function(x), value)
    return value


@T.inline
def activate(x: Any, activation: Any) -> None:
    """``x``, float32 in registers, becomes activation(x)."""
    if activation == RELU:
        for j in T.unroll(x.shape[0]):
            x[j] = relu(x[j])
    elif activation == GELU:
        for j in T.unroll(x.shape[0]):
            x[j] = gelu(x[j])
    elif activation == GELU_TANH:
        for j in T.unroll(x.shape[0]):
            x[j] = gelu_tanh(x[j])
    elif activation == SILU:
        for j in T.unroll(x.shape[0]):
            x[j] = silu(x[j])
    elif activation == SIGMOID:
        for j in T.unroll(x.shape[0]):
            x[j] = sigmoid(x[j])
    elif activation == TANH:
        for j in T.unroll(x.shape[0]):
            x[j] = T.tanh(x[j])


@T.inline
def finish(x: Any, h: Any, C: Any, bias: Any, residual: Any, at: Any, column: Any, activation: Any, flags: Any) -> None:
    """C[at:at + V] = activation(x + bias[column:]) + residual[at:], rounded once.

    ``x``: V sums in registers; ``h``: as many registers of C's dtype. Both are overwritten. ``at`` is an int64; it and
    ``column`` are multiples of V, as TVM must see.
    """
    if T.bitwise_and(flags, HAS_BIAS) != 0:
        for j in T.vectorized(x.shape[0]):
            h[j] = bias[column + j]
        for j in T.unroll(x.shape[0]):
            x[j] = x[j] + T.Cast("float32", h[j])
    activate(x, activation)
    if T.bitwise_and(flags, HAS_RESIDUAL) != 0:
        for j in T.vectorized(T.int64(int(x.shape[0]))):
            h[j] = residual[at + j]
        for j in T.unroll(x.shape[0]):
            x[j] = x[j] + T.Cast("float32", h[j])
    for j in T.unroll(x.shape[0]):
        h[j] = T.Cast(h.dtype, x[j])
    for j in T.vectorized(T.int64(int(x.shape[0]))):
        C[at + j] = h[j]
