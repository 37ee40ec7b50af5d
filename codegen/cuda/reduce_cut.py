"""How a reduction [outer, n, inner] -> [outer, inner] is shared out: by its shape alone, so that it has one order.

Where there are too few rows for all multiprocessors, each is cut into pieces of ``length``, the last one shorter; and
so is one that would be walked through twice and is too long for that. Of rows along memory (inner = 1), a group of
2**wide threads takes a piece. Of rows across, 2**wide vectors of neighbouring rows by 2**high threads along n are a
unit, and a block has as many units as it has threads for. To join pieces, 2**join threads take a row.

csrc/cuda/reduce.cpp has the same, from the params of a kernel.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

WARP_SHIFT = 5
# Rows across shorter than these have one thread along them, or at most eight.
ONE, EIGHT, EIGHT_SHIFT = 8, 256, 3
SIZES = ("outer", "n", "inner", "pieces", "length", "wide", "high", "join")


@dataclass(frozen=True)
class ReduceShape:
    """The knobs.

    ``vector``: elements loaded at once; ``loads``: of a thread, in flight; ``kept``: vectors that a thread keeps of a
    row along memory that is walked through twice, 0 if none is; ``depth``: the longest piece across of such, or 0;
    ``blocks``: of a grid, as many as there is room for.
    """

    threads: int
    vector: int
    loads: int
    kept: int
    depth: int
    blocks: int

    @property
    def shift(self) -> int:
        """Threads, as a power of two."""
        return self.threads.bit_length() - 1

    @property
    def longest_kept(self) -> int:
        """Elements of the longest piece that a block keeps, or 0."""
        return self.threads * self.kept * self.vector

    def params(self) -> dict[str, int]:
        """What the driver binds."""
        return asdict(self)


def _divided_up(a: int, b: int) -> int:
    return -(-a // b)


def _doublings(count: int) -> int:
    """The power of two that holds ``count``."""
    return (count - 1).bit_length()


def _group(shape: ReduceShape, vectors: int, each: int) -> int:
    """The threads of a row: one for each vector, up to a warp; then as many as it takes for each to have so many."""
    few = min(_doublings(vectors), WARP_SHIFT)
    return min(shape.shift, max(few, _doublings(_divided_up(vectors, each))))


def launch_sizes(shape: ReduceShape, outer: int, n: int, inner: int) -> list[int]:
    """The sizes of a launch, SIZES."""
    if inner == 1:
        rows, least, most, multiple = (
            outer,
            shape.threads * shape.vector * shape.loads,
            shape.longest_kept,
            shape.vector,
        )
        wide = high = 0
    else:
        columns = inner if inner % shape.vector else inner // shape.vector
        wide = min(_doublings(columns), WARP_SHIFT)
        high = 0 if n < ONE else min(shape.shift - wide, EIGHT_SHIFT if n < EIGHT else shape.shift)
        rows = _divided_up(outer * _divided_up(columns, 1 << wide), shape.threads >> (wide + high))  # blocks of them
        least, most, multiple = shape.loads << high, shape.depth, 1
    pieces = max(1, min(shape.blocks // rows, n // least), _divided_up(n, most) if most else 1)
    length = _divided_up(_divided_up(n, pieces), multiple) * multiple
    pieces = _divided_up(n, length)
    if inner == 1:
        wide = _group(shape, _divided_up(length, shape.vector), shape.kept or shape.loads)
    return [outer, n, inner, pieces, length, wide, high, _group(shape, pieces, shape.loads)]
