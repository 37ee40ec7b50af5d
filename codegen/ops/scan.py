"""``cumsum`` and ``cumprod``: prefix sums and products along the middle dimension of [M, N, I], any sizes.

Exclusive and reversed scans are data of the call, not of the workload: every kernel can do all four.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..workload import Workload

if TYPE_CHECKING:
    import torch
    from tvm import te

    from ..spaces.space import Space
    from ..target import Target

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ScanOperator:
    """A scan; ``kind`` is one of ``leaves.scan.KINDS``. See ``codegen/ops/__init__.py`` for the members."""

    name: str
    kind: str

    def definition(self, workload: Workload) -> list[te.Tensor]:
        """X [M, N, I] -> Y [M, N, I], each element reduced anew from those up to it."""
        from tvm import te, tirx

        from ..leaves.scan import KINDS

        kind = KINDS[self.kind]
        m, n, i = (te.var(name, "int32") if size is None else size for name, size in workload.dims.items())
        x = te.placeholder((m, n, i), workload.dtype, "X")
        k = te.reduce_axis((0, n), "k")
        reduce = te.comm_reducer(kind.combine, lambda dtype: tirx.const(kind.identity, dtype), name=self.kind)

        def element(a: tirx.Var, b: tirx.Var, c: tirx.Var) -> te.Tensor:
            inside = tirx.if_then_else(k <= b, x[a, k, c], tirx.const(kind.identity, workload.dtype))
            return reduce(inside, axis=k)

        return [x, te.compute((m, n, i), element, "Y")]

    def inputs(self, workload: Workload, sizes: Mapping[str, int], seed: int) -> list[np.ndarray]:
        """Standard normal; for products near 1 or -1, so that they neither grow nor vanish."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal([sizes[name] for name in workload.dims], "float32")
        return [x if self.kind == "sum" else np.sign(x) * (1 + x / 16)]

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        """In float64."""
        (x,) = inputs
        scan = np.cumsum if self.kind == "sum" else np.cumprod
        return np.asarray(scan(x.astype(np.float64), axis=1))

    def aten(self, *inputs: torch.Tensor) -> torch.Tensor:
        """``torch.cumsum`` or ``torch.cumprod``."""
        import torch

        (x,) = inputs
        return torch.cumsum(x, 1) if self.kind == "sum" else torch.cumprod(x, 1)

    def flops(self, sizes: Mapping[str, int]) -> int:
        """One operation an element."""
        return sizes["M"] * sizes["N"] * sizes["I"]

    def bytes(self, sizes: Mapping[str, int]) -> int:
        """X and Y once, in float32."""
        return 8 * sizes["M"] * sizes["N"] * sizes["I"]

    def space(self, workload: Workload, target: Target) -> Space:
        """The space of scans."""
        from ..spaces.scan import ScanSpace

        return ScanSpace(workload, target, self.kind)

    def workloads(self) -> list[Workload]:
        """Every dtype, any size."""
        return [Workload(self.name, dtype, {"M": None, "N": None, "I": None}) for dtype in DTYPES]


OPERATORS = {op.name: op for op in (ScanOperator("cumsum", "sum"), ScanOperator("cumprod", "prod"))}
