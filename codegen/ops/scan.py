"""``cumsum`` and ``cumprod`` along the middle dimension of [M, N, I], any sizes, and the gradient of ``cumprod``.

Exclusive and reversed scans are data of the call, not of the workload: every kernel can do all four.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from ..errors import CodegenError
from ..workload import Workload

if TYPE_CHECKING:
    import torch
    from tvm import te

    from ..spaces.space import Space
    from ..target import GpuTarget, Target

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ScanOperator:
    """A scan; ``kind`` is one of ``leaves.scan.KINDS``. See ``codegen/ops/__init__.py`` for the members."""

    name: str
    kind: str

    def definition(self, workload: Workload) -> list[te.Tensor]:
        """X [M, N, I] -> Y [M, N, I], each element reduced anew from those up to it.

        The gradient: G, X, Y -> the sums of G Y from each element on, divided by X.
        """
        from tvm import te, tirx

        from ..leaves.scan import KINDS

        kind, backward = KINDS[self.kind], self.kind == "prod_backward"
        m, n, i = (te.var(name, "int32") if size is None else size for name, size in workload.dims.items())
        inputs = [te.placeholder((m, n, i), workload.dtype, name) for name in ("GXY" if backward else "X")]
        k = te.reduce_axis((0, n), "k")
        reduce = te.comm_reducer(kind.combine, lambda dtype: tirx.const(kind.identity, dtype), name=self.kind)
        identity = tirx.const(kind.identity, workload.dtype)

        def scanned(a: tirx.Var, b: tirx.Var, c: tirx.Var) -> te.Tensor:
            value = inputs[0][a, k, c] * inputs[2][a, k, c] if backward else inputs[0][a, k, c]
            return reduce(tirx.if_then_else(k >= b if backward else k <= b, value, identity), axis=k)

        result = te.compute((m, n, i), scanned, "scan")
        if backward:
            result = te.compute((m, n, i), lambda a, b, c: result[a, b, c] / inputs[1][a, b, c], "D")
        return [*inputs, result]

    def inputs(self, workload: Workload, sizes: Mapping[str, int], seed: int) -> list[np.ndarray]:
        """Standard normal; factors near 1 or -1, so that products neither grow nor vanish."""
        rng = np.random.default_rng(seed)
        shape = [sizes[name] for name in workload.dims]
        x: np.ndarray = rng.standard_normal(shape, "float32")
        if self.kind == "sum":
            return [x]
        x = np.sign(x) * (1 + x / 16)
        if self.kind == "prod":
            return [x]
        return [rng.standard_normal(shape, "float32"), x, np.cumprod(x, axis=1)]

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        """In float64."""
        arrays = [x.astype(np.float64) for x in inputs]
        if self.kind == "prod_backward":
            g, x, y = arrays
            return np.asarray(np.cumsum((g * y)[:, ::-1], axis=1)[:, ::-1] / x)
        return np.asarray((np.cumsum if self.kind == "sum" else np.cumprod)(arrays[0], axis=1))

    def aten(self, *inputs: torch.Tensor) -> torch.Tensor:
        """``torch.cumsum``, ``torch.cumprod``, or what autograd calls for its gradient."""
        import torch

        if self.kind == "prod_backward":
            g, x, y = inputs
            return torch.ops.aten.cumprod_backward(g, x, 1, y)
        return torch.cumsum(inputs[0], 1) if self.kind == "sum" else torch.cumprod(inputs[0], 1)

    def flops(self, sizes: Mapping[str, int]) -> int:
        """One operation an element, in gradients three."""
        return (3 if self.kind == "prod_backward" else 1) * sizes["M"] * sizes["N"] * sizes["I"]

    def bytes(self, sizes: Mapping[str, int]) -> int:
        """Inputs and output once, in float32."""
        return 4 * (4 if self.kind == "prod_backward" else 2) * sizes["M"] * sizes["N"] * sizes["I"]

    def space(self, workload: Workload, target: Target) -> Space:
        """The space of scans."""
        from ..spaces.scan import ScanSpace

        return ScanSpace(workload, target, self.kind)

    def workloads(self) -> list[Workload]:
        """Every dtype, any size."""
        return [Workload(self.name, dtype, {"M": None, "N": None, "I": None}) for dtype in DTYPES]

    def device_space(self, workload: Workload, target: GpuTarget, name: str | None = None) -> Space:
        """The space of scans on a GPU.

        Raises:
            CodegenError: it has no such space, or sizes are compiled in.
        """
        from ..spaces.device_scan import DeviceScanSpace

        if name not in (None, DeviceScanSpace.name) or any(workload.dims.values()):
            raise CodegenError(f"{workload.key} has no space {name or DeviceScanSpace.name!r} on {target.name}")
        return cast("Space", DeviceScanSpace(workload, target, self.kind))

    def device_workloads(self) -> list[Workload]:
        """The same as on a CPU."""
        return self.workloads()


_KINDS = {"cumsum": "sum", "cumprod": "prod", "cumprod_backward": "prod_backward"}
OPERATORS = {name: ScanOperator(name, kind) for name, kind in _KINDS.items()}
