"""``matmul``: C[M, N] = A[M, K] @ B[K, N]. The general kernel, which serves every shape, layout and batch.

On a GPU the layout is the kernel's: ``a=n`` is A as [batch, M, lda], ``a=t`` as [batch, K, lda]; ``b=n`` is B as
[batch, K, ldb], ``b=t`` as [batch, N, ldb], which is how ``linear`` keeps its weights. ``rows=64``: at most 64 rows.
``tf32=1``, without which float32 has no kernel there: operands are rounded to TF32, which torch must allow.
These kernels serve ``linear``, ``mm``, ``bmm`` and ``addmm`` too.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np

from ..errors import CodegenError
from ..workload import Workload

if TYPE_CHECKING:
    import torch
    from tvm import te, tirx
    from tvm.ir import Expr

    from ..spaces.space import Space
    from ..target import GpuTarget, Target

LAYOUTS = ({"a": "n", "b": "n"}, {"a": "n", "b": "t"}, {"a": "t", "b": "n"}, {"a": "t", "b": "t"})
FEW_ROWS = 64
# What a space may be called on a GPU; the first that makes kernels for a workload is the operator's own.
DEVICE_SPACES = ("wgmma", "mma_sync", "wmma")


def definition(workload: Workload) -> list[te.Tensor]:
    """A [M, K], B [K, N] -> C [M, N]; with the attributes ``a`` and ``b``, see :func:`device_definition`."""
    from tvm import te

    if workload.attrs:
        return device_definition(workload)
    m, n, k = (te.var(name, "int32") if size is None else size for name, size in workload.dims.items())
    a = te.placeholder((m, k), workload.dtype, "A")
    b = te.placeholder((k, n), workload.dtype, "B")
    r = te.reduce_axis((0, k), "k")
    return [a, b, te.compute((m, n), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), "C")]


def device_definition(workload: Workload, given: Mapping[str, Expr] | None = None) -> list[te.Tensor]:
    """A, B -> C [batch, M, N] in the workload's layout: products and sums in float32, rounded once at the end.

    ``given``: sizes to take in place of variables of their names. With lda and ldb among them rows of A and B are so
    long in memory, and their first elements, as many as the other sizes say, are used.
    """
    from tvm import te

    sizes = {**{name: te.var(name, "int32") for name in ("batch", *workload.dims)}, **(given or {})}
    sizes |= {name: size for name, size in workload.dims.items() if size is not None}
    batch, m, n, k = (sizes[name] for name in ("batch", "M", "N", "K"))
    across, along = workload.attrs["a"] == "t", workload.attrs["b"] == "t"

    def operand(name: str, rows: Expr, columns: Expr, stride: Expr | None) -> tuple[te.Tensor, te.Tensor]:
        whole = te.placeholder((batch, rows, columns if stride is None else stride), workload.dtype, name)
        if stride is None:
            return whole, whole
        return whole, te.compute((batch, rows, columns), lambda z, i, j: whole[z, i, j], f"{name}_used")

    a, left = operand("A", *((k, m) if across else (m, k)), sizes.get("lda"))
    b, right = operand("B", *((n, k) if along else (k, n)), sizes.get("ldb"))
    r = te.reduce_axis((0, k), "k")

    def product(z: tirx.Var, i: tirx.Var, j: tirx.Var) -> Expr:
        one = left[z, r, i] if across else left[z, i, r]
        other = right[z, j, r] if along else right[z, r, j]
        return te.sum(one.astype("float32") * other.astype("float32"), axis=r)

    total = te.compute((batch, m, n), product, "total")
    return [a, b, te.compute((batch, m, n), lambda z, i, j: total[z, i, j].astype(workload.dtype), "C")]


def inputs(workload: Workload, sizes: Mapping[str, int], seed: int) -> list[np.ndarray]:
    """Standard normal A [M, K] and B [K, N]; transposed in memory where the workload's layout says so."""
    rng = np.random.default_rng(seed)
    m, n, k = (sizes[d] for d in "MNK")
    out = []
    for name, shape in (("a", (m, k)), ("b", (k, n))):
        across = workload.attrs.get(name) == "t"
        array = rng.standard_normal(shape[::-1] if across else shape, "float32")
        out.append(array.T if across else array)
    return out


def reference(*inputs: np.ndarray) -> np.ndarray:
    """In float64."""
    a, b = inputs
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64))


def aten(*inputs: torch.Tensor) -> torch.Tensor:
    """``torch.matmul``."""
    import torch

    a, b = inputs
    return torch.matmul(a, b)


def flops(sizes: Mapping[str, int]) -> int:
    """A multiplication and an addition for each of M N K."""
    return 2 * sizes["M"] * sizes["N"] * sizes["K"]


def bytes(sizes: Mapping[str, int]) -> int:
    """A, B and C once, in float32."""
    m, n, k = (sizes[d] for d in "MNK")
    return 4 * (m * k + k * n + m * n)


def space(workload: Workload, target: Target) -> Space:
    """The GEMM space."""
    from ..spaces.gemm import GemmSpace

    return GemmSpace(workload, target)


def workloads() -> list[Workload]:
    """One for all sizes, and small squares."""
    squares = [f"M={n},N={n},K={n}" for n in (16, 32, 48, 64)]
    return [Workload.parse(f"matmul(float32;{dims})") for dims in ("M=*,N=*,K=*", *squares)]


def device_space(workload: Workload, target: GpuTarget, name: str | None = None) -> Space:
    """The space ``name`` on a GPU; by default the first of :data:`DEVICE_SPACES` that is for the workload.

    Raises:
        CodegenError: there is none.
    """
    for one in DEVICE_SPACES if name is None else (name,):
        if one not in DEVICE_SPACES:
            continue
        module = importlib.import_module(f"..spaces.{one}", __package__)
        if module.serves(workload, target):
            return cast("Space", module.create(workload, target))
    what = f"space {name!r}" if name else "space"
    raise CodegenError(f"{workload.key} has no {what} on {target.name}; known: {', '.join(DEVICE_SPACES)}")


def device_workloads() -> list[Workload]:
    """Both 16-bit types and TF32: every layout, and one for few rows of activations."""
    dims: dict[str, int | None] = {"M": None, "N": None, "K": None}
    few = {"a": "n", "b": "t", "rows": str(FEW_ROWS)}
    return [
        Workload("matmul", dtype, dims, {**attrs, **more})
        for dtype, more in (("float16", {}), ("bfloat16", {}), ("float32", {"tf32": "1"}))
        for attrs in (*LAYOUTS, few)
    ]
