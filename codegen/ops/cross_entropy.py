"""Cross entropy of rows of logits and classes, and its gradient.

With m the largest element of a row, l = log(sum(e**(x - m))) and c the class, the loss is -((x[c] - m) - l), to which
label smoothing adds a part of sum(x - m). The kernel reduces rows to these; csrc/ops/cross_entropy.cpp picks x[c]. The
gradient is g (e**((x - m) - l) - smoothing / n), less the rest of g at c, which is C++ too.

On a GPU the kernels know the classes: another kernel for one element a row would cost more. Nobody has looked at the
classes there, so that one out of range stops the device, as ATen's assertion does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ._rows import RowsOperator
from .softmax import KNOBS, KNOBS_LOW

if TYPE_CHECKING:
    from ..program import Program
    from ..workload import Workload

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


def _ignored(v: Any) -> Any:
    return v.target.astype("int64") == v.ignored.astype("int64")


def _is_class(v: Any) -> Any:
    return v.j == v.target.astype("int32")


def _forward_device() -> Program:
    """The loss and whether it counts, 1 or 0, and what the gradient needs."""
    from .._tvm import tirx
    from ..leaves.lower import f32
    from ..mathlib import exp_nonpositive, log_normal
    from ..program import Operand, Pass, Program, Scalars

    def loss(v: Any) -> Any:
        # What the loss has of all classes: nothing, if a row has minus infinity and no smoothing.
        every = tirx.Select(v.share > f32(0.0), v.share * (v.n * v.log - v.t), f32(0.0))
        return tirx.Select(_ignored(v), f32(0.0), v.rest * (v.log - v.c) + every)

    def known(v: Any) -> Any:
        target = v.target.astype("int64")
        return tirx.Or(_ignored(v), tirx.And(target >= tirx.IntImm("int64", 0), target < v.length.astype("int64")))

    names = ("loss", "counts", "maximum", "log_sum", "total")
    scalars = (Operand(name, "scalar", written=True, dtype="float32") for name in names)
    return Program(
        (Operand("x"), Operand("target", "scalar", dtype="int64"), *scalars),
        (
            Pass(reduce={"m": ("max", lambda v: v.x)}),
            Pass(
                values={"d": lambda v: v.x - v.m},
                reduce={
                    "s": ("sum", lambda v: exp_nonpositive(v.d)),
                    "t": ("sum", lambda v: v.d),
                    "c": ("sum", lambda v: tirx.Select(_is_class(v), v.d, f32(0.0))),
                },
            ),
            Scalars(
                values={"log": lambda v: log_normal(v.s)},
                store={
                    "loss": loss,
                    "counts": lambda v: tirx.Select(_ignored(v), f32(0.0), f32(1.0)),
                    "maximum": lambda v: v.m,
                    "log_sum": lambda v: v.log,
                    "total": lambda v: v.t,
                },
                must=known,
            ),
        ),
        ("rest", "share", "ignored"),
    )


def _backward_device() -> Program:
    """Of ``g``, whatever it is where a class is ignored: there the gradient is 0."""
    from .._tvm import tirx
    from ..leaves.lower import f32
    from ..mathlib import exp_nonpositive
    from ..program import Operand, Pass, Program, Scalars

    def dx(v: Any) -> Any:
        one = tirx.Select(_is_class(v), v.rest, f32(0.0))
        return v.factor * ((exp_nonpositive((v.x - v.maximum) - v.log_sum) - v.share) - one)

    scalars = (Operand(name, "scalar", dtype="float32") for name in ("maximum", "log_sum", "g"))
    return Program(
        (Operand("x"), Operand("target", "scalar", dtype="int64"), *scalars, Operand("dx", written=True)),
        (
            Scalars(values={"factor": lambda v: tirx.Select(_ignored(v), f32(0.0), v.g)}),
            Pass(store={"dx": dx}),
        ),
        ("rest", "share", "ignored"),
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


def _of_rows(namespace: str) -> Call:
    """The loss of each row."""

    def call(x: Any, target: Any) -> Any:
        import torch

        op = torch.ops.aten.cross_entropy_loss if namespace == "aten" else torch.ops.tvmops.cross_entropy
        return op(x, target, None, _NONE, IGNORED, SMOOTHING)

    return call


def _backward_of_rows(namespace: str) -> Call:
    """The gradient of rows; maximum and log_sum are 0."""

    def call(x: Any, target: Any, maximum: Any, log_sum: Any, g: Any) -> Any:
        import torch

        if namespace != "aten":
            stats, one = torch.stack([maximum, log_sum, log_sum]).float(), torch.ones((), dtype=torch.float64)
            op = torch.ops.tvmops.cross_entropy_backward
            return op(g.to(x.dtype), x, target, None, stats, one.to(x.device), _NONE, IGNORED, SMOOTHING)
        aten, one = torch.ops.aten, torch.ones((), dtype=x.dtype, device=x.device)
        grad = aten.nll_loss_backward(g.to(x.dtype), x, target, None, _NONE, IGNORED, one)
        return aten._log_softmax_backward_data(grad, x, 1, x.dtype)

    return call


class _OfClasses(RowsOperator):
    """Rows with a class each, some of which are ignored."""

    def inputs(self, workload: Workload, sizes: Mapping[str, int], seed: int) -> list[np.ndarray]:
        made = super().inputs(workload, sizes, seed)
        rng = np.random.default_rng(seed)
        classes = rng.integers(0, sizes["N"], sizes["M"])
        made[1] = np.where(rng.random(sizes["M"]) < 0.1, IGNORED, classes)
        return made


# As ATen's gradient has it, which the kernel's is compared with: without smoothing.
IGNORED, SMOOTHING = -100, 0.0
# Most rows have more classes than registers hold: what is kept would cost every row registers.
DEVICE_KNOBS = {"kept": 1}
PARAMS = (1 - SMOOTHING, SMOOTHING, float(IGNORED))

OPERATORS = {
    operator.name: operator
    for operator in (
        RowsOperator(
            "cross_entropy", _forward, _loss(_aten_loss), _loss(_our_loss),
            column=True, flops_per_element=20, knobs=KNOBS, knobs_low=KNOBS_LOW, device_default=True,
            device_knobs=DEVICE_KNOBS,
            device_form=_OfClasses(
                "cross_entropy", _forward_device, _of_rows("aten"), _of_rows("tvmops"), params=PARAMS, fill=_fill,
            ),
        ),
        RowsOperator(
            "cross_entropy_backward", _backward, _aten_backward, _our_backward,
            params=(0.0,), column=True, flops_per_element=20, fill=_fill, knobs=KNOBS, device_default=True,
            device_knobs=DEVICE_KNOBS,
            device_form=_OfClasses(
                "cross_entropy_backward", _backward_device, _backward_of_rows("aten"), _backward_of_rows("tvmops"),
                params=PARAMS, fill=_fill,
            ),
        ),
    )
}  # fmt: skip
