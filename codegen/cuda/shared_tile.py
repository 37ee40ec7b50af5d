"""A tile of A or B in shared memory: where an element is, so that a warp meets each bank once, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from .intrinsics import BANKS, CHUNK_BYTES


@dataclass(frozen=True)
class SharedTile:
    """``rows`` rows of ``length`` elements of ``item`` bytes, a multiple of ``chunk``.

    ldmatrix wants the chunks of one column in eight neighbouring rows in different banks. Where ``swizzle`` is set, the
    chunks of a row change places, by an exclusive or with the number of the row (of the 128 bytes, if a row is
    shorter); else each row is followed by a chunk of padding.

    ``words``: elements are read one by one, as ldmatrix transposes none of 32 bits: a warp reads 4 rows of 8 elements,
    two chunks. So pairs of chunks change places, or two chunks of padding follow.
    """

    rows: int
    length: int
    swizzle: bool
    item: int = 2
    words: bool = False

    @property
    def chunk(self) -> int:
        """Elements of CHUNK_BYTES."""
        return CHUNK_BYTES // self.item

    @property
    def together(self) -> int:
        """Chunks that stay side by side."""
        return 2 if self.words else 1

    @property
    def stride(self) -> int:
        """Elements from one row to the next."""
        return self.length if self.swizzle else self.length + self.together * self.chunk

    @property
    def elements(self) -> int:
        """In all."""
        return self.rows * self.stride

    def at(self, row: Any, column: Any) -> Any:
        """The offset of an element."""
        if not self.swizzle:
            return row * self.stride + column
        chunks = self.length // self.chunk
        turn = tirx.floormod(tirx.floordiv(row, max(1, BANKS // chunks)), min(chunks, BANKS) // self.together)
        chunk = tirx.bitwise_xor(tirx.floordiv(column, self.chunk), turn * self.together)
        return row * self.stride + chunk * self.chunk + tirx.floormod(column, self.chunk)

    def copied(self, i: Any, thread: Any, threads: int, vector: int) -> tuple[Any, Any]:
        """Row and column of the i-th vector that a thread copies: neighbouring threads have neighbouring vectors."""
        index, vectors = i * threads + thread, self.length // vector
        return tirx.floordiv(index, vectors), tirx.floormod(index, vectors) * vector

    def along(self, lane: Any, row: Any, column: Any) -> Any:
        """What a lane gives ldmatrix for the fragment at ``row``, ``column``, matrices row by row."""
        low, high = tirx.floormod(lane, 16), tirx.floordiv(lane, 16)
        return self.at(row + low, column + high * self.chunk)

    def across(self, lane: Any, row: Any, column: Any) -> Any:
        """The same, matrices column by column."""
        low, high = tirx.floormod(lane, 16), tirx.floordiv(lane, 16)
        return self.at(row + high * 8 + tirx.floormod(lane, 8), column + tirx.floordiv(low, 8) * self.chunk)

    def word(self, lane: Any, row: Any, column: Any) -> Any:
        """Of the 4 x 8 elements at ``row``, ``column`` that of a lane, which has its row of K by its place of 4."""
        return self.at(row + tirx.floormod(lane, 4), column + tirx.floordiv(lane, 4))
