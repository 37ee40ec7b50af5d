"""What a choice makes of a GEMM kernel with ``mma.sync``: sizes of blocks and warps, and the tiles in shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .intrinsics import CHUNK_BYTES, DEPTH_BYTES, FRAGMENT, WARP, item_bytes
from .shared_tile import SharedTile

SLAB_PADDING = 8  # floats: then the four rows that are written at once meet different banks


@dataclass(frozen=True)
class Tiling:
    """Of a block's ``warps_m`` x ``warps_n`` warps, each has ``fragments_m`` x ``fragments_n`` fragments of 16 x 16.

    ``buffers``: 2 if the fragments of the next step are loaded while those of this one are multiplied. ``vector``:
    elements that one copy brings. ``group_m``: rows of blocks that are walked column by column, to share B in L2.
    """

    dtype: str
    across_a: bool  # A is [K, M]
    along_b: bool  # B is [N, K]
    swizzle: bool
    warps_m: int
    warps_n: int
    fragments_m: int
    fragments_n: int
    block_k: int
    stages: int
    vector: int
    group_m: int
    split_k: int
    buffers: int

    @property
    def warp_m(self) -> int:
        """Rows of C of a warp."""
        return self.fragments_m * FRAGMENT

    @property
    def warp_n(self) -> int:
        """Columns of C of a warp."""
        return self.fragments_n * FRAGMENT

    @property
    def block_m(self) -> int:
        """Rows of C of a block."""
        return self.warps_m * self.warp_m

    @property
    def block_n(self) -> int:
        """Columns of C of a block."""
        return self.warps_n * self.warp_n

    @property
    def threads(self) -> int:
        """Of a block."""
        return WARP * self.warps_m * self.warps_n

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return item_bytes(self.dtype)

    @property
    def depth(self) -> int:
        """Of K that one step multiplies."""
        return DEPTH_BYTES // self.item

    @property
    def width(self) -> int:
        """Elements of C that a thread stores at once."""
        return CHUNK_BYTES // self.item

    @property
    def tf32(self) -> bool:
        """Whether float32 operands are rounded to TF32."""
        return self.dtype == "float32"

    @cached_property
    def a(self) -> SharedTile:
        """A's tile."""
        rows, length = (self.block_k, self.block_m) if self.across_a else (self.block_m, self.block_k)
        return SharedTile(rows, length, self.swizzle, self.item, self.tf32 and self.across_a)

    @cached_property
    def b(self) -> SharedTile:
        """B's tile."""
        rows, length = (self.block_n, self.block_k) if self.along_b else (self.block_k, self.block_n)
        return SharedTile(rows, length, self.swizzle, self.item, self.tf32 and not self.along_b)

    @property
    def slab(self) -> int:
        """Floats from one row to the next of the FRAGMENT rows that a warp takes through shared memory to C."""
        return self.warp_n + SLAB_PADDING

    @property
    def shared_bytes(self) -> int:
        """Of a block: the stages, or the slabs when they are done."""
        pipeline = self.item * self.stages * (self.a.elements + self.b.elements)
        return max(pipeline, 4 * FRAGMENT * self.slab * self.warps_m * self.warps_n)
