"""The operators, with torch's own signatures and semantics.

Each call looks for a kernel that covers it and wins; else ATen computes it, so that results, gradients and errors are
torch's own. Outside of ``torch.compile`` the calls skip the dispatcher where it would have nothing to do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tvmops import _C

Number = int | float | bool | complex

_ops = torch.ops.tvmops
_C.set_operators(_ops)
_fast_matmul, _fast_mm, _fast_bmm, _fast_mv, _fast_linear = _C.matmul, _C.mm, _C.bmm, _C.mv, _C.linear
_is_compiling = torch.compiler.is_compiling


def _into(out: Tensor, op: Any, *args: Any, **kwargs: Any) -> Tensor:
    """``op`` with its result in ``out``."""
    if not _is_compiling():
        return _C.call(op.out, *args, **kwargs, out=out)  # unlike op.out, this makes Python warnings of C++ warnings
    result = op(*args, **kwargs)  # what returns its out= can't be traced, unless it is ATen's
    if out.dtype != result.dtype:
        raise RuntimeError(f"Expected out tensor to have dtype {result.dtype}, but got {out.dtype} instead")
    if out.shape != result.shape:
        out.resize_(result.shape)
    return out.copy_(result)


def matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The matrix product of two tensors, see :func:`torch.matmul`.

    Args:
        input: ``[..., M, K]`` or ``[K]``.
        other: ``[..., K, N]`` or ``[K]``; leading dimensions broadcast. float32 on CPU is served by kernels, whatever
            the strides.
        out: the result is written here if given.

    Returns:
        ``[..., M, N]`` of the operands' dtype, without the dimensions that a 1-D operand lacks.

    Raises:
        RuntimeError: the shapes, dtypes or devices do not go together, in torch's words.
    """
    if out is not None:
        return _into(out, _ops.matmul, input, other)
    return _ops.matmul(input, other) if _is_compiling() else _fast_matmul(input, other)


def mm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The product of two matrices ``[M, K] @ [K, N]``, see :func:`torch.mm`; ``out`` is ``[M, N]``.

    Raises:
        RuntimeError: as :func:`torch.mm`.
    """
    if out is not None:
        return _into(out, _ops.mm, input, mat2)
    return _ops.mm(input, mat2) if _is_compiling() else _fast_mm(input, mat2)


def bmm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The products of matrices ``[B, M, K] @ [B, K, N]``, see :func:`torch.bmm`; ``out`` is ``[B, M, N]``.

    Raises:
        RuntimeError: as :func:`torch.bmm`.
    """
    if out is not None:
        return _into(out, _ops.bmm, input, mat2)
    return _ops.bmm(input, mat2) if _is_compiling() else _fast_bmm(input, mat2)


def mv(input: Tensor, vec: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The product of a matrix ``[M, K]`` and a vector ``[K]``, see :func:`torch.mv`; ``out`` is ``[M]``.

    Raises:
        RuntimeError: as :func:`torch.mv`.
    """
    if out is not None:
        return _into(out, _ops.mv, input, vec)
    return _ops.mv(input, vec) if _is_compiling() else _fast_mv(input, vec)


def addmm(
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: Number = 1,
    alpha: Number = 1,
    out: Tensor | None = None,
) -> Tensor:
    """``beta * input + alpha * (mat1 @ mat2)``, see :func:`torch.addmm`.

    Args:
        input: broadcasts to ``[M, N]``; not read if ``beta`` is 0.
        mat1: ``[M, K]``.
        mat2: ``[K, N]``.
        beta: factor of ``input``.
        alpha: factor of the product.
        out: ``[M, N]``; the result is written here if given.

    Raises:
        RuntimeError: as :func:`torch.addmm`.
    """
    if out is not None:
        return _into(out, _ops.addmm, input, mat1, mat2, beta=beta, alpha=alpha)
    return _ops.addmm(input, mat1, mat2, beta=beta, alpha=alpha)


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    *,
    prepack: bool = False,
) -> Tensor:
    """``activation(input @ weight.T + bias) + residual``, computed in one pass; see :func:`torch.nn.functional.linear`.

    Args:
        input: ``[..., K]``.
        weight: ``[N, K]``.
        bias: ``[N]``.
        activation: ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"``, ``"silu"``, ``"sigmoid"``, ``"tanh"`` or None.
        residual: ``[..., N]``, added last.
        prepack: keep a copy of ``weight`` in the kernel's own layout between calls. It costs the memory of the weight
            once more, is made at the first call, and is remade when the weight's version counter moves. For parameters
            and buffers: a weight that is computed anew for each call is better read as it is.

    Returns:
        ``[..., N]``.

    Raises:
        ValueError: the activation is unknown.
        RuntimeError: the shapes, dtypes or devices do not go together, in torch's words.
    """
    if _is_compiling():
        return _ops.linear(input, weight, bias, activation, residual, prepack)
    return _fast_linear(input, weight, bias, activation, residual, prepack)
