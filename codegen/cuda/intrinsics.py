"""What one warp does at once on NVIDIA GPUs since sm_80, as PTX: which lane holds what, and the names.

Sources: PTX ISA, "Matrix Fragments for mma.m16n8k16", "ldmatrix", "cp.async".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

WARP = 32
CHUNK = 8  # 16-bit elements in the 16 bytes that ldmatrix reads of a row, and that a copy brings at most
BANKS = 8  # chunks that shared memory gives at once
FRAGMENT = 16  # rows, columns and depth of what the four 8 x 8 matrices of one ldmatrix make

COMMIT = "cp.async.commit_group"
WAIT = "cp.async.wait_group"


def mma(dtype: str) -> str:
    """D [16, 8] += A [16, 16] B [16, 8] in float32: 4 registers of D, 4 of A, 2 of B, 4 of C."""
    low = {"float16": "f16", "bfloat16": "bf16"}[dtype]
    return f"mma.sync.aligned.m16n8k16.row.col.f32.{low}.{low}.f32"


def ldmatrix(*, transposed: bool) -> str:
    """Four 8 x 8 matrices: lane 8 i + r names row r of the i-th; ``transposed``: its column, to the lanes."""
    return f"ldmatrix.sync.aligned.m8n8.x4{'.trans' if transposed else ''}.shared.b16"


def copy(elements: int) -> str:
    """An asynchronous copy of so many 16-bit elements; 16 bytes pass L1 by."""
    return f"cp.async.{'cg' if elements == CHUNK else 'ca'}.shared.global"


@dataclass(frozen=True)
class SharedTile:
    """A tile of A or B in shared memory: ``rows`` rows of ``length`` elements, a multiple of CHUNK.

    Where ``swizzle`` is set, the chunks of a row change places, by an exclusive or with the number of the row (of the
    128 bytes, if a row is shorter); else each row is followed by a chunk of padding. Either way the chunks of one
    column in eight neighbouring rows lie in different banks, which is what ldmatrix wants.
    """

    rows: int
    length: int
    swizzle: bool

    @property
    def stride(self) -> int:
        """Elements from one row to the next."""
        return self.length if self.swizzle else self.length + CHUNK

    @property
    def elements(self) -> int:
        """In all."""
        return self.rows * self.stride

    def at(self, row: Any, column: Any) -> Any:
        """The offset of an element."""
        if not self.swizzle:
            return row * self.stride + column
        chunks = self.length // CHUNK
        turn = tirx.floormod(tirx.floordiv(row, max(1, BANKS // chunks)), min(chunks, BANKS))
        chunk = tirx.bitwise_xor(tirx.floordiv(column, CHUNK), turn)
        return row * self.stride + chunk * CHUNK + tirx.floormod(column, CHUNK)

    def copied(self, i: Any, thread: Any, threads: int, vector: int) -> tuple[Any, Any]:
        """Row and column of the i-th vector that a thread copies: neighbouring threads have neighbouring vectors."""
        index, vectors = i * threads + thread, self.length // vector
        return tirx.floordiv(index, vectors), tirx.floormod(index, vectors) * vector

    def along(self, lane: Any, row: Any, column: Any) -> Any:
        """What a lane gives ldmatrix for the fragment at ``row``, ``column``, matrices row by row."""
        low, high = tirx.floormod(lane, 16), tirx.floordiv(lane, 16)
        return self.at(row + low, column + high * 8)

    def across(self, lane: Any, row: Any, column: Any) -> Any:
        """The same, matrices column by column."""
        low, high = tirx.floormod(lane, 16), tirx.floordiv(lane, 16)
        return self.at(row + high * 8 + tirx.floormod(lane, 8), column + tirx.floordiv(low, 8) * 8)
