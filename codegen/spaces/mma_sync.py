"""The space of GEMM kernels with ``mma.sync`` on TensorCores: tiles, stages, the layout of shared memory, split K.

``codegen.cuda.mma_sync`` gives the knobs their meaning; the driver is csrc/cuda's "cuda_gemm".
"""

from __future__ import annotations

from ..cuda.intrinsics import DEPTH_BYTES, FRAGMENT, WARP, item_bytes
from ..cuda.kernel import DeviceKernel
from ..cuda.mma_sync import kernel
from ..cuda.mma_tiling import Tiling
from ..target import GpuTarget
from ..workload import Workload
from .constraints import AtMost, Choice, Relation
from .device_gemm import BUFFERS, SIZES, WARPS, DeviceGemmSpace, is_half, is_tf32
from .space import Knob

# Registers besides accumulators, fragments and one a copy, and the most copies: ptxas spilled nothing in hundreds of
# random choices within these bounds.
BASE_REGISTERS, COPIES = 44, 16


def serves(workload: Workload, target: GpuTarget) -> bool:
    """Whether the space is for the workload: with a layout. Every GPU target has the instructions."""
    return is_half(workload) or is_tf32(workload)


def create(workload: Workload, target: GpuTarget) -> MmaSyncSpace:
    """The space of a workload that it serves."""
    return MmaSyncSpace(workload, target)


class MmaSyncSpace(DeviceGemmSpace):
    """Knobs of ``codegen.cuda.mma_sync.kernel``."""

    name = "mma_sync"

    def __init__(self, workload: Workload, target: GpuTarget) -> None:
        super().__init__(workload, target)
        depth = self.depth = DEPTH_BYTES // item_bytes(workload.dtype)
        self.knobs = (
            Knob("warps_m", (1, 2, 4), "warps of a block, along M"),
            Knob("warps_n", (1, 2, 4), "warps of a block, along N"),
            Knob("fragments_m", (1, 2, 3, 4), f"fragments of {FRAGMENT} rows of a warp"),
            Knob("fragments_n", (1, 2, 3, 4), f"fragments of {FRAGMENT} columns of a warp"),
            Knob("block_k", (depth, 2 * depth, 4 * depth), "depth of a tile in shared memory"),
            Knob("stages", (2, 3, 4, 5, 6), "tiles in shared memory at once: one is read, the others are on their way"),
            Knob("swizzle", (0, 1), "chunks of shared rows change places, in place of padding"),
            Knob("vector", (self.chunk // 2, self.chunk), "elements of an asynchronous copy"),
            Knob("group_m", (1, 4, 8, 16), "rows of blocks that are walked column by column"),
            Knob("split_k", (1, 2, 4, 8), "parts of K that have blocks of their own"),
            Knob("buffers", (1, 2), "sets of fragments: with two, one is loaded while the other is multiplied"),
        )
        shape = ("warps_m", "warps_n", "fragments_m", "fragments_n")
        shared = (*shape, "block_k", "stages", "swizzle")
        self.constraints = (
            AtMost("threads of a block", ((WARP, ("warps_m", "warps_n")),), target.threads_block),
            Relation(
                f"stages and epilogue fit in the {target.shared_bytes} bytes of shared memory that a block may have",
                shared,
                lambda c: self.tiling(c).shared_bytes <= target.shared_bytes,
            ),
            Relation(
                f"a multiprocessor has shared memory and threads for {WARPS} warps",
                shared,
                lambda c: self.resident_warps(self.tiling(c)) >= WARPS,
            ),
            Relation(
                f"registers of a thread, estimated: at most {target.registers_thread}, or they spill",
                (*shape, "block_k", "vector", "buffers"),
                lambda c: self.registers(c) <= target.registers_thread,
            ),
            Relation(
                f"registers of a block, estimated: at most {target.registers_sm}",
                (*shape, "block_k", "vector", "buffers"),
                lambda c: self.registers(c) * self.tiling(c).threads <= target.registers_sm,
            ),
            Relation(
                f"a thread copies at most {COPIES} vectors of a tile: their addresses are registers too",
                (*shape, "block_k", "vector"),
                lambda c: self.copies(c) <= COPIES,
            ),
            Relation(
                "all threads copy the same number of vectors of A and of B",
                (*shape, "block_k", "vector"),
                lambda c: all(v % (c["vector"] * self.tiling(c).threads) == 0 for v in self._tile_elements(c)),
            ),
            Relation(
                "rows that are swizzled have a power of two of chunks",
                (*shape, "block_k", "swizzle"),
                lambda c: not c["swizzle"] or all((n // self.chunk).bit_count() == 1 for n in self._lengths(c)),
            ),
            Relation(
                "with two sets of fragments a tile has an even number of steps, so that tiles follow each other alike",
                ("block_k", "buffers"),
                lambda c: c["buffers"] == 1 or c["block_k"] // self.depth % 2 == 0,
            ),
            Relation(
                "a block has no more rows than there are",
                ("warps_m", "fragments_m"),
                lambda c: not self.rows or c["warps_m"] * c["fragments_m"] * FRAGMENT <= self.rows,
            ),
        )

    def tiling(self, choice: Choice) -> Tiling:
        """What the kernel is made from."""
        c = self.complete(choice)
        swizzle = bool(c.pop("swizzle"))
        return Tiling(self.workload.dtype, self.across_a, self.along_b, swizzle, **c)

    def registers(self, choice: Choice) -> int:
        """Of a thread, estimated: accumulators, fragments, and what the loops and copies need."""
        fm, fn = choice["fragments_m"], choice["fragments_n"]
        return 8 * fm * fn + 4 * (fm + fn) * choice["buffers"] + BASE_REGISTERS + self.copies(choice)

    def copies(self, choice: Choice) -> int:
        """Vectors of a tile of A and of B that a thread copies, rounded down."""
        return sum(self._tile_elements(choice)) // (choice["vector"] * self.tiling(choice).threads)

    def _tile_elements(self, choice: Choice) -> tuple[int, int]:
        t = self.tiling(choice)
        return t.block_m * t.block_k, t.block_n * t.block_k

    def _lengths(self, choice: Choice) -> tuple[int, int]:
        t = self.tiling(choice)
        return t.a.length, t.b.length

    def default(self) -> dict[str, int]:
        """By arithmetic, not measured.

        Tiles of 64 x 64 a warp read 64 bytes of shared memory a cycle at the full rate of an A100's TensorCores, half
        of what there is; 128 x 128 a block halve what smaller ones ask of L2, and two blocks share a multiprocessor, so
        that the epilogue of one is hidden by the other. With few rows weights are all the traffic, and what counts is
        bytes on their way: two blocks a multiprocessor, K split to have as many.
        """
        few = bool(self.rows)
        roomy = self.target.shared_bytes_sm > 128 << 10
        return {
            "warps_m": 2,
            "warps_n": 2,
            "fragments_m": 2 if few else 4,
            "fragments_n": 2 if few else 4,
            "block_k": self.depth * (4 if few else 2),
            "stages": 4 if roomy else 3,
            "swizzle": 1,
            "vector": self.chunk,
            "group_m": 1 if few else 8,
            "split_k": 4 if few else 1,
            "buffers": 2,
        }

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver must know of a kernel to choose and launch it."""
        return self.kernel_params(self.tiling(choice), choice["split_k"])

    def apply(self, choice: Choice) -> list[DeviceKernel]:
        """The kernel."""
        t, dims = self.tiling(choice), self.workload.dims
        name = self.symbol(t, choice)
        return [DeviceKernel(name, lambda: kernel(t, dims["N"], dims["K"]), BUFFERS, SIZES, pipeline="tirx")]
