"""What the spaces of GEMM kernels on GPUs have in common: the driver's arguments and params, and names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from ..cuda.intrinsics import CHUNK_BYTES, item_bytes
from ..cuda.plan import gemm_plan_size
from ..target import GpuTarget
from ..workload import Workload
from .constraints import Choice, Constraint
from .space import Knob

BUFFERS = ("A", "B", "C", "bias", "residual")
SIZES = ("batch", "M", "N", "K", "lda", "ldb", "activation", "flags")
SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "tf32"}
LAYOUT = {"a", "b", "rows"}  # attributes
RESERVED = 1024  # bytes of shared memory that each block costs besides its own
WARPS = 4  # that a multiprocessor must hold for its four schedulers to have one each


def is_half(workload: Workload) -> bool:
    """Whether it is a product of 16-bit operands, in a layout, of any rows or few."""
    attrs = {*workload.attrs}
    return workload.op == "matmul" and workload.dtype in ("float16", "bfloat16") and {"a", "b"} <= attrs <= LAYOUT


def is_tf32(workload: Workload) -> bool:
    """Whether it is a product of float32 operands that are rounded to TF32, which the attribute ``tf32=1`` allows."""
    attrs = {*workload.attrs}
    return (
        workload.op == "matmul"
        and workload.dtype == "float32"
        and workload.attrs.get("tf32") == "1"
        and {"a", "b"} <= attrs <= {*LAYOUT, "tf32"}
    )


class BlockTiling(Protocol):
    """What there is to know of a kernel's tiles."""

    @property
    def block_m(self) -> int: ...  # noqa: D102 - told by its name

    @property
    def block_n(self) -> int: ...  # noqa: D102

    @property
    def block_k(self) -> int: ...  # noqa: D102

    @property
    def stages(self) -> int: ...  # noqa: D102

    @property
    def threads(self) -> int: ...  # noqa: D102

    @property
    def shared_bytes(self) -> int: ...  # noqa: D102


class DeviceGemmSpace:
    """C [batch, M, N] = activation(A B + bias) + residual, 16-bit elements or TF32, sums in float32; see csrc/cuda."""

    name: str
    driver = "cuda_gemm"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(self, workload: Workload, target: GpuTarget) -> None:
        self.workload, self.target = workload, target
        self.rows = int(workload.attrs.get("rows", 0))
        self.chunk = CHUNK_BYTES // item_bytes(workload.dtype)  # elements of 16 bytes
        self.across_a, self.along_b = (workload.attrs[x] == "t" for x in "ab")

    def complete(self, choice: Choice) -> dict[str, int]:
        """The choice; of knobs that it leaves out, those that the constraint at hand is not about, the first value."""
        return {**{knob.name: knob.values[0] for knob in self.knobs}, **choice}

    def resident_warps(self, t: BlockTiling) -> int:
        """Warps that a multiprocessor can hold, by shared memory and threads."""
        blocks = min(self.target.shared_bytes_sm // (t.shared_bytes + RESERVED), self.target.threads_sm // t.threads)
        return blocks * t.threads // self.target.warp

    def kernel_params(self, t: BlockTiling, split_k: int = 1) -> dict[str, int]:
        """What the driver must know of a kernel to choose and launch it."""
        return {
            "align": self.chunk,
            "layout_a": int(self.across_a),
            "layout_b": int(self.along_b),
            "rows": self.rows,
            "tf32": int(is_tf32(self.workload)),
            "block_m": t.block_m,
            "block_n": t.block_n,
            "block_k": t.block_k,
            "stages": t.stages,
            "split_k": split_k,
            "threads": t.threads,
            "shared_bytes": t.shared_bytes,
        }

    def symbol(self, t: BlockTiling, choice: Choice) -> str:
        """A name that tells what a kernel is, and no other kernel has."""
        text = f"{self.target.name} {self.workload.key} {sorted(choice.items())}"
        layout = "".join(self.workload.attrs[x] for x in "ab")
        tiles = f"{t.block_m}x{t.block_n}x{t.block_k}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.target.name}_{self.name}_{SHORT[self.workload.dtype]}_{layout}_{tiles}_{digest}"

    def plan_size(self) -> int:
        """How many size buckets a plan of the workload has."""
        return gemm_plan_size(None not in (self.workload.dims["N"], self.workload.dims["K"]))
