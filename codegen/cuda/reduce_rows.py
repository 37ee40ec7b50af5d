"""Reductions of rows that lie along memory, and the joining of the pieces of any rows.

A group of threads takes a piece, as ``rows.py`` has it. What lies before and after its whole vectors, where a row does
not begin at a multiple of their size, goes element by element: the edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.ir import Expr

from ..leaves.lower import f32, i32, sequence
from ..program import Names, Pass, Program, Scalars
from .arithmetic import Arithmetic
from .reduce_cut import ReduceShape
from .row_elements import to_memory
from .row_memory import i64
from .row_partials import bound
from .row_tiles import Walk
from .rows import WARP, RowsKernel, Shape


@dataclass(frozen=True)
class Reduce:
    """What the kernels of a reduction have in common: its programs, sizes (``reduce_cut.py``) and buffers.

    ``rooms``: partial results, [outer * inner, pieces] each, in the order of the part's operands.
    """

    whole: Program
    part: Program
    join: Program
    dtype: str
    shape: ReduceShape
    sizes: Mapping[str, tirx.Var]
    divisor: tirx.Var
    x: tirx.Buffer
    y: tirx.Buffer
    rooms: tuple[tirx.Buffer, ...]

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The walks of the whole, which are also those of a part."""
        return tuple(step for step in self.whole.steps if isinstance(step, Pass))

    def parts(self) -> list[tuple[tirx.Buffer, str]]:
        """Each room and the name of what is stored there."""
        names = [o.name for o in self.part.operands if o.written]
        return list(zip(self.rooms, names, strict=True))

    def __getitem__(self, name: str) -> tirx.Var:
        """A size."""
        return self.sizes[name]

    @property
    def results(self) -> Expr:
        """How many there are."""
        return self["outer"] * self["inner"]


class Part(RowsKernel):
    """One of the kernels."""

    def __init__(self, problem: Reduce, program: Program, vector: int) -> None:
        s = problem.shape
        super().__init__(program, problem.dtype, Shape(s.threads, vector, 1, s.loads, s.blocks), None, flat=False)
        self.problem = problem
        self.threads_shift = i64(s.shift)
        self.strides: dict[str, tirx.Var] = {}  # rows follow each other: `place` knows where they are

    def parameters(self, a: Arithmetic, size: Expr) -> None:
        """The program's parameters, for ``size`` elements."""
        divisor = self.problem.divisor
        share, reciprocal = a.bind(f32(1.0) / size.astype("float32")), a.bind(f32(1.0) / divisor)
        self.params = [share, divisor, reciprocal]

    def results(self, steps: tuple[Pass | Scalars, ...], at: Expr) -> list[tirx.Stmt]:
        """Stores a row's scalars: as results, or, of a piece, to element ``at`` of each room."""
        (last,) = (step for step in self.problem.part.steps if isinstance(step, Scalars))
        parts, names = Arithmetic(self.slots), Names(self.common)
        assert self.there is not None
        assert self.leader is not None
        puts = [
            tirx.BufferStore(room, parts.value(to_memory("float32", last.store[name](names))), [at])
            for room, name in self.problem.parts()
        ]
        parts.add(tirx.IfThenElse(tirx.And(self.there, self.leader), sequence(*puts), None))
        whole = [statement for step in steps if isinstance(step, Scalars) for statement in self.once(step)]
        return [tirx.IfThenElse(tirx.EQ(self.problem["pieces"], i64(1)), sequence(*whole), sequence(*parts.statements))]

    def in_groups(self, a: Arithmetic, count: Expr, shift: Expr) -> tuple[Expr, Expr, Expr]:
        """Groups of 2**shift threads for ``count`` rows: blocks of a launch, their size, this thread's place."""
        needed = tirx.shift_right(tirx.shift_left(count, shift) - i64(1), self.threads_shift) + i64(1)
        blocks = tirx.min(i64(self.shape.blocks), needed).astype("int32")
        self.shift = a.bind(shift.astype("int32"))
        self.group = a.bind(tirx.shift_left(i32(1), self.shift))
        self.several_warps = self.shape.threads > WARP
        self.blocks = a.bind(blocks)
        lane = a.bind(tirx.bitwise_and(self.thread, self.group - i32(1)).astype("int64"))
        self.leader = tirx.EQ(lane, i64(0))
        return blocks, a.bind(self.group.astype("int64")), lane

    def kernel(self, blocks: Expr, body: list[tirx.Stmt]) -> tirx.Stmt:
        """The whole of it; there is none where a grid is empty."""
        made = [tirx.AllocBuffer(b) for b in self.buffers_made()]
        views = [tirx.DeclBuffer(view, data=buffer.data) for view, buffer in self.views()]
        code = self.slots.fitted(sequence(*made, *views, *body))
        return bound(self.thread, self.shape.threads, self.block, blocks, code)


class Along(Part):
    """Rows along memory."""

    def __init__(self, problem: Reduce) -> None:
        super().__init__(problem, problem.whole, problem.shape.vector)
        self.adopt("x", problem.x)
        self.adopt("y", problem.y)

    def statement(self) -> tirx.Stmt:
        """The kernel, whose grid is empty for rows across."""
        p, a = self.problem, Arithmetic(self.slots)
        self.units = a.bind(p["outer"] * p["pieces"])
        blocks, wide, lane = self.in_groups(a, p["outer"] * p["pieces"], p["wide"])
        per_block = a.bind(tirx.shift_right(i32(self.shape.threads), self.shift).astype("int64"))
        first = a.bind(self.block.astype("int64") * per_block)
        step = a.bind(self.blocks.astype("int64") * per_block)
        group = a.bind(tirx.shift_right(self.thread, self.shift).astype("int64"))
        one = lambda turn: self.one(wide, lane, turn * step + first + group)  # noqa: E731
        # What is divided may be negative, but not below -step.
        a.add(self.loop("turn", tirx.truncdiv(self.units - first + (step - i64(1)), step), one))
        grid = tirx.Select(tirx.EQ(p["inner"], i64(1)), blocks, i32(0))
        return self.kernel(grid, a.statements)

    def one(self, wide: Expr, lane: Expr, place: Expr) -> tirx.Stmt:
        """A piece of a row."""
        p, vector = self.problem, self.shape.vector
        a = Arithmetic(self.slots)
        self.scalars, self.held = {}, set()
        place = a.bind(place)
        self.there = place < self.units
        unit = a.bind(tirx.min(place, self.units - i64(1)))
        self.row = a.bind(tirx.truncdiv(unit, p["pieces"]))
        self.begin = a.bind((unit - self.row * p["pieces"]) * p["length"])
        length = a.bind(tirx.min(p["length"], p["n"] - self.begin))
        self.size = a.bind(tirx.Select(self.there, length, i64(0)))
        self.start = a.bind(self.row * p["n"] + self.begin)
        before = tirx.bitwise_and(i64(0) - self.start, i64(vector - 1))
        self.head = a.bind(tirx.min(self.size, before))
        vectors = a.bind(tirx.shift_right(self.size - self.head, i64(vector.bit_length() - 1)))
        self.edges = a.bind(self.size - vectors * i64(vector))
        self.parameters(a, length)
        kept = p.shape.kept > 0
        walk = Walk(vector, p.shape.kept if kept else p.shape.loads, wide, lane, vectors, kept)
        for step in self.program.steps:
            if isinstance(step, Pass):
                a.add(*self.along(step, walk))
        a.add(*self.results(self.program.steps, unit))
        return sequence(*a.statements)

    def along(self, step: Pass, walk: Walk) -> list[tirx.Stmt]:
        """A pass over a piece: its vectors, then its edges, to the same accumulators."""
        out = self.clear(step, walk)
        self.limit = walk.vectors
        out += self.tiles(walk, lambda start: self.tile(step, walk, start))
        if walk.vector > 1:
            edges = replace(walk, vector=1, count=1, vectors=self.edges, kept=False)
            self.limit = self.edges
            out += self.tiles(edges, lambda start: self.tile(step, edges, start))
        return out + self.reduced(step, walk)

    def accumulator(self, name: str, kind: str, walk: Walk) -> tirx.Buffer:
        """Those of vectors; edges use the first."""
        count = self.shape.vector if self.shape.vector > 1 else walk.count
        return self.local(f"acc_{name}", count, kind)

    def index(self, walk: Walk, vector: Expr, i: Expr) -> Expr:
        """Which element of its row an element of a vector is, or of the edges."""
        if walk.vector == self.shape.vector:
            return self.begin + self.head + vector * i64(walk.vector) + i.astype("int64")
        return self.begin + self._edge(vector)

    def place(self, name: str, walk: Walk, vector: Expr) -> Expr:
        """Where in memory, in vectors or elements."""
        if walk.vector == self.shape.vector:
            return tirx.truncdiv(self.start + self.head, i64(walk.vector)) + vector
        return self.start + self._edge(vector)

    def _edge(self, at: Expr) -> Expr:
        return tirx.Select(at < self.head, at, self.size - self.edges + at)


class Join(Part):
    """The results of rows from those of their pieces, which lie along memory."""

    def __init__(self, problem: Reduce) -> None:
        program = problem.join
        steps = tuple(
            replace(step, values={"counts": self.count, **step.values}) if isinstance(step, Pass) else step
            for step in program.steps
        )
        operands = tuple(o for o in program.operands if o.name != "counts")
        super().__init__(problem, replace(program, operands=operands, steps=steps), 1)
        self.low = False
        given = [o.name for o in operands if not o.written]
        for name, room in zip(given, problem.rooms, strict=True):
            self.adopt(name, room, own=True)
        self.adopt("y", problem.y)

    def place(self, name: str, walk: Walk, vector: Expr) -> Expr:
        """Where in memory."""
        return self.row * self.n + vector

    def count(self, v: Names) -> Expr:
        """Elements of a piece."""
        begin = v.j.astype("int64") * self.problem["length"]
        return tirx.min(self.problem["length"], self.problem["n"] - begin).astype("float32")

    def statement(self) -> tirx.Stmt:
        """The kernel, whose grid is empty where rows are whole."""
        p, a = self.problem, Arithmetic(self.slots)
        self.n, self.rows = p["pieces"], a.bind(p.results)
        blocks, wide, lane = self.in_groups(a, p.results, p["join"])
        self.parameters(a, p["n"])
        a.add(self.all_rows(Walk(1, p.shape.loads, wide, lane, self.n, kept=False)))
        grid = tirx.Select(self.n > i64(1), blocks, i32(0))
        return self.kernel(grid, a.statements)
