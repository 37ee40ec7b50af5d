"""From a row program to leaves: vector loops over rows, unrolled, with masked ends.

Two leaves are made of a :class:`~codegen.program.Program`:

- ``row``: the row is contiguous, and lanes run along it; several rows go side by side, as the sums of one row are a
  chain of latencies, and what all rows share (weights, their gradients) is then loaded and stored once;
- ``column``: ``rows`` neighbouring rows lie across the lanes, element i of each ``stride`` behind element i - 1. This
  is how softmax over the first dimension of a matrix runs, without a transpose.

Both have the prototype ``RowsFn`` of csrc/drivers/rows.h: MAX_OPERANDS pointers, as many strides in elements, rows, n,
MAX_PARAMS floats. Low precision is storage: every operand is converted to float32 when loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from ..program import REDUCTIONS, Names, Pass, Program, Scalars, used
from . import storage
from .lower import i32, leaf, sequence
from .vectors import VectorEmitter


class RowsEmitter(VectorEmitter):
    """Makes the body of one leaf."""

    def along(self, step: Pass) -> list[tirx.Stmt]:
        """A pass along a contiguous row."""
        block = self.lanes * self.unroll
        full = tirx.floordiv(self.n, i32(block))
        rest = tirx.floordiv(tirx.floormod(self.n, i32(block)), i32(self.lanes))
        self.tail = tirx.floormod(self.n, i32(self.lanes))
        zero = i32(0)
        out = self.clear(step, "acc")
        out += self.clear(step, "tot", "sum")

        def each(u: int, j: Expr, mask: Expr | None) -> list[tirx.Stmt]:
            return self.each_side(lambda: self.element(step, u, j, zero, mask, "acc"))

        def main(i: Expr) -> list[tirx.Stmt]:
            return [s for u in range(self.unroll) for s in each(u, i * i32(block) + i32(u * self.lanes), None)]

        out += self.walk(step, full, main)
        done = full * i32(block)
        if self.unroll > 1:
            out.append(self.loop("i", rest, lambda i: sequence(*each(0, done + i * i32(self.lanes), None))))
        if not (isinstance(self.n, tirx.IntImm) and int(self.n) % self.lanes == 0):
            lanes = T.ramp(0, 1, self.lanes)
            mask = lanes < T.broadcast(self.tail, self.lanes)
            last = each(0, self.n - self.tail, mask)
            out.append(tirx.IfThenElse(self.tail > zero, sequence(*last), None))
        out += self.empty(step)
        for name, (kind, _) in step.reduce.items():
            out += self.each_side(lambda name=name, kind=kind: self.fold(name, kind))  # type: ignore[misc]
        return out

    def fold(self, name: str, kind: str) -> list[tirx.Stmt]:
        """The lanes of an accumulator to one scalar, in a fixed tree."""
        reduction = REDUCTIONS[kind]
        acc = self.accumulator(name, kind, "tot" if kind == "sum" else "acc")
        first = i32(self.slot(0))
        out: list[tirx.Stmt] = []

        def halve(width: int) -> tirx.Stmt:
            def pair(lane: tirx.Var) -> tirx.Stmt:
                one, other = (tirx.BufferLoad(acc, [first + lane + i32(at)]) for at in (0, width))
                return tirx.BufferStore(acc, reduction.combine(one, other), [first + lane])

            return self.vector(pair, width) if width > 1 else pair(i32(0))

        width = self.unroll * self.lanes
        while width > self.lanes:  # vectors first
            width -= self.lanes
            at = width

            def vectors(lane: tirx.Var, at: int = at) -> tirx.Stmt:
                one, other = (tirx.BufferLoad(acc, [first + lane + i32(at)]) for at in (0, at))
                return tirx.BufferStore(acc, reduction.combine(one, other), [first + lane])

            out.append(self.vector(vectors))
        while width > 1:
            width //= 2
            out.append(halve(width))
        result = self.stack("sc_" + name, self.height, reduction.dtype)
        self.scalar_types[name] = reduction.dtype
        out.append(tirx.BufferStore(result, tirx.BufferLoad(acc, [first]), [i32(self.side)]))
        return out

    def across(self, step: Pass, starts: Sequence[Expr], mask: Expr | None) -> list[tirx.Stmt]:
        """A pass of a tile of rows that lie across the lanes."""
        out = self.clear(step, "acc")
        out += self.clear(step, "tot", "sum")
        names = used(step)

        def body(i: Expr) -> list[tirx.Stmt]:
            out: list[tirx.Stmt] = []
            for k, o in enumerate(self.program.operands):
                if o.name in names and o.role == "vector":
                    value = storage.load(self.kinds[k], tirx.BufferLoad(self.buffers[k], [i + self.strides[k]]))
                    out.append(tirx.BufferStore(self.stack("w_" + o.name, 1), value, [i32(0)]))
            for u, start in enumerate(starts):
                out += self.element(step, u, i, start, mask, "acc")
            return out

        out += self.walk(step, self.n, body)
        for name, (kind, _) in step.reduce.items():
            acc = self.accumulator(name, kind, "tot" if kind == "sum" else "acc")
            self.scalar_types[name] = REDUCTIONS[kind].dtype
            result = self.stack("sc_" + name, self.width * self.lanes, REDUCTIONS[kind].dtype)
            for u in range(self.width):

                def keep(lane: tirx.Var, u: int = u, acc=acc, result=result) -> tirx.Stmt:
                    at = [lane + i32(u * self.lanes)]
                    return tirx.BufferStore(result, tirx.BufferLoad(acc, at), at)

                out.append(self.vector(keep))
        return out

    def scalars(self, step: Scalars, starts: Sequence[Expr], mask: Expr | None) -> list[tirx.Stmt]:
        """Computation once a row."""
        out: list[tirx.Stmt] = []
        lanes = self.lanes if self.column else 1

        def each(body: Callable[[int, Expr], tirx.Stmt]) -> list[tirx.Stmt]:
            if not self.column:
                return self.each_side(lambda: [body(0, i32(0))])
            return [self.vector(lambda lane, u=u: body(u, lane)) for u in range(self.width)]  # type: ignore[misc]

        for name, function in step.values.items():
            buffer = self.stack("sc_" + name, self.width * lanes if self.column else self.height)

            def compute(u: int, lane: Expr, f=function, b=buffer) -> tirx.Stmt:
                value = f(Names(lambda read: self.resolve(read, u, lane, None, set())))
                return tirx.BufferStore(b, value, [lane + i32(u * self.lanes) if self.column else i32(self.side)])

            out += each(compute)
        for name, function in step.store.items():
            k = next(i for i, o in enumerate(self.program.operands) if o.name == name)
            kind, buffer = self.kinds[k], self.buffers[k]
            for u, start in enumerate(starts):
                self.start = start

                def value(lane: Expr, u: int = u, f=function) -> Expr:
                    return f(Names(lambda read: self.resolve(read, u, lane, None, set())))

                if self.column:
                    out += self.save(name, value, self.place(k, i32(0)), mask)
                    continue

                def one(k: int = k, kind: str = kind, buffer=buffer, value=value) -> list[tirx.Stmt]:
                    return [tirx.BufferStore(buffer, storage.store(kind, value(i32(0))), [self.place(k, i32(0))])]

                out += self.each_side(one)
        return out

    def given(self, starts: Sequence[Expr], mask: Expr | None) -> list[tirx.Stmt]:
        """Loads the scalar operands that are read."""
        out: list[tirx.Stmt] = []
        names = set().union(*(used(step) for step in self.program.steps))
        for k, o in enumerate(self.program.operands):
            if o.role != "scalar" or o.name not in names or o.written:
                continue
            kind = self.kinds[k]
            if not self.column:

                def one(k: int = k, kind: str = kind, name: str = o.name) -> list[tirx.Stmt]:
                    value = storage.load(kind, tirx.BufferLoad(self.buffers[k], [self.place(k, i32(0))]))
                    return [tirx.BufferStore(self.stack("sc_" + name, self.height), value, [i32(self.side)])]

                out += self.each_side(one)
                continue
            for u, start in enumerate(starts):
                self.start = start
                one = self.stack("x_" + o.name, self.lanes)
                out += self.load(o.name, one, self.place(k, i32(0)), mask)
                whole = self.stack("sc_" + o.name, self.width * self.lanes)

                def keep(lane: tirx.Var, u: int = u, one=one, whole=whole) -> tirx.Stmt:
                    return tirx.BufferStore(whole, tirx.BufferLoad(one, [lane]), [lane + i32(u * self.lanes)])

                out.append(self.vector(keep))
        return out

    def tile(self, starts: Sequence[Expr], mask: Expr | None) -> tirx.Stmt:
        """All steps, for rows side by side or a tile of columns."""
        self.scalar_types = {}
        out = self.given(starts, mask)
        for step in self.program.steps:
            if isinstance(step, Scalars):
                out += self.scalars(step, starts, mask)
            elif self.column:
                out += self.across(step, starts, mask)
            else:
                out += self.along(step)
        return sequence(*out)

    def down(self) -> tirx.Stmt:
        """All rows, ``height`` at a time, then one by one."""

        def some(first: Expr, sides: int) -> tirx.Stmt:
            self.row, self.sides = first, sides
            return self.tile([i32(0)], None)

        if self.height == 1:
            return self.loop("r", self.rows, lambda r: some(r, 1))
        height = i32(self.height)
        full = tirx.Select(self.n <= i32(self.longest), tirx.floordiv(self.rows, height), i32(0))
        return sequence(
            self.loop("r", full, lambda r: some(r * height, self.height)),
            self.loop("r", self.rows - full * height, lambda r: some(full * height + r, 1)),
        )

    def body(self) -> tirx.Stmt:
        """The leaf's body."""
        if not self.column:
            return self.down()
        block = self.lanes * self.unroll
        full = tirx.floordiv(self.rows, i32(block))
        rest = tirx.floordiv(tirx.floormod(self.rows, i32(block)), i32(self.lanes))
        self.tail = tirx.floormod(self.rows, i32(self.lanes))
        self.width = self.unroll
        out = [
            self.loop(
                "t", full, lambda t: self.tile([t * i32(block) + i32(u * self.lanes) for u in range(self.unroll)], None)
            )
        ]
        self.width = 1
        if self.unroll > 1:
            out.append(self.loop("t", rest, lambda t: self.tile([full * i32(block) + t * i32(self.lanes)], None)))
        mask = T.ramp(0, 1, self.lanes) < T.broadcast(self.tail, self.lanes)
        out.append(tirx.IfThenElse(self.tail > i32(0), self.tile([self.rows - self.tail], mask), None))
        return sequence(*out)

    def signature(self) -> list[tirx.Var]:
        """As RowsFn."""
        return [*self.buffers, *self.strides, self.rows, self.n_var, *self.params]


def rows_leaf(
    name: str,
    program: Program,
    dtype: str,
    lanes: int,
    unroll: int,
    n: int | None = None,
    *,
    column: bool = False,
    height: int = 1,
    longest: int = 2**31 - 1,
) -> tirx.PrimFunc:
    """The leaf ``name`` of a program, for ``dtype`` storage; ``n`` is compiled in if given.

    ``unroll``: vectors in one step of the loop. ``height``: rows side by side, in the form along rows, if
    they are at most ``longest``.
    """
    assert not column or height == 1
    emitter = RowsEmitter(program, dtype, lanes, unroll, n, column=column, height=height, longest=longest)
    body = sequence(*emitter.constants(), emitter.body())
    return leaf(name, emitter.signature(), body, emitter.local)
