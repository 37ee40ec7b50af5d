"""Normalisation: layer_norm, rms_norm, group_norm, and the first two of a sum with a residual.

float32, bfloat16 and float16 tensors on CPU are served by kernels; low precision is computed in float32 and rounded
once. Weights have the dtype of the input, or are float32. All else goes to ATen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tvmops import _C

_ops = torch.ops.tvmops
_is_compiling = torch.compiler.is_compiling


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``(x - mean) / sqrt(variance + eps) * weight + bias``, see :func:`torch.nn.functional.layer_norm`.

    Args:
        input: ``[*, *normalized_shape]``.
        normalized_shape: the last dimensions, over which mean and variance are taken.
        weight: ``[*normalized_shape]``.
        bias: ``[*normalized_shape]``.
        eps: added to the variance.

    Raises:
        RuntimeError: the shapes or dtypes do not go together, in torch's words.
    """
    call: Any = _ops.layer_norm if _is_compiling() else _C.layer_norm
    return call(input, normalized_shape, weight, bias, eps)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """``x / sqrt(mean(x ** 2) + eps) * weight``, see :func:`torch.nn.functional.rms_norm`.

    Args:
        input: ``[*, *normalized_shape]``.
        normalized_shape: the last dimensions, over which the mean is taken.
        weight: ``[*normalized_shape]``.
        eps: added to the mean; None: that of float32 (of float64 for float64).

    Raises:
        RuntimeError: the shapes or dtypes do not go together, in torch's words.
    """
    call: Any = _ops.rms_norm if _is_compiling() else _C.rms_norm
    return call(input, normalized_shape, weight, eps)


def add_layer_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """``(layer_norm(x), x)`` with ``x = input + residual``, in one pass.

    Args:
        input: ``[*, *normalized_shape]``.
        residual: what is added, of the same shape and dtype; others that broadcast go to ATen.
        normalized_shape: as in :func:`layer_norm`, like ``weight``, ``bias`` and ``eps``.
        weight: ``[*normalized_shape]``.
        bias: ``[*normalized_shape]``.
        eps: added to the variance.

    Raises:
        RuntimeError: the shapes or dtypes do not go together, in torch's words.
    """
    call: Any = _ops.add_layer_norm if _is_compiling() else _C.add_layer_norm
    return call(input, residual, normalized_shape, weight, bias, eps)


def add_rms_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> tuple[Tensor, Tensor]:
    """``(rms_norm(x), x)`` with ``x = input + residual``, in one pass.

    Args:
        input: ``[*, *normalized_shape]``.
        residual: what is added, of the same shape and dtype; others that broadcast go to ATen.
        normalized_shape: as in :func:`rms_norm`, like ``weight`` and ``eps``.
        weight: ``[*normalized_shape]``.
        eps: added to the mean; None: that of float32 (of float64 for float64).

    Raises:
        RuntimeError: the shapes or dtypes do not go together, in torch's words.
    """
    call: Any = _ops.add_rms_norm if _is_compiling() else _C.add_rms_norm
    return call(input, residual, normalized_shape, weight, eps)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """:func:`layer_norm` of groups of channels, see :func:`torch.nn.functional.group_norm`.

    Args:
        input: ``[N, C, *]``; kernels serve what is contiguous.
        num_groups: how many groups the ``C`` channels are cut into.
        weight: ``[C]``.
        bias: ``[C]``.
        eps: added to the variance.

    Raises:
        RuntimeError: the shapes or dtypes do not go together, in torch's words.
        ValueError: a group has a single element.
    """
    if input.dim() < 2 or num_groups <= 0 or input.numel() < 2 * num_groups:  # what torch checks before it calls ATen
        return F.group_norm(input, num_groups, weight, bias, eps)
    call: Any = _ops.group_norm if _is_compiling() else _C.group_norm
    return call(input, num_groups, weight, bias, eps)


# -- torch.vmap: a batch is one more dimension in front; weights that have a batch of their own are applied apart ------


def _front(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _per_example(weight: Tensor, dim: int | None, rank: int) -> Tensor:
    """A weight as it multiplies a batch of results of ``rank`` dimensions each."""
    if dim is None:
        return weight
    weight = weight.movedim(dim, 0)
    return weight.reshape(weight.shape[0], *[1] * (rank - weight.dim() + 1), *weight.shape[1:])


def _vmap(name: str, residual: bool) -> Any:
    op = getattr(_ops, name)

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        rows = 2 if residual else 1
        inputs = [_front(x, d, info.batch_size) for x, d in zip(args[:rows], in_dims, strict=False)]
        shape, *rest = args[rows:]
        defaults: list[Any] = [None, None] if name.endswith("rms_norm") else [None, None, 1e-5]
        *weights, eps = [*rest, *defaults[len(rest) :]]
        dims = [*in_dims[rows + 1 :], None, None][: len(weights)]
        outs: tuple[int, ...] | int = (0, 0) if residual else 0
        if all(d is None for d in dims):
            return op(*inputs, shape, *weights, eps), outs
        plain = op(*inputs, shape, *[None] * len(weights), eps)
        y = plain[0] if residual else plain
        rank = y.dim() - 1
        if weights[0] is not None:
            y = y * _per_example(weights[0], dims[0], rank)
        if len(weights) > 1 and weights[1] is not None:
            y = y + _per_example(weights[1], dims[1], rank)
        return ((y, plain[1]) if residual else y), outs

    return rule


for _name, _residual in (
    ("layer_norm", False),
    ("rms_norm", False),
    ("add_layer_norm", True),
    ("add_rms_norm", True),
):
    torch.library.register_vmap(f"tvmops::{_name}", _vmap(_name, _residual))


def _group_norm_vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, int]:
    weights = (weight, bias)
    dims = [*in_dims[2:], None, None][:2]
    x = _front(input, in_dims[0], info.batch_size)
    apart = any(d is not None for d in dims)
    y = _ops.group_norm(x.flatten(0, 1), num_groups, *((None, None) if apart else weights), eps).reshape(x.shape)
    if apart:
        by_channel = [
            None if w is None else _per_example(w, d, 1).reshape(-1, 1, x.shape[2], *[1] * (x.dim() - 3))
            for w, d in zip(weights, dims, strict=True)
        ]
        y = y if by_channel[0] is None else y * by_channel[0]
        y = y if by_channel[1] is None else y + by_channel[1]
    return y, 0


torch.library.register_vmap("tvmops::group_norm", _group_norm_vmap)
