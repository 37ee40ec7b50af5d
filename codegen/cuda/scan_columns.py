"""Scans across rows of memory: a thread has neighbouring columns, and goes down them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from .scan_rows import Data, How, copy
from .scan_states import Kind, Registers, let, put


@dataclass(frozen=True)
class Columns:
    """``vector`` columns for a thread, of which ``depth`` rows are loaded at once. ``writes``: see ``Walk``."""

    kind: Kind
    dtype: str
    vector: int
    depth: int
    writes: bool
    raw: Any  # elements as they are in memory
    carry: Registers  # for each column
    before: Registers


def place(c: Columns, top: Any, width: Any, n: Any, i: Any, how: How) -> Any:
    """Where the ``i``-th row is, in the order of the scan, in vectors."""
    return let(top + T.Select(how.reverse, n - 1 - i, i) * width)


def load(c: Columns, d: Data, top: Any, width: Any, n: Any, i: Any, u: Any, how: How) -> None:
    """The ``i``-th row becomes the ``u``-th of those at hand."""
    size = c.vector * c.depth
    at = place(c, top, width, n, i, how)
    copy(c.vector, c.raw, u * c.vector, d.source, at * c.vector)
    if not c.kind.gradient:
        return
    copy(c.vector, c.raw, size + u * c.vector, d.factor, at * c.vector)
    if not c.writes:
        return
    other = let(T.Select(how.exclusive, i, i + 1))
    with T.If(other < n):
        with T.Then():
            after = place(c, top, width, n, other, how)
            copy(c.vector, c.raw, 2 * size + u * c.vector, d.products, after * c.vector)
        with T.Else(), T.unroll(c.vector) as e:
            T.buffer_store(c.raw, T.Cast(c.dtype, T.float32(1)), [2 * size + u * c.vector + e])


def step(c: Columns, u: Any, how: How) -> None:
    """The ``u``-th of the rows at hand, behind what is carried."""
    size = c.vector * c.depth
    with T.unroll(c.vector) as e:
        at = u * c.vector + e
        source = let(T.Cast("float32", c.raw[at]), "float32")
        factor = let(T.Cast("float32", c.raw[size + at]), "float32") if c.kind.gradient else source
        put(c.before, 0, c.carry.at(e))
        put(c.carry, e, c.kind.combine(c.carry.at(e), c.kind.element(source, factor, how.exclusive)))
        if not c.writes:
            return
        if c.kind.gradient:
            acc = c.before.at(0)[1]
            value = T.Cast("float32", c.raw[2 * size + at]) * T.Select(how.exclusive, acc, source + acc)
        else:
            value = T.Select(how.exclusive, c.before.at(0)[0], c.carry.at(e)[0])
        T.buffer_store(c.raw, T.Cast(c.dtype, value), [at])


def columns(
    c: Columns, d: Data, sums: Registers, outer: Any, n: Any, inner: Any, length: Any, thread: Any, how: How
) -> None:
    """The piece of ``length`` rows of the columns that the ``thread``-th of a launch has.

    ``sums``: what the pieces come to, [outer, pieces - 1, inner]; it is written, or tells what precedes a piece.
    """
    width = let(T.truncdiv(inner, c.vector))
    inside = let(T.truncdiv(n + (length - 1), length) - 1)  # pieces that others follow
    pieces = let(inside + int(c.writes))
    with T.If(thread < outer * width * pieces), T.Then():
        column = let(T.truncmod(thread, width))
        which = let(T.truncmod(T.truncdiv(thread, width), pieces))
        row = let(T.truncdiv(T.truncdiv(thread, width), pieces))
        begin = let(which * length)
        end = let(T.min(begin + length, n))
        top = let(row * n * width + column)

        def of_piece(q: Any, e: Any) -> Any:
            return (row * inside + q) * inner + column * c.vector + e

        with T.unroll(c.vector) as e:
            put(c.carry, e, c.kind.none())
        if c.writes:
            with T.serial(which) as q, T.unroll(c.vector) as e:
                put(c.carry, e, c.kind.combine(c.carry.at(e), sums.at(of_piece(q, e))))
        with T.serial(T.truncdiv(end - begin + (c.depth - 1), c.depth)) as turn:
            with T.unroll(c.depth) as u:
                i = let(begin + turn * c.depth + u)
                with T.If(i < end), T.Then():
                    load(c, d, top, width, n, i, u, how)
            with T.unroll(c.depth) as u:
                i = let(begin + turn * c.depth + u)
                with T.If(i < end), T.Then():
                    step(c, u, how)
                    if c.writes:
                        copy(c.vector, d.target, place(c, top, width, n, i, how) * c.vector, c.raw, u * c.vector)
        if not c.writes:
            with T.unroll(c.vector) as e:
                put(sums, of_piece(which, e), c.carry.at(e))
