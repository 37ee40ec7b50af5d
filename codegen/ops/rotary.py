"""``rotary_embedding``: pairs of elements turned by an angle each, X[M, H, N] by cos and sin [M, N / 2].

M positions, H heads of N elements, of which i goes with N / 2 + i. Other pairings, layouts and a part of the elements
that is not turned are data of the call, not of the workload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class RotaryOperator:
    """See ``codegen/ops/__init__.py`` for the members."""

    name = "rotary_embedding"

    def definition(self, workload: Workload) -> list[te.Tensor]:
        """X, cos, sin, Y."""
        from tvm import te, tirx

        m, h, n = (te.var(name, "int32") if size is None else size for name, size in workload.dims.items())
        x = te.placeholder((m, h, n), workload.dtype, "X")
        cos, sin = (te.placeholder((m, tirx.floordiv(n, 2)), "float32", name) for name in ("cos", "sin"))
        half = tirx.floordiv(n, 2)

        def turned(i: tirx.Var, j: tirx.Var, k: tirx.Var) -> te.Tensor:
            angle = tirx.floormod(k, half)
            one, other = x[i, j, angle].astype("float32"), x[i, j, angle + half].astype("float32")
            first = one * cos[i, angle] - other * sin[i, angle]
            second = other * cos[i, angle] + one * sin[i, angle]
            return tirx.Select(k < half, first, second).astype(workload.dtype)

        return [x, cos, sin, te.compute((m, h, n), turned, "Y")]

    def inputs(self, workload: Workload, sizes: Mapping[str, int], seed: int) -> list[np.ndarray]:
        """Standard normal; the angles of positions, base 10000."""
        m, h, n = (sizes[name] for name in workload.dims)
        x = np.random.default_rng(seed).standard_normal((m, h, n), "float32")
        angles = np.outer(np.arange(m), 10000.0 ** (-2.0 * np.arange(n // 2) / max(n, 1)))
        return [x, np.cos(angles).astype("float32"), np.sin(angles).astype("float32")]

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        """In float64."""
        x, cos, sin = (a.astype(np.float64) for a in inputs)
        one, other = np.split(x, 2, axis=-1)
        c, s = cos[:, None], sin[:, None]
        return np.concatenate([one * c - other * s, other * c + one * s], axis=-1)

    def aten(self, *inputs: torch.Tensor) -> torch.Tensor:
        """``x * cos + rotate_half(x) * sin``, as models have it; the tables are in the dtype of X."""
        import torch

        x, cos, sin = inputs
        c, s = (torch.cat([t, t], -1)[:, None].to(x.dtype) for t in (cos, sin))
        one, other = x.chunk(2, -1)
        return x * c + torch.cat([-other, one], -1) * s

    def flops(self, sizes: Mapping[str, int]) -> int:
        """Two multiplications and an addition an element."""
        return 3 * sizes["M"] * sizes["H"] * sizes["N"]

    def bytes(self, sizes: Mapping[str, int]) -> int:
        """Every operand once, in float32."""
        return 4 * sizes["M"] * sizes["N"] * (2 * sizes["H"] + 1)

    def space(self, workload: Workload, target: Target) -> Space:
        """The space of rotary embeddings."""
        from ..spaces.rotary import RotarySpace

        return RotarySpace(workload, target)

    def workloads(self) -> Sequence[Workload]:
        """Every dtype, any sizes."""
        return [Workload(self.name, dtype, {"M": None, "H": None, "N": None}) for dtype in DTYPES]

    def device_space(self, workload: Workload, target: GpuTarget, name: str | None = None) -> Space:
        """The space of rotary embeddings on a GPU.

        Raises:
            CodegenError: it has no such space, or sizes are compiled in.
        """
        from ..spaces.device_rotary import DeviceRotarySpace

        if name not in (None, DeviceRotarySpace.name) or any(workload.dims.values()):
            raise CodegenError(f"{workload.key} has no space {name or DeviceRotarySpace.name!r} on {target.name}")
        return cast("Space", DeviceRotarySpace(workload, target))

    def device_workloads(self) -> Sequence[Workload]:
        """The same as on a CPU."""
        return self.workloads()


OPERATORS = {RotaryOperator.name: RotaryOperator()}
