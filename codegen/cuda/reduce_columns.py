"""Reductions of rows that lie across memory: a thread has a vector of neighbouring rows, and walks along n.

The 2**high threads of a unit (``reduce_cut.py``) that have the same vector take turns along n, and combine what they
have through shared memory: with the one that is 1 on, 2 on, and so forth. A sum so has one order, and all have the
result.
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from ..leaves.lower import i32, sequence
from ..program import Pass
from .arithmetic import Arithmetic
from .reduce_rows import Part, Reduce
from .row_memory import i64
from .row_tiles import Walk


class Across(Part):
    """Rows across memory."""

    def __init__(self, problem: Reduce) -> None:
        super().__init__(problem, problem.whole, problem.shape.vector)
        self.adopt("x", problem.x)
        self.adopt("y", problem.y)
        self.reduced_to: dict[str, tirx.Buffer] = {}  # scalars: one for each of a vector's rows

    def columns_of(self) -> Expr:
        """Vectors of neighbouring rows, or rows where those are not whole."""
        inner, vector = self.problem["inner"], i64(self.shape.vector)
        whole = tirx.EQ(tirx.truncmod(inner, vector), i64(0))
        return tirx.Select(whole, tirx.truncdiv(inner, vector), inner)

    def statement(self) -> tirx.Stmt:
        """The kernel, whose grid is empty for rows along memory."""
        p, a, s = self.problem, Arithmetic(self.slots), self.shape
        self.columns = a.bind(self.columns_of())
        shift = p["wide"] + p["high"]
        free = self.threads_shift - shift

        def units(columns: Expr) -> tuple[Expr, Expr]:
            tiles = tirx.shift_right(columns - i64(1), p["wide"]) + i64(1)
            return tiles, p["outer"] * tiles * p["pieces"]

        blocks = tirx.shift_right(units(self.columns_of())[1] - i64(1), free) + i64(1)
        grid = tirx.Select(tirx.EQ(p["inner"], i64(1)), i64(0), blocks).astype("int32")
        thread = self.thread.astype("int64")
        place = a.bind(tirx.shift_left(self.block.astype("int64"), free) + tirx.shift_right(thread, shift))
        width, height = a.bind(tirx.shift_left(i64(1), p["wide"])), a.bind(tirx.shift_left(i64(1), p["high"]))
        lane = a.bind(tirx.bitwise_and(tirx.shift_right(thread, p["wide"]), height - i64(1)))
        self.leader = tirx.EQ(lane, i64(0))
        # Which tile of which piece of which row of [outer].
        tiles, total = (a.bind(e) for e in units(self.columns))
        unit = a.bind(tirx.min(place, total - i64(1)))
        rest = a.bind(tirx.truncdiv(unit, tiles))
        outer = a.bind(tirx.truncdiv(rest, p["pieces"]))
        self.piece = a.bind(rest - outer * p["pieces"])
        column = a.bind((unit - rest * tiles) * width + tirx.bitwise_and(thread, width - i64(1)))
        inside = a.bind(tirx.Select(tirx.And(place < total, column < self.columns), i64(1), i64(0)))
        self.there = inside > i64(0)
        self.begin = a.bind(self.piece * p["length"])
        length = a.bind(tirx.min(p["length"], p["n"] - self.begin))
        self.limit = a.bind(length * inside)
        self.first = a.bind((outer * p["n"] + self.begin) * self.columns + column)
        self.result = a.bind(outer * self.columns + column)
        self.parameters(a, length)

        def walk(vector: int) -> list[tirx.Stmt]:
            return self.walks(Walk(vector, p.shape.loads, height, lane, self.limit, kept=False))

        if s.vector == 1:
            return self.kernel(grid, [*a.statements, *walk(1)])
        whole = tirx.EQ(tirx.truncmod(p["inner"], i64(s.vector)), i64(0))
        return self.kernel(grid, [*a.statements, tirx.IfThenElse(whole, sequence(*walk(s.vector)), sequence(*walk(1)))])

    def walks(self, walk: Walk) -> list[tirx.Stmt]:
        """All passes, then the results."""
        mark = self.slots.mark()
        self.scalars, self.held, self.reduced_to = {}, set(), {}
        out: list[tirx.Stmt] = []
        for step in self.program.steps:
            if isinstance(step, Pass):
                out += self.along(step, walk)

        def one(i: Expr) -> list[tirx.Stmt]:
            a = Arithmetic(self.slots)
            self.row = a.bind(self.result * i64(walk.vector) + i.astype("int64"))
            self.scalars = {name: tirx.BufferLoad(buffer, [i]) for name, buffer in self.reduced_to.items()}
            return [*a.statements, *self.results(self.program.steps, self.row * self.problem["pieces"] + self.piece)]

        out += self.unrolled("i", walk.vector, one)
        self.slots.release(mark)
        return out

    def of_element(self, name: str, i: Expr) -> Expr:
        """A scalar of the ``i``-th row of a vector."""
        return tirx.BufferLoad(self.reduced_to[name], [i]) if name in self.reduced_to else self.common(name)

    def index(self, walk: Walk, vector: Expr, i: Expr) -> Expr:
        """Which element of its row; all of a vector are the same one of theirs."""
        return self.begin + vector

    def place(self, name: str, walk: Walk, vector: Expr) -> Expr:
        """Where in memory, in vectors or elements."""
        return self.first + vector * self.columns

    def reduced(self, step: Pass, walk: Walk) -> list[tirx.Stmt]:
        """What the threads along n have reduced, for each of a vector's rows."""
        a, threads = Arithmetic(self.slots), self.shape.threads
        found = {}
        for name, (kind, _) in step.reduce.items():
            if walk.vector == 1:
                found[name] = self.local(f"found_{name}", 1, kind)
                a.add(tirx.BufferStore(found[name], self.folded(a, name, kind, walk), [i32(0)]))
            else:
                found[name] = self.local(f"found_{name}", walk.vector, kind)
                acc = self.accumulator(name, kind, walk)
                a.add(*self.unrolled("i", walk.vector, lambda i: [self._copied(found[name], acc, i)]))  # noqa: B023
        kinds = [kind for kind, _ in step.reduce.values()]
        shared = [self.shared(f"shared{i}", self.shape.vector * threads, kind) for i, kind in enumerate(kinds)]
        barrier = tirx.Evaluate(T.tvm_storage_sync("shared"))

        def put(i: Expr) -> list[tirx.Stmt]:
            at = i * i32(threads) + self.thread
            return [
                tirx.BufferStore(room, tirx.BufferLoad(value, [i]), [at])
                for room, value in zip(shared, found.values(), strict=True)
            ]

        def turn(s: tirx.Var) -> tirx.Stmt:
            b = Arithmetic(self.slots)
            away = tirx.shift_left(i64(1), self.problem["wide"] + s)
            other = b.bind(tirx.bitwise_xor(self.thread, away.astype("int32")))

            def combine(i: Expr) -> list[tirx.Stmt]:
                c = Arithmetic(self.slots)
                for room, value, kind in zip(shared, found.values(), kinds, strict=True):
                    theirs = c.bind(tirx.BufferLoad(room, [i * i32(threads) + other]))
                    both = self.combine(c, kind, c.bind(tirx.BufferLoad(value, [i])), theirs)
                    c.add(tirx.BufferStore(value, both, [i]))
                return c.statements

            b.add(barrier, *self.unrolled("i", walk.vector, put), barrier, *self.unrolled("i", walk.vector, combine))
            return sequence(*b.statements)

        a.add(self.loop("away", self.problem["high"], turn))
        self.reduced_to |= found
        return a.statements

    def _copied(self, to: tirx.Buffer, from_: tirx.Buffer, i: Expr) -> tirx.Stmt:
        return tirx.BufferStore(to, tirx.BufferLoad(from_, [i]), [i])
