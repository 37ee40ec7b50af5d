"""Pointwise functions fused with what stands beside them in models: a bias, a residual, a gate, a learnable scale.

Each computes what the formula in its docstring computes in torch's own functions, in one pass and with one rounding to
the storage dtype; whatever no kernel covers (other dtypes and devices, broadcasting, promotion) is that very formula.
An ``activation`` is ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"``, ``"silu"``, ``"sigmoid"``, ``"tanh"`` or None.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tvmops import _C

_ops = torch.ops.tvmops
_is_compiling = torch.compiler.is_compiling


def bias_activation(
    input: Tensor, bias: Tensor | None = None, activation: str | None = None, residual: Tensor | None = None
) -> Tensor:
    """``activation(input + bias) + residual``.

    Args:
        input: ``[..., N]``.
        bias: ``[N]``.
        activation: by name, or None.
        residual: of the shape of ``input``, added last. One that is not, and a bias that is not ``[N]``, broadcast, but
            no kernel serves them.

    Returns:
        ``[..., N]``; a copy of ``input`` if there is nothing to do.

    Raises:
        ValueError: the activation is unknown.
        RuntimeError: the shapes or devices do not go together, in torch's words.
    """
    call = _ops.bias_activation if _is_compiling() else _C.bias_activation
    return call(input, bias, activation, residual)


def add_activation(input: Tensor, other: Tensor, activation: str | None = None) -> Tensor:
    """``activation(input + other)``, such as the end of a residual block.

    Args:
        input: of any shape.
        other: of the same shape, else it broadcasts and no kernel serves it.
        activation: by name, or None.

    Raises:
        ValueError: the activation is unknown.
        RuntimeError: the shapes or devices do not go together, in torch's words.
    """
    return (_ops.add_activation if _is_compiling() else _C.add_activation)(input, other, activation)


def gated_activation(gate: Tensor, up: Tensor | None = None, activation: str | None = None) -> Tensor:
    """``activation(gate) * up``: the gated linear units of Shazeer, "GLU Variants Improve Transformer", 2020.

    Args:
        gate: of any shape; ``[..., 2 N]``, gate and ``up`` side by side, if there is no ``up``.
        up: of the shape of ``gate``, else it broadcasts and no kernel serves it.
        activation: by name, or None (the bilinear layer).

    Returns:
        Of the shape of ``gate``, or ``[..., N]`` of its halves. The gradient of an input that holds both is made in one
        piece: that is faster than halves that were split before.

    Raises:
        ValueError: the activation is unknown.
        RuntimeError: the shapes or devices do not go together, in torch's words; or a last dimension that should be
            halved is odd.
    """
    if up is None:
        return (_ops.gated_halves if _is_compiling() else _C.gated_halves)(gate, activation)
    return (_ops.gated_activation if _is_compiling() else _C.gated_activation)(gate, up, activation)


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """``silu(gate) * up``, see :func:`gated_activation`."""
    return gated_activation(gate, up, "silu")


def geglu(gate: Tensor, up: Tensor | None = None, approximate: str = "none") -> Tensor:
    """``gelu(gate) * up``, see :func:`gated_activation`; ``approximate`` as in :func:`torch.nn.functional.gelu`.

    Raises:
        RuntimeError: as :func:`gated_activation`, and for an unknown ``approximate``.
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")
    return gated_activation(gate, up, "gelu" if approximate == "none" else "gelu_tanh")


def star_relu(input: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * relu(input) ** 2 + shift``: StarReLU of Yu et al., "MetaFormer Baselines for Vision", 2022.

    Args:
        input: of any shape.
        scale: of one element; another broadcasts, but no kernel serves it.
        shift: the same.

    Raises:
        RuntimeError: the shapes or devices do not go together, in torch's words.
    """
    return (_ops.star_relu if _is_compiling() else _C.star_relu)(input, scale, shift)


# --- torch.vmap: one call with a batch dimension more, first. ---


def _batched(x: Tensor, dim: int | None, rank: int) -> Tensor:
    """``x`` with its batch dimension first, of size one if it has none, before ``rank`` more."""
    x = x.unsqueeze(0) if dim is None else x.movedim(dim, 0)
    return x.reshape(x.shape[0], *(1,) * (rank + 1 - x.dim()), *x.shape[1:])


def _together(dims: tuple[int | None, ...], tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Tensors that broadcast as those of one element of the batch do; of the batch's full size where they are alike."""
    rank = max(x.dim() - (d is not None) for x, d in zip(tensors, dims, strict=True))
    return [_batched(x, d, rank) for x, d in zip(tensors, dims, strict=True)]


def _bias_activation(
    info: Any,
    in_dims: tuple[int | None, ...],
    input: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, int]:
    x_dim, b_dim, _, r_dim = (*in_dims, None, None, None)[:4]
    tensors = [(x, d) for x, d in ((input, x_dim), (bias, b_dim), (residual, r_dim)) if x is not None]
    together = _together(tuple(d for _, d in tensors), tuple(x for x, _ in tensors))
    x = together[0].expand(info.batch_size, *together[0].shape[1:])
    r = None if residual is None else together[-1]
    if bias is None or b_dim is None:
        return _ops.bias_activation(x, bias, activation, r), 0
    y = _ops.add_activation(x, together[1], activation)
    return (y if r is None else _ops.add_activation(y, r)), 0


def _binary(op: Any) -> Any:
    def rule(
        info: Any, in_dims: tuple[int | None, ...], a: Tensor, b: Tensor, activation: str | None = None
    ) -> tuple[Tensor, int]:
        return op(*_together(in_dims[:2], (a, b)), activation), 0

    return rule


def _gated_halves(
    info: Any, in_dims: tuple[int | None, ...], input: Tensor, activation: str | None
) -> tuple[Tensor, int]:
    if input.dim() == 1:  # no halves of a scalar: torch's own error
        return _ops.gated_halves(input.select(0, 0), activation), 0
    return _ops.gated_halves(_batched(input, in_dims[0], input.dim() - 1), activation), 0


def _star_relu(
    info: Any, in_dims: tuple[int | None, ...], input: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, int]:
    if in_dims[1] is None and in_dims[2] is None:
        return _ops.star_relu(_batched(input, in_dims[0], input.dim() - 1), scale, shift), 0
    return _ops.star_relu(*_together(in_dims, (input, scale, shift))), 0


for _name, _rule in {
    "bias_activation": _bias_activation,
    "add_activation": _binary(_ops.add_activation),
    "gated_activation": _binary(_ops.gated_activation),
    "gated_halves": _gated_halves,
    "star_relu": _star_relu,
}.items():
    torch.library.register_vmap(f"tvmops::{_name}", _rule)
