"""Reductions whose rows lie across the lanes, a wide tile of them at a time.

A tile of a few vectors keeps its accumulators in registers, but then only a few cache lines of every matrix row are
read before the next row, and memory is slow that way. Here a tile is up to ``width`` vectors: its accumulators live in
L1, and ``DEPTH`` matrix rows are added to each while it is in a register, so that memory is read in long runs.

The leaf's prototype is that of ``rows.py`` in column form, whose arithmetic of one vector this uses.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from ..program import REDUCTIONS, Pass, Program, Scalars, used
from . import storage
from .lower import i32, leaf, sequence
from .rows import CHAIN, _Emitter

# Matrix rows that go to an accumulator between its load and its store; divides CHAIN.
DEPTH = 4


class _Columns(_Emitter):
    """Makes the body of one leaf. The base class sees a tile of one vector, whose state is swapped in and out."""

    def __init__(self, program: Program, dtype: str, lanes: int, width: int) -> None:
        super().__init__(program, dtype, lanes, 1, None, column=True, height=1, longest=2**31 - 1)
        self.vectors = width
        self.scalar_types: dict[str, str] = {}
        self.views: dict[tirx.Buffer, tirx.Buffer] = {}
        for step in program.steps:
            if isinstance(step, Pass):
                self.scalar_types |= {name: REDUCTIONS[kind].dtype for name, (kind, _) in step.reduce.items()}

    def array(self, name: str, dtype: str) -> tirx.Buffer:
        """A vector for each of the tile's, on the stack."""
        buffer = self.stack("memory_" + name, self.vectors * self.lanes, dtype)
        if buffer not in self.views:  # named otherwise, or TVM would make it as large as the tile at hand
            view = tirx.decl_buffer((self.vectors * self.lanes,), dtype, "all_" + name, scope="local")
            self.views[buffer] = view
        return self.views[buffer]

    def move(self, name: str, which: str, u: Expr, *, load: bool) -> tirx.Stmt:
        """Between the vector ``which`` of a reduction or scalar and its place ``u`` in the tile's array."""
        dtype = self.scalar_types.get(name, "float32")
        one = self.stack(f"{which}_{name}", self.lanes, dtype)
        all_ = self.array(f"{which}_{name}", dtype)

        def body(lane: tirx.Var) -> tirx.Stmt:
            at = u * i32(self.lanes) + lane
            if load:
                return tirx.BufferStore(one, tirx.BufferLoad(all_, [at]), [lane])
            return tirx.BufferStore(all_, tirx.BufferLoad(one, [lane]), [at])

        return self.vector(body)

    def vectors_at(self, names: set[str], j: Expr) -> list[tirx.Stmt]:
        """Loads what is the same for all rows."""
        out: list[tirx.Stmt] = []
        for k, o in enumerate(self.program.operands):
            if o.name in names and o.role == "vector":
                value = storage.load(self.kinds[k], tirx.BufferLoad(self.buffers[k], [j + self.strides[k]]))
                out.append(tirx.BufferStore(self.stack("w_" + o.name, 1), value, [i32(0)]))
        return out

    def each(self, body: Callable[[Expr, Expr, Expr | None], list[tirx.Stmt]]) -> list[tirx.Stmt]:
        """``body(u, start, mask)`` for every vector of the tile."""
        var = tirx.Var("u", "int32")
        start = self.base + var * i32(self.lanes)
        whole = tirx.For(var, i32(0), self.full, tirx.ForKind.SERIAL, sequence(*body(var, start, None)))
        mask = T.ramp(0, 1, self.lanes) < T.broadcast(self.tail, self.lanes)
        last = body(self.full, self.base + self.full * i32(self.lanes), mask)
        return [whole, tirx.IfThenElse(self.tail > i32(0), sequence(*last), None)]

    def walk_columns(self, step: Pass) -> list[tirx.Stmt]:
        """A pass of the tile."""
        names = used(step)
        sums = [name for name, (kind, _) in step.reduce.items() if kind == "sum"]
        scalars = [name for name in self.known if name in names]

        def reset(u: Expr) -> list[tirx.Stmt]:
            out = self.clear(step, "acc") + self.clear(step, "tot", "sum")
            out += [self.move(name, "acc", u, load=False) for name in step.reduce]
            return out + [self.move(name, "tot", u, load=False) for name in sums]

        def rows(first: Expr, depth: int) -> tirx.Stmt:
            def body(u: Expr, start: Expr, mask: Expr | None) -> list[tirx.Stmt]:
                out = [self.move(name, "sc", u, load=True) for name in scalars]
                out += [self.move(name, "acc", u, load=True) for name in step.reduce]
                for i in range(depth):
                    out += self.vectors_at(names, first + i32(i))
                    out += self.element(step, 0, first + i32(i), start, mask, "acc")
                return out + [self.move(name, "acc", u, load=False) for name in step.reduce]

            return sequence(*self.each(body))

        def run(first: Expr, count: Expr) -> list[tirx.Stmt]:
            deep = tirx.floordiv(count, i32(DEPTH))
            return [
                self.loop("i", deep, lambda i: rows(first + i * i32(DEPTH), DEPTH)),
                self.loop("i", tirx.floormod(count, i32(DEPTH)), lambda i: rows(first + deep * i32(DEPTH) + i, 1)),
            ]

        def emptied(u: Expr, start: Expr, mask: Expr | None) -> list[tirx.Stmt]:
            out = [self.move(name, which, u, load=True) for name in sums for which in ("acc", "tot")]
            out += self.empty(step)
            return out + [self.move(name, which, u, load=False) for name in sums for which in ("acc", "tot")]

        def kept(u: Expr, start: Expr, mask: Expr | None) -> list[tirx.Stmt]:
            out: list[tirx.Stmt] = []
            for name, (kind, _) in step.reduce.items():
                which = "tot" if kind == "sum" else "acc"
                out.append(self.move(name, which, u, load=True))
                result, acc = (self.stack(f"{w}_{name}", self.lanes, REDUCTIONS[kind].dtype) for w in ("sc", which))
                out.append(
                    self.vector(lambda lane, r=result, a=acc: tirx.BufferStore(r, tirx.BufferLoad(a, [lane]), [lane]))  # type: ignore[misc]
                )
                out.append(self.move(name, "sc", u, load=False))
            return out

        out = self.each(lambda u, start, mask: reset(u)) if step.reduce else []
        if sums:
            chains = tirx.floordiv(self.n + i32(CHAIN - 1), i32(CHAIN))

            def chain(c: tirx.Var) -> tirx.Stmt:
                first = c * i32(CHAIN)
                length = tirx.min(i32(CHAIN), self.n - first)
                return sequence(*run(first, length), *self.each(emptied))

            out.append(self.loop("c", chains, chain))
        else:
            out += run(i32(0), self.n)
        if step.reduce:
            out += self.each(kept)
        self.known += step.reduce
        return out

    def once(self, step: Scalars) -> list[tirx.Stmt]:
        """Computation once a row."""
        names = [name for name in self.known if name in used(step)]

        def body(u: Expr, start: Expr, mask: Expr | None) -> list[tirx.Stmt]:
            out = [self.move(name, "sc", u, load=True) for name in names]
            out += self.scalars(step, [start], mask)
            return out + [self.move(name, "sc", u, load=False) for name in step.values]

        out = self.each(body)
        self.known += step.values
        return out

    def body(self) -> tirx.Stmt:
        """The leaf's body."""
        block = i32(self.vectors * self.lanes)

        def tile(t: tirx.Var) -> tirx.Stmt:
            self.base = t * block
            rest = tirx.min(block, self.rows - self.base)
            self.full = tirx.floordiv(rest, i32(self.lanes))
            self.tail = tirx.floormod(rest, i32(self.lanes))
            self.known: list[str] = []  # scalars that are there
            out: list[tirx.Stmt] = []
            for step in self.program.steps:
                out += self.once(step) if isinstance(step, Scalars) else self.walk_columns(step)
            return sequence(*out)

        return self.loop("t", tirx.floordiv(self.rows + block - i32(1), block), tile)


def columns_leaf(name: str, program: Program, dtype: str, lanes: int, width: int) -> tirx.PrimFunc:
    """The leaf ``name``: a program that reduces and stores scalars, for tiles of up to ``width`` vectors of rows."""
    emitter = _Columns(program, dtype, lanes, width)
    body = emitter.body()
    return leaf(
        name, emitter.signature(), body, emitter.local, {view: buffer for buffer, view in emitter.views.items()}
    )
