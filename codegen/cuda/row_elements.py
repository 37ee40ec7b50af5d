"""What a pass does to one element of a thread's vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import Expr

from ..leaves import storage
from ..leaves.lower import i32
from ..program import Names, Pass
from .arithmetic import Arithmetic

if TYPE_CHECKING:
    from .row_tiles import Tiles, Walk

HALF = 16  # bits
LOW, HIGH = 0xFFFF, 0xFFFF0000


def u32(value: int) -> tirx.IntImm:
    """A uint32 constant."""
    return tirx.IntImm("uint32", value)


def from_word(kind: str, word: Expr, half: int) -> Expr:
    """A number as float32, of 16 bits of a word: 0 the low ones, 1 the high ones."""
    if kind == "bfloat16":
        high = tirx.bitwise_and(word, u32(HIGH)) if half else tirx.shift_left(word, u32(HALF))
        return tirx.reinterpret("float32", high)
    low = tirx.shift_right(word, u32(HALF)) if half else tirx.bitwise_and(word, u32(LOW))
    return tirx.reinterpret("float16", low.astype("uint16")).astype("float32")


def to_memory(kind: str, value: Expr) -> Expr:
    """A float32 (or an integer) as an element, rounded to nearest even: CPUs have no instruction for bfloat16."""
    if kind == "bfloat16":
        return tirx.reinterpret("uint16", value.astype("bfloat16"))
    return storage.store(kind, value)


def to_bits(kind: str, element: Expr) -> Expr:
    """The 16 bits of a number as it lies in memory, in a uint32."""
    bits = element if kind == "bfloat16" else tirx.reinterpret("uint16", element)
    return bits.astype("uint32")


class Element:
    """An element of a thread's ``k``-th vector, which is the row's ``vector``-th.

    Vectors of 16-bit numbers go by pairs, as they lie in words: ``i`` is the pair, ``half`` the element of it.
    """

    def __init__(self, tiles: Tiles, step: Pass, walk: Walk, k: Expr, vector: Expr, i: Expr, half: int) -> None:
        self.tiles, self.step, self.walk = tiles, step, walk
        self.k, self.vector, self.half = k, vector, half
        self.i = i * i32(tiles.together(walk)) + i32(half)
        self.pair = i
        # What is rounded to 16 bits may be a few units of float32 off.
        self.a = Arithmetic(tiles.slots, quick=tiles.low)
        self.values: dict[str, Expr] = {}  # computed or loaded before

    def statements(self) -> list[tirx.Stmt]:
        """All of it."""
        names, step, tiles = Names(self._resolve), self.step, self.tiles
        for name, f in step.values.items():
            self.values[name] = self.a.value(f(names))
        put = {name: self.a.value(f(names)) for name, f in tiles.stored(step).items()}
        rounded = {name: self._store(name, value) for name, value in put.items()}
        self.values |= rounded
        for name, (kind, term) in step.reduce.items():
            buffer = tiles.accumulator(name, kind, self.walk)
            at = [self.i if self.walk.vector > 1 else self.k]
            before = self.a.bind(tirx.BufferLoad(buffer, at))
            after = tiles.combine(self.a, kind, before, self.a.value(term(names)))
            self.a.add(tirx.BufferStore(buffer, after, at))
        for name, term in step.add.items():
            buffer, at = tiles.partial(name, self.walk, self.k, self.vector, self.i)
            value = self.a.value(term(names))
            self.a.add(tirx.BufferStore(buffer, tirx.BufferLoad(buffer, at) + value, at))
        return self.a.statements

    def _resolve(self, name: str) -> Expr:
        """What a name stands for."""
        if name in self.values:
            return self.values[name]
        if name in self.tiles.operands and self.tiles.operands[name].role in ("row", "vector"):
            self.values[name] = self._load(name)
        elif name in self.tiles.scratch:
            self.values[name] = self._scratch(name)
        elif name == "j":
            place = self.tiles.index(self.walk, self.vector, self.i)
            self.values[name] = self.a.value(place.astype("int32"))
        else:
            return self.tiles.of_element(name, self.i)
        return self.values[name]

    def _load(self, name: str) -> Expr:
        """An element of what was loaded."""
        kind, raw, at = self._register(name)
        value = self.a.bind(tirx.BufferLoad(raw, [at]))
        if self.walk.vector == 1:
            return value
        if storage.size(kind) == 2:
            return self.a.value(from_word(kind, value, self.half))
        return self.a.value(tirx.reinterpret("float32", value))

    def _register(self, name: str) -> tuple[str, tirx.Buffer, Expr]:
        """Where in registers this element of an operand is, or the word that has it."""
        kind, raw = self.tiles.kinds[name], self.tiles.raw(name, self.walk)
        if self.walk.vector == 1:
            return kind, raw, self.k
        at = self.pair if storage.size(kind) == 2 else self.i
        return kind, raw, self.k * i32(self.tiles.width(name, self.walk)) + at

    def _scratch(self, name: str) -> Expr:
        """What a pass before stored: in registers, or once more computed."""
        if self.walk.kept:
            return self.a.bind(tirx.BufferLoad(*self._kept(name)))
        producer = self.tiles.producer(name)
        before, self.values = self.values, {k: v for k, v in self.values.items() if k in self.tiles.operands}
        names = Names(self._resolve)
        for value, f in producer.values.items():
            self.values[value] = self.a.value(f(names))
        result = self.a.value(producer.store[name](names))
        self.values = before
        return result

    def _kept(self, name: str) -> tuple[tirx.Buffer, list[Expr]]:
        """The register of a scratch operand."""
        vector = self.walk.vector
        return self.tiles.registers(f"kept_{name}", vector * self.walk.count), [self.k * i32(vector) + self.i]

    def _store(self, name: str, value: Expr) -> Expr:
        """Puts a value where it is stored from; what a load would give of it."""
        if name in self.tiles.scratch:
            if self.walk.kept:
                buffer, at = self._kept(name)
                self.a.add(tirx.BufferStore(buffer, value, at))
            return value
        kind, raw, at = self._register(name)
        element = self.a.value(to_memory(kind, value))
        back = self.a.value(storage.load(kind, element))
        if self.walk.vector == 1:
            place = self.tiles.place(name, self.walk, self.vector)
            self.a.add(tirx.BufferStore(self.tiles.buffer(name), element, [place]))
            if name in self.tiles.held:
                self.a.add(tirx.BufferStore(raw, back, [at]))
            return back
        if storage.size(kind) != 2:
            self.a.add(tirx.BufferStore(raw, tirx.reinterpret("uint32", element), [at]))
            return back
        bits = self.a.value(to_bits(kind, element))
        if self.half:
            before = tirx.bitwise_and(tirx.BufferLoad(raw, [at]), u32(LOW))
            bits = tirx.bitwise_or(before, tirx.shift_left(bits, u32(HALF)))
        elif any(o.name == name for o in self.tiles.loads(self.step, self.walk)):
            bits = tirx.bitwise_or(tirx.bitwise_and(tirx.BufferLoad(raw, [at]), u32(HIGH)), bits)
        self.a.add(tirx.BufferStore(raw, bits, [at]))
        return back
