"""Prefix sums and products on a GPU, and the gradient of products: [outer, n, inner], scanned along n.

Rows that lie in memory as they are scanned (``scan_rows.py``) and columns across rows (``scan_columns.py``) have
kernels of their own; a launch takes those for its sizes. Where there are too few rows or columns for all
multiprocessors, they are cut into pieces, as the sizes alone say: one kernel writes what each piece comes to, and the
next begins each piece behind what precedes it. So the same input gives the same bits.

All is computed in float32 and rounded once. Source of the three phases: Harris, Sengupta and Owens, "Parallel Prefix
Sum (Scan) with CUDA", GPU Gems 3, section 39.2.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as builder

from .scan_columns import Columns, columns
from .scan_rows import Data, How, Room, Walk, across_block, along
from .scan_states import WARP, Kind, Registers, let, put, warp_scan

EXCLUSIVE, REVERSE = 1, 2  # of the size "flags"
WARP_TILES = 4  # of a row, at most, for a warp to take it
PIECE_TILES = 4  # of a piece, at least
SINGLE = 4  # elements that a thread has of a tile of a row that is not whole vectors


@dataclass(frozen=True)
class Shape:
    """The knobs. ``vector``: elements loaded at once; ``count``: vectors of a tile of a row that a thread has.

    ``depth``: rows that a thread loads of a column at once; ``blocks``: from how many on nothing is cut into pieces.
    """

    threads: int
    vector: int
    count: int
    depth: int
    blocks: int

    @property
    def tile(self) -> int:
        """Elements of a row that a block has at once."""
        return self.threads * self.count * self.vector

    @property
    def held(self) -> int:
        """Elements that a thread has at once."""
        return max(self.count * self.vector, SINGLE)

    @property
    def most(self) -> int:
        """Vectors that a thread has at once."""
        return max(self.count, SINGLE)

    @property
    def longest(self) -> int:
        """Elements of the longest row that a warp takes."""
        return WARP_TILES * WARP * self.count * self.vector


def ceil(a: Any, b: Any) -> Any:
    """A / b, rounded up."""
    return T.truncdiv(a + (b - 1), b)


def if_true(condition: Any, value: Any) -> Any:
    """The value, or 0."""
    return T.Cast("int32", condition) * value


def piece(s: Shape, outer: Any, n: Any) -> Any:
    """Elements of a piece of a row: whole tiles."""
    wanted = T.max(T.min(T.truncdiv(s.blocks, outer), T.truncdiv(n, PIECE_TILES * s.tile)), 1)
    return ceil(ceil(n, wanted), s.tile) * s.tile


def column_piece(s: Shape, outer: Any, n: Any, inner: Any) -> Any:
    """Rows of a piece of a column."""
    wanted = T.max(T.min(T.truncdiv(s.blocks * s.threads, outer * inner), T.truncdiv(n, PIECE_TILES * s.depth)), 1)
    return ceil(n, wanted)


def doublings(vectors: Any) -> Any:
    """The size of a group for so many vectors, up to a warp, as a power of two."""
    total = T.Cast("int32", vectors > 1)
    for step in range(1, 5):
        total = total + T.Cast("int32", vectors > 1 << step)
    return total


@dataclass(frozen=True)
class Scan:
    """One scan: what is computed, on what, and of what size."""

    kind: Kind
    dtype: str
    shape: Shape
    data: Data
    outer: Any
    n: Any
    inner: Any
    how: How
    sums: Registers  # what the pieces of a row come to, but for its last, or those of columns


def registers(kind: Kind, count: int, scope: str = "local") -> Registers:
    """Room for so many states."""
    return Registers(T.alloc_buffer((kind.size * count,), "float32", scope=scope), kind, count)


def room(c: Scan) -> Room:
    """What a thread of the kernel for rows works in."""
    s, kind = c.shape, c.kind
    raw = T.alloc_buffer((s.held * (3 if kind.gradient else 1),), c.dtype, scope="local")
    after = T.alloc_buffer((s.most,), "float32", scope="local")
    local, total, base = (registers(kind, count) for count in (s.held, s.most, s.most))
    other, of_warps, carry = (registers(kind, 1) for _ in range(3))
    return Room(raw, after, local, total, base, other, of_warps, carry, registers(kind, 2 * WARP, "shared"))


def fold(w: Walk, sums: Registers, first: Any, count: Any) -> None:
    """What ``count`` pieces come to, from the ``first`` on, is carried."""
    r = w.room
    each = let(ceil(count, w.threads))
    put(r.total, 0, w.kind.none())
    with T.serial(each) as q:
        one = let(w.thread * each + q)
        with T.If(one < count), T.Then():
            put(r.total, 0, w.kind.combine(r.total.at(0), sums.at(first + one)))
    warp_scan(r.total, 0, r.other, T.bitwise_and(w.thread, WARP - 1))
    across_block(w, 1, 0)


def rows(c: Scan, *, writes: bool) -> None:
    """The kernel for rows; or, unless it ``writes``, that for what their pieces come to, but for each row's last."""
    s, n, outer = c.shape, c.n, c.outer
    whole = T.truncmod(n, s.vector) == 0
    vectors = if_true(whole, T.truncdiv(n, s.vector)) + if_true(T.Not(whole), n)
    cut = outer * (ceil(n, piece(s, outer, n)) - int(not writes))
    # Products with conditions, as an estimate of the time can compute them, too.
    warps = if_true(n <= s.longest, ceil(T.shift_left(outer, doublings(vectors)), s.threads))
    blocks = if_true(n > s.longest, cut) + warps if writes else cut
    with (
        T.launch_thread("blockIdx.x", if_true(c.inner == 1, blocks)) as block,
        T.launch_thread("threadIdx.x", s.threads) as thread,
    ):
        r = room(c)
        put(r.carry, 0, c.kind.none())

        def walk(vector: int, count: int, lane: Any, group: Any, *, block: bool) -> Walk:
            return Walk(c.kind, c.dtype, vector, count, s.threads, block, writes, r, c.data, c.how, thread, lane, group)

        def both(row: Any, there: Any, begin: Any, end: Any, lane: Any, group: Any, *, block: bool) -> None:
            with T.If(whole):
                with T.Then():
                    along(walk(s.vector, s.count, lane, group, block=block), row, there, n, begin, end)
                with T.Else():
                    along(walk(1, SINGLE, lane, group, block=block), row, there, n, begin, end)

        def of_block() -> None:
            length = let(piece(s, outer, n))
            others = let(ceil(n, length) - 1)
            row = let(T.truncdiv(block, others + int(writes)))
            which = let(T.truncmod(block, others + int(writes)))
            begin = let(which * length)
            if writes:
                with T.If(which > 0), T.Then():
                    fold(walk(1, 1, thread, s.threads, block=True), c.sums, row * others, which)
            both(row, T.bool(True), begin, let(T.min(n, begin + length)), thread, s.threads, block=True)
            if not writes:
                with T.If(thread == 0), T.Then():
                    put(c.sums, row * others + which, r.carry.at(0))

        def of_group() -> None:
            shift = let(doublings(let(vectors)))
            group = let(T.shift_left(1, shift))
            row = let(block * T.shift_right(s.threads, shift) + T.shift_right(thread, shift))
            both(row, row < outer, 0, n, let(T.bitwise_and(thread, group - 1)), group, block=False)

        with T.If(n > s.longest):
            with T.Then():
                of_block()
            if writes:
                with T.Else():
                    of_group()


def across(c: Scan, *, writes: bool) -> None:
    """The kernel for columns; or, unless it ``writes``, that for what their pieces come to."""
    s, kind, inner = c.shape, c.kind, c.inner
    length = column_piece(s, c.outer, c.n, inner)
    whole = T.truncmod(inner, s.vector) == 0
    width = if_true(whole, T.truncdiv(inner, s.vector)) + if_true(T.Not(whole), inner)
    blocks = ceil(c.outer * width * (ceil(c.n, length) - int(not writes)), s.threads)
    with (
        T.launch_thread("blockIdx.x", if_true(inner > 1, blocks)) as block,
        T.launch_thread("threadIdx.x", s.threads) as thread,
    ):
        raw = T.alloc_buffer((s.vector * s.depth * (3 if kind.gradient else 1),), c.dtype, scope="local")
        carry, before = registers(kind, s.vector), registers(kind, 1)
        place, each = let(block * s.threads + thread), let(length)

        def go(vector: int) -> None:
            way = Columns(kind, c.dtype, vector, s.depth, writes, raw, carry, before)
            columns(way, c.data, c.sums, c.outer, c.n, inner, each, place, c.how)

        with T.If(whole):
            with T.Then():
                go(s.vector)
            with T.Else():
                go(1)


def kernel(kind: Kind, dtype: str, s: Shape) -> tirx.PrimFunc:
    """Y = the scan of X, or, for the gradient of Y = the products of X, D from G, that of Y.

    All four kernels, of which a launch takes those that have something to do.
    """
    with IRBuilder() as made, builder.prim_func():
        builder.func_name("scan")
        names = ("G", "X", "Y", "D") if kind.gradient else ("X", "Y")
        pointers = [builder.arg(f"{name}_ptr", T.handle()) for name in names]
        outer, n, inner, flags = (builder.arg(name, T.int32()) for name in ("outer", "n", "inner", "flags"))
        elements = T.int64()
        found = [T.match_buffer(pointer, (elements,), dtype, align=16) for pointer in pointers]
        for name, buffer in zip(names, found, strict=True):
            IRBuilder.name(name, buffer)
        data = Data(*found) if kind.gradient else Data(found[0], found[0], found[0], found[1])
        of_rows = outer * (ceil(n, piece(s, outer, n)) - 1)
        of_columns = outer * inner * (ceil(n, column_piece(s, outer, n, inner)) - 1)
        count = if_true(inner == 1, of_rows) + if_true(inner > 1, of_columns)
        sums = Registers(T.alloc_buffer((count * kind.size,), "float32", scope="global"), kind, count)
        how = How(T.bitwise_and(flags, EXCLUSIVE) != 0, T.bitwise_and(flags, REVERSE) != 0)
        scan = Scan(kind, dtype, s, data, outer, n, inner, how, sums)
        for writes in (False, True):
            rows(scan, writes=writes)
            across(scan, writes=writes)
    return cast(tirx.PrimFunc, made.get())
