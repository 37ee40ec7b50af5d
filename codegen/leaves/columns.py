"""Reductions whose rows lie across the lanes: wide tiles of them, and short rows that are transposed first.

Both take the arithmetic of one vector from ``rows.py`` in column form, and have that leaf's prototype.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from ..program import REDUCTIONS, Pass, Program, Scalars, used
from . import storage
from .lower import i32, leaf, sequence
from .rows import RowsEmitter
from .vectors import CHAIN

# Matrix rows that go to an accumulator between its load and its store; divides CHAIN.
DEPTH = 4


class _Tile(RowsEmitter):
    """A tile of one vector, with arrays beside it."""

    def __init__(self, program: Program, dtype: str, lanes: int) -> None:
        super().__init__(program, dtype, lanes, 1, None, column=True, height=1, longest=0)
        self.views: dict[tirx.Buffer, tirx.Buffer] = {}

    def array(self, name: str, vectors: int, dtype: str = "float32") -> tirx.Buffer:
        """So many vectors on the stack."""
        memory = self.stack("memory_" + name, vectors * self.lanes, dtype)
        if memory not in self.views:  # a name of its own, or TVM would make it only as large as a tile seems to need
            self.views[memory] = tirx.decl_buffer((vectors * self.lanes,), dtype, name, scope="local")
        return self.views[memory]

    def ramp(self, at: Expr) -> Expr:
        """The indices of a vector."""
        return T.ramp(at, 1, self.lanes)

    def leaf(self, name: str) -> tirx.PrimFunc:
        """The leaf of ``body``."""
        body = self.body()
        return leaf(name, self.signature(), body, self.local, {view: memory for memory, view in self.views.items()})


class _Columns(_Tile):
    """A tile of many vectors, whose state is swapped in and out of that of the one.

    A tile of a few vectors keeps its accumulators in registers, but then only a few cache lines of every matrix row are
    read before the next row, and memory is slow that way. Here accumulators live in L1, and DEPTH matrix rows are added
    to each while it is in a register: memory is read in long runs.
    """

    def __init__(self, program: Program, dtype: str, lanes: int, width: int) -> None:
        super().__init__(program, dtype, lanes)
        self.vectors = width
        for step in program.steps:
            if isinstance(step, Pass):
                self.scalar_types |= {name: REDUCTIONS[kind].dtype for name, (kind, _) in step.reduce.items()}

    def move(self, name: str, which: str, u: Expr, *, load: bool) -> tirx.Stmt:
        """Between the vector ``which`` of a reduction or scalar and its place ``u`` in the tile's array.

        A reduction's scalar is where its result was.
        """
        dtype = self.scalar_types.get(name, "float32")
        one = self.stack(f"{which}_{name}", self.lanes, dtype)
        held = self.results.get(name, which) if which == "sc" else which
        array, at = self.array(f"all_{held}_{name}", self.vectors, dtype), self.ramp(u * i32(self.lanes))
        lanes = self.ramp(i32(0))
        if load:
            return tirx.BufferStore(one, tirx.BufferLoad(array, [at]), [lanes])
        return tirx.BufferStore(array, tirx.BufferLoad(one, [lanes]), [at])

    def each(self, body: Callable[[Expr, Expr, Expr | None], list[tirx.Stmt]]) -> list[tirx.Stmt]:
        """``body(u, start, mask)`` for every vector of the tile."""
        var = tirx.Var("u", "int32")
        start = self.base + var * i32(self.lanes)
        whole = tirx.For(var, i32(0), self.full, tirx.ForKind.SERIAL, sequence(*body(var, start, None)))
        mask = self.ramp(i32(0)) < T.broadcast(self.tail, self.lanes)
        last = body(self.full, self.base + self.full * i32(self.lanes), mask)
        return [whole, tirx.IfThenElse(self.tail > i32(0), sequence(*last), None)]

    def shared(self, names: set[str], j: Expr) -> list[tirx.Stmt]:
        """Loads what is the same for all rows."""
        out: list[tirx.Stmt] = []
        for k, o in enumerate(self.program.operands):
            if o.name in names and o.role == "vector":
                value = storage.load(self.kinds[k], tirx.BufferLoad(self.buffers[k], [j + self.strides[k]]))
                out.append(tirx.BufferStore(self.stack("w_" + o.name, 1), value, [i32(0)]))
        return out

    def across_all(self, step: Pass) -> list[tirx.Stmt]:
        """A pass of the tile."""
        names = used(step)
        sums = [name for name, (kind, _) in step.reduce.items() if kind == "sum"]
        scalars = [name for name in self.known if name in names]

        def reset(u: Expr, start: Expr, mask: Expr | None) -> list[tirx.Stmt]:
            out = self.clear(step, "acc") + self.clear(step, "tot", "sum")
            out += [self.move(name, "acc", u, load=False) for name in step.reduce]
            return out + [self.move(name, "tot", u, load=False) for name in sums]

        def rows(first: Expr, depth: int) -> tirx.Stmt:
            def body(u: Expr, start: Expr, mask: Expr | None) -> list[tirx.Stmt]:
                out = [self.move(name, "sc", u, load=True) for name in scalars]
                out += [self.move(name, "acc", u, load=True) for name in step.reduce]
                for i in range(depth):
                    out += self.shared(names, first + i32(i))
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

        out = self.each(reset) if step.reduce else []
        if sums:
            chains = tirx.floordiv(self.n + i32(CHAIN - 1), i32(CHAIN))

            def chain(c: tirx.Var) -> tirx.Stmt:
                first = c * i32(CHAIN)
                length = tirx.min(i32(CHAIN), self.n - first)
                return sequence(*run(first, length), *self.each(emptied))

            out.append(self.loop("c", chains, chain))
        else:
            out += run(i32(0), self.n)
        self.results |= {name: "tot" if name in sums else "acc" for name in step.reduce}
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
            self.results: dict[str, str] = {}  # of reductions: which array they are in
            out: list[tirx.Stmt] = []
            for step in self.program.steps:
                out += self.once(step) if isinstance(step, Scalars) else self.across_all(step)
            return sequence(*out)

        return self.loop("t", tirx.floordiv(self.rows + block - i32(1), block), tile)


class _Short(_Tile):
    """As many contiguous rows as there are lanes, transposed in registers to lie across them."""

    def __init__(self, program: Program, dtype: str, lanes: int, longest: int) -> None:
        super().__init__(program, dtype, lanes)
        self.blocks = -(-longest // lanes)
        self.data = next(o.name for o in program.operands if o.role == "row")

    def place(self, index: int, j: Expr) -> Expr:
        return j if self.program.operands[index].role == "row" else super().place(index, j)

    def load(self, name: str, into: tirx.Buffer, place: Expr, mask: Expr | None) -> list[tirx.Stmt]:
        if name != self.data:
            return super().load(name, into, place, mask)
        turned = self.array("turned", self.blocks * self.lanes)
        element = tirx.BufferLoad(turned, [self.ramp(place * i32(self.lanes))])
        return [tirx.BufferStore(into, element, [self.ramp(i32(0))])]

    def turn(self, first: Expr, block: Expr) -> tirx.Stmt:
        """``lanes`` elements from ``block * lanes`` on of as many rows; rows past the last are that one again."""
        lanes, half = self.lanes, self.lanes // 2
        index = next(i for i, o in enumerate(self.program.operands) if o.name == self.data)
        begin = block * i32(lanes)
        mask = self.ramp(i32(0)) < T.broadcast(self.n - begin, lanes)
        x, y = ([self.stack(f"{name}{i}", lanes) for i in range(lanes)] for name in "ab")
        out: list[tirx.Stmt] = []
        for i in range(lanes):
            row = tirx.min(first + i32(i), self.rows - i32(1))
            out += super().load(self.data, x[i], row * self.strides[index] + begin, mask)
        # As in pack.transpose: log2(lanes) stages of interleaving.
        picks = [[i32(p) for j in js for p in (j, lanes + j)] for js in (range(half), range(half, lanes))]
        lane = self.ramp(i32(0))
        for _ in range(lanes.bit_length() - 1):
            for i in range(half):
                pair = [tirx.BufferLoad(b, [lane]) for b in (x[i], x[i + half])]
                for q in range(2):
                    out.append(tirx.BufferStore(y[2 * i + q], T.Shuffle(pair, picks[q]), [lane]))
            x, y = y, x
        turned = self.array("turned", self.blocks * lanes)
        for j in range(lanes):
            at = self.ramp((begin + i32(j)) * i32(lanes))
            out.append(tirx.BufferStore(turned, tirx.BufferLoad(x[j], [lane]), [at]))
        return sequence(*out)

    def body(self) -> tirx.Stmt:
        """The leaf's body."""
        lanes = i32(self.lanes)

        def some(t: tirx.Var) -> tirx.Stmt:
            first = t * lanes
            mask = self.ramp(i32(0)) < T.broadcast(tirx.min(lanes, self.rows - first), self.lanes)
            blocks = tirx.floordiv(self.n + lanes - i32(1), lanes)
            return sequence(self.loop("b", blocks, lambda b: self.turn(first, b)), self.tile([first], mask))

        return self.loop("t", tirx.floordiv(self.rows + lanes - i32(1), lanes), some)


def columns_leaf(name: str, program: Program, dtype: str, lanes: int, width: int) -> tirx.PrimFunc:
    """A program that reduces and stores scalars, for tiles of up to ``width`` vectors of rows that lie across."""
    return _Columns(program, dtype, lanes, width).leaf(name)


def short_leaf(name: str, program: Program, dtype: str, lanes: int, longest: int) -> tirx.PrimFunc:
    """A program that reduces one row operand and stores scalars, for contiguous rows of up to ``longest``."""
    return _Short(program, dtype, lanes, longest).leaf(name)
