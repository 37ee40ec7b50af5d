"""What group_norm and its gradients are made of; csrc/ops/group_norm.cpp puts it together.

Rows are groups of channels for the moments, single channels for the rest: there, what differs from channel to channel
is a scalar of the row. Sums of the gradient with x - mean, not with x: nothing cancels where the mean is large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._rows import RowsOperator

if TYPE_CHECKING:
    from ..program import Program

EPS = 1e-5


def _moments() -> Program:
    """Mean and 1 / sqrt(variance + eps)."""
    from ..mathlib import rsqrt
    from ..program import Operand, Pass, Program, Scalars

    return Program(
        (
            Operand("x"),
            Operand("mean", "scalar", written=True, dtype="float32"),
            Operand("rstd", "scalar", written=True, dtype="float32"),
        ),
        (
            Pass(reduce={"total": ("sum", lambda v: v.x)}),
            Scalars(values={"m": lambda v: v.total / v.n}),
            Pass(values={"d": lambda v: v.x - v.m}, reduce={"squares": ("sum", lambda v: v.d * v.d)}),
            Scalars(store={"mean": lambda v: v.m, "rstd": lambda v: rsqrt(v.squares / v.n + v.eps)}),
        ),
        ("eps",),
    )


def _apply() -> Program:
    """Y = (x - mean) scale + shift."""
    from ..program import Operand, Pass, Program

    scalars = (Operand(name, "scalar", dtype="float32") for name in ("mean", "scale", "shift"))
    return Program(
        (Operand("x"), *scalars, Operand("y", written=True)),
        (Pass(store={"y": lambda v: (v.x - v.mean) * v.scale + v.shift}),),
    )


def _sums() -> Program:
    """The sums of g and of g (x - mean)."""
    from ..program import Operand, Pass, Program, Scalars

    return Program(
        (
            Operand("g"),
            Operand("x"),
            Operand("mean", "scalar", dtype="float32"),
            Operand("total", "scalar", written=True, dtype="float32"),
            Operand("product", "scalar", written=True, dtype="float32"),
        ),
        (
            Pass(reduce={"s": ("sum", lambda v: v.g), "p": ("sum", lambda v: v.g * (v.x - v.mean))}),
            Scalars(store={"total": lambda v: v.s, "product": lambda v: v.p}),
        ),
    )


def _backward() -> Program:
    """dx = g a + (x - mean) b + c."""
    from ..program import Operand, Pass, Program

    scalars = (Operand(name, "scalar", dtype="float32") for name in ("mean", "a", "b", "c"))
    return Program(
        (Operand("g"), Operand("x"), *scalars, Operand("dx", written=True)),
        (Pass(store={"dx": lambda v: v.g * v.a + ((v.x - v.mean) * v.b + v.c)}),),
    )


def _aten_moments(x: Any) -> Any:
    mean = x.mean(-1)
    return mean, (x - mean[:, None]).square().mean(-1).add(EPS).rsqrt()


def _aten_apply(x: Any, mean: Any, scale: Any, shift: Any) -> Any:
    return (x - mean[:, None]) * scale[:, None] + shift[:, None]


def _aten_sums(g: Any, x: Any, mean: Any) -> Any:
    return g.sum(-1), (g * (x - mean[:, None])).sum(-1)


def _aten_backward(g: Any, x: Any, mean: Any, a: Any, b: Any, c: Any) -> Any:
    return g * a[:, None] + ((x - mean[:, None]) * b[:, None] + c[:, None])


def _ours(name: str) -> Callable[..., Any]:
    def call(*tensors: Any) -> Any:
        import torch

        rows = 2 if name in ("group_norm_sums", "group_norm_backward") else 1
        op = getattr(torch.ops.tvmops, name + "_rows")
        return op(*tensors[:rows], *(t.float() for t in tensors[rows:]), *((EPS,) if name.endswith("moments") else ()))

    return call


_PARTS: dict[str, tuple[Callable[[], Program], Callable[..., Any]]] = {
    "group_norm_moments": (_moments, _aten_moments),
    "group_norm": (_apply, _aten_apply),
    "group_norm_sums": (_sums, _aten_sums),
    "group_norm_backward": (_backward, _aten_backward),
}


OPERATORS = {
    name: RowsOperator(
        name, make, aten, _ours(name), params=(EPS,) if name.endswith("moments") else (), flops_per_element=4
    )
    for name, (make, aten) in _PARTS.items()
}
