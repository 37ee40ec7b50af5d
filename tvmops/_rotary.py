"""Rotary position embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tvmops import _C

_ops = torch.ops.tvmops
_is_compiling = torch.compiler.is_compiling


def rotary_embedding(
    input: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False, seq_dim: int = 1, inverse: bool = False
) -> Tensor:
    """Turns pairs of elements of each row by the angles of its position.

    With R = 2 * ``cos.shape[-1]``, the first R elements of a row are turned and the others copied::

        y1 = x1 * cos - x2 * sin
        y2 = x2 * cos + x1 * sin

    where x1 and x2 are the two halves of these R elements (as GPT-NeoX and Llama have it), or, ``interleaved``, the
    even and the odd ones (as RoFormer and GPT-J have it). Source: Su et al., "RoFormer: Enhanced Transformer with
    Rotary Position Embedding", 2021.

    Args:
        input: ``[..., D]``, of at least two dimensions: ``[batch, seq, heads, D]``, or with ``seq_dim=2`` ``[batch,
            heads, seq, D]``. float32, bfloat16 and float16 on CPU, of up to four dimensions, are served by kernels
            whatever the strides, which compute in float32.
        cos: ``[seq, R / 2]``, or ``[batch, seq, R / 2]`` for positions that differ within the batch, where batch is the
            first dimension. Best in float32, whatever the input is.
        sin: of the same shape. Neither has a gradient by a kernel; where one is wanted, torch's operators serve.
        interleaved: which elements make a pair.
        seq_dim: the dimension of the input that has the positions; not the last.
        inverse: turn back, by the same angles. The gradient is this.

    Returns:
        Of the shape, dtype and order of strides of ``input``.

    Raises:
        RuntimeError: the shapes do not go together, or the input is not floating-point.
        IndexError: there is no dimension ``seq_dim``.
    """
    if _is_compiling():
        return _ops.rotary_embedding(input, cos, sin, interleaved, seq_dim, inverse)
    return _C.rotary_embedding(input, cos, sin, interleaved, seq_dim, inverse)


def _vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    input: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    seq_dim: int = 1,
    inverse: bool = False,
) -> tuple[Tensor, int]:
    """The batch of vmap joins the first dimension of the input; angles that differ get a batch dimension to match."""
    (x_dim, *dims), tables, count = in_dims[:3], (cos, sin), info.batch_size
    rank = input.dim() - (x_dim is not None)
    own = {t.dim() - (d is not None) for t, d in zip(tables, dims, strict=True)}
    place = seq_dim + rank if seq_dim < 0 else seq_dim
    if not 0 <= place < rank - 1 or own not in ({2}, {3}) or (own == {3} and place == 0):  # which raises
        one = [x if d is None else x.select(d, 0) for x, d in zip((input, cos, sin), in_dims, strict=False)]
        return _ops.rotary_embedding(*one, interleaved, seq_dim, inverse), 0
    x = _front(input, x_dim, count)
    if own == {2} and dims == [None, None]:
        return _ops.rotary_embedding(x, cos, sin, interleaved, place + 1, inverse), 0
    whole = [_front(t, d, count) for t, d in zip(tables, dims, strict=True)]
    if place == 0:
        return _ops.rotary_embedding(x, *whole, interleaved, 1, inverse), 0
    if own == {2}:
        whole = [t.unsqueeze(1).expand(count, x.shape[1], *t.shape[1:]) for t in whole]
    y = _ops.rotary_embedding(x.flatten(0, 1), *(t.flatten(0, 1) for t in whole), interleaved, place, inverse)
    return y.unflatten(0, (count, x.shape[1])), 0


def _front(t: Tensor, dim: int | None, count: int) -> Tensor:
    """With the batch dimension first, expanded if there was none."""
    return t.expand(count, *t.shape) if dim is None else t.movedim(dim, 0)


torch.library.register_vmap("tvmops::rotary_embedding", _vmap)
