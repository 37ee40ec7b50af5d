"""Pointwise functions fused with what stands beside them in models: a bias, a residual, a gate, a learnable scale.

Each is one program per activation of csrc/drivers/activation.h. In backward, ``saved`` is what the activation's
derivative is written in (``Pointwise.saves``): the input, before the bias was added, or the activation's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ._rows import RowsOperator

if TYPE_CHECKING:
    from tvm.ir import Expr

    from ..program import Program, Value

# One stands for all where an operator is shown or timed: the first.
ACTIVATIONS = ("gelu", "none", "relu", "gelu_tanh", "silu", "sigmoid", "tanh")
ON_GPU = ("gelu", "silu")  # whose kernels are shipped for GPUs
SLOPED = tuple(name for name in ACTIVATIONS if name != "none")


def _activation(name: str) -> Callable[[Expr], Expr]:
    from ..activations import ACTIVATIONS

    return ACTIVATIONS[name]


def _programs(make: Callable[[str], Program], names: tuple[str, ...] = ACTIVATIONS) -> Callable[[], dict[str, Program]]:
    return lambda: {name: make(name) for name in names}


def _bias(residual: bool) -> Callable[[str], Program]:
    def make(name: str) -> Program:
        from ..program import Operand, Pass, Program

        f = _activation(name)
        more = (Operand("residual"),) if residual else ()
        store: dict[str, Value] = {"y": lambda v: f(v.x + v.bias)}
        if residual:
            store = {"y": lambda v: f(v.x + v.bias) + v.residual}
        operands = (Operand("x"), Operand("bias", "vector"), *more, Operand("y", written=True))
        return Program(operands, (Pass(store=store),))

    return make


def _bias_backward(name: str) -> Program:
    from ..activations import POINTWISE
    from ..program import Operand, Pass, Program

    f = POINTWISE[name]
    operands = (
        Operand("g"),
        Operand("saved"),
        Operand("bias", "vector"),
        Operand("dx", written=True),
        Operand("dbias", "partial", written=True, dtype="float32"),
    )
    of_output: dict[str, Value] = {"d": lambda v: f.backward(v.g, v.saved)}
    of_input: dict[str, Value] = {"d": lambda v: f.backward(v.g, v.saved + v.bias)}
    values = of_output if f.saves == "output" else of_input
    return Program(operands, (Pass(values, store={"dx": lambda v: v.d}, add={"dbias": lambda v: v.d}),))


def _add(name: str) -> Program:
    from ..program import Operand, Pass, Program

    f = _activation(name)
    operands = (Operand("x"), Operand("other"), Operand("y", written=True))
    return Program(operands, (Pass(store={"y": lambda v: f(v.x + v.other)}),))


def _add_backward(name: str) -> Program:
    from ..activations import POINTWISE
    from ..program import Operand, Pass, Program

    operands = (Operand("g"), Operand("x"), Operand("other"), Operand("dz", written=True))
    return Program(operands, (Pass(store={"dz": lambda v: POINTWISE[name].backward(v.g, v.x + v.other)}),))


def _gated(name: str) -> Program:
    from ..program import Operand, Pass, Program

    f = _activation(name)
    operands = (Operand("gate"), Operand("up"), Operand("y", written=True))
    return Program(operands, (Pass(store={"y": lambda v: f(v.gate) * v.up}),))


def _gated_backward(name: str) -> Program:
    from ..activations import POINTWISE
    from ..program import Operand, Pass, Program

    f = _activation(name)
    slope: Value = lambda v: v.g * v.up  # noqa: E731
    if name != "none":
        by_output, backward = POINTWISE[name].saves == "output", POINTWISE[name].backward
        slope = lambda v: backward(v.g * v.up, v.a if by_output else v.gate)  # noqa: E731
    store: dict[str, Value] = {"dgate": slope, "dup": lambda v: v.g * v.a}
    written = tuple(Operand(o, written=True) for o in store)
    operands = (Operand("g"), Operand("gate"), Operand("up"), *written)
    return Program(operands, (Pass({"a": lambda v: f(v.gate)}, store=store),))


def _star_relu(device: bool = False) -> Program:
    """On a GPU the factors stay in its memory: to read them would be to wait for it."""
    from ..activations import squared_relu
    from ..program import Operand, Pass, Program

    names = ("scale", "shift")
    factors = tuple(Operand(name, "single") for name in names) if device else ()
    store: dict[str, Value] = {"y": lambda v: v.scale * squared_relu(v.x) + v.shift}
    operands = (Operand("x"), *factors, Operand("y", written=True))
    return Program(operands, (Pass(store=store),), () if device else names)


def _star_relu_backward(device: bool = False) -> Program:
    from ..activations import squared_relu, squared_relu_backward
    from ..program import Operand, Pass, Program, Scalars

    sums = ("dscale", "dshift")
    walk = Pass(
        store={"dx": lambda v: squared_relu_backward(v.g * v.scale, v.x)},
        reduce={"of_scale": ("sum", lambda v: v.g * squared_relu(v.x)), "of_shift": ("sum", lambda v: v.g)},
    )
    operands = (
        Operand("g"),
        Operand("x"),
        *([Operand("scale", "single")] if device else ()),
        Operand("dx", written=True),
        *(Operand(name, "scalar", written=True, dtype="float32") for name in sums),
    )
    last = Scalars(store={"dscale": lambda v: v.of_scale, "dshift": lambda v: v.of_shift})
    return Program(operands, (walk, last), () if device else ("scale",))


def _aten(name: str, *args: Any) -> Callable[..., Any]:
    """What torch computes, in the words of its own functions."""

    def gelu_of(z: Any) -> Any:
        import torch

        return torch.nn.functional.gelu(z)

    def slope(g: Any, z: Any) -> Any:
        import torch

        return torch.ops.aten.gelu_backward(g, z)

    def bias_backward(g: Any, saved: Any, bias: Any) -> Any:
        dx = slope(g, saved + bias)
        return dx, dx.sum(0)

    def star_relu_backward(g: Any, x: Any) -> Any:
        y = x.relu()
        return 2 * g * args[0] * y, (g * y.square()).sum(1), g.sum(1)

    calls: Mapping[str, Callable[..., Any]] = {
        "bias_activation": lambda x, bias: gelu_of(x + bias),
        "bias_activation_residual": lambda x, bias, residual: gelu_of(x + bias) + residual,
        "bias_activation_backward": bias_backward,
        "add_activation": lambda x, other: gelu_of(x + other),
        "add_activation_backward": lambda g, x, other: slope(g, x + other),
        "gated_activation": lambda gate, up: gelu_of(gate) * up,
        "gated_activation_backward": lambda g, gate, up: (slope(g * up, gate), g * gelu_of(gate)),
        "star_relu": lambda x: args[0] * x.relu().square() + args[1],
        "star_relu_backward": star_relu_backward,
    }
    return calls[name]


def _ours(name: str, *args: Any) -> Callable[..., Any]:
    """This project's call of the operator."""

    def call(*tensors: Any) -> Any:
        import torch

        if name == "bias_activation_residual":
            x, bias, residual = tensors
            return torch.ops.tvmops.bias_activation(x, bias, "gelu", residual)
        if name.startswith("star_relu"):
            factors = [torch.full((1,), value, dtype=tensors[0].dtype) for value in (*args, 0.0)[:2]]
            return getattr(torch.ops.tvmops, name)(*tensors, *factors)
        return getattr(torch.ops.tvmops, name)(*tensors, "gelu")

    return call


def _on_device(name: str, make: Callable[[bool], Program]) -> RowsOperator:
    """star_relu or its gradient with the factors as tensors."""

    def aten(*tensors: Any) -> Any:
        factors = tensors[1 + name.endswith("backward") :]
        return _aten(name, *factors)(*tensors[: -len(factors)])

    def ours(*tensors: Any) -> Any:
        import torch

        more = [tensors[-1]] if name.endswith("backward") else []
        return getattr(torch.ops.tvmops, name)(*tensors, *more)

    return RowsOperator(name, lambda: make(True), aten, ours, flops_per_element=10)


def _operator(name: str, make: Any, params: tuple[float, ...] = (), **kwargs: Any) -> RowsOperator:
    aten, ours = _aten(name, *params), _ours(name, *params)
    return RowsOperator(name, make, aten, ours, params=params, flops_per_element=10, **kwargs)


OPERATORS = {
    operator.name: operator
    for operator in (
        _operator("bias_activation", _programs(_bias(False))),
        _operator("bias_activation_residual", _programs(_bias(True))),
        _operator("bias_activation_backward", _programs(_bias_backward, SLOPED)),
        _operator("add_activation", _programs(_add), flat=True),
        # Of the others the output is saved, from which the pointwise functions' own kernels make the gradient.
        _operator("add_activation_backward", _programs(_add_backward, ("gelu", "gelu_tanh", "silu")), flat=True),
        _operator(
            "gated_activation", _programs(_gated), flat=True, device_default=True, device=_programs(_gated, ON_GPU)
        ),
        _operator("gated_activation_backward", _programs(_gated_backward), flat=True),
        _operator("star_relu", _star_relu, (0.9, -0.4), flat=True, device_form=_on_device("star_relu", _star_relu)),
        _operator(
            "star_relu_backward",
            _star_relu_backward,
            (0.9,),
            device_form=_on_device("star_relu_backward", _star_relu_backward),
        ),
    )
}
