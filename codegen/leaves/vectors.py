"""What a row program does to one vector of elements: loads, names, values, stores, what it adds to accumulators.

``rows.py`` and ``columns.py`` put loops around it.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from ..program import MAX_OPERANDS, MAX_PARAMS, REDUCTIONS, Names, Pass, Program, used
from . import storage
from .lower import f32, i32, prefetch, sequence

# Additions in one accumulator before it is emptied into another: bounds the error of a long sum.
CHAIN = 64
LINE = 64  # bytes of a cache line


def wide(index: Expr) -> Expr:
    """In 64 bits: LLVM then needs no sign extension in the loop."""
    return index.astype("int64")


class VectorEmitter:
    """Makes the statements of one leaf that go through a vector, or a few."""

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
        self.tail: Expr = i32(0)  # elements, or rows that lie across, after the last whole vector
        self.scalar_types: dict[str, str] = {}

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
