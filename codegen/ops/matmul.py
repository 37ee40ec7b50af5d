"""``matmul``: C[M, N] = A[M, K] @ B[K, N]. The general kernel, which serves every shape, layout and batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..workload import Workload

if TYPE_CHECKING:
    import torch
    from tvm import te

    from ..spaces.space import Space
    from ..target import Target


def definition(workload: Workload) -> list[te.Tensor]:
    """A [M, K], B [K, N] -> C [M, N]."""
    from tvm import te

    m, n, k = (te.var(name, "int32") if size is None else size for name, size in workload.dims.items())
    a = te.placeholder((m, k), workload.dtype, "A")
    b = te.placeholder((k, n), workload.dtype, "B")
    r = te.reduce_axis((0, k), "k")
    return [a, b, te.compute((m, n), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), "C")]


def inputs(workload: Workload, sizes: Mapping[str, int], seed: int) -> list[np.ndarray]:
    """Standard normal A and B."""
    rng = np.random.default_rng(seed)
    m, n, k = (sizes[d] for d in "MNK")
    return [rng.standard_normal(shape, "float32") for shape in ((m, k), (k, n))]


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
