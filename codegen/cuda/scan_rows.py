"""Scans along rows that lie in memory as they are scanned.

A group of threads takes a row, or a piece of one, in tiles: each thread has ``count`` vectors, scans each in
registers, and adds what precedes it: of its warp by shuffles, of the block's other warps by way of shared memory, and
what earlier tiles came to. Rows of at most a few tiles of a warp have a group of one warp or a part of it, which needs
no barrier; others a block.

Source: Harris, Sengupta and Owens, "Parallel Prefix Sum (Scan) with CUDA", GPU Gems 3, chapter 39.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from .scan_states import WARP, Kind, Registers, State, become, let, put, shuffle, shuffle_up, warp_scan


@dataclass(frozen=True)
class Data:
    """The buffers; of a sum or product all but the target are the source."""

    source: Any
    factor: Any
    products: Any
    target: Any


@dataclass(frozen=True)
class How:
    """Whether an element is left out of its own result, and whether the scan goes from the end."""

    exclusive: Any
    reverse: Any


@dataclass(frozen=True)
class Room:
    """What a thread works in. ``raw``: elements as they are in memory, of the source, the factor and the products."""

    raw: Any
    after: Any  # the product after each vector
    local: Registers  # for each element
    total: Registers  # for each vector, as is `base`: what precedes it
    base: Registers
    other: Registers  # of another lane
    sums: Registers  # of the warps of a block
    carry: Registers  # of what was scanned before
    shared: Registers


@dataclass(frozen=True)
class Walk:
    """A way along a row: ``vector`` elements at once, ``count`` times; ``block``: by a block, else by up to a warp.

    ``writes``: else only what all comes to is wanted. ``lane``: the thread, in its group; ``group``: how many that has.
    """

    kind: Kind
    dtype: str
    vector: int
    count: int
    threads: int
    block: bool
    writes: bool
    room: Room
    data: Data
    how: How
    thread: Any
    lane: Any
    group: Any

    @property
    def size(self) -> int:
        """Elements of one operand that a thread has at once."""
        return self.vector * self.count

    def value(self, at: Any, e: Any) -> Any:
        """The ``e``-th element, in the order of the scan, of a vector that begins at ``at``."""
        raw = self.room.raw
        both = (T.Cast("float32", raw[place]) for place in (at + (self.vector - 1 - e), at + e))
        return T.Select(self.how.reverse, *both)


def where(condition: Any, state: State, other: State) -> State:
    """One of two states."""
    return [T.Select(condition, one, two) for one, two in zip(state, other, strict=True)]


def copy(vector: int, to: Any, there: Any, source: Any, here: Any) -> None:
    """A vector."""
    with T.vectorized(vector) as e:
        T.buffer_store(to, source[here + e], [there + e])


def load(w: Walk, row: Any, vectors: Any, i: Any, k: Any, inside: Any) -> None:
    """The ``i``-th vector of a row, in the order of the scan, becomes the ``k``-th of this thread."""
    raw, d = w.room.raw, w.data
    with T.If(inside), T.Then():
        at = let(row * vectors + T.Select(w.how.reverse, vectors - 1 - i, i)) * w.vector
        copy(w.vector, raw, k * w.vector, d.source, at)
        if w.kind.gradient:
            copy(w.vector, raw, w.size + k * w.vector, d.factor, at)
        if w.kind.gradient and w.writes:
            copy(w.vector, raw, 2 * w.size + k * w.vector, d.products, at)
            # The product after the vector.
            T.buffer_store(w.room.after, T.float32(1), [k])
            with T.If(i + 1 < vectors), T.Then():
                after = d.products[let(T.Select(w.how.reverse, at - 1, at + w.vector))]
                T.buffer_store(w.room.after, T.Cast("float32", after), [k])


def scan_vector(w: Walk, k: Any, inside: Any) -> None:
    """To each element of the ``k``-th vector the state of the vector up to it."""
    total, none = w.room.total, w.kind.none()
    put(total, k, none)
    with T.unroll(w.vector) as e:
        source = let(w.value(k * w.vector, e), "float32")
        factor = let(w.value(w.size + k * w.vector, e), "float32") if w.kind.gradient else source
        element = where(inside, w.kind.element(source, factor, w.how.exclusive), none)
        put(total, k, w.kind.combine(total.at(k), element))
        put(w.room.local, k * w.vector + e, total.at(k))


def across_block(w: Walk, count: int, slot: Any) -> None:
    """What precedes the vectors of a warp, of ``count`` totals that are scanned within each warp; and the sum of all.

    Shared memory has two slots: while one is read, warps that are ahead write the other.
    """
    r, warps = w.room, w.threads // WARP
    entries = count * warps
    warp, lane = let(T.truncdiv(w.thread, WARP)), let(T.bitwise_and(w.thread, WARP - 1))
    with T.If(lane == WARP - 1), T.Then(), T.unroll(count) as k:
        put(r.shared, slot * WARP + k * warps + warp, r.total.at(k))
    T.evaluate(T.tvm_storage_sync("shared"))
    put(r.sums, 0, w.kind.none())
    with T.If(lane < entries), T.Then():
        put(r.sums, 0, r.shared.at(slot * WARP + lane))
    warp_scan(r.sums, 0, r.other, lane)
    with T.unroll(count) as k:
        before = let(k * warps + warp - 1)
        shuffle(r.other, r.sums, 0, T.max(before, 0))
        put(r.base, k, r.carry.at(0))
        with T.If(before >= 0), T.Then():
            put(r.base, k, w.kind.combine(r.carry.at(0), r.other.at(0)))
    shuffle(r.other, r.sums, 0, entries - 1)
    put(r.carry, 0, w.kind.combine(r.carry.at(0), r.other.at(0)))


def across_group(w: Walk) -> None:
    """The same within a warp, for groups of its lanes."""
    r, last = w.room, T.bitwise_or(T.bitwise_and(w.thread, WARP - 1), w.group - 1)
    with T.unroll(w.count) as k:
        put(r.base, k, r.carry.at(0))
        shuffle(r.other, r.total, k, last)
        put(r.carry, 0, w.kind.combine(r.carry.at(0), r.other.at(0)))


def result(w: Walk, k: Any, e: Any) -> Any:
    """That of the ``e``-th element of the ``k``-th vector."""
    r, at = w.room, k * w.vector + e
    before = [T.Select(e > 0, one, none) for one, none in zip(r.local.at(at - 1), w.kind.none(), strict=True)]
    if not w.kind.gradient:
        return w.kind.combine(r.base.at(k), where(w.how.exclusive, before, r.local.at(at)))[0]
    acc = let(w.kind.combine(r.base.at(k), before)[1], "float32")
    product = let(w.value(2 * w.size + k * w.vector, e), "float32")
    with T.If(T.Not(w.how.exclusive)), T.Then():
        become(acc, acc + w.value(k * w.vector, e))
        become(product, r.after[k])
        with T.If(e < w.vector - 1), T.Then():
            become(product, w.value(2 * w.size + k * w.vector, e + 1))
    return product * acc


def write(w: Walk, row: Any, vectors: Any, i: Any, k: Any, inside: Any) -> None:
    """The results of the ``k``-th vector."""
    r = w.room
    shuffle_up(r.other, r.total, k, 1)
    with T.If(T.bitwise_and(w.lane, WARP - 1) > 0), T.Then():
        put(r.base, k, w.kind.combine(r.base.at(k), r.other.at(0)))
    with T.If(inside), T.Then():
        # From the last one, as each is made of what precedes it.
        with T.unroll(w.vector) as back:
            e = w.vector - 1 - back
            T.buffer_store(r.local.buffer, result(w, k, e), [k * w.vector + e])
        with T.unroll(w.vector) as e:
            both = (r.local.at(k * w.vector + (w.vector - 1 - e))[0], r.local.at(k * w.vector + e)[0])
            T.buffer_store(r.raw, T.Cast(w.dtype, T.Select(w.how.reverse, *both)), [k * w.vector + e])
        at = let(row * vectors + T.Select(w.how.reverse, vectors - 1 - i, i)) * w.vector
        copy(w.vector, w.data.target, at, r.raw, k * w.vector)


def along(w: Walk, row: Any, there: Any, n: Any, begin: Any, end: Any) -> None:
    """A group's row from the element ``begin`` to ``end``, in the order of the scan, behind what is carried."""
    vectors = let(T.truncdiv(n, w.vector))
    past = let(T.truncdiv(end, w.vector))
    last = let(T.Select(there, past, 0))
    first = let(T.truncdiv(begin, w.vector))
    tile = w.group * w.count
    start, slot = let(first + w.lane), let(1)
    with T.serial(T.truncdiv(past - first + (tile - 1), tile)):
        with T.unroll(w.count) as k:
            i = let(start + k * w.group)
            load(w, row, vectors, i, k, i < last)
        with T.unroll(w.count) as k:
            scan_vector(w, k, start + k * w.group < last)
            warp_scan(w.room.total, k, w.room.other, T.bitwise_and(w.lane, WARP - 1))
        if w.block:
            across_block(w, w.count, slot)
            become(slot, 1 - slot)
        else:
            across_group(w)
        if w.writes:
            with T.unroll(w.count) as k:
                i = let(start + k * w.group)
                write(w, row, vectors, i, k, i < last)
        become(start, start + tile)
