"""The space of GEMM kernels with ``wmma``: Heron's knobs and constraints.

``codegen.cuda.wmma`` gives the knobs their meaning; the driver is csrc/cuda's "cuda_gemm". Source: Bi et al., "Heron:
Automatically Constrained High-Performance Library Generation for Deep Learning Accelerators", ASPLOS 2023.
"""

from __future__ import annotations

from ..cuda.intrinsics import CHUNK, WARP
from ..cuda.kernel import DeviceKernel
from ..cuda.wmma import Tiling, kernel
from ..target import GpuTarget
from ..workload import Workload
from .constraints import AtMost, Choice, Relation, Split
from .device_gemm import BUFFERS, SIZES, DeviceGemmSpace, is_half
from .space import Knob

SHAPE = 256  # rows times columns of a fragment: 16 x 16, 32 x 8, 8 x 32, all of depth 16
BASE_REGISTERS, COPIES = 48, 32
ROWS, COLUMNS = ("m", "warps_m", "fragments_m"), ("n", "warps_n", "fragments_n")  # of a block: the products


def serves(workload: Workload, target: GpuTarget) -> bool:
    """Whether the space is for the workload: 16-bit elements, rows of A along K. Every GPU target has ``wmma``."""
    return is_half(workload) and workload.attrs["a"] == "n"


def create(workload: Workload, target: GpuTarget) -> WmmaSpace:
    """The space of a workload that it serves."""
    return WmmaSpace(workload, target)


class WmmaSpace(DeviceGemmSpace):
    """Knobs of ``codegen.cuda.wmma.kernel``."""

    name = "wmma"

    def __init__(self, workload: Workload, target: GpuTarget) -> None:
        super().__init__(workload, target)
        self.knobs = (
            Knob("m", (8, 16, 32), "rows of a fragment of C"),
            Knob("n", (8, 16, 32), "columns of a fragment of C"),
            Knob("warps_m", (1, 2, 4), "warps of a block, along M"),
            Knob("warps_n", (1, 2, 4), "warps of a block, along N"),
            Knob("fragments_m", (1, 2, 4), "fragments of a warp, along M"),
            Knob("fragments_n", (1, 2, 4), "fragments of a warp, along N"),
            Knob("block_k", (16, 32, 64), "depth of a tile in shared memory"),
            Knob("stages", (1, 2, 3, 4), "tiles in shared memory at once; from 2 on copies are asynchronous"),
            Knob("padding", (0, 8), "elements after each shared row of A and B"),
            Knob("padding_c", (0, 4, 8), "floats after each shared row of C"),
            Knob("vector", (2, 4, CHUNK), "elements of A and B that are copied at once"),
            Knob("vector_c", (1, 2, 4), "elements of C that a thread takes at once"),
        )
        self.constraints = (
            Split(SHAPE, ("m", "n")),
            Relation(
                "fragments of B begin at multiples of 32 bytes: 16 columns or more where they lie along memory",
                ("n",),
                lambda c: self.along_b or c["n"] >= 16,
            ),
            AtMost("threads of a block", ((WARP, ("warps_m", "warps_n")),), target.threads_block),
            AtMost("rows of a block", ((1, ROWS),), self.rows or 256),
            AtMost("columns of a block", ((1, COLUMNS),), 256),
            AtMost("bytes of the stages in shared memory", self._stage_terms(), target.shared_bytes),
            AtMost(
                "bytes of C in shared memory",
                ((4, (*ROWS, *COLUMNS)), (4, (*ROWS, "padding_c"))),
                target.shared_bytes,
            ),
            Relation(
                f"registers, estimated: at most {target.registers_thread} a thread, {target.registers_sm} a block",
                (*ROWS, *COLUMNS, "block_k", "vector"),
                lambda c: (
                    self.registers(c) <= target.registers_thread
                    and self.registers(c) * self._threads(c) <= target.registers_sm
                ),
            ),
            Relation(
                f"all threads copy the same number of vectors of a tile, at most {COPIES}",
                (*ROWS, *COLUMNS, "block_k", "vector"),
                lambda c: self._even(c),
            ),
            Relation(
                "all threads take the same number of vectors of C",
                (*ROWS, *COLUMNS, "vector_c"),
                lambda c: (
                    self.tiling(c).block_m * self.tiling(c).block_n % (c["vector_c"] * self.tiling(c).threads) == 0
                ),
            ),
        )

    def _stage_terms(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """Of the sum of bytes: each tile's elements, and its rows' padding."""
        rows_b = COLUMNS if self.along_b else ("block_k",)
        products = ((*ROWS, "block_k"), (*ROWS, "padding"), (*COLUMNS, "block_k"), (*rows_b, "padding"))
        return tuple((2, ("stages", *names)) for names in products)

    def _even(self, choice: Choice) -> bool:
        t = self.tiling(choice)
        step = t.vector * t.threads
        tiles = (t.block_m * t.block_k, t.block_n * t.block_k)
        return all(size % step == 0 for size in tiles) and sum(tiles) <= COPIES * step

    def tiling(self, choice: Choice) -> Tiling:
        """What the kernel is made from."""
        return Tiling(self.workload.dtype, self.along_b, **self.complete(choice))

    def registers(self, choice: Choice) -> int:
        """Of a thread, estimated: each fragment takes 8, of A, B and C alike, and each copy's address one."""
        fm, fn = choice["fragments_m"], choice["fragments_n"]
        return (
            8 * (fm * fn + fm + fn)
            + BASE_REGISTERS
            + self._elements(choice) // (choice["vector"] * self._threads(choice))
        )

    def _threads(self, choice: Choice) -> int:
        return WARP * choice["warps_m"] * choice["warps_n"]

    def _elements(self, choice: Choice) -> int:
        t = self.tiling(choice)
        return (t.block_m + t.block_n) * t.block_k

    def default(self) -> dict[str, int]:
        """By arithmetic, not measured: the tiles of mma_sync's default, as far as C fits in shared memory too."""
        few = bool(self.rows)
        return {
            "m": 16,
            "n": 16,
            "warps_m": 2,
            "warps_n": 2,
            "fragments_m": 2 if few else 4,
            "fragments_n": 2 if few else 4,
            "block_k": 32,
            "stages": 3,
            "padding": 8,
            "padding_c": 4,
            "vector": CHUNK,
            "vector_c": 4,
        }

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver must know of a kernel to choose and launch it."""
        return self.kernel_params(self.tiling(choice))

    def apply(self, choice: Choice) -> list[DeviceKernel]:
        """The kernel."""
        t = self.tiling(choice)
        config = {"tirx.use_async_copy": True, "tirx.disable_storage_rewrite": True}
        return [DeviceKernel(self.symbol(t, choice), lambda: kernel(t, self.workload), BUFFERS, SIZES, config=config)]
