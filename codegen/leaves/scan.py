"""Leaves of prefix sums and products, accumulated in float64 whatever the storage.

``row`` (``row.reverse``) scans contiguous rows, and ``total`` only sums them up: see ``scan_row.py``. ``column`` scans
down a matrix with the lanes along its rows, and ``serial`` does so one element after the other. All have the prototype
``ScanFn`` of csrc/drivers/scan.h::

    (S, P, Q, D, carry, extreme, work, rows, n, lds, ldd)

``carry[r]``, float64, is what precedes row r (column r in ``column``), and what follows it on return. The kind
"prod_backward" is a sum of S * P, element by element, divided by Q; others read neither P nor Q. ``extreme[0]`` is set
where the result is no good: a product of neighbours that over- or underflows, or a zero in Q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from . import storage
from .lower import i32, leaf, sequence


@dataclass(frozen=True)
class Kind:
    """An associative operation with its identity."""

    identity: float
    combine: Callable[[Expr, Expr], Expr]


SUM, PROD = Kind(0.0, lambda a, b: a + b), Kind(1.0, lambda a, b: a * b)
KINDS = {"sum": SUM, "prod": PROD, "prod_backward": SUM}


def u32(value: int) -> Expr:
    """A uint32 constant."""
    return tirx.const(value, "uint32")


class Emitter:
    """What the leaves share: the parameters, the stack, vectors of a fixed width."""

    def __init__(self, kind: str, dtype: str, width: int) -> None:
        self.kind, self.dtype, self.width = kind, dtype, width
        self.combine, self.identity = KINDS[kind].combine, tirx.const(KINDS[kind].identity, "float64")
        memory = storage.memory(dtype)
        self.source, self.factor, self.divisor, self.target = (tirx.decl_buffer((1,), memory, name) for name in "SPQD")
        self.carry = tirx.decl_buffer((1,), "float64", "carry")
        self.extreme = tirx.decl_buffer((1,), "int32", "extreme")
        self.work = tirx.decl_buffer((1,), "float64", "work")
        self.rows, self.n, self.lds, self.ldd = (tirx.Var(name, "int32") for name in ("rows", "n", "lds", "ldd"))
        self.local: list[tirx.Buffer] = []

    def stack(self, name: str, size: int, dtype: str) -> tirx.Buffer:
        """A buffer on the stack, which LLVM turns into registers."""
        buffer = next((b for b in self.local if b.name == name), None)
        if buffer is None:
            buffer = tirx.decl_buffer((size,), dtype, name, scope="local")
            self.local.append(buffer)
        return buffer

    def each(self, lanes: int, body: Callable[[Expr], tirx.Stmt]) -> tirx.Stmt:
        """``body`` for every lane."""
        lane = tirx.Var("i", "int32")
        return tirx.For(lane, i32(0), i32(lanes), tirx.ForKind.VECTORIZED, body(lane))

    def set(self, buffer: tirx.Buffer, lanes: int, value: Callable[[Expr], Expr], start: int = 0) -> tirx.Stmt:
        """``buffer[start + i] = value(i)`` for every lane."""
        return self.each(lanes, lambda i: tirx.BufferStore(buffer, value(i), [i + i32(start)]))

    def loop(self, name: str, extent: Expr, body: Callable[[tirx.Var], list[tirx.Stmt]]) -> tirx.Stmt:
        """A plain loop."""
        var = tirx.Var(name, "int32")
        return tirx.For(var, i32(0), extent, tirx.ForKind.SERIAL, sequence(*body(var)))

    def read(
        self, buffer: tirx.Buffer, into: tirx.Buffer, place: Expr, mask: Expr | None, other: float
    ) -> list[tirx.Stmt]:
        """``width`` elements at ``place`` as float32; ``other`` where the mask is not set."""
        whole = T.ramp(0, 1, self.width)
        if mask is None:

            def element(i: Expr) -> Expr:
                return storage.load(self.dtype, tirx.BufferLoad(buffer, [place + i]))

            return [self.set(into, self.width, element)]
        raw = self.stack("raw", self.width, storage.memory(self.dtype))
        masked = T.masked_load(f"{raw.dtype}x{self.width}", buffer, T.ramp(place, 1, self.width), mask)
        # What such a load leaves in the other lanes is undefined.
        others = T.broadcast(tirx.const(other, "float32"), self.width)
        return [
            tirx.BufferStore(raw, masked, [whole]),
            self.set(into, self.width, lambda i: storage.load(self.dtype, tirx.BufferLoad(raw, [i]))),
            tirx.BufferStore(into, tirx.Select(mask, tirx.BufferLoad(into, [whole]), others), [whole]),
        ]

    def load(self, into: tirx.Buffer, place: Expr, mask: Expr | None = None) -> list[tirx.Stmt]:
        """``width`` elements to be scanned; the identity where the mask is not set."""
        out = self.read(self.source, into, place, mask, KINDS[self.kind].identity)
        if self.kind != "prod_backward":
            return out
        factor = self.stack("factor", self.width, "float32")
        out += self.read(self.factor, factor, place, mask, 1.0)
        return [*out, self.set(into, self.width, lambda i: tirx.BufferLoad(into, [i]) * tirx.BufferLoad(factor, [i]))]

    def save(self, value: tirx.Buffer, place: Expr, origin: Expr, mask: Expr | None = None) -> list[tirx.Stmt]:
        """``width`` float32 values to ``place``, which belongs to ``origin`` in memory laid out as the source."""
        out: list[tirx.Stmt] = []
        if self.kind == "prod_backward":
            divisor = self.stack("divisor", self.width, "float32")
            out += self.read(self.divisor, divisor, origin, mask, 1.0)
            out += self.watch(lambda i: (tirx.BufferLoad(divisor, [i]) == tirx.const(0.0, "float32")).astype("uint32"))
            out.append(
                self.set(value, self.width, lambda i: tirx.BufferLoad(value, [i]) / tirx.BufferLoad(divisor, [i]))
            )

        def element(i: Expr) -> Expr:
            return storage.store(self.dtype, tirx.BufferLoad(value, [i]))

        if mask is None:
            return [*out, self.each(self.width, lambda i: tirx.BufferStore(self.target, element(i), [place + i]))]
        raw = self.stack("raw_out", self.width, storage.memory(self.dtype))
        whole = tirx.BufferLoad(raw, [T.ramp(0, 1, self.width)])
        store = T.masked_store(self.target, whole, T.ramp(place, 1, self.width), mask)
        return [*out, self.set(raw, self.width, element), tirx.Evaluate(store)]

    def watch(self, badness: Callable[[Expr], Expr]) -> list[tirx.Stmt]:
        """Keeps the largest value seen of a uint32."""
        worst = self.stack("worst", self.width, "uint32")
        return [self.set(worst, self.width, lambda i: tirx.max(tirx.BufferLoad(worst, [i]), badness(i)))]

    def watched(self, body: tirx.Stmt, most: int) -> tirx.Stmt:
        """The body, and then ``extreme[0]``: whether :meth:`watch` saw more than ``most``."""
        worst, width, out = self.stack("worst", self.width, "uint32"), self.width, []
        while width > 1:
            width //= 2
            low, high = (T.ramp(start, 1, width) if width > 1 else i32(start) for start in (0, width))
            value = tirx.max(tirx.BufferLoad(worst, [low]), tirx.BufferLoad(worst, [high]))
            out.append(tirx.BufferStore(worst, value, [low]))
        beyond = (tirx.BufferLoad(worst, [i32(0)]) > u32(most)).astype("int32")
        clear = self.set(worst, self.width, lambda i: u32(0))
        return sequence(clear, body, *out, tirx.BufferStore(self.extreme, beyond, [i32(0)]))

    def leaf(self, name: str, body: tirx.Stmt) -> tirx.PrimFunc:
        """The C function."""
        buffers = [self.source, self.factor, self.divisor, self.target, self.carry, self.extreme, self.work]
        return leaf(name, [*buffers, self.rows, self.n, self.lds, self.ldd], body, self.local)


class _Column(Emitter):
    """Columns across the lanes, ``tile`` vectors of them at a time."""

    def __init__(self, kind: str, dtype: str, width: int, tile: int) -> None:
        super().__init__(kind, dtype, width)
        self.tile = tile

    def sweep(self, start: Expr, vectors: int, mask: Expr | None) -> list[tirx.Stmt]:
        """Down the rows, the accumulators of ``vectors`` vectors of columns in registers."""
        acc = self.stack("acc", self.tile * self.width, "float64")
        x, y = self.stack("x", self.width, "float32"), self.stack("y", self.width, "float32")

        def down(r: tirx.Var) -> list[tirx.Stmt]:
            out = []
            for u in range(vectors):
                first = u * self.width
                origin = r * self.lds + start + i32(first)
                out += self.load(x, origin, mask)

                def step(i: Expr, first: int = first) -> Expr:
                    return self.combine(
                        tirx.BufferLoad(acc, [i + i32(first)]), tirx.BufferLoad(x, [i]).astype("float64")
                    )

                def rounded(i: Expr, first: int = first) -> Expr:
                    return tirx.BufferLoad(acc, [i + i32(first)]).astype("float32")

                out += [self.set(acc, self.width, step, first), self.set(y, self.width, rounded)]
                out += self.save(y, r * self.ldd + start + i32(first), origin, mask)
            return out

        lanes = T.ramp(0, 1, self.width)
        place = T.ramp(start, 1, self.width)
        if mask is not None:
            begin = [tirx.BufferStore(acc, T.masked_load(f"float64x{self.width}", self.carry, place, mask), [lanes])]
            end = [tirx.Evaluate(T.masked_store(self.carry, tirx.BufferLoad(acc, [lanes]), place, mask))]
        else:
            count = vectors * self.width
            begin = [self.set(acc, count, lambda i: tirx.BufferLoad(self.carry, [start + i]))]
            end = [self.each(count, lambda i: tirx.BufferStore(self.carry, tirx.BufferLoad(acc, [i]), [start + i]))]
        return [*begin, self.loop("r", self.rows, down), *end]

    def body(self) -> tirx.Stmt:
        """All columns."""
        block = self.tile * self.width
        tiles, rest = tirx.floordiv(self.n, i32(block)), tirx.floormod(self.n, i32(block))
        vectors, tail = tirx.floordiv(rest, i32(self.width)), tirx.floormod(rest, i32(self.width))
        mask = T.ramp(0, 1, self.width) < T.broadcast(tail, self.width)
        body = sequence(
            self.loop("t", tiles, lambda t: self.sweep(t * i32(block), self.tile, None)),
            self.loop("v", vectors, lambda v: self.sweep(tiles * i32(block) + v * i32(self.width), 1, None)),
            tirx.IfThenElse(tail > i32(0), sequence(*self.sweep(self.n - tail, 1, mask)), None),
        )
        return self.watched(body, 0) if self.kind == "prod_backward" else body


def column(name: str, kind: str, dtype: str, width: int, tile: int) -> tirx.PrimFunc:
    """``column``: D[:rows, :n] = the prefixes of S[:rows, :n] down the rows; carry [n].

    Args:
        name: its symbol.
        kind: of ``KINDS``.
        dtype: of ``storage.DTYPES``.
        width: elements in a vector.
        tile: vectors of columns that go down together.
    """
    emitter = _Column(kind, dtype, width, tile)
    return emitter.leaf(name, emitter.body())


def serial(name: str, kind: str, dtype: str) -> tirx.PrimFunc:
    """``serial``: as ``column``, one column after the other and one element at a time, for any lds and ldd."""
    emitter = Emitter(kind, dtype, 1)
    total = emitter.stack("total", 1, "float64")
    zero = [i32(0)]

    def one(c: tirx.Var) -> list[tirx.Stmt]:
        def step(r: tirx.Var) -> list[tirx.Stmt]:
            element = storage.load(dtype, tirx.BufferLoad(emitter.source, [r * emitter.lds + c])).astype("float64")
            value = tirx.BufferLoad(total, zero).astype("float32")
            return [
                tirx.BufferStore(total, emitter.combine(tirx.BufferLoad(total, zero), element), zero),
                tirx.BufferStore(emitter.target, storage.store(dtype, value), [r * emitter.ldd + c]),
            ]

        return [
            tirx.BufferStore(total, tirx.BufferLoad(emitter.carry, [c]), zero),
            emitter.loop("r", emitter.rows, step),
            tirx.BufferStore(emitter.carry, tirx.BufferLoad(total, zero), [c]),
        ]

    return emitter.leaf(name, emitter.loop("c", emitter.n, one))
