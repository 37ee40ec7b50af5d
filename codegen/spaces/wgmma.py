"""The space of matmul on Hopper's TensorCores: how blocks are tiled, how deep the ring is, in which order tiles go.

``codegen.cuda.wgmma`` makes the kernel of a choice.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from tvm import tirx

from ..cuda.hopper import ATOM_BYTES, COLUMNS, REGISTERS, ROW_BYTES, TILE_M, WARPGROUP
from ..cuda.intrinsics import CHUNK_BYTES, item_bytes
from ..cuda.kernel import DeviceKernel
from ..cuda.plan import gemm_plan_size
from ..cuda.wgmma import gemm, layout_of
from ..errors import CodegenError
from ..target import GpuTarget
from ..workload import Workload
from .constraints import AtMost, Choice, Constraint, Relation
from .device_gemm import BUFFERS, SIZES, is_half, is_tf32
from .space import Knob

# Registers of a consumer thread besides its accumulators: descriptors, indices, the values of the epilogue. With 40 one
# of ptxas' outputs had a spill. And those that it wants for one wgmma within what a thread has at launch.
OTHER_REGISTERS, LAUNCH_REGISTERS = 48, 26
# A barrier counts to 2**20 - 1 bytes; a box of a tensor map has at most 256 rows.
MOST_STAGE_BYTES, MOST_BOX = (1 << 20) - 1, 256
ATOM_ROWS = ATOM_BYTES // ROW_BYTES


def serves(workload: Workload, target: GpuTarget) -> bool:
    """Whether there is such a space: matmul for any number of rows, on sm_90a. TF32 must be contiguous along K."""
    attrs = workload.attrs
    if target.name != "sm_90a" or "rows" in attrs:
        return False
    return is_half(workload) or (is_tf32(workload) and (attrs["a"], attrs["b"]) == ("n", "t"))


class WgmmaSpace:
    """Knobs of C[batch, M, N] = A @ B by wgmma, all extents symbolic."""

    name = "wgmma"
    driver = "cuda_gemm"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(self, workload: Workload, target: GpuTarget) -> None:
        self.workload, self.target = workload, target
        self.a_t, self.b_n = workload.attrs["a"] == "t", workload.attrs["b"] == "n"
        self.knobs = (
            Knob("consumers", tuple(REGISTERS), "warpgroups that multiply; one more loads"),
            Knob("tiles", (1, 2), "times 64 rows of C for each of them"),
            Knob("block_n", tuple(range(32, 257, 32)), "columns of a block's tile of C, and of a wgmma"),
            Knob("stages", tuple(range(2, 9)), "tiles of A and B in the ring"),
            Knob("group", (1, 2, 4, 8, 16, 32), "rows of tiles (of clusters) that are walked through together, for L2"),
            Knob("persistent", (0, 1), "blocks stay and take tile after tile, so that loads run ahead of the epilogue"),
            Knob("chunk", (32, 64), "columns that the epilogue passes through shared memory at a time"),
            Knob("cluster", (1, 2), "blocks below each other that share a tile of B: each loads a part, for all"),
        )
        self.constraints = (
            Relation(
                f"shared memory: barriers, the ring and the epilogue's rows in {target.shared_bytes} bytes",
                ("consumers", "tiles", "block_n", "stages", "chunk"),
                lambda c: layout_of(c, self.a_t, self.b_n).shared_bytes <= target.shared_bytes,
            ),
            Relation(
                f"registers after setmaxnreg: accumulators and {OTHER_REGISTERS} others",
                ("consumers", "tiles", "block_n"),
                lambda c: c["tiles"] * c["block_n"] // 2 + OTHER_REGISTERS <= REGISTERS[c["consumers"]][1],
            ),
            Relation(
                f"registers at launch: the accumulators of a wgmma and {LAUNCH_REGISTERS} others",
                ("consumers", "block_n"),
                lambda c: (
                    c["block_n"] // 2 + LAUNCH_REGISTERS <= target.registers_sm // (WARPGROUP * (c["consumers"] + 1))
                ),
            ),
            AtMost("rows of a box of A", ((TILE_M, ("consumers", "tiles")),), MOST_BOX),
            AtMost(
                "bytes that a barrier expects",
                ((TILE_M * ROW_BYTES, ("consumers", "tiles")), (ROW_BYTES, ("block_n",))),
                MOST_STAGE_BYTES,
            ),
            Relation(
                "a box of a row-major B has 64 columns, which fill the swizzle's 128 bytes",
                ("block_n",),
                lambda c: not self.b_n or c["block_n"] % COLUMNS == 0,
            ),
            Relation(
                "each block of a cluster loads whole boxes of B, or whole atoms of the swizzle",
                ("block_n", "cluster"),
                lambda c: c["block_n"] % (c["cluster"] * (COLUMNS if self.b_n else ATOM_ROWS)) == 0,
            ),
            Relation(
                "the tile's columns are whole chunks", ("block_n", "chunk"), lambda c: c["block_n"] % c["chunk"] == 0
            ),
        )

    def default(self) -> dict[str, int]:
        """128 x 256 with four stages, which has the most arithmetic for each byte of shared memory.

        In clusters of two: such a tile takes 1024 clocks for each ROW_BYTES of K, and 48 KiB from L2 without sharing,
        which is 48 bytes a clock for each of 132 multiprocessors, 6336 in all; with it 32 and 4224. L2 gives 5120 on
        A100, and no more is published for H100. Where M is one row of tiles, half of the blocks have nothing to store.
        """
        return {
            "consumers": 2,
            "tiles": 1,
            "block_n": 256,
            "stages": 4,
            "group": 8,
            "persistent": 1,
            "chunk": 32,
            "cluster": 2,
        }

    def alternatives(self) -> list[dict[str, int]]:
        """What is to be timed beside the default: the same with blocks that share nothing."""
        return [{**self.default(), "cluster": 1}]

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver binds."""
        layout = layout_of(choice, self.a_t, self.b_n)
        return {
            "align": CHUNK_BYTES // item_bytes(self.workload.dtype),
            "layout_a": int(self.a_t),
            "layout_b": int(not self.b_n),
            "rows": 0,
            "tf32": int(is_tf32(self.workload)),
            "block_m": layout.block_m,
            "block_n": layout.block_n,
            "block_k": ROW_BYTES // item_bytes(self.workload.dtype),
            "stages": layout.stages,
            "split_k": 1,
            "threads": layout.threads,
            "shared_bytes": layout.shared_bytes,
        }

    def apply(self, choice: Choice) -> list[DeviceKernel]:
        """The kernel of a choice."""
        layout = layout_of(choice, self.a_t, self.b_n)
        blocks = self.target.multiprocessors if choice["persistent"] else 0

        def make() -> tirx.PrimFunc:
            return gemm(self.workload.dtype, layout, choice["group"], blocks)

        words = ",".join(f"{knob.name}={choice[knob.name]}" for knob in self.knobs)
        mark = zlib.crc32(f"{self.workload.key}|{words}".encode())
        symbol = f"{self.target.name}_wgmma_{self.workload.dtype}_{layout.letters}_{mark:08x}"
        return [DeviceKernel(symbol, make, BUFFERS, SIZES, pipeline="tirx")]

    def plan_size(self) -> int:
        """See :func:`codegen.cuda.plan.gemm_plan_size`."""
        return gemm_plan_size(self.workload.dims["N"] is not None and self.workload.dims["K"] is not None)


def create(workload: Workload, target: GpuTarget) -> WgmmaSpace:
    """The space of a workload.

    Raises:
        CodegenError: it has none.
    """
    if not serves(workload, target):
        raise CodegenError(f"{workload.key} has no space 'wgmma' on {target.name}")
    return WgmmaSpace(workload, target)
