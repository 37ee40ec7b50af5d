"""From a row program to a CUDA kernel: a group of threads for each row, or one grid for all elements.

A block has ``threads`` threads in groups of 2**k. A group takes a row, then the row that is as many rows on as the grid
has groups. It is as large as the row needs for every thread to have one vector, up to a warp; from there on as large as
it needs for every thread to have at most ``kept`` vectors, up to the block. A row that then fits is read once: what
later passes read again stays in registers. A longer one is read again by each pass, mostly from L2; a row that does not
consist of whole vectors is read element by element. All three are branches of one kernel, which a launch takes as a
whole. Flat programs walk over all elements, whole vectors first.

Sums have a fixed order: a thread's elements, its vector's lanes, the lanes of a warp and the warps of a group, in a
tree. Low precision is storage: every operand is converted to float32 when loaded, and rounded once when stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from ..leaves.lower import f32, i32, sequence
from ..program import Pass, Program, Scalars
from .arithmetic import Arithmetic
from .row_memory import i64
from .row_partials import bound, summed
from .row_tiles import Tiles, Walk

WARP = 32


@dataclass(frozen=True)
class Shape:
    """The knobs: see the module.

    ``vector``: elements loaded at once; ``unroll``: vectors in flight where none are kept; ``blocks``: at most.
    """

    threads: int
    vector: int
    kept: int
    unroll: int
    blocks: int

    @property
    def longest_kept(self) -> int:
        """Elements of the longest row that is read once."""
        return self.threads * self.kept * self.vector


class RowsKernel(Tiles):
    """Makes the body of one kernel."""

    def __init__(self, program: Program, dtype: str, shape: Shape, n: int | None, *, flat: bool) -> None:
        super().__init__(program, dtype, n, flat=flat)
        self.shape = shape
        self.block, self.thread = tirx.Var("block", "int32"), tirx.Var("thread", "int32")

    def loop(self, name: str, extent: Expr, body: Callable[[tirx.Var], tirx.Stmt]) -> tirx.Stmt:
        """A plain loop in 64 bits."""
        var = tirx.Var(name, "int64")
        return tirx.For(var, i64(0), extent, tirx.ForKind.SERIAL, body(var))

    # -- how rows are shared out ---------------------------------------------------------------------------------

    def doublings(self, n: Expr) -> Expr:
        """The size of a group, as a power of two."""
        s = self.shape
        steps = range(s.threads.bit_length() - 1)
        if isinstance(n, tirx.IntImm):
            vectors = -(-int(n) // s.vector)
            needed = vectors if vectors <= WARP else max(WARP, -(-vectors // s.kept))
            return i32(sum(needed > 1 << k for k in steps))
        vectors = (n + i64(s.vector - 1)) // i64(s.vector)
        many = tirx.max(i64(WARP), (vectors + i64(s.kept - 1)) // i64(s.kept))
        total: Expr = i32(0)
        for k in steps:
            total = total + (tirx.Select(vectors <= i64(WARP), vectors, many) > i64(1 << k)).astype("int32")
        return total

    def tiles_of_row(self) -> Expr:
        """Of a flat program: what a block takes at a time."""
        s = self.shape
        at_once = i64(s.threads * s.vector * s.unroll)
        return (self.n + (at_once - i64(1))) // at_once

    def grid(self) -> Expr:
        """Blocks of a launch."""
        s = self.shape
        if self.flat:
            blocks = self.rows * self.tiles_of_row()
        else:
            threads = i64(s.threads)
            blocks = (
                tirx.shift_left(self.rows, self.doublings(self.n).astype("int64")) + (threads - i64(1))
            ) // threads
        return tirx.max(i64(1), tirx.min(i64(s.blocks), blocks)).astype("int32")

    def share_out(self, a: Arithmetic, n: Expr) -> tuple[Expr, Expr]:
        """The threads to groups, for rows of ``n`` elements. Returns the size of a group, and which of it this is."""
        self.shift = a.bind(self.doublings(n))
        self.group = (
            i32(1 << int(self.shift))
            if isinstance(self.shift, tirx.IntImm)
            else a.bind(tirx.shift_left(i32(1), self.shift))
        )
        known = isinstance(self.group, tirx.IntImm)
        self.several_warps = self.shape.threads > WARP and (not known or int(self.group) > WARP)
        lane = a.bind(tirx.bitwise_and(self.thread, self.group - i32(1))).astype("int64")
        self.leader = tirx.EQ(lane, i64(0))
        return self.group.astype("int64"), lane

    # -- rows ----------------------------------------------------------------------------------------------------

    def all_rows(self, walk: Walk) -> tirx.Stmt:
        """The rows of this block, each along ``walk``."""
        mark, a = self.slots.mark(), Arithmetic(self.slots)
        per_block = a.bind(tirx.shift_right(i32(self.shape.threads), self.shift).astype("int64"))
        step = a.bind(self.blocks.astype("int64") * per_block)
        first = a.bind(self.block.astype("int64") * per_block)
        group = a.bind(tirx.shift_right(self.thread, self.shift).astype("int64"))

        def one(turn: tirx.Var) -> tirx.Stmt:
            self.begin_row(turn * step + first + group, walk)
            out = self.given()
            for step_ in self.program.steps:
                out += self.once(step_) if isinstance(step_, Scalars) else self.along(step_, walk)
            return sequence(*self.row_start, *out)

        def clear(name: str, k: Expr, vector: Expr, i: Expr) -> tirx.Stmt:
            buffer, at = self.partial(name, walk, k, vector, i)
            return tirx.BufferStore(buffer, f32(0.0), at)

        def hand_over(name: str, k: Expr, vector: Expr, i: Expr) -> tirx.Stmt:
            buffer, at = self.partial(name, walk, k, vector, i)
            place = self.slot * self.n + vector * i64(walk.vector) + i.astype("int64")
            return tirx.BufferStore(self.rooms[name], tirx.BufferLoad(buffer, at), [place])

        if self.rooms:
            self.slot = a.bind(first + group)
        a.add(*self.each_partial(walk, clear))
        # The first block's rows come first: what is divided may be negative, but not below -step.
        a.add(self.loop("turn", tirx.truncdiv(self.rows - first + (step - i64(1)), step), one))
        if walk.kept:
            a.add(*self.each_partial(walk, hand_over))
        self.slots.release(mark)
        return sequence(*a.statements)

    def along(self, step: Pass, walk: Walk) -> list[tirx.Stmt]:
        """A pass over a row."""
        out = self.clear(step, walk)
        out += self.tiles(walk, lambda start: self.tile(step, walk, start))
        return out + self.reduced(step, walk)

    def reduced(self, step: Pass, walk: Walk) -> list[tirx.Stmt]:
        """What the threads of a group have reduced, as scalars of the row."""
        if not step.reduce:
            return []
        a = Arithmetic(self.slots)
        results = {}
        for name, (kind, _) in step.reduce.items():
            value = self.folded(a, name, kind, walk)
            results[name] = self.across(a, kind, value, WARP // 2, self.group)
        if self.several_warps:
            results = self.across_warps(a, step, results)
        self.scalars |= results
        return a.statements

    def across(self, a: Arithmetic, kind: str, value: Expr, widest: int, size: Expr) -> Expr:
        """Combines with lanes that are ``widest``, ..., 2, 1 away and within a group of ``size``."""
        while widest:
            known = int(size) if isinstance(size, tirx.IntImm) else None
            if known is None or known > widest:
                other = a.bind(T.tvm_warp_shuffle_xor(T.uint32(0xFFFFFFFF), value, widest, WARP, WARP))
                both = self.combine(a, kind, value, other)
                value = both if known else a.bind(tirx.Select(size > i32(widest), both, value))
            widest //= 2
        return value

    def across_warps(self, a: Arithmetic, step: Pass, values: dict[str, Expr]) -> dict[str, Expr]:
        """The same for groups of several warps, by way of shared memory."""
        warps = self.shape.threads // WARP
        inner = Arithmetic(self.slots)
        lane, warp = self.thread % i32(WARP), self.thread // i32(WARP)
        barrier = tirx.Evaluate(T.tvm_storage_sync("shared"))
        of_group = tirx.shift_right(self.group, i32(5))
        shared = [self.shared(f"shared{i}", warps, kind) for i, (kind, _) in enumerate(step.reduce.values())]
        totals = [self.local(f"total_{name}", 1, kind) for name, (kind, _) in step.reduce.items()]
        put = [tirx.BufferStore(b, v, [warp]) for b, v in zip(shared, values.values(), strict=True)]
        # Every warp may still read what it was given before.
        inner.add(barrier, tirx.IfThenElse(tirx.EQ(lane, i32(0)), sequence(*put), None), barrier)
        for buffer, total, (kind, _) in zip(shared, totals, step.reduce.values(), strict=True):
            last = of_group - i32(1)
            mine = warp - tirx.bitwise_and(warp, last) + tirx.bitwise_and(lane, last)
            value = inner.bind(tirx.BufferLoad(buffer, [mine]))
            inner.add(tirx.BufferStore(total, self.across(inner, kind, value, warps // 2, of_group), [i32(0)]))
        if isinstance(self.group, tirx.IntImm):
            a.add(*inner.statements)
        else:
            a.add(*(tirx.BufferStore(t, v, [i32(0)]) for t, v in zip(totals, values.values(), strict=True)))
            a.add(tirx.IfThenElse(self.group > i32(WARP), sequence(*inner.statements), None))
        return {name: a.bind(tirx.BufferLoad(t, [i32(0)])) for name, t in zip(values, totals, strict=True)}

    # -- the kernel ----------------------------------------------------------------------------------------------

    def of_rows(self) -> list[tirx.Stmt]:
        """Of rows: the branches."""
        s = self.shape
        a = Arithmetic(self.slots)
        self.blocks = a.bind(self.grid())
        wide, lane = self.share_out(a, self.n)

        def walk(vector: int, count: int, *, kept: bool) -> Walk:
            vectors = self.n // i64(vector) if vector > 1 else self.n
            return Walk(vector, count, wide, lane, vectors, kept)

        keeping = lambda: self.all_rows(walk(s.vector, s.kept, kept=True))  # noqa: E731
        reading = lambda: self.all_rows(walk(s.vector, s.unroll, kept=False))  # noqa: E731
        single = lambda: self.all_rows(walk(1, s.unroll, kept=False))  # noqa: E731
        if isinstance(self.n, tirx.IntImm):
            n = int(self.n)
            body = single() if n % s.vector else keeping() if n <= s.longest_kept else reading()
        else:
            fits, whole = self.n <= i64(s.longest_kept), tirx.EQ(self.n % i64(s.vector), i64(0))
            body = tirx.IfThenElse(whole, tirx.IfThenElse(fits, keeping(), reading()), single())
        return [*a.statements, body]

    def of_elements(self) -> list[tirx.Stmt]:
        """Of a flat program: whole vectors, then the rest; rows that are apart consist of whole vectors."""
        s = self.shape
        a = Arithmetic(self.slots)
        self.blocks = a.bind(self.grid())
        (step,) = self.program.steps
        assert isinstance(step, Pass)
        threads, blocks = i64(s.threads), self.blocks.astype("int64")
        lane, first = self.thread.astype("int64"), self.block.astype("int64")
        vectors = self.n // i64(s.vector)
        main = Walk(s.vector, s.unroll, threads, lane, vectors, kept=False)
        of_row = a.bind(self.tiles_of_row())

        def one(turn: tirx.Var) -> tirx.Stmt:
            inner = Arithmetic(self.slots)
            tile = inner.bind(first + turn * blocks)
            # The same for the whole block, and nothing where rows are passed as one.
            quotient = tirx.truncdiv(tile.astype("int32"), of_row.astype("int32")).astype("int64")
            row = inner.bind(tirx.if_then_else(self.rows > i64(1), quotient, i64(0)))
            self.begin_row(row, main)
            start = inner.bind((tile - row * of_row) * i64(s.threads * s.unroll))
            return sequence(*inner.statements, *self.row_start, *self.given(), *self.tile(step, main, start))

        rest = Walk(1, 1, i64(1), first * threads + lane + vectors * i64(s.vector), self.n, kept=False)
        mark = self.slots.mark()
        a.add(self.loop("turn", tirx.truncdiv(self.rows * of_row - first + (blocks - i64(1)), blocks), one))
        self.slots.release(mark)
        self.begin_row(i64(0), rest)
        return [*a.statements, *self.row_start, *self.given(), *self.tile(step, rest, i64(0))]

    def func(self) -> tirx.PrimFunc:
        """The whole."""
        blocks, per_block = self.grid(), tirx.shift_right(i32(self.shape.threads), self.doublings(self.n))
        slots = blocks.astype("int64") * per_block.astype("int64")
        self.rooms = {
            o.name: tirx.decl_buffer((slots * self.n,), "float32", f"{o.name}_room")
            for o in self.program.operands
            if o.role == "partial"
        }
        inside = self.of_elements() if self.flat else self.of_rows()
        made = [tirx.AllocBuffer(b) for b in self.buffers_made()]
        views = [tirx.DeclBuffer(view, data=buffer.data) for view, buffer in self.views()]
        body = bound(self.thread, self.shape.threads, self.block, blocks, sequence(*made, *views, *inside))
        if self.rooms:
            rooms = {self.argument(name): room for name, room in self.rooms.items()}
            body = sequence(*map(tirx.AllocBuffer, rooms.values()), body, summed(rooms, slots, self.n))
        sizes = [self.rows, *([] if isinstance(self.n, tirx.IntImm) else [self.n]), *self.strides.values()]
        func = tirx.PrimFunc([*self.buffers, *sizes, *self.params], self.slots.fitted(body))
        # A flat program may work in place.
        return func.with_attr({"tirx.noalias": not self.flat, "global_symbol": "main"})


def rows_kernel(program: Program, dtype: str, shape: Shape, n: int | None = None, *, flat: bool) -> tirx.PrimFunc:
    """The kernel of a program for ``dtype`` storage; ``n`` is compiled in if given.

    Raises:
        CodegenError: the program has tables for a CPU's vectors.
    """
    return RowsKernel(program, dtype, shape, n, flat=flat).func()


def operands(program: Program) -> Sequence[str]:
    """The buffers of a launch: scratch is the kernel's own affair."""
    return [o.name for o in program.operands if o.role != "scratch"]


def sizes(program: Program) -> Sequence[str]:
    """The sizes of a launch: with each operand's stride from row to row, in elements, which only rows have."""
    return ["rows", "n", *(f"stride{i}" for i in range(len(operands(program))))]
