"""What a thread does with its vectors of a row: loads, values, stores, what it adds to accumulators.

``rows.py`` says which vectors are whose, and reduces across threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from ..leaves import storage
from ..leaves.lower import i32, sequence
from ..program import REDUCTIONS, Names, Operand, Pass, Program, Scalars, Value, used
from .arithmetic import Arithmetic, function
from .row_elements import Element, to_memory
from .row_memory import Memory, i64

WORD = 4  # bytes
LOAD = 4  # words of the widest load
TRAP = tirx.Evaluate(tirx.call_extern("int32", "__trap"))


@dataclass(frozen=True)
class Walk:
    """How a group goes along a row: vector ``tile + k * group + lane`` of ``vectors`` is a thread's k-th of ``count``.

    ``kept``: the row is one tile, and what of it is read again stays in registers.
    """

    vector: int
    count: int
    group: Expr
    lane: Expr
    vectors: Expr
    kept: bool


class Tiles(Memory):
    """Makes the statements of one kernel that go through a thread's vectors."""

    def __init__(self, program: Program, dtype: str, n: int | None, *, flat: bool) -> None:
        super().__init__(program, dtype, n)
        self.flat = flat
        # Of the row that the code now is for: which, whether there is one, its vectors, scalars, what is in registers.
        self.row: Expr = i64(0)
        self.starts: dict[str, Expr] = {}  # where an operand's row begins, in units of its loads
        self.there: Expr | None = None
        self.limit: Expr = i64(0)
        self.row_start: list[tirx.Stmt] = []
        self.scalars: dict[str, Expr] = {}
        self.held: set[str] = set()
        self.leader: Expr | None = None

    def unrolled(self, name: str, count: int, body: Callable[[Expr], list[tirx.Stmt]]) -> list[tirx.Stmt]:
        """``body`` for 0 <= i < count."""
        if count == 1:
            return body(i32(0))
        var = tirx.Var(name, "int32")
        return [tirx.For(var, i32(0), i32(count), tirx.ForKind.UNROLLED, sequence(*body(var)))]

    def combine(self, a: Arithmetic, kind: str, one: Expr, other: Expr) -> Expr:
        """Two results of a reduction; a plain maximum may drop NaN (see REDUCTIONS)."""
        value = function("fmaxf", one, other) if kind == "max" else REDUCTIONS[kind].combine(one, other)
        return a.bind(value) if kind == "max" else a.value(value)

    # -- rows ----------------------------------------------------------------------------------------------------

    def begin_row(self, row: Expr, walk: Walk) -> None:
        """What follows is for this row; a group that is past the last one has no vectors."""
        self.scalars, self.held, self.row_start = {}, set(), []
        a = Arithmetic(self.slots)
        if self.flat:  # for the rows that there are
            self.row, self.limit = row, walk.vectors
        else:
            place = a.bind(row)
            self.row = a.bind(tirx.min(place, self.rows - i64(1)))
            self.there = place < self.rows
            self.limit = a.bind(tirx.Select(self.there, walk.vectors, i64(0)))
        for name, stride in self.strides.items():
            self.starts[name] = a.bind(self.row * self.in_loads(name, walk, stride))
        self.row_start = a.statements

    def given(self) -> list[tirx.Stmt]:
        """Loads what is read of scalar operands, and of those that all rows share."""
        a = Arithmetic(self.slots)
        names = set().union(*(used(step) for step in self.program.steps))
        for o in self.operands.values():
            if o.role in ("scalar", "single") and not o.written and o.name in names:
                at = self.row if o.role == "scalar" else i64(0)
                element = tirx.BufferLoad(self._buffer[o.name], [at])
                self.scalars[o.name] = a.value(storage.load(self.kinds[o.name], element))
        return a.statements

    def once(self, step: Scalars) -> list[tirx.Stmt]:
        """Computation once a row: by every thread, as each needs the results."""
        a = Arithmetic(self.slots)
        names = Names(self.common)
        for name, f in step.values.items():
            self.scalars[name] = a.value(f(names))
        if step.must:
            assert self.there is not None
            a.add(tirx.IfThenElse(tirx.And(self.there, tirx.Not(a.value(step.must(names)))), TRAP, None))
        puts: list[tirx.Stmt] = []
        for name, f in step.store.items():
            value = a.value(to_memory(self.kinds[name], f(names)))
            puts.append(tirx.BufferStore(self._buffer[name], value, [self.row]))
        if puts:
            assert self.there is not None
            assert self.leader is not None
            a.add(tirx.IfThenElse(tirx.And(self.there, self.leader), sequence(*puts), None))
        return a.statements

    def common(self, name: str) -> Expr:
        """What a name stands for that is the same for the whole row."""
        if name == "n":
            return self.n.astype("float32")
        if name == "length":
            return self.n
        if name in self.program.params:
            return self.params[self.program.params.index(name)]
        return self.scalars[name]

    def of_element(self, name: str, i: Expr) -> Expr:
        """The same to the ``i``-th element of a vector; all of them are of one row."""
        return self.common(name)

    # -- tiles ---------------------------------------------------------------------------------------------------

    def accumulator(self, name: str, kind: str, walk: Walk) -> tirx.Buffer:
        """One for each element of a vector, or each vector of a tile if those are single elements."""
        return self.local(f"acc_{name}", walk.vector if walk.vector > 1 else walk.count, kind)

    def clear(self, step: Pass, walk: Walk) -> list[tirx.Stmt]:
        """Identities into the accumulators."""
        out: list[tirx.Stmt] = []
        for name, (kind, _) in step.reduce.items():
            buffer, reduction = self.accumulator(name, kind, walk), REDUCTIONS[kind]
            identity = tirx.const(reduction.identity, reduction.dtype)
            out += self.unrolled("i", int(buffer.shape[0]), lambda i: [tirx.BufferStore(buffer, identity, [i])])  # noqa: B023
        return out

    def folded(self, a: Arithmetic, name: str, kind: str, walk: Walk) -> Expr:
        """A thread's accumulators as one value."""
        buffer = self.accumulator(name, kind, walk)
        parts = [a.bind(tirx.BufferLoad(buffer, [i32(i)])) for i in range(int(buffer.shape[0]))]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [self.combine(a, kind, parts[i], parts[i + half]) for i in range(half)]
        return parts[0]

    def stored(self, step: Pass) -> dict[str, Value]:
        """What a pass stores. Where a quicker form is not right everywhere, the other: warps don't branch well."""
        return dict(step.rare.store if step.rare else step.store)

    def together(self, walk: Walk) -> int:
        """Elements of a vector that are handled at a time: those of a word."""
        return 2 if walk.vector > 1 and any(storage.size(self.kinds[o]) == 2 for o in self.operands) else 1

    def partial(self, name: str, walk: Walk, k: Expr, vector: Expr, i: Expr) -> tuple[tirx.Buffer, list[Expr]]:
        """Where a group sums an element over rows: in registers if its row is kept there."""
        if walk.kept:
            size = walk.vector * walk.count
            return self.registers(f"partial_{name}", size), [k * i32(walk.vector) + i]
        return self.rooms[name], [self.slot * self.n + vector * i64(walk.vector) + i.astype("int64")]

    def each_partial(self, walk: Walk, body: Callable[[str, Expr, Expr, Expr], tirx.Stmt]) -> list[tirx.Stmt]:
        """``body`` for every element that this thread sums over rows: operand, k-th vector, which it is, element."""
        if not self.rooms:
            return []

        def tile(start: Expr) -> list[tirx.Stmt]:
            def one(k: Expr) -> list[tirx.Stmt]:
                vector = start + k.astype("int64") * walk.group + walk.lane
                inner = self.unrolled("i", walk.vector, lambda i: [body(name, k, vector, i) for name in self.rooms])
                return [tirx.IfThenElse(vector < walk.vectors, sequence(*inner), None)]

            return self.unrolled("k", walk.count, one)

        return self.tiles(walk, tile)

    def tiles(self, walk: Walk, tile: Callable[[Expr], list[tirx.Stmt]]) -> list[tirx.Stmt]:
        """``tile`` for where each tile of a row starts."""
        if walk.kept:
            return tile(i64(0))
        var, at_once = tirx.Var("tile", "int64"), walk.group * i64(walk.count)
        turns = tirx.truncdiv(walk.vectors + (at_once - i64(1)), at_once)
        return [tirx.For(var, i64(0), turns, tirx.ForKind.SERIAL, sequence(*tile(var * at_once)))]

    def producer(self, name: str) -> Pass:
        """The pass that stores a scratch operand."""
        return next(s for s in self.program.steps if isinstance(s, Pass) and name in s.store)

    def loads(self, step: Pass, walk: Walk) -> list[Operand]:
        """The operands in memory that a pass reads. What it reduces of an operand that it stores is what it stored."""
        put = self.stored(step)
        names = used(Pass(values=step.values, store=put)) | (used(Pass(reduce=step.reduce, add=step.add)) - set(put))
        names -= set(step.values)
        found = [o for o in self.operands.values() if o.name in names and o.role in ("row", "vector")]
        for name in [] if walk.kept else sorted(self.scratch & names):
            found += [more for more in self.loads(self.producer(name), walk) if more not in found]
        return found

    def _again(self, name: str, step: Pass) -> bool:
        """Whether a later pass reads an operand."""
        later = self.program.steps[self.program.steps.index(step) + 1 :]
        return any(name in used(s) for s in later)

    def width(self, name: str, walk: Walk) -> int:
        """Words of a vector of an operand."""
        return walk.vector * storage.size(self.kinds[name]) // WORD

    def raw(self, name: str, walk: Walk) -> tirx.Buffer:
        """What is loaded of an operand: words, or numbers where vectors are single elements."""
        if walk.vector > 1:
            return self.registers(f"raw_{name}", self.width(name, walk) * walk.count, "uint32")
        return self.registers(f"one_{name}", walk.count)

    def load_words(self, name: str, walk: Walk) -> int:
        """Words of the widest load of an operand's vector."""
        return min(self.width(name, walk), LOAD)

    def in_loads(self, name: str, walk: Walk, elements: Expr) -> Expr:
        """A distance in units of an operand's loads: elements, or as many words as are loaded at once."""
        if walk.vector == 1:
            return elements
        at_once = self.load_words(name, walk) * WORD // storage.size(self.kinds[name])
        return tirx.shift_right(elements, i64(at_once.bit_length() - 1))

    def place(self, name: str, walk: Walk, vector: Expr) -> Expr:
        """Where a vector of the current row begins, in units of the operand's loads."""
        loads = self.width(name, walk) // self.load_words(name, walk) if walk.vector > 1 else 1
        at = vector * i64(loads)
        return at + self.starts[name] if name in self.starts else at

    def index(self, walk: Walk, vector: Expr, i: Expr) -> Expr:
        """Which element of its row an element of a vector is."""
        return vector * i64(walk.vector) + i.astype("int64")

    def _word_chunks(self, o: Operand, walk: Walk, k: Expr, vector: Expr) -> list[tuple[list[Expr], list[Expr]]]:
        """Where the widest loads of a vector are: in registers, in memory."""
        width = self.width(o.name, walk)
        place, size = self.place(o.name, walk, vector), self.load_words(o.name, walk)
        out = []
        for at in range(0, width, size):
            here, there = k * i32(width) + i32(at), (place + i64(at // size)) * i64(size)
            out.append(([T.ramp(here, 1, size)], [T.ramp(there, i64(1), size)]) if size > 1 else ([here], [there]))
        return out

    def _view(self, name: str) -> tirx.Buffer:
        """An operand as words."""
        if name not in self._words:
            buffer = self._arguments[name]
            words = buffer.shape[0] * i64(storage.size(self.kinds[name])) // i64(WORD)
            self._words[name] = tirx.decl_buffer((words,), "uint32", f"{name}_words", data=buffer.data)
        return self._words[name]

    def _load(self, o: Operand, walk: Walk, k: Expr, vector: Expr) -> list[tirx.Stmt]:
        """A vector of an operand into registers."""
        raw = self.raw(o.name, walk)
        if walk.vector > 1:
            view = self._view(o.name)
            return [
                tirx.BufferStore(raw, tirx.BufferLoad(view, there), here)
                for here, there in self._word_chunks(o, walk, k, vector)
            ]
        place = self.place(o.name, walk, vector)
        a = Arithmetic(self.slots)
        value = a.value(storage.load(self.kinds[o.name], tirx.BufferLoad(self._buffer[o.name], [place])))
        return [*a.statements, tirx.BufferStore(raw, value, [k])]

    def tile(self, step: Pass, walk: Walk, start: Expr) -> list[tirx.Stmt]:
        """A pass over a tile: all loads first, so that they are in flight together."""

        def vector(k: Expr) -> Expr:
            return start + k.astype("int64") * walk.group + walk.lane

        loads = [o for o in self.loads(step, walk) if not (walk.kept and o.name in self.held)]
        self.held |= {o.name for o in loads if o.role == "row"}

        def load(k: Expr) -> list[tirx.Stmt]:
            body = [s for o in loads for s in self._load(o, walk, k, vector(k))]
            return [tirx.IfThenElse(vector(k) < self.limit, sequence(*body), None)]

        def compute(k: Expr) -> list[tirx.Stmt]:
            body = self._vector(step, walk, k, vector(k))
            return [tirx.IfThenElse(vector(k) < self.limit, sequence(*body), None)]

        return [*(self.unrolled("k", walk.count, load) if loads else []), *self.unrolled("k", walk.count, compute)]

    def _vector(self, step: Pass, walk: Walk, k: Expr, vector: Expr) -> list[tirx.Stmt]:
        """What a pass does to one vector."""
        out: list[tirx.Stmt] = []
        for name in self.stored(step):
            if name in self.operands and walk.kept and self._again(name, step):
                self.held.add(name)

        together = self.together(walk)

        def elements(i: Expr) -> list[tirx.Stmt]:
            out, mark = [], self.slots.mark()
            for half in range(together):
                out += Element(self, step, walk, k, vector, i, half).statements()
                self.slots.release(mark)
            return out

        out += self.unrolled("i", walk.vector // together, elements)
        for name in self.stored(step):
            if name in self.operands and walk.vector > 1:
                raw, view = self.raw(name, walk), self._view(name)
                out += [
                    tirx.BufferStore(view, tirx.BufferLoad(raw, here), there)
                    for here, there in self._word_chunks(self.operands[name], walk, k, vector)
                ]
        return out
