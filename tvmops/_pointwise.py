"""Pointwise functions of one tensor, with torch's own signatures and semantics.

float32, bfloat16 and float16 tensors on CPU whose elements fill their memory, in any order of dimensions, are served by
kernels; low precision is computed in float32 and rounded once. Values are within 2 ULP of the exact ones, see
docs/accuracy.md. All else goes to ATen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tvmops import _C
from tvmops._functional import Number, _into

_ops = torch.ops.tvmops
_is_compiling = torch.compiler.is_compiling


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(x, 0)``, see :func:`torch.nn.functional.relu`."""
    if inplace:
        return relu_(input)
    return _ops.relu(input) if _is_compiling() else _C.relu(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """``x`` above zero, else ``negative_slope * x``, see :func:`torch.nn.functional.leaky_relu`."""
    if inplace:
        return leaky_relu_(input, negative_slope)
    return _ops.leaky_relu(input, negative_slope) if _is_compiling() else _C.leaky_relu(input, negative_slope)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` above zero, else ``alpha * (exp(x) - 1)``, see :func:`torch.nn.functional.elu`."""
    if inplace:
        return elu_(input, alpha)
    return _ops.elu(input, alpha) if _is_compiling() else _C.elu(input, alpha)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """``x * Phi(x)``, or its tanh form with ``approximate="tanh"``, see :func:`torch.nn.functional.gelu`.

    Raises:
        RuntimeError: ``approximate`` is neither ``"none"`` nor ``"tanh"``.
    """
    if approximate == "none":
        return _ops.gelu(input) if _is_compiling() else _C.gelu(input)
    if approximate == "tanh":
        return _ops.gelu_tanh(input) if _is_compiling() else _C.gelu_tanh(input)
    return torch.nn.functional.gelu(input, approximate=approximate)  # which raises


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * sigmoid(x)``, see :func:`torch.nn.functional.silu`."""
    if inplace:
        return silu_(input)
    return _ops.silu(input) if _is_compiling() else _C.silu(input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * tanh(softplus(x))``, see :func:`torch.nn.functional.mish`."""
    if inplace:
        return mish_(input)
    return _ops.mish(input) if _is_compiling() else _C.mish(input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(beta x)) / beta``, ``x`` where ``beta x > threshold``; see :func:`torch.nn.functional.softplus`."""
    return _ops.softplus(input, beta, threshold) if _is_compiling() else _C.softplus(input, beta, threshold)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * min(max(x + 3, 0), 6) / 6``, see :func:`torch.nn.functional.hardswish`."""
    if inplace:
        return hardswish_(input)
    return _ops.hardswish(input) if _is_compiling() else _C.hardswish(input)


def squared_relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(x, 0) ** 2``. Source: So et al., "Primer: Searching for Efficient Transformers", 2021."""
    if inplace:
        return squared_relu_(input)
    return _ops.squared_relu(input) if _is_compiling() else _C.squared_relu(input)


def _with_out(name: str) -> Any:
    """A function of torch that takes ``out=``."""
    op, fast = getattr(_ops, name), getattr(_C, name)

    def call(input: Tensor, *, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return _into(out, op, input)
        return op(input) if _is_compiling() else fast(input)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"See :func:`torch.{name}`; ``out`` is of the input's shape, the result is written there if given."
    return call


sigmoid = _with_out("sigmoid")
tanh = _with_out("tanh")
exp = _with_out("exp")
expm1 = _with_out("expm1")
log = _with_out("log")
log1p = _with_out("log1p")
sqrt = _with_out("sqrt")
rsqrt = _with_out("rsqrt")
erf = _with_out("erf")


def _in_place(name: str) -> Any:
    """The function that overwrites its input."""
    op, pure = getattr(_ops, name + "_"), getattr(_ops, name)

    def call(input: Tensor, *params: Number) -> Tensor:
        # What writes to its argument can't be traced, unless it is ATen's.
        return input.copy_(pure(input, *params)) if _is_compiling() else _C.call(op, input, *params)

    call.__name__ = call.__qualname__ = name + "_"
    call.__doc__ = f"As :func:`{name}`, in place: ``input`` is overwritten and returned."
    return call


relu_ = _in_place("relu")
leaky_relu_ = _in_place("leaky_relu")
elu_ = _in_place("elu")
_GELU_IN_PLACE = {"none": _in_place("gelu"), "tanh": _in_place("gelu_tanh")}
silu_ = _in_place("silu")
mish_ = _in_place("mish")
hardswish_ = _in_place("hardswish")
squared_relu_ = _in_place("squared_relu")
sigmoid_ = _in_place("sigmoid")
tanh_ = _in_place("tanh")
exp_ = _in_place("exp")
expm1_ = _in_place("expm1")
log_ = _in_place("log")
log1p_ = _in_place("log1p")
sqrt_ = _in_place("sqrt")
rsqrt_ = _in_place("rsqrt")
erf_ = _in_place("erf")


def gelu_(input: Tensor, approximate: str = "none") -> Tensor:
    """As :func:`gelu`, in place: ``input`` is overwritten and returned."""
    if approximate not in _GELU_IN_PLACE:
        return torch.ops.aten.gelu_(input, approximate=approximate)  # which raises
    result: Tensor = _GELU_IN_PLACE[approximate](input)
    return result


NAMES = (
    "elu",
    "erf",
    "exp",
    "expm1",
    "gelu",
    "hardswish",
    "leaky_relu",
    "log",
    "log1p",
    "mish",
    "relu",
    "rsqrt",
    "sigmoid",
    "silu",
    "softplus",
    "sqrt",
    "squared_relu",
    "tanh",
)


def _register_vmap() -> None:
    """One call on the whole batch: where the batch dimension lies makes no difference to a pointwise function."""

    def rule(name: str) -> Any:
        op = getattr(_ops, name)
        return lambda info, in_dims, x, *params: (op(x, *params), in_dims[0])

    def backward_rule(name: str) -> Any:
        op = getattr(_ops, name + "_backward")

        def call(info: Any, in_dims: tuple[int | None, ...], g: Tensor, saved: Tensor, *params: Number) -> Any:
            g, saved = (
                x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0)
                for x, d in ((g, in_dims[0]), (saved, in_dims[1]))
            )
            return op(g, saved, *params), 0

        return call

    for name in (*NAMES, "gelu_tanh"):
        torch.library.register_vmap(f"tvmops::{name}", rule(name))
        torch.library.register_vmap(f"tvmops::{name}_backward", backward_rule(name))


_register_vmap()
