"""Leaves of prefix sums and products along contiguous rows; see ``scan.py``.

Within a row, ``fold`` neighbouring elements share a lane: their prefixes are plain vector additions, and log2(lanes)
shuffles and additions make the prefixes of the lanes, so that from one group of lanes * fold elements to the next only
a single addition is waited for. Sources: the two levels are those of S. Chatterjee, G. Blelloch and M. Zagha, "Scan
primitives for vector computers", SC 1990; across the lanes, J. Sklansky, "Conditional-sum addition logic", 1960.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from .lower import i32, sequence
from .scan import Emitter, u32


class _Row(Emitter):
    """Rows along the lanes, in groups of ``lanes`` * ``fold`` elements."""

    def __init__(self, kind: str, dtype: str, lanes: int, fold: int, block: int, *, reverse: bool) -> None:
        super().__init__(kind, dtype, lanes * fold)
        self.lanes, self.fold, self.block, self.reverse = lanes, fold, block, reverse

    def double(self, name: str) -> tirx.Buffer:
        return self.stack(name, self.lanes, "float64")

    def vector(self, buffer: tirx.Buffer) -> Expr:
        return tirx.BufferLoad(buffer, [T.ramp(0, 1, int(buffer.shape[0]))])

    def shuffle(self, parts: list[tirx.Buffer], picks: list[int]) -> Expr:
        return T.Shuffle([self.vector(b) for b in parts], [i32(p) for p in picks])

    def put(self, buffer: tirx.Buffer, value: Expr) -> tirx.Stmt:
        return tirx.BufferStore(buffer, value, [T.ramp(0, 1, int(buffer.shape[0]))])

    def position(self, k: int) -> int:
        """Where in a group of memory the k-th element of the scan is, and the other way round."""
        return self.width - 1 - k if self.reverse else k

    def local_prefixes(self, at: Expr, mask: Expr | None) -> list[tirx.Stmt]:
        """Loads a group; leaves the prefixes within each lane in ``part*``, and those of the lanes in ``total``."""
        lanes, fold, both = self.lanes, self.fold, self.combine
        x, one, total = self.stack("x", self.width, "float32"), self.double("identity"), self.double("total")
        out = self.load(x, at, mask)
        if self.kind == "prod":
            out += self.watch(self.distance(x))
        part = [self.double(f"part{w}") for w in range(fold - 1)] + [total]
        for w, p in enumerate(part):
            picked = self.shuffle([x], [self.position(i * fold + w) for i in range(lanes)]).astype(f"float64x{lanes}")
            out.append(self.put(p, picked if w == 0 else both(self.vector(part[w - 1]), picked)))
        # The upper half of each 2, 4, 8, ... lanes takes the last of the lower half. The first step stays within 128
        # bits, which is cheaper than a shift along the vector.
        half = 1
        while half < lanes:
            pick = [lanes + i // (2 * half) * 2 * half + half - 1 if i & half else 0 for i in range(lanes)]
            out.append(self.put(total, both(self.vector(total), self.shuffle([one, total], pick))))
            half *= 2
        return out

    def keep(self, g: Expr, out: bool) -> list[tirx.Stmt]:
        """Moves the prefixes of a group to memory, as number ``g`` of a block, or back."""
        moves = []
        for w in range(self.fold):
            register = self.double(f"part{w}" if w < self.fold - 1 else "total")
            place = [T.ramp(g * i32(self.width) + i32(w * self.lanes), 1, self.lanes)]
            moves.append(
                tirx.BufferStore(self.work, self.vector(register), place)
                if out
                else self.put(register, tirx.BufferLoad(self.work, place))
            )
        return moves

    def advance(self) -> tirx.Stmt:
        """``local`` = what precedes the next group."""
        local, total = self.double("local"), self.double("total")
        last = self.shuffle([total], [self.lanes - 1] * self.lanes)
        return self.put(local, self.combine(self.vector(local), last))

    def finish(self, at: Expr, origin: Expr, mask: Expr | None) -> list[tirx.Stmt]:
        """Adds what precedes the group, and stores it: ``local`` within this call, ``offset`` before that.

        Products have no offset: ``local`` goes on from the carry, one group after the other. Apart, either might vanish
        and the other be infinite.
        """
        lanes, fold, both = self.lanes, self.fold, self.combine
        offset, local, total = self.double("offset"), self.double("local"), self.double("total")
        y, base = self.stack("y", self.width, "float32"), self.double("base")
        inclusive, before = self.double("inclusive"), self.double("before")
        out = [
            self.put(
                base, self.vector(local) if self.kind == "prod" else both(self.vector(offset), self.vector(local))
            ),
            self.put(inclusive, both(self.vector(total), self.vector(base))),
            self.put(before, self.shuffle([base, inclusive], [lanes - 1, *range(lanes, 2 * lanes - 1)])),
        ]
        rounded = [self.stack(f"rounded{w}", lanes, "float32") for w in range(fold)]
        for w, r in enumerate(rounded):
            value = self.vector(inclusive)
            if w < fold - 1:
                value = both(self.vector(before), self.vector(self.double(f"part{w}")))
            out.append(self.put(r, value.astype(f"float32x{lanes}")))
        order = [self.position(k) for k in range(self.width)]
        out.append(self.put(y, self.shuffle(rounded, [p % fold * lanes + p // fold for p in order])))
        return [*out, *self.save(y, at, origin, mask), self.advance()]

    # A product of a group must neither overflow nor vanish by itself: then the order of multiplication would show.
    # What lies outside of [1 / bound, bound] and is not zero makes the driver take the serial leaf.

    def bound(self) -> tuple[int, int]:
        """The bits of 1 / bound and of bound, float32."""
        exponent = min(1000 // self.width, 126)
        return (127 - exponent) << 23, (127 + exponent) << 23

    def distance(self, x: tirx.Buffer) -> Callable[[Expr], Expr]:
        """How far magnitudes are from 1 / bound."""

        def away(i: Expr) -> Expr:
            magnitude = tirx.bitwise_and(tirx.reinterpret("uint32", tirx.BufferLoad(x, [i])), u32(0x7FFFFFFF))
            return tirx.Select(magnitude == u32(0), u32(0), magnitude - u32(self.bound()[0]))

        return away

    def place(self, g: Expr) -> Expr:
        """Where in its row group ``g`` of the scan begins."""
        return self.n - (g + i32(1)) * i32(self.width) if self.reverse else g * i32(self.width)

    def ragged(self) -> tuple[Expr, Expr, Expr]:
        """How many elements follow the last whole group, where the vector with them begins, and its mask."""
        rest = tirx.floormod(self.n, i32(self.width))
        lane, filled = T.ramp(0, 1, self.width), T.broadcast(rest, self.width)
        if self.reverse:  # the first elements of a row are the last of the scan
            return rest, rest - i32(self.width), lane >= T.broadcast(i32(self.width), self.width) - filled
        return rest, self.n - rest, lane < filled

    def body(self) -> tirx.Stmt:
        """All rows: as many as a block holds at a time, or else one row in several blocks.

        Two loops over a block, because one would keep more operations waiting for each other than a core looks ahead.
        """
        offset, local, work = self.double("offset"), self.double("local"), i32(self.block * self.width)
        groups = tirx.floordiv(self.n, i32(self.width))
        every = tirx.floordiv(self.n + i32(self.width - 1), i32(self.width))
        blocks = tirx.floordiv(every + i32(self.block - 1), i32(self.block))
        together = tirx.max(i32(1), tirx.floordiv(i32(self.block), tirx.max(every, i32(1))))
        rest, tail, mask = self.ragged()

        def pack(p: tirx.Var) -> list[tirx.Stmt]:
            first_row = p * together
            count = tirx.min(together, self.rows - first_row)

            def row(r: Expr) -> Expr:  # rows, too, from the last to the first: memory in order
                return self.rows - i32(1) - first_row - r if self.reverse else first_row + r

            def clear(r: tirx.Var) -> list[tirx.Stmt]:
                start = tirx.BufferLoad(self.carry, [row(r)]) if self.kind == "prod" else self.identity
                return [tirx.BufferStore(self.work, start, [work + r])]

            def block(b: tirx.Var) -> list[tirx.Stmt]:
                first = b * i32(self.block)
                full = tirx.max(i32(0), tirx.min(groups - first, i32(self.block)))
                ends = tirx.all(rest > i32(0), b + i32(1) == blocks)

                def begin(r: tirx.Var) -> list[tirx.Stmt]:
                    start, slot = row(r) * self.lds, r * every

                    def group(g: tirx.Var) -> list[tirx.Stmt]:
                        return self.local_prefixes(start + self.place(first + g), None) + self.keep(slot + g, True)

                    last = self.local_prefixes(start + tail, mask) + self.keep(slot + full, True)
                    return [self.loop("g", full, group), tirx.IfThenElse(ends, sequence(*last), None)]

                def end(r: tirx.Var) -> list[tirx.Stmt]:
                    start, origin, slot = row(r) * self.ldd, row(r) * self.lds, r * every

                    def group(g: tirx.Var) -> list[tirx.Stmt]:
                        at = self.place(first + g)
                        return self.keep(slot + g, False) + self.finish(start + at, origin + at, None)

                    last = self.keep(slot + full, False) + self.finish(start + tail, origin + tail, mask)
                    return [
                        self.set(offset, self.lanes, lambda i: tirx.BufferLoad(self.carry, [row(r)])),
                        self.set(local, self.lanes, lambda i: tirx.BufferLoad(self.work, [work + r])),
                        self.loop("g", full, group),
                        tirx.IfThenElse(ends, sequence(*last), None),
                        tirx.BufferStore(self.work, tirx.BufferLoad(local, [i32(0)]), [work + r]),
                    ]

                return [self.loop("r", count, begin), self.loop("r", count, end)]

            def after(r: tirx.Var) -> list[tirx.Stmt]:
                return [self.carry_on(row(r), tirx.BufferLoad(self.work, [work + r]))]

            return [self.loop("r", count, clear), self.loop("b", blocks, block), self.loop("r", count, after)]

        packs = tirx.floordiv(self.rows + together - i32(1), together)
        loop = self.loop("p", packs, pack)
        low, high = self.bound() if self.kind == "prod" else (0, 0)
        return self.whole(loop if self.kind == "sum" else self.watched(loop, high - low))

    def total_body(self) -> tirx.Stmt:
        """All rows, in the same order of operations, storing nothing but the carries."""
        local = self.double("local")
        rest, tail, mask = self.ragged()

        def row(r: tirx.Var) -> list[tirx.Stmt]:
            def group(g: tirx.Var) -> list[tirx.Stmt]:
                return [*self.local_prefixes(r * self.lds + self.place(g), None), self.advance()]

            last = [*self.local_prefixes(r * self.lds + tail, mask), self.advance()]
            return [
                self.set(local, self.lanes, lambda i: self.identity),
                self.loop("g", tirx.floordiv(self.n, i32(self.width)), group),
                tirx.IfThenElse(rest > i32(0), sequence(*last), None),
                self.carry_on(r, tirx.BufferLoad(local, [i32(0)])),
            ]

        return self.whole(self.loop("r", self.rows, row))

    def carry_on(self, row: Expr, total: Expr) -> tirx.Stmt:
        """Adds the total of a row to its carry."""
        if self.kind == "prod":
            return tirx.BufferStore(self.carry, total, [row])
        return tirx.BufferStore(self.carry, self.combine(tirx.BufferLoad(self.carry, [row]), total), [row])

    def whole(self, loop: tirx.Stmt) -> tirx.Stmt:
        """The loop, with what is needed before it."""
        return sequence(self.set(self.double("identity"), self.lanes, lambda i: self.identity), loop)


def row(name: str, kind: str, dtype: str, lanes: int, fold: int, block: int, *, reverse: bool) -> tirx.PrimFunc:
    """``row``: D[r, :n] = the prefixes of S[r, :n], from the end if ``reverse``.

    ``work`` holds block * (lanes * fold + 1) float64.

    Args:
        name: its symbol.
        kind: of ``KINDS``.
        dtype: of ``storage.DTYPES``.
        lanes: float64 in a vector register.
        fold: neighbouring elements that share a lane.
        block: groups whose local prefixes are made before the first of them is finished.
        reverse: from the last element to the first.
    """
    emitter = _Row(kind, dtype, lanes, fold, block, reverse=reverse)
    return emitter.leaf(name, emitter.body())


def total(name: str, kind: str, dtype: str, lanes: int, fold: int, *, reverse: bool) -> tirx.PrimFunc:
    """``total``, of sums: the carries of :func:`row`, to the last bit; D is not written, ``work`` not used."""
    emitter = _Row(kind, dtype, lanes, fold, 1, reverse=reverse)
    return emitter.leaf(name, emitter.total_body())
