"""softmax, log_softmax and logsumexp, with torch's own signatures and semantics.

float32, bfloat16 and float16 tensors on CPU are served by kernels, along any dimension; low precision is computed in
float32 and rounded once. All else goes to ATen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tvmops import _C

_ops = torch.ops.tvmops
_is_compiling = torch.compiler.is_compiling


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """``exp(x) / sum(exp(x))`` along a dimension, see :func:`torch.softmax`.

    Args:
        input: any shape. Rows that are not contiguous, along the last dimension, are copied first.
        dim: the dimension that sums to one.
        dtype: what the input is cast to before; another than its own is ATen's.

    Returns:
        A contiguous tensor of the input's shape.

    Raises:
        IndexError: there is no such dimension.
    """
    return _ops.softmax(input, dim, dtype) if _is_compiling() else _C.softmax(input, dim, dtype)


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """``x - log(sum(exp(x)))`` along a dimension, see :func:`torch.log_softmax`; arguments as for :func:`softmax`."""
    return _ops.log_softmax(input, dim, dtype) if _is_compiling() else _C.log_softmax(input, dim, dtype)


def logsumexp(input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """``log(sum(exp(x)))`` over one dimension or several, see :func:`torch.logsumexp`.

    Args:
        input: any shape.
        dim: the dimensions that are summed over; of several, kernels serve neighbours.
        keepdim: whether they stay, with size one.

    Raises:
        IndexError: there is no such dimension.
        RuntimeError: a dimension is named twice.
    """
    if _is_compiling():
        return _ops.logsumexp(input, [dim] if isinstance(dim, int) else dim, keepdim)
    return _C.logsumexp(input, dim, keepdim)


def _batched_dim(dim: int, rank: int) -> int:
    """Where a dimension of a function's argument is once the batch is in front; ``rank`` includes the batch."""
    seen = max(rank - 1, 1)  # a number has one dimension to softmax
    if not -seen <= dim < seen:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-seen}, {seen - 1}], but got {dim})")
    return dim % seen + 1


def _register_vmap() -> None:
    """One call on the whole batch, with its dimension in front."""

    def front(x: Tensor, dim: int | None, size: int) -> Tensor:
        return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)

    def along(op: Any) -> Any:
        def rule(info: Any, in_dims: tuple[int | None, ...], x: Tensor, dim: int, dtype: Any = None) -> Any:
            x = front(x, in_dims[0], info.batch_size)
            if x.dim() == 1:  # of numbers
                return op(x.unsqueeze(1), _batched_dim(dim, 1), dtype).squeeze(1), 0
            return op(x, _batched_dim(dim, x.dim()), dtype), 0

        return rule

    def along_backward(op: Any) -> Any:
        def rule(info: Any, in_dims: tuple[int | None, ...], g: Tensor, y: Tensor, dim: int) -> Any:
            g, y = front(g, in_dims[0], info.batch_size), front(y, in_dims[1], info.batch_size)
            if y.dim() == 1:
                return op(g.unsqueeze(1), y.unsqueeze(1), _batched_dim(dim, 1)).squeeze(1), 0
            return op(g, y, _batched_dim(dim, y.dim())), 0

        return rule

    def logsumexp_rule(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, dims: Sequence[int], keepdim: bool = False
    ) -> Any:
        x = front(x, in_dims[0], info.batch_size)
        if x.dim() == 1:
            return _ops.logsumexp(x.unsqueeze(1), [_batched_dim(d, 1) for d in dims], False), 0
        return _ops.logsumexp(x, [_batched_dim(d, x.dim()) for d in dims], keepdim), 0

    def logsumexp_backward_rule(
        info: Any,
        in_dims: tuple[int | None, ...],
        g: Tensor,
        x: Tensor,
        y: Tensor,
        dims: Sequence[int],
        keepdim: bool = False,
    ) -> Any:
        g, x, y = (front(t, d, info.batch_size) for t, d in zip((g, x, y), in_dims[:3], strict=True))
        if x.dim() == 1:
            return g * (x - y).exp(), 0
        return _ops.logsumexp_backward(g, x, y, [_batched_dim(d, x.dim()) for d in dims], keepdim), 0

    for name in ("softmax", "log_softmax"):
        torch.library.register_vmap(f"tvmops::{name}", along(getattr(_ops, name)))
        torch.library.register_vmap(f"tvmops::{name}_backward", along_backward(getattr(_ops, name + "_backward")))
    torch.library.register_vmap("tvmops::logsumexp", logsumexp_rule)
    torch.library.register_vmap("tvmops::logsumexp_backward", logsumexp_backward_rule)


_register_vmap()
