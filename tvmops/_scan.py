"""Prefix sums and products, with torch's own signatures and semantics; also exclusive, and from the end.

float32, bfloat16 and float16 tensors on CPU are served by kernels that accumulate in float64 and round once; the same
input gives the same bits whatever the number of threads. All else goes to ATen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tvmops import _C
from tvmops._functional import _into

_ops = torch.ops.tvmops
_is_compiling = torch.compiler.is_compiling


def cumsum(
    input: Tensor,
    dim: int,
    *,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    exclusive: bool = False,
    reverse: bool = False,
) -> Tensor:
    """The sums of the elements up to each one along a dimension, see :func:`torch.cumsum`.

    Args:
        input: of any shape.
        dim: the dimension to sum along.
        dtype: of the result; integers become int64 by default.
        out: the result is written here if given.
        exclusive: leave each element out of its own sum; the first one is 0.
        reverse: sum from each element to the end.

    Returns:
        The shape of ``input``, contiguous.

    Raises:
        IndexError: there is no such dimension.
        RuntimeError: as :func:`torch.cumsum`.
    """
    if out is not None:
        return _into(out, _ops.cumsum, input, dim, out.dtype if dtype is None else dtype, exclusive, reverse)
    if _is_compiling():
        return _ops.cumsum(input, dim, dtype, exclusive, reverse)
    return _C.cumsum(input, dim, dtype, exclusive, reverse)


def cumprod(
    input: Tensor,
    dim: int,
    *,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    exclusive: bool = False,
    reverse: bool = False,
) -> Tensor:
    """The products of the elements up to each one along a dimension, see :func:`torch.cumprod`.

    Args:
        input: of any shape.
        dim: the dimension to multiply along.
        dtype: of the result; integers become int64 by default.
        out: the result is written here if given.
        exclusive: leave each element out of its own product; the first one is 1.
        reverse: multiply from each element to the end.

    Returns:
        The shape of ``input``, contiguous.

    Raises:
        IndexError: there is no such dimension.
        RuntimeError: as :func:`torch.cumprod`.
    """
    if out is not None:
        return _into(out, _ops.cumprod, input, dim, out.dtype if dtype is None else dtype, exclusive, reverse)
    if _is_compiling():
        return _ops.cumprod(input, dim, dtype, exclusive, reverse)
    return _C.cumprod(input, dim, dtype, exclusive, reverse)


# What torch.vmap makes of them: see tvmops/_vmap.py.


def _batched(operands: list[Tensor], in_dims: list[int | None], dim: int) -> tuple[list[Tensor], int, bool]:
    """The operands with their batch dimension first, the dimension to scan, and whether that was added for scalars."""
    first = next(i for i, d in enumerate(in_dims) if d is not None)
    size = operands[first].size(in_dims[first] or 0)
    rank = operands[first].dim() - 1
    moved = [x.expand(size, *x.shape) if d is None else x.movedim(d, 0) for x, d in zip(operands, in_dims, strict=True)]
    limit = max(rank, 1)
    if not -limit <= dim < limit:
        wrong = f"Dimension out of range (expected to be in range of [{-limit}, {limit - 1}], but got {dim})"
        raise IndexError(wrong)
    if rank == 0:
        return [x.unsqueeze(1) for x in moved], 1, True
    return moved, dim % rank + 1, False


def _rule(op: Callable[..., Tensor], count: int) -> Callable[..., tuple[Tensor, int]]:
    """The rule of an operator whose first ``count`` arguments are tensors, followed by the dimension."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        operands, dim, scalar = _batched(list(args[:count]), list(in_dims[:count]), args[count])
        result = op(*operands, dim, *args[count + 1 :])
        return (result.squeeze(1) if scalar else result), 0

    return rule


for _name, _count in (("cumsum", 1), ("cumprod", 1), ("cumprod_backward", 3)):
    torch.library.register_vmap(f"tvmops::{_name}", _rule(getattr(_ops, _name), _count))
