"""Cross entropy of rows of logits and classes, and its gradient.

With m the largest element of a row, l = log(sum(e**(x - m))) and c the class, the loss is -((x[c] - m) - l), to which
label smoothing adds a part of sum(x - m). The kernel reduces rows to these; csrc/ops/cross_entropy.cpp picks x[c]. The
gradient is g (e**((x - m) - l) - smoothing / n), less the rest of g at c, which is C++ too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._rows import RowsOperator
from .softmax import KNOBS, KNOBS_LOW

if TYPE_CHECKING:
    from ..program import Program

Call = Callable[..., Any]
_NONE, _MEAN = 0, 1


def _forward() -> Program:
    from ..mathlib import exp_nonpositive, log_normal
    from ..program import Operand, Pass, Program, Scalars

    scalars = (Operand(name, "scalar", written=True, dtype="float32") for name in ("maximum", "log_sum", "total"))
    return Program(
        (Operand("x"), *scalars),
        (
            Pass(reduce={"m": ("max", lambda v: v.x)}),
            Pass(
                values={"d": lambda v: v.x - v.m},
                reduce={"s": ("sum", lambda v: exp_nonpositive(v.d)), "t": ("sum", lambda v: v.d)},
                prefetch=("x",),
            ),
            Scalars(store={"maximum": lambda v: v.m, "log_sum": lambda v: log_normal(v.s), "total": lambda v: v.t}),
        ),
    )


def _backward() -> Program:
    from ..mathlib import exp_nonpositive
    from ..program import Operand, Pass, Program

    scalars = (Operand(name, "scalar", dtype="float32") for name in ("maximum", "log_sum", "g"))
    return Program(
        (Operand("x"), *scalars, Operand("dx", written=True)),
        (Pass(store={"dx": lambda v: v.g * (exp_nonpositive((v.x - v.maximum) - v.log_sum) - v.smoothing)}),),
        ("smoothing",),
    )


def _classes(x: Any, dim: int) -> tuple[Any, Any]:
    """Logits [N, C] or, with the classes first, [1, C, N]; and a class for each."""
    import torch

    classes = torch.arange(x.size(1 + dim)) % x.size(dim)
    return (x, classes) if dim else (x.unsqueeze(0), classes.unsqueeze(0))


def _loss(op: Callable[[], Call]) -> Call:
    return lambda x, dim=-1: op()(*_classes(x, dim))


def _aten_loss() -> Call:
    import torch

    return torch.ops.aten.cross_entropy_loss


def _our_loss() -> Call:
    import torch

    return torch.ops.tvmops.cross_entropy


def _aten_backward(x: Any, maximum: Any, log_sum: Any, g: Any, dim: int = -1) -> Any:
    """ATen's two steps, for logarithms of probabilities: maximum and log_sum are 0."""
    import torch

    logits, classes = _classes(x, dim)
    aten, one = torch.ops.aten, torch.ones((), dtype=x.dtype)
    loss_backward = aten.nll_loss_backward if dim else aten.nll_loss2d_backward
    if not dim:
        logits, classes, g = logits.unsqueeze(-1), classes.unsqueeze(-1), g.view(1, -1, 1)
    grad = loss_backward(g.to(x.dtype), logits, classes, None, _NONE, -100, one)
    return aten._log_softmax_backward_data(grad, logits, 1, x.dtype).view(x.shape)


def _our_backward(x: Any, maximum: Any, log_sum: Any, g: Any, dim: int = -1) -> Any:
    import torch

    logits, classes = _classes(x, dim)
    stats, one = torch.stack([maximum, log_sum, log_sum]), torch.ones((), dtype=torch.float64)
    grad = g.to(x.dtype).view(classes.shape)
    op = torch.ops.tvmops.cross_entropy_backward
    return op(grad, logits, classes, None, stats, one, _NONE, -100, 0.0).view(x.shape)


def _fill(name: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """``x`` as logarithms of probabilities, so that maximum and log_sum can be 0."""
    if name in ("maximum", "log_sum"):
        return np.zeros(shape, "float32")
    return -np.abs(rng.standard_normal(shape, "float32"))


OPERATORS = {
    operator.name: operator
    for operator in (
        RowsOperator(
            "cross_entropy", _forward, _loss(_aten_loss), _loss(_our_loss),
            column=True, flops_per_element=20, knobs=KNOBS, knobs_low=KNOBS_LOW,
        ),
        RowsOperator(
            "cross_entropy_backward", _backward, _aten_backward, _our_backward,
            params=(0.0,), column=True, flops_per_element=20, fill=_fill, knobs=KNOBS,
        ),
    )
}  # fmt: skip
