"""layer_norm and rms_norm along a row, alone or of a sum with a residual; their gradients.

With d = x - mean(x): layer_norm is d rstd weight + bias, rstd = 1 / sqrt(mean(d**2) + eps); rms_norm is x rstd weight,
rstd = 1 / sqrt(mean(x**2) + eps). Weights are float32, whatever the rows are. The gradients of weights are sums over
all rows, made in the same walk as that of the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._rows import RowsOperator

if TYPE_CHECKING:
    from ..program import Operand, Program, Value

EPS = 1e-5


def _vectors(*names: str) -> list[Operand]:
    from ..program import Operand

    return [Operand(name, "vector", dtype="float32") for name in names]


def _scalars(*names: str, written: bool = False) -> list[Operand]:
    from ..program import Operand

    return [Operand(name, "scalar", written, "float32") for name in names]


def _rows(residual: bool, *vectors: str) -> list[Operand]:
    """The row operands and weights of a forward program."""
    from ..program import Operand

    inputs, sums = ["x"], [Operand("sum", written=True)]
    if residual:
        inputs.append("residual")
    return [*map(Operand, inputs), *_vectors(*vectors), Operand("y", written=True), *(sums if residual else ())]


def _normalised(residual: bool) -> tuple[Value, dict[str, Value]]:
    """What is normalised, and what the first pass stores."""
    if residual:
        return lambda v: v.sum, {"sum": lambda v: v.x + v.residual}
    return lambda v: v.x, {}


def _layer_norm(residual: bool = False) -> Program:
    """The variance is that of x - mean: nothing cancels where the mean is large."""
    from ..mathlib import rsqrt
    from ..program import Pass, Program, Scalars

    x, store = _normalised(residual)
    return Program(
        (*_rows(residual, "weight", "bias"), *_scalars("mean", "rstd", written=True)),
        (
            Pass(store=store, reduce={"total": ("sum", x)}),
            Scalars(values={"m": lambda v: v.total / v.n}),
            Pass(
                values={"d": lambda v: x(v) - v.m},
                reduce={"squares": ("sum", lambda v: v.d * v.d)},
                prefetch=("y",),
            ),
            Scalars(
                values={"r": lambda v: rsqrt(v.squares / v.n + v.eps)},
                store={"mean": lambda v: v.m, "rstd": lambda v: v.r},
            ),
            Pass(
                store={"y": lambda v: (x(v) - v.m) * v.r * v.weight + v.bias},
                prefetch=("x", "residual") if residual else ("x",),
            ),
        ),
        ("eps",),
    )


def _rms_norm(residual: bool = False) -> Program:
    from ..mathlib import rsqrt
    from ..program import Pass, Program, Scalars

    x, store = _normalised(residual)
    return Program(
        (*_rows(residual, "weight"), *_scalars("rstd", written=True)),
        (
            Pass(store=store, reduce={"squares": ("sum", lambda v: x(v) * x(v))}),
            Scalars(values={"r": lambda v: rsqrt(v.squares / v.n + v.eps)}, store={"rstd": lambda v: v.r}),
            Pass(store={"y": lambda v: x(v) * v.r * v.weight}),
        ),
        ("eps",),
    )


def _gradients(residual: bool) -> list[Operand]:
    """The gradients of the results, and the row that was normalised."""
    from ..program import Operand

    return [Operand("g"), *([Operand("g_sum")] if residual else []), Operand("x")]


def _partials(*names: str) -> list[Operand]:
    from ..program import Operand

    return [Operand(name, "partial", written=True, dtype="float32") for name in names]


def _layer_norm_backward(residual: bool = False) -> Program:
    """With h = d rstd and k = g weight: dx = rstd (k - mean(k) - h mean(k h)), dweight = sum(g h), dbias = sum(g)."""
    from ..program import Operand, Pass, Program, Scalars

    values: dict[str, Value] = {"h": lambda v: (v.x - v.mean) * v.rstd, "k": lambda v: v.g * v.weight}

    def dx(v: Any) -> Any:
        value = v.rstd * v.k + (v.scale * v.h + v.shift)
        return v.g_sum + value if residual else value

    return Program(
        (
            *_gradients(residual),
            *_scalars("mean", "rstd"),
            *_vectors("weight"),
            Operand("dx", written=True),
            *_partials("dweight", "dbias"),
        ),
        (
            Pass(
                values=values,
                reduce={"sum_k": ("sum", lambda v: v.k), "sum_kh": ("sum", lambda v: v.k * v.h)},
                add={"dweight": lambda v: v.g * v.h, "dbias": lambda v: v.g},
            ),
            Scalars(
                values={
                    "share": lambda v: v.rstd / v.n,
                    "shift": lambda v: -(v.sum_k * v.share),
                    "scale": lambda v: -(v.sum_kh * v.share),
                }
            ),
            Pass(values=values, store={"dx": dx}),
        ),
    )


def _rms_norm_backward(residual: bool = False) -> Program:
    """With h = x rstd and k = g weight: dx = rstd (k - h mean(k h)), dweight = sum(g h)."""
    from ..program import Operand, Pass, Program, Scalars

    values: dict[str, Value] = {"h": lambda v: v.x * v.rstd, "k": lambda v: v.g * v.weight}

    def dx(v: Any) -> Any:
        value = v.rstd * v.k + v.scale * v.h
        return v.g_sum + value if residual else value

    return Program(
        (
            *_gradients(residual),
            *_scalars("rstd"),
            *_vectors("weight"),
            Operand("dx", written=True),
            *_partials("dweight"),
        ),
        (
            Pass(
                values=values,
                reduce={"sum_kh": ("sum", lambda v: v.k * v.h)},
                add={"dweight": lambda v: v.g * v.h},
            ),
            Scalars(values={"scale": lambda v: -(v.sum_kh * v.rstd / v.n)}),
            Pass(values=values, store={"dx": dx}),
        ),
    )


def _aten(name: str) -> Callable[..., Any]:
    """PyTorch's call for a program's inputs."""
    residual, base = name.startswith("add_"), name.removeprefix("add_")

    def call(x: Any, *rest: Any) -> Any:
        import torch.nn.functional as F

        total, weights = (x + rest[0], rest[1:]) if residual else (x, rest)
        y = getattr(F, base)(total, x.shape[-1:], *weights, eps=EPS)
        return (y, total) if residual else y

    def backward(g: Any, *rest: Any) -> Any:
        import torch

        g_sum, x, *mean, rstd, weight = rest if residual else (0, *rest)
        if mean:
            statistics = (mean[0][:, None], rstd[:, None])
            dx, *more = torch.ops.aten.native_layer_norm_backward(
                g, x, x.shape[-1:], *statistics, weight, weight, [True] * 3
            )
            return (dx + g_sum, *more)
        h, k = x * rstd[:, None], g * weight
        return rstd[:, None] * (k - h * (k * h).mean(-1, keepdim=True)) + g_sum, (g * h).sum(0)

    return backward if name.endswith("_backward") else call


def _ours(name: str) -> Callable[..., Any]:
    """This project's call for a program's inputs."""
    residual, rms = name.startswith("add_"), "rms" in name

    def call(*tensors: Any) -> Any:
        import torch

        rows = 1 + residual
        op = getattr(torch.ops.tvmops, name)
        return op(*tensors[:rows], tensors[0].shape[-1:], *tensors[rows:], eps=EPS)

    def backward(g: Any, *rest: Any) -> Any:
        import torch

        g_sum, x, *mean, rstd, weight = rest if residual else (None, *rest)
        statistics = [s.float() for s in (*(mean or [rstd]), rstd)]
        bias = None if rms else weight
        return torch.ops.tvmops.norm_backward(g, g_sum, x, 1, *statistics, weight, bias, EPS, rms)

    return backward if name.endswith("_backward") else call


def _fill(name: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if name == "rstd":
        return np.asarray(rng.uniform(0.5, 2.0, shape), "float32")
    return rng.standard_normal(shape, "float32")


_MAKERS: dict[str, Callable[[bool], Program]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "layer_norm_backward": _layer_norm_backward,
    "rms_norm_backward": _rms_norm_backward,
}


def _operators() -> dict[str, RowsOperator]:
    made = {}
    for base, make in _MAKERS.items():
        for residual in (False, True):
            name = "add_" * residual + base
            made[name] = RowsOperator(
                name,
                lambda make=make, residual=residual: make(residual),  # type: ignore[misc]
                _aten(name),
                _ours(name),
                params=() if base.endswith("_backward") else (EPS,),
                flops_per_element=8,
                fill=_fill,
                device_default=True,
            )
    return made


OPERATORS = _operators()
