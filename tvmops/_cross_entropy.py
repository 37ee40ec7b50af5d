"""Cross entropy with torch's own signature and semantics, without ever making a tensor of probabilities."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction

from tvmops import _C

_ops = torch.ops.tvmops
_is_compiling = torch.compiler.is_compiling
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross entropy of logits and classes, see :func:`torch.nn.functional.cross_entropy`.

    float32, bfloat16 and float16 logits on CPU with int64 classes are served by kernels; the loss of low precision is
    computed in float32, sums in float64. Probabilities as target go to ATen, as do class weights together with label
    smoothing.

    Args:
        input: logits ``[C]``, ``[N, C]`` or ``[N, C, d1, ...]``.
        target: classes ``[]``, ``[N]`` or ``[N, d1, ...]``; or probabilities of the input's shape.
        weight: of the classes ``[C]``.
        size_average: deprecated, see ``reduction``.
        ignore_index: the class that counts for nothing.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: how much of the target goes to all classes alike, in [0, 1].

    Returns:
        One number, or with ``reduction="none"`` a tensor of the shape of the classes.

    Raises:
        IndexError: a class is out of range. On a GPU the device reports an error later, as it does for torch's.
        ValueError: the batches differ in size, or the reduction is unknown.
        RuntimeError: shapes or dtypes do not go together, in torch's words.
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    code = _REDUCTIONS.get(reduction)
    if code is None:  # which raises
        return F.cross_entropy(input, target, weight, None, ignore_index, None, reduction, label_smoothing)
    if _is_compiling():
        return _ops.cross_entropy(input, target, weight, code, ignore_index, label_smoothing)
    return _C.cross_entropy(input, target, weight, code, ignore_index, label_smoothing)


def _rule(
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, int]:
    """The losses of all functions' batches in one call, if they have batches of classes; else one call each."""

    def batched(t: Tensor, dim: int | None) -> Tensor:
        return t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)

    x, target = batched(x, in_dims[0]), batched(target, in_dims[1])
    w = None if weight is None else batched(weight, in_dims[2])
    alike = x.dim() == target.dim() + 1 and x.shape[:2] == target.shape[:2] and x.dim() >= 3
    if not alike or target.dtype != torch.int64 or w is not None:
        options = (reduction, ignore_index, label_smoothing)
        return torch.stack(
            [_ops.cross_entropy(x[i], target[i], None if w is None else w[i], *options) for i in range(len(x))]
        ), 0
    flat = _ops.cross_entropy(x.flatten(0, 1), target.flatten(0, 1), None, 0, ignore_index, label_smoothing)
    losses = flat.unflatten(0, x.shape[:2])
    if reduction == 0:
        return losses, 0
    total = losses.flatten(1).sum(1)
    return total if reduction == 2 else total / (target != ignore_index).flatten(1).sum(1), 0


torch.library.register_vmap("tvmops::cross_entropy", _rule)
