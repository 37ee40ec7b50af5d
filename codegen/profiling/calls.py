"""Which workload a call of a PyTorch or tvmops operator is, from its name and arguments. No torch, no TVM here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import ops
from ..workload import Workload

# ATen's names that differ from ours; the rest are found under their own.
ATEN = {
    "_log_softmax": "log_softmax",
    "_softmax": "softmax",
    "_fused_rms_norm": "rms_norm",
    "native_group_norm": "group_norm",
    "native_layer_norm": "layer_norm",
}
DTYPES = {"torch.float32": "float32", "torch.bfloat16": "bfloat16", "torch.float16": "float16"}
# Squares up to this size have kernels of their own; others are served by the general one.
LARGEST_SQUARE = 64


def workload_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Workload | None:
    """The workload whose kernel serves, or could serve, a call; None if there is none.

    A workload with static sizes where kernels are made for one size (linear layers, small square products), else the
    one whose kernel serves all sizes.

    Args:
        name: of the operator, with its namespace and without its overload, e.g. ``aten.addmm``.
        args: of the call, tensors among them.
        kwargs: of the call.
    """
    space, _, op = name.partition(".")
    tensors = [a for a in args if hasattr(a, "dtype") and hasattr(a, "shape")]
    if space not in ("aten", "tvmops") or not tensors or tensors[0].device.type != "cpu":
        return None
    op = op.removesuffix("_") if space == "aten" else op
    dtype = DTYPES.get(str(tensors[0].dtype))
    if dtype is None:
        return None
    if op in _PRODUCTS:
        found = _PRODUCTS[op](space == "tvmops", args, kwargs or {})
        return found if found and dtype == found.dtype else None
    return _general(_renamed(space, op, args, kwargs or {}), dtype)


def _renamed(space: str, op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Our name of an operator that is no product."""
    if op == "gelu" and "tanh" in (kwargs.get("approximate"), *args[1:2]):
        return "gelu_tanh"
    if op == "norm_forward":  # x, residual, number of dimensions, weight, bias, eps, rms
        return ("add_" if args[1] is not None else "") + ("rms_norm" if args[6] else "layer_norm")
    return ATEN.get(op, op) if space == "aten" else op


def _general(op: str, dtype: str) -> Workload | None:
    """The workload of all sizes."""
    known = ops.load(op).workloads() if op in ops.all_ops() else ()
    return next((w for w in known if w.dtype == dtype and not any(w.dims.values())), None)


def _linear(ours: bool, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Workload | None:
    """``input, weight, bias``; of tvmops also activation, residual, prepack. The general kernel serves if unpacked."""
    weight = args[1]
    prepack = kwargs.get("prepack", args[5] if len(args) > 5 else False)
    if len(weight.shape) != 2 or (ours and not prepack):
        return _general("matmul", "float32")
    n, k = map(int, weight.shape)
    return Workload("linear", "float32", {"M": None, "N": n, "K": k})


def _product(a: Any, b: Any) -> Workload | None:
    shape = (*a.shape, *b.shape)
    if len(a.shape) == len(b.shape) == 2 and len(set(shape)) == 1 and 0 < shape[0] <= LARGEST_SQUARE:
        return Workload("matmul", "float32", dict.fromkeys("MNK", int(shape[0])))
    return _general("matmul", "float32")


def _mm(ours: bool, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Workload | None:
    return _product(args[0], args[1])


def _addmm(ours: bool, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Workload | None:
    """What torch makes of a linear layer has a bias of one dimension and a weight that is a transposed view."""
    bias, a, b = args[:3]
    if not ours and len(bias.shape) == 1 and b.stride(0) == 1 and b.stride(1) == b.shape[0]:
        k, n = map(int, b.shape)
        return Workload("linear", "float32", {"M": None, "N": n, "K": k})
    return _product(a, b)


_PRODUCTS: Mapping[str, Callable[[bool, Sequence[Any], Mapping[str, Any]], Workload | None]] = {
    "addmm": _addmm,
    "baddbmm": lambda ours, args, kwargs: _general("matmul", "float32"),
    "bmm": _mm,
    "linear": _linear,
    "matmul": _mm,
    "mm": _mm,
    "mv": _mm,
}
