"""What ``torch.vmap`` makes of each operator: one call with a batch dimension more.

In every rule ``in_dims`` says where the batch dimension of an operand is, or None where it has none; results have it
first. Within a rule operands are torch's own tensors again, so that the calls below may be vmapped themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ops = torch.ops.tvmops
_Result = tuple[Tensor, int]

_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def _front(x: Tensor, dim: int | None) -> Tensor:
    """``x`` with its batch dimension first, if it has one."""
    return x if dim is None else x.movedim(dim, 0)


def _rank(x: Tensor, dim: int | None) -> int:
    """The number of dimensions that the vmapped function sees."""
    return x.dim() - (dim is not None)


def _padded(x: Tensor, dim: int | None, rank: int) -> Tensor:
    """``x`` with its batch dimension first and dimensions of size one after it until the function sees ``rank``."""
    x = _front(x, dim)
    if dim is None:
        return x
    while x.dim() < rank + 1:
        x = x.unsqueeze(1)
    return x


def _refuse(op: Callable[..., Any], in_dims: tuple[int | None, ...], *operands: Tensor, **kwargs: Any) -> None:
    """Raises torch's own error, from the operands of one element of the batch."""
    op(*(x if d is None else x.select(d, 0) for x, d in zip(operands, in_dims, strict=True)), **kwargs)
    raise RuntimeError(f"{op.__name__}: the shapes of the operands do not go together")


def _mm(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, b: Tensor) -> _Result:
    if _rank(a, in_dims[0]) != 2 or _rank(b, in_dims[1]) != 2:
        _refuse(torch.mm, in_dims, a, b)
    return _ops.matmul(_front(a, in_dims[0]), _front(b, in_dims[1])), 0


def _bmm(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, b: Tensor) -> _Result:
    x, y = _front(a, in_dims[0]), _front(b, in_dims[1])
    if _rank(a, in_dims[0]) != 3 or _rank(b, in_dims[1]) != 3 or x.size(-3) != y.size(-3):
        _refuse(torch.bmm, in_dims, a, b)
    return _ops.matmul(x, y), 0


def _mv(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, v: Tensor) -> _Result:
    if _rank(a, in_dims[0]) != 2 or _rank(v, in_dims[1]) != 1:
        _refuse(torch.mv, in_dims, a, v)
    x, y = _front(a, in_dims[0]), _front(v, in_dims[1])
    if in_dims[1] is None:
        return _ops.matmul(x, y), 0
    if in_dims[0] is None:  # the vectors are the rows of a matrix
        return _ops.mm(y, x.t()), 0
    return _ops.bmm(x, y.unsqueeze(-1)).squeeze(-1), 0


def _matmul(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, b: Tensor) -> _Result:
    ra, rb = _rank(a, in_dims[0]), _rank(b, in_dims[1])
    if ra == 0 or rb == 0:
        _refuse(torch.matmul, in_dims, a, b)
    x, y = _front(a, in_dims[0]), _front(b, in_dims[1])
    # A vector is a row or a column, so that dimensions align; then the batch goes in front of all others.
    if ra == 1:
        x = x.unsqueeze(-2)
    if rb == 1:
        y = y.unsqueeze(-1)
    rank = max(ra, rb, 2)
    c = _ops.matmul(
        _padded(x, None if in_dims[0] is None else 0, rank), _padded(y, None if in_dims[1] is None else 0, rank)
    )
    if rb == 1:
        c = c.squeeze(-1)
    if ra == 1:
        c = c.squeeze(-1 if rb == 1 else -2)
    return c, 0


def _addmm(
    info: Any,
    in_dims: tuple[int | None, int | None, int | None],
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: Any = 1,
    alpha: Any = 1,
) -> _Result:
    if _rank(mat1, in_dims[1]) != 2 or _rank(mat2, in_dims[2]) != 2 or _rank(input, in_dims[0]) > 2:
        _refuse(torch.addmm, in_dims, input, mat1, mat2, beta=beta, alpha=alpha)
    if in_dims[1] is None and in_dims[2] is None:
        product = _ops.mm(mat1, mat2).unsqueeze(0)
    else:
        product, _ = _mm(info, in_dims[1:], mat1, mat2)
    if alpha != 1:
        product = product * alpha
    start = _padded(input, in_dims[0], 2).expand(info.batch_size, *product.shape[1:])
    if beta == 0:  # the input is then not read
        return product.expand(start.shape), 0
    return product + (start if beta == 1 else start * beta), 0


def _linear(
    info: Any,
    in_dims: tuple[int | None, ...],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    prepack: bool = False,
) -> _Result:
    # Arguments that were left out are missing in in_dims too.
    x_dim, w_dim, b_dim, _, r_dim = (*in_dims, None, None, None)[:5]
    rank, r_rank = _rank(input, x_dim), 0 if residual is None else _rank(residual, r_dim)
    x = _front(input, x_dim)
    if w_dim is None and b_dim is None:
        if x_dim is None:  # only the residual has a batch
            x = x.unsqueeze(0)
        if residual is None or (x_dim is not None and r_rank == rank):
            r = None if residual is None else _front(residual, r_dim)
            return _ops.linear(x, weight, bias, activation, r, prepack), 0
        y = _ops.linear(x, weight, bias, activation, None, prepack)
    else:
        if w_dim is None:
            y = _ops.linear(x, weight, None, None, None, prepack)
            y = y if x_dim is not None else y.unsqueeze(0)
        elif _rank(weight, w_dim) != 2:
            _refuse(F.linear, (x_dim, w_dim), input, weight)
        else:
            y, _ = _matmul(info, (x_dim, 0), input, weight.movedim(w_dim, 0).transpose(-1, -2))
        if bias is not None:
            y = y + _padded(bias, b_dim, rank)
        y = _ACTIVATIONS[activation](y)
    if residual is None:
        return y, 0
    return _padded(y, 0, max(rank, r_rank)) + _padded(residual, r_dim, max(rank, r_rank)), 0


_RULES: dict[str, Callable[..., _Result]] = {
    "mm": _mm,
    "bmm": _bmm,
    "mv": _mv,
    "matmul": _matmul,
    "addmm": _addmm,
    "linear": _linear,
}
for _name, _rule in _RULES.items():
    torch.library.register_vmap(f"tvmops::{_name}", _rule)
