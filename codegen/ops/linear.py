"""``linear``: y[M, N] = x[M, K] @ W[N, K]^T + bias[N], with W packed ahead of time. One kernel a layer size, any M.

The activation and the residual are data of the call, not of the workload: every kernel carries all epilogues.
"""

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

# (N, K) of the layers, by model. Layers of one size share a kernel.
MINILM = ((384, 384), (1536, 384), (384, 1536))
BERT_BASE = ((768, 768), (3072, 768), (768, 3072))
GPT2_SMALL = ((2304, 768), (768, 768), (3072, 768), (768, 3072), (50257, 768))
LARGE = ((4096, 4096),)


def definition(workload: Workload) -> list[te.Tensor]:
    """X [M, K], W [N, K], bias [N] -> Y [M, N]."""
    from tvm import te

    m, n, k = (te.var(name, "int32") if size is None else size for name, size in workload.dims.items())
    x = te.placeholder((m, k), workload.dtype, "X")
    w = te.placeholder((n, k), workload.dtype, "W")
    bias = te.placeholder((n,), workload.dtype, "bias")
    r = te.reduce_axis((0, k), "k")
    product = te.compute((m, n), lambda i, j: te.sum(x[i, r] * w[j, r], axis=r), "product")
    return [x, w, bias, te.compute((m, n), lambda i, j: product[i, j] + bias[j], "Y")]


def inputs(workload: Workload, sizes: Mapping[str, int], seed: int) -> list[np.ndarray]:
    """Standard normal X, W / sqrt(K) and bias, so that the activations see values around 1."""
    rng = np.random.default_rng(seed)
    m, n, k = (sizes[d] for d in "MNK")
    x, w, bias = (rng.standard_normal(shape, "float32") for shape in ((m, k), (n, k), (n, 1)))
    return [x, w / np.sqrt(np.float32(k)), bias[:, 0]]


def reference(*inputs: np.ndarray) -> np.ndarray:
    """In float64."""
    x, w, bias = (array.astype(np.float64) for array in inputs)
    return np.asarray(x @ w.T + bias)


def aten(*inputs: torch.Tensor) -> torch.Tensor:
    """``torch.nn.functional.linear``."""
    import torch

    x, w, bias = inputs
    return torch.nn.functional.linear(x, w, bias)


def flops(sizes: Mapping[str, int]) -> int:
    """A multiplication and an addition for each of M N K; the bias is left out, as is usual."""
    return 2 * sizes["M"] * sizes["N"] * sizes["K"]


def bytes(sizes: Mapping[str, int]) -> int:
    """X, W, bias and Y once, in float32."""
    m, n, k = (sizes[d] for d in "MNK")
    return 4 * (m * k + n * k + n + m * n)


def space(workload: Workload, target: Target) -> Space:
    """The GEMM space."""
    from ..spaces.gemm import GemmSpace

    return GemmSpace(workload, target)


def workloads() -> list[Workload]:
    """The layers of MiniLM-L6, BERT-base and GPT-2 small, and one large one."""
    sizes = dict.fromkeys(MINILM + BERT_BASE + GPT2_SMALL + LARGE)
    return [Workload("linear", "float32", {"M": None, "N": n, "K": k}) for n, k in sizes]
