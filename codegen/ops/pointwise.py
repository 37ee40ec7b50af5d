"""Pointwise functions of one tensor and their gradients: y = f(x, params), dx = g f'(saved, params).

The arithmetic is in ``codegen/activations.py``, under the same names; here is what PyTorch calls them. To add one: a
line there, one here, one in csrc/ops/pointwise_table.h, its function in tvmops/_pointwise.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ._rows import RowsOperator

if TYPE_CHECKING:
    from ..program import Program

Aten = Callable[..., Any]


def _aten(op: str, *args: Any, **kwargs: Any) -> Aten:
    """``torch.ops.aten.OP`` with the given arguments after the tensors."""

    def call(*tensors: Any) -> Any:
        import torch

        return getattr(torch.ops.aten, op)(*tensors, *args, **kwargs)

    return call


def _squared_relu(x: Any) -> Any:
    return x.relu().square()


def _erf_backward(g: Any, x: Any) -> Any:
    return g * (2 / np.sqrt(np.pi)) * (-x * x).exp()


# The forward and the backward call, with the parameters that torch has by default.
FUNCTIONS: Mapping[str, tuple[Aten, Aten, tuple[float, ...]]] = {
    "relu": (_aten("relu"), _aten("threshold_backward", 0), ()),
    "leaky_relu": (_aten("leaky_relu", 0.01), _aten("leaky_relu_backward", 0.01, False), (0.01,)),
    "elu": (_aten("elu"), lambda g, x: _aten("elu_backward")(g, 1, 1, 1, False, x), (1.0,)),
    "sigmoid": (_aten("sigmoid"), _aten("sigmoid_backward"), ()),
    "tanh": (_aten("tanh"), _aten("tanh_backward"), ()),
    "gelu": (_aten("gelu"), _aten("gelu_backward"), ()),
    "gelu_tanh": (_aten("gelu", approximate="tanh"), _aten("gelu_backward", approximate="tanh"), ()),
    "silu": (_aten("silu"), _aten("silu_backward"), ()),
    "mish": (_aten("mish"), _aten("mish_backward"), ()),
    "softplus": (_aten("softplus"), _aten("softplus_backward", 1, 20), (1.0, 20.0)),
    "hardswish": (_aten("hardswish"), _aten("hardswish_backward"), ()),
    "squared_relu": (_squared_relu, lambda g, x: 2 * g * x.relu(), ()),
    "exp": (_aten("exp"), lambda g, y: g * y, ()),
    "expm1": (_aten("expm1"), lambda g, y: g * (y + 1), ()),
    "log": (_aten("log"), lambda g, x: g / x, ()),
    "log1p": (_aten("log1p"), lambda g, x: g / (x + 1), ()),
    "sqrt": (_aten("sqrt"), lambda g, y: g / (2 * y), ()),
    "rsqrt": (_aten("rsqrt"), lambda g, y: -0.5 * g * y**3, ()),
    "erf": (_aten("erf"), _erf_backward, ()),
}
# Where the function is defined only there: logarithms and roots, and what backward gets as their output.
POSITIVE = ("log", "log1p", "sqrt", "rsqrt")
# What has a form for vectors of 16 elements.
TABULATED = ("gelu", "gelu_tanh")
# Whose kernels are shipped for GPUs, too: nvcc takes more than a second for each.
ON_GPU = ("gelu", "gelu_tanh", "silu", "gelu_backward", "silu_backward")


def _forward(name: str, *, low: bool = False) -> Callable[[], Program]:
    def make() -> Program:
        from ..activations import POINTWISE
        from ..program import Operand, Pass, Program

        f = POINTWISE[name]
        forward = f.low if low and f.low else f.forward
        store = {"y": lambda v: forward(v.x, *(getattr(v, p) for p in f.params))}
        return Program((Operand("x"), Operand("y", written=True)), (Pass(store=store),), f.params)

    return make


def _tabulated(name: str) -> Callable[[], Program]:
    def make() -> Program:
        from ..activations import POINTWISE
        from ..program import Operand, Pass, Program, Rare

        f = POINTWISE[name]
        table = f.tabulated
        assert table
        rare = Rare("x", table.bound, {"y": lambda v: f.forward(v.x)})
        quick = Pass(store={"y": lambda v: table(v.x, v)}, rare=rare)
        return Program((Operand("x"), Operand("y", written=True)), (quick,), constants=table.tables())

    return make


def _backward(name: str) -> Callable[[], Program]:
    def make() -> Program:
        from ..activations import POINTWISE
        from ..program import Operand, Pass, Program

        f = POINTWISE[name]
        store = {"dx": lambda v: f.backward(v.g, v.saved, *(getattr(v, p) for p in f.params))}
        operands = (Operand("g"), Operand("saved"), Operand("dx", written=True))
        return Program(operands, (Pass(store=store),), f.params)

    return make


def _ours(op: str, params: tuple[float, ...]) -> Aten:
    def call(*tensors: Any) -> Any:
        import torch

        return getattr(torch.ops.tvmops, op)(*tensors, *params)

    return call


def _positive(_: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.uniform(0.1, 4.0, shape), "float32")


def _operators() -> dict[str, RowsOperator]:
    made = {}
    for name, (forward, backward, params) in FUNCTIONS.items():
        fill = _positive if name in POSITIVE else None
        for op, make, low, aten in (
            (name, _forward(name), _forward(name, low=True), forward),
            (f"{name}_backward", _backward(name), None, backward),
        ):
            made[op] = RowsOperator(
                op, make, aten, _ours(op, params), params=params, flat=True, flops_per_element=10, fill=fill, low=low,
                wide=_tabulated(name) if op in TABULATED else None, device_default=op in ON_GPU,
            )  # fmt: skip
    return made


OPERATORS = _operators()
