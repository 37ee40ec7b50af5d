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

from ..program import MAX_OPERANDS, MAX_PARAMS, REDUCTIONS, Names, Pass, Program, Scalars, used
from . import storage
from .lower import f32, i32, leaf, prefetch, sequence

# Additions in one accumulator before it is emptied into another: bounds the error of a long sum.
CHAIN = 64
LINE = 64  # bytes of a cache line


def wide(index: Expr) -> Expr:
    """In 64 bits: LLVM then needs no sign extension in the loop."""
    return index.astype("int64")


class _Emitter:
    """Makes the body of one leaf."""

    def __init__(
        self,
        program: Program,
        dtype: str,
        lanes: int,
        unroll: int,
        n: int | None,
        *,
        column: bool,
        height: int,
        longest: int,
    ) -> None:
        self.program, self.lanes, self.unroll, self.column = program, lanes, unroll, column
        self.height, self.longest = height, longest
        self.buffers, self.strides = [], []
        for i in range(MAX_OPERANDS):
            operand = program.operands[i] if i < len(program.operands) else None
            kind = dtype if operand is None or operand.dtype == "data" else operand.dtype
            self.buffers.append(tirx.decl_buffer((1,), storage.memory(kind), f"p{i}"))
            self.strides.append(tirx.Var(f"s{i}", "int32"))
        self.kinds = [dtype if o.dtype == "data" else o.dtype for o in program.operands]
        self.rows, self.n_var = tirx.Var("rows", "int32"), tirx.Var("n", "int32")
        self.n: Expr = self.n_var if n is None else i32(n)
        self.params = [tirx.Var(f"f{i}", "float32") for i in range(MAX_PARAMS)]
        self.local: list[tirx.Buffer] = []
        assert all(len(values) == lanes for values in program.constants.values())
        self._cache: dict[tuple[str, int, str], tirx.Buffer] = {}
        # Row form: the first of the rows that go side by side, which of them the code now is for, and how many.
        self.row: Expr = i32(0)
        self.side, self.sides = 0, height
        # Column form: where the current vector starts, which one of its tile it is, and how many the tile has.
        self.start: Expr = i32(0)
        self.index = 0
        self.width = unroll

    def stack(self, name: str, size: int, dtype: str = "float32") -> tirx.Buffer:
        """A buffer on the stack, which LLVM turns into registers; the same one for the same name and size."""
        key = (name, size, dtype)
        if key not in self._cache:
            self._cache[key] = tirx.decl_buffer((size,), dtype, name, scope="local")
            self.local.append(self._cache[key])
        return self._cache[key]

    def vector(self, body: Callable[[tirx.Var], tirx.Stmt], lanes: int | None = None) -> tirx.Stmt:
        """``body`` for every lane."""
        lane = tirx.Var("l", "int32")
        return tirx.For(lane, i32(0), i32(lanes or self.lanes), tirx.ForKind.VECTORIZED, body(lane))

    def loop(self, name: str, extent: Expr, body: Callable[[tirx.Var], tirx.Stmt]) -> tirx.Stmt:
        """A plain loop, left out where it is known to be empty."""
        var = tirx.Var(name, "int32")
        if isinstance(extent, tirx.IntImm) and int(extent) == 0:
            return tirx.Evaluate(i32(0))
        return tirx.For(var, i32(0), extent, tirx.ForKind.SERIAL, body(var))

    # -- operands ------------------------------------------------------------------------------------------------

    def place(self, index: int, j: Expr) -> Expr:
        """Where element ``j`` of the current row is; of the first row of the current vector in column form.

        The stride is always part of it, so that LLVM takes no alignment for granted: vectors have 0 there.
        """
        role = self.program.operands[index].role
        if self.column:
            if role == "scratch":
                return j * self.strides[index] + i32(self.index * self.lanes)
            column = self.start if role in ("row", "scalar") else i32(0)
            return j * self.strides[index] + column if role != "scalar" else column + self.strides[index]
        if role == "row":
            return wide(self.row + i32(self.side)) * wide(self.strides[index]) + wide(j)
        if role == "scalar":
            return self.row + i32(self.side) + self.strides[index]
        if role == "scratch":
            return i32(self.side) * self.strides[index] + j
        return j + self.strides[index]

    def load(self, name: str, into: tirx.Buffer, place: Expr, mask: Expr | None) -> list[tirx.Stmt]:
        """One vector of an operand, as float32 (or its own integers), into a buffer of ``lanes``."""
        index = next(i for i, o in enumerate(self.program.operands) if o.name == name)
        buffer, kind = self.buffers[index], self.kinds[index]
        if mask is None:
            return [
                self.vector(
                    lambda lane: tirx.BufferStore(
                        into, storage.load(kind, tirx.BufferLoad(buffer, [place + lane])), [lane]
                    )
                )
            ]
        raw = self.stack("raw_" + kind, self.lanes, storage.memory(kind))
        ramp = T.ramp(place, 1, self.lanes)
        masked = T.masked_load(f"{storage.memory(kind)}x{self.lanes}", buffer, ramp, mask)
        return [
            tirx.BufferStore(raw, masked, [T.ramp(0, 1, self.lanes)]),
            self.vector(lambda lane: tirx.BufferStore(into, storage.load(kind, tirx.BufferLoad(raw, [lane])), [lane])),
        ]

    def save(
        self, name: str, value: Callable[[tirx.Var], Expr], place: Expr, mask: Expr | None, *, raw: bool = False
    ) -> list[tirx.Stmt]:
        """One vector to an operand; ``raw``: of its own dtype already."""
        index = next(i for i, o in enumerate(self.program.operands) if o.name == name)
        buffer, kind = self.buffers[index], self.kinds[index]

        def element(lane: tirx.Var) -> Expr:
            return value(lane) if raw else storage.store(kind, value(lane))

        if mask is None:
            return [self.vector(lambda lane: tirx.BufferStore(buffer, element(lane), [place + lane]))]
        vector = self.stack("out_" + kind, self.lanes, storage.memory(kind))
        lanes = T.ramp(0, 1, self.lanes)
        return [
            self.vector(lambda lane: tirx.BufferStore(vector, element(lane), [lane])),
            tirx.Evaluate(T.masked_store(buffer, tirx.BufferLoad(vector, [lanes]), T.ramp(place, 1, self.lanes), mask)),
        ]

    # -- names ---------------------------------------------------------------------------------------------------

    def scalar(self, name: str, u: int, lane: Expr, dtype: str = "float32") -> Expr:
        """A scalar of the row; in column form, of each lane's."""
        if self.column:
            return tirx.BufferLoad(
                self.stack("sc_" + name, self.width * self.lanes, dtype), [lane + i32(u * self.lanes)]
            )
        return tirx.BufferLoad(self.stack("sc_" + name, self.height, dtype), [i32(self.side)])

    def resolve(self, name: str, u: int, lane: Expr, j: Expr | None, values: set[str]) -> Expr:
        """What a name stands for in lane ``lane`` of vector ``u``, at element ``j`` of the row."""
        if name == "n":
            return self.n.astype("float32")
        if name == "j":
            assert j is not None
            return j if self.column else j + lane
        if name in self.program.params:
            return self.params[self.program.params.index(name)]
        if name in values or name in self.program.constants:
            return tirx.BufferLoad(self.stack("v_" + name, self.lanes), [lane])
        operand = next((o for o in self.program.operands if o.name == name), None)
        if operand is None or operand.role == "scalar":
            return self.scalar(name, u, lane, self.scalar_types.get(name, "float32"))
        if self.column and operand.role == "vector":
            return tirx.BufferLoad(self.stack("w_" + name, 1), [i32(0)])
        return tirx.BufferLoad(self.stack("x_" + name, self.lanes), [lane])

    # -- steps ---------------------------------------------------------------------------------------------------

    def element(self, step: Pass, u: int, j: Expr, start: Expr, mask: Expr | None, target: str) -> list[tirx.Stmt]:
        """What a pass does to one vector: vector ``u`` of a step of the loop, at element ``j``."""
        # What is reduced or added of an operand that this pass stores is what was stored.
        kept = used(Pass(reduce=step.reduce, add=step.add)) & set(step.store)
        names = used(Pass(values=step.values, store=step.store)) | (used(step) - kept)
        out: list[tirx.Stmt] = []
        self.start, self.index = start, u
        for i, o in enumerate(self.program.operands):
            if o.name in names and o.role in ("row", "vector", "scratch"):
                out += self.load(o.name, self.stack("x_" + o.name, self.lanes), self.place(i, j), mask)
            if o.name in step.prefetch and not self.column and u * self.lanes * storage.size(self.kinds[i]) % LINE == 0:
                ahead = wide(i32(0 if o.written else self.sides)) * wide(self.strides[i])
                out.append(prefetch(self.buffers[i], [self.place(i, j) + ahead], write=o.written))
        known: set[str] = set()

        def view(lane: tirx.Var) -> Names:
            snapshot = set(known)
            return Names(lambda name: self.resolve(name, u, lane, j, snapshot))

        for name, function in step.values.items():
            buffer = self.stack("v_" + name, self.lanes)
            out.append(
                self.vector(lambda lane, b=buffer, f=function: tirx.BufferStore(b, f(view(lane)), [lane]))  # type: ignore[misc]
            )
            known.add(name)

        def put(name: str, function: Callable[[Names], Expr]) -> list[tirx.Stmt]:
            i = next(i for i, o in enumerate(self.program.operands) if o.name == name)
            return self.save(name, lambda lane: function(view(lane)), self.place(i, j), mask)

        for name, function in step.store.items():
            if name not in kept:
                out += put(name, function)
                continue
            i = next(i for i, o in enumerate(self.program.operands) if o.name == name)
            kind = self.kinds[i]
            raw, back = (
                self.stack("kept_" + name, self.lanes, storage.memory(kind)),
                self.stack("x_" + name, self.lanes),
            )

            def keep(lane: tirx.Var, f=function, kind=kind, raw=raw) -> tirx.Stmt:
                return tirx.BufferStore(raw, storage.store(kind, f(view(lane))), [lane])

            def read(lane: tirx.Var, kind=kind, raw=raw, back=back) -> tirx.Stmt:
                return tirx.BufferStore(back, storage.load(kind, tirx.BufferLoad(raw, [lane])), [lane])

            out += [self.vector(keep), self.vector(read)]
            out += self.save(name, lambda lane, raw=raw: tirx.BufferLoad(raw, [lane]), self.place(i, j), mask, raw=True)  # type: ignore[misc]
        if step.rare:
            assert not kept
            again = [s for name, function in step.rare.store.items() for s in put(name, function)]
            out.append(tirx.IfThenElse(self.any_below(step.rare.name, step.rare.bound), sequence(*again), None))
        for name, (kind, term) in step.reduce.items():
            reduction = REDUCTIONS[kind]
            acc = self.accumulator(name, kind, target)

            def add(lane: tirx.Var, acc=acc, term=term, reduction=reduction) -> tirx.Stmt:
                at = lane + i32(self.slot(u))
                before = tirx.BufferLoad(acc, [at])
                value = reduction.combine(before, term(view(lane)))
                if mask is not None and not self.column:
                    value = tirx.Select(lane < self.tail, value, before)
                return tirx.BufferStore(acc, value, [at])

            out.append(self.vector(add))
        for name, function in step.add.items():
            i = next(i for i, o in enumerate(self.program.operands) if o.name == name)
            total = self.stack("x_" + name, self.lanes)
            out += self.load(name, total, self.place(i, j), mask)
            out += self.save(
                name,
                lambda lane, t=total, f=function: tirx.BufferLoad(t, [lane]) + f(view(lane)),  # type: ignore[misc]
                self.place(i, j),
                mask,
            )
        return out

    def any_below(self, name: str, bound: float) -> Expr:
        """Whether an element of the current vector of an operand is."""
        vector = tirx.BufferLoad(self.stack("x_" + name, self.lanes), [T.ramp(0, 1, self.lanes)])
        below = vector < T.broadcast(f32(bound), self.lanes)
        return tirx.call_llvm_pure_intrin("bool", "llvm.vector.reduce.or", below)

    def constants(self) -> list[tirx.Stmt]:
        """The program's constant vectors, on the stack: LLVM keeps them in registers or reads them from memory."""
        return [
            tirx.BufferStore(
                self.stack("v_" + name, self.lanes),
                T.Shuffle([f32(v) for v in values], [i32(i) for i in range(self.lanes)]),
                [T.ramp(0, 1, self.lanes)],
            )
            for name, values in self.program.constants.items()
        ]

    def accumulator(self, name: str, kind: str, which: str) -> tirx.Buffer:
        """``which``: "acc", or "tot" for what chains of a sum are emptied into."""
        return self.stack(f"{which}_{name}", self.height * self.width * self.lanes, REDUCTIONS[kind].dtype)

    def slot(self, u: int) -> int:
        """Where vector ``u`` of the current row is in an accumulator."""
        return (self.side * self.width + u) * self.lanes

    def each_side(self, body: Callable[[], list[tirx.Stmt]]) -> list[tirx.Stmt]:
        """``body`` for each of the rows that go side by side."""
        out: list[tirx.Stmt] = []
        for side in range(self.sides):
            self.side = side
            out += body()
        self.side = 0
        return out

    def clear(self, step: Pass, which: str, only: str | None = None) -> list[tirx.Stmt]:
        """Identities into the accumulators."""
        out = []
        for name, (kind, _) in step.reduce.items():
            if only and kind != only:
                continue
            reduction, acc = REDUCTIONS[kind], self.accumulator(name, kind, which)
            identity = tirx.const(reduction.identity, reduction.dtype)
            for u in range(self.sides * self.width):

                def reset(lane: tirx.Var, u: int = u, acc=acc, identity=identity) -> tirx.Stmt:
                    return tirx.BufferStore(acc, identity, [lane + i32(u * self.lanes)])

                out.append(self.vector(reset))
        return out

    def empty(self, step: Pass) -> list[tirx.Stmt]:
        """Moves the sums of a chain to the totals."""
        out = []
        for name, (kind, _) in step.reduce.items():
            if kind != "sum":
                continue
            acc, total = self.accumulator(name, kind, "acc"), self.accumulator(name, kind, "tot")
            for u in range(self.sides * self.width):

                def move(lane: tirx.Var, u: int = u, acc=acc, total=total) -> tirx.Stmt:
                    at = [lane + i32(u * self.lanes)]
                    return tirx.BufferStore(total, tirx.BufferLoad(total, at) + tirx.BufferLoad(acc, at), at)

                out.append(self.vector(move))
        return out + self.clear(step, "acc", "sum")

    def walk(self, step: Pass, count: Expr, body: Callable[[Expr], list[tirx.Stmt]]) -> list[tirx.Stmt]:
        """``body`` for 0 <= i < count, in chains where the pass sums."""
        if not any(kind == "sum" for kind, _ in step.reduce.values()):
            return [self.loop("i", count, lambda i: sequence(*body(i)))]
        if isinstance(count, tirx.IntImm) and int(count) <= CHAIN:
            return [self.loop("i", count, lambda i: sequence(*body(i))), *self.empty(step)]
        chains = tirx.floordiv(count + i32(CHAIN - 1), i32(CHAIN))

        def chain(c: tirx.Var) -> tirx.Stmt:
            length = tirx.min(i32(CHAIN), count - c * i32(CHAIN))
            return sequence(self.loop("i", length, lambda i: sequence(*body(c * i32(CHAIN) + i))), *self.empty(step))

        return [self.loop("c", chains, chain)]

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
        self.scalar_types: dict[str, str] = {}
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
    emitter = _Emitter(program, dtype, lanes, unroll, n, column=column, height=height, longest=longest)
    body = sequence(*emitter.constants(), emitter.body())
    return leaf(name, emitter.signature(), body, emitter.local)
