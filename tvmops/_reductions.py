"""Reductions along any dimensions, with torch's own signatures and semantics.

float32, bfloat16 and float16 tensors on CPU are served by kernels if what is reduced can be walked through as rows, in
any order of dimensions; low precision is computed in float32 and rounded once. All else goes to ATen.

``dim`` is a dimension, several, or all of them (``None`` or an empty tuple); negative ones count from the end.
``keepdim``: reduced dimensions stay, of size 1. ``out``: the result is written here. Errors are torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tvmops import _C
from tvmops._functional import Number, _into

_ops = torch.ops.tvmops
_is_compiling = torch.compiler.is_compiling
Dims = int | list[int] | tuple[int, ...] | None


def sum(
    input: Tensor,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The sum along ``dim``, see :func:`torch.sum`. ATen computes it if ``dtype`` is not the input's."""
    if dtype is not None and dtype != input.dtype:
        return torch.sum(input, dim, keepdim, dtype=dtype, **({} if out is None else {"out": out}))
    if out is not None:
        return _into(out, _ops.sum, input, dim, keepdim)
    return _ops.sum(input, dim, keepdim) if _is_compiling() else _C.sum(input, dim, keepdim)


def mean(
    input: Tensor,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The mean along ``dim``, see :func:`torch.mean`. ATen computes it if ``dtype`` is not the input's."""
    if dtype is not None and dtype != input.dtype:
        return torch.mean(input, dim, keepdim, dtype=dtype, **({} if out is None else {"out": out}))
    if out is not None:
        return _into(out, _ops.mean, input, dim, keepdim)
    return _ops.mean(input, dim, keepdim) if _is_compiling() else _C.mean(input, dim, keepdim)


def var(
    input: Tensor, dim: Dims = None, *, correction: Number = 1, keepdim: bool = False, out: Tensor | None = None
) -> Tensor:
    """The variance along ``dim``, the sum of squares divided by the count less ``correction``; see :func:`torch.var`.

    Within a few roundings of the exact one, also where the mean is large.
    """
    if out is not None:
        return _into(out, _ops.var, input, dim, keepdim, correction)
    if _is_compiling():
        return _ops.var(input, dim, keepdim, correction)
    return _C.var(input, dim, keepdim, correction)


def amax(input: Tensor, dim: Dims = (), keepdim: bool = False, *, out: Tensor | None = None) -> Tensor:
    """The maximum along ``dim``, NaN if there is one; see :func:`torch.amax`."""
    if out is not None:
        return _into(out, _ops.amax, input, dim, keepdim)
    return _ops.amax(input, dim, keepdim) if _is_compiling() else _C.amax(input, dim, keepdim)


def amin(input: Tensor, dim: Dims = (), keepdim: bool = False, *, out: Tensor | None = None) -> Tensor:
    """The minimum along ``dim``, NaN if there is one; see :func:`torch.amin`."""
    if out is not None:
        return _into(out, _ops.amin, input, dim, keepdim)
    return _ops.amin(input, dim, keepdim) if _is_compiling() else _C.amin(input, dim, keepdim)


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False, *, out: Tensor | None = None) -> Tensor:
    """Where the maximum along ``dim`` is, the first one of several, int64; see :func:`torch.argmax`.

    ``None``: in the flattened tensor. NaN is larger than any number.
    """
    if out is not None:
        return _into(out, _ops.argmax, input, dim, keepdim)
    return _ops.argmax(input, dim, keepdim) if _is_compiling() else _C.argmax(input, dim, keepdim)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False, *, out: Tensor | None = None) -> Tensor:
    """Where the minimum along ``dim`` is, the first one of several, int64; see :func:`torch.argmin`.

    ``None``: in the flattened tensor. NaN is smaller than any number.
    """
    if out is not None:
        return _into(out, _ops.argmin, input, dim, keepdim)
    return _ops.argmin(input, dim, keepdim) if _is_compiling() else _C.argmin(input, dim, keepdim)


_Rule = Callable[..., tuple[Tensor, int]]


def _register_vmap() -> None:
    """The same reduction of one dimension more, which stays."""

    def inner(dim: Dims, rank: int) -> list[int]:
        dims = [dim] if isinstance(dim, int) else list(dim or range(rank))
        return [d + 1 if d >= 0 else d for d in dims]

    def reduction(name: str) -> _Rule:
        op = getattr(_ops, name)

        def rule(info: Any, in_dims: Any, x: Tensor, dim: Dims = None, keepdim: bool = False, *more: Number) -> Any:
            x = x.movedim(in_dims[0], 0)
            if x.dim() == 1:  # of numbers
                return op(x.unsqueeze(1), 1, False, *more), 0
            return op(x, inner(dim, x.dim() - 1), keepdim, *more), 0

        return rule

    def index(name: str) -> _Rule:
        op = getattr(_ops, name)

        def rule(info: Any, in_dims: Any, x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
            x = x.movedim(in_dims[0], 0)
            rank = x.dim() - 1
            if dim is not None and rank > 0:
                return op(x, dim + 1 if dim >= 0 else dim, keepdim), 0
            place = op(x.reshape(info.batch_size, -1), 1, False)
            return place.reshape(-1, *[1] * rank) if keepdim else place, 0

        return rule

    def gradient(name: str, tensors: int) -> _Rule:
        op = getattr(_ops, name)

        def rule(info: Any, in_dims: Any, *args: Any) -> Any:
            given = [
                t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
                for t, d in zip(args[:tensors], in_dims, strict=False)
            ]
            return op(*given, [d + 1 for d in args[tensors]], *args[tensors + 1 :]), 0

        return rule

    for name in ("sum", "mean", "var", "amax", "amin"):
        torch.library.register_vmap(f"tvmops::{name}", reduction(name))
    for name in ("argmax", "argmin"):
        torch.library.register_vmap(f"tvmops::{name}", index(name))
    torch.library.register_vmap("tvmops::var_backward", gradient("var_backward", 2))
    torch.library.register_vmap("tvmops::amax_backward", gradient("amax_backward", 3))


_register_vmap()
