"""Leaves of the rotary position embedding: pairs of elements of a row turned by an angle each.

``halves``: element i goes with element ``half`` + i; ``pairs``: element 2i with 2i + 1. Both have the prototype
``RotaryFn`` of csrc/drivers/rotary.h::

    (X, Y, cos, sin, rows, half, rest, ldx, ldy, ldt, sign)

Row r of X [rows, 2 half + rest] is turned by the angles of row r of cos and sin [rows, half], float32; ``sign`` -1
turns back. The last ``rest`` elements are copied. Low precision is storage: computation is in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from . import storage
from .lower import i32, leaf, sequence


class _Emitter:
    """Makes the body of one leaf."""

    def __init__(self, dtype: str, lanes: int, pairs: bool) -> None:
        self.dtype, self.lanes, self.pairs = dtype, lanes, pairs
        memory = storage.memory(dtype)
        self.x, self.y = (tirx.decl_buffer((1,), memory, name) for name in ("X", "Y"))
        self.cos, self.sin = (tirx.decl_buffer((1,), "float32", name) for name in ("cos", "sin"))
        self.scalars = {name: tirx.Var(name, "int32") for name in ("rows", "half", "rest", "ldx", "ldy", "ldt")}
        self.sign = tirx.Var("sign", "float32")
        self.row = tirx.Var("r", "int32")
        self.local: dict[str, tirx.Buffer] = {}

    def stack(self, name: str, dtype: str = "float32") -> tirx.Buffer:
        """A vector on the stack, which LLVM turns into a register."""
        return self.local.setdefault(name, tirx.decl_buffer((self.lanes,), dtype, name, scope="local"))

    def each(self, body: Callable[[Expr], tirx.Stmt]) -> tirx.Stmt:
        """``body`` for every lane."""
        lane = tirx.Var("i", "int32")
        return tirx.For(lane, i32(0), i32(self.lanes), tirx.ForKind.VECTORIZED, body(lane))

    def whole(self, name: str) -> Expr:
        """All lanes of a vector on the stack."""
        return tirx.BufferLoad(self.stack(name), [T.ramp(0, 1, self.lanes)])

    def first(self, count: Expr, start: int = 0) -> Expr:
        """The mask of the lanes before ``count``, of a vector that begins at ``start``."""
        return T.ramp(start, 1, self.lanes) < T.broadcast(count, self.lanes)

    def load(self, name: str, source: tirx.Buffer, dtype: str, place: Expr, mask: Expr | None) -> list[tirx.Stmt]:
        """A vector of ``source`` as float32, on the stack as ``name``."""
        into = self.stack(name)
        if mask is None:

            def element(i: Expr) -> tirx.Stmt:
                return tirx.BufferStore(into, storage.load(dtype, tirx.BufferLoad(source, [place + i])), [i])

            return [self.each(element)]
        raw = self.stack("raw_" + dtype, storage.memory(dtype))
        masked = T.masked_load(f"{raw.dtype}x{self.lanes}", source, T.ramp(place, 1, self.lanes), mask)
        return [
            tirx.BufferStore(raw, masked, [T.ramp(0, 1, self.lanes)]),
            self.each(lambda i: tirx.BufferStore(into, storage.load(dtype, tirx.BufferLoad(raw, [i])), [i])),
        ]

    def save(self, name: str, place: Expr, mask: Expr | None) -> list[tirx.Stmt]:
        """A vector from the stack to Y."""
        value = self.stack(name)

        def element(i: Expr) -> Expr:
            return storage.store(self.dtype, tirx.BufferLoad(value, [i]))

        if mask is None:
            return [self.each(lambda i: tirx.BufferStore(self.y, element(i), [place + i]))]
        raw = self.stack("out_" + self.dtype, storage.memory(self.dtype))
        whole = tirx.BufferLoad(raw, [T.ramp(0, 1, self.lanes)])
        return [
            self.each(lambda i: tirx.BufferStore(raw, element(i), [i])),
            tirx.Evaluate(T.masked_store(self.y, whole, T.ramp(place, 1, self.lanes), mask)),
        ]

    def shuffle(self, name: str, pair: tuple[str, str], pick: Sequence[int]) -> tirx.Stmt:
        """A vector of lanes of two others."""
        both = T.Shuffle([self.whole(pair[0]), self.whole(pair[1])], [i32(p) for p in pick])
        return tirx.BufferStore(self.stack(name), both, [T.ramp(0, 1, self.lanes)])

    def put(self, name: str, value: Callable[[Expr], Expr], lane: Expr) -> tirx.Stmt:
        """A lane of a vector on the stack."""
        return tirx.BufferStore(self.stack(name), value(lane), [lane])

    def turn(self, j: Expr, count: Expr | None) -> list[tirx.Stmt]:
        """The angles from ``j`` on, a vector of them; ``count`` if fewer."""
        lanes, half = self.lanes, self.scalars["half"]
        x, y = self.row * self.scalars["ldx"], self.row * self.scalars["ldy"]
        table = self.row * self.scalars["ldt"] + j
        mask = None if count is None else self.first(count)
        out = [*self.load("c", self.cos, "float32", table, mask), *self.load("s", self.sin, "float32", table, mask)]
        # Where the two vectors of X and of Y lie, and which of their lanes there are.
        places, masks = (j, half + j), (mask, mask)
        if self.pairs:
            places = (j * i32(2), j * i32(2) + i32(lanes))
            if count is not None:
                masks = (self.first(count * i32(2)), self.first(count * i32(2), lanes))
        given = ("a", "b") if self.pairs else ("x1", "x2")
        for name, place, m in zip(given, places, masks, strict=True):
            out += self.load(name, self.x, self.dtype, x + place, m)
        if self.pairs:
            out.append(self.shuffle("x1", given, range(0, 2 * lanes, 2)))
            out.append(self.shuffle("x2", given, range(1, 2 * lanes, 2)))

        def at(name: str, i: Expr) -> Expr:
            return tirx.BufferLoad(self.stack(name), [i])

        out.append(self.each(lambda i: tirx.BufferStore(self.stack("s"), at("s", i) * self.sign, [i])))
        turned = {
            "y1": lambda i: at("x1", i) * at("c", i) - at("x2", i) * at("s", i),
            "y2": lambda i: at("x2", i) * at("c", i) + at("x1", i) * at("s", i),
        }
        out += [self.each(partial(self.put, name, value)) for name, value in turned.items()]
        made = ("y1", "y2")
        if self.pairs:
            zipped = [p for i in range(lanes) for p in (i, lanes + i)]
            out += [self.shuffle("a", made, zipped[:lanes]), self.shuffle("b", made, zipped[lanes:])]
            made = given
        for name, place, m in zip(made, places, masks, strict=True):
            out += self.save(name, y + place, m)
        return out

    def copy(self, j: Expr, count: Expr | None) -> list[tirx.Stmt]:
        """A vector of the elements that are not turned."""
        start = i32(2) * self.scalars["half"] + j
        mask = None if count is None else self.first(count)
        place = self.row * self.scalars["ldx"] + start
        return [
            *self.load("a", self.x, self.dtype, place, mask),
            *self.save("a", self.row * self.scalars["ldy"] + start, mask),
        ]

    def along(self, extent: Expr, body: Callable[[Expr, Expr | None], list[tirx.Stmt]]) -> list[tirx.Stmt]:
        """``body`` for every vector of ``extent`` elements, the last one perhaps not full."""
        lanes = i32(self.lanes)
        full, tail = tirx.floordiv(extent, lanes), tirx.floormod(extent, lanes)
        j = tirx.Var("j", "int32")
        loop = tirx.For(j, i32(0), full, tirx.ForKind.SERIAL, sequence(*body(j * lanes, None)))
        return [loop, tirx.IfThenElse(tail > i32(0), sequence(*body(extent - tail, tail)), None)]

    def leaf(self, name: str) -> tirx.PrimFunc:
        """The C function."""
        steps = [*self.along(self.scalars["half"], self.turn), *self.along(self.scalars["rest"], self.copy)]
        body = tirx.For(self.row, i32(0), self.scalars["rows"], tirx.ForKind.SERIAL, sequence(*steps))
        params = [self.x, self.y, self.cos, self.sin, *self.scalars.values(), self.sign]
        return leaf(name, params, body, list(self.local.values()))


def halves(name: str, dtype: str, lanes: int) -> tirx.PrimFunc:
    """The leaf that turns element i with element ``half`` + i, as GPT-NeoX does."""
    return _Emitter(dtype, lanes, pairs=False).leaf(name)


def pairs(name: str, dtype: str, lanes: int) -> tirx.PrimFunc:
    """The leaf that turns element 2i with element 2i + 1, as Su et al., "RoFormer", 2021, and GPT-J do."""
    return _Emitter(dtype, lanes, pairs=True).leaf(name)
