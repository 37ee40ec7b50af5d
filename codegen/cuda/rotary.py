"""Rotary embedding on a GPU: a thread turns a vector of pairs at a time, or copies a vector that is not turned.

Rows are those of a tensor with three dimensions before the last, whose strides are data of the launch, as is which
elements are pairs (csrc/cuda/rotary.h). Where all extents and strides are whole vectors, a thread has two vectors of a
row and the angles that turn them; else two elements and one angle. Computed in float32, rounded once.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

PAIRS, INVERSE = 1, 2  # of the size "flags"
TABLE = 4  # elements of cos and sin that one load brings


@dataclass(frozen=True)
class Shape:
    """The knobs: ``vector`` elements are loaded at once, by ``threads`` of each of at most ``blocks`` blocks."""

    threads: int
    vector: int
    blocks: int


def kernel(dtype: str, s: Shape) -> tirx.PrimFunc:
    """Y = X, of whose rows [2 angles + rest] the pairs are turned by the angles of cos and sin, [..., angles]."""

    def wide(a: Any) -> Any:
        return T.Cast("int64", a)

    def grid(units: Any) -> Any:
        blocks = T.truncdiv(units + (s.threads - 1), T.int64(s.threads))
        return T.max(T.int64(1), T.min(T.int64(s.blocks), blocks))

    @T.prim_func(check_well_formed=False)
    def rotary(
        X_ptr: T.handle,
        cos_ptr: T.handle,
        sin_ptr: T.handle,
        Y_ptr: T.handle,
        size0: T.int32,
        size1: T.int32,
        size2: T.int32,
        angles: T.int32,
        rest: T.int32,
        x0: T.int32,
        x1: T.int32,
        x2: T.int32,
        y0: T.int32,
        y1: T.int32,
        y2: T.int32,
        table0: T.int32,
        table1: T.int32,
        table2: T.int32,
        flags: T.int32,
    ) -> None:
        elements = T.int64()
        X = T.match_buffer(X_ptr, (elements,), dtype, align=16)
        cos = T.match_buffer(cos_ptr, (elements,), "float32", align=16)
        sin = T.match_buffer(sin_ptr, (elements,), "float32", align=16)
        Y = T.match_buffer(Y_ptr, (elements,), dtype, align=16)
        rows = T.meta_var(wide(size0) * wide(size1) * wide(size2))
        blocks = T.meta_var(grid(rows * wide(angles + rest)))
        with (
            T.launch_thread("blockIdx.x", T.Cast("int32", blocks)) as block,
            T.launch_thread("threadIdx.x", s.threads) as thread,
        ):
            raw = T.alloc_buffer((2 * s.vector,), dtype, scope="local")
            x = T.alloc_buffer((2 * s.vector,), "float32", scope="local")
            y = T.alloc_buffer((2 * s.vector,), "float32", scope="local")
            c = T.alloc_buffer((s.vector,), "float32", scope="local")
            n = T.alloc_buffer((s.vector,), "float32", scope="local")
            pairs = T.meta_var(T.bitwise_and(flags, PAIRS) != 0)
            sign: T.float32 = T.Select(T.bitwise_and(flags, INVERSE) != 0, T.float32(-1), T.float32(1))
            extents = T.meta_var((angles, rest, x0, x1, x2, y0, y1, y2, table0, table1, table2))
            step: T.int64 = blocks * s.threads
            first: T.int64 = wide(block) * s.threads + wide(thread)

            @T.inline
            def turn(v: Any, a: Any, b: Any, c_at: Any, d_at: Any, vector: Any) -> None:
                """The vectors of X at ``a`` and ``b``, by the angles at ``vector``, to Y at ``c_at``, ``d_at``."""
                for e in T.vectorized(v):
                    raw[e] = X[a * v + e]
                for e in T.vectorized(v):
                    raw[v + e] = X[b * v + e]
                for part in T.unroll(-(-v // TABLE)):
                    for e in T.vectorized(min(v, TABLE)):
                        c[part * TABLE + e] = cos[vector * v + part * TABLE + e]
                    for e in T.vectorized(min(v, TABLE)):
                        n[part * TABLE + e] = sin[vector * v + part * TABLE + e]
                for e in T.unroll(2 * v):
                    x[e] = T.Cast("float32", raw[e])
                for e in T.unroll(v):
                    # One after the other in memory, or in halves.
                    one: T.float32 = T.Select(pairs, x[2 * e], x[e])
                    other: T.float32 = T.Select(pairs, x[2 * e + 1], x[v + e])
                    y[e] = one * c[e] - other * (n[e] * sign)
                    y[v + e] = other * c[e] + one * (n[e] * sign)
                for e in T.unroll(2 * v):
                    raw[e] = T.Cast(dtype, T.Select(pairs, y[T.truncdiv(e, 2) + T.truncmod(e, 2) * v], y[e]))
                for e in T.vectorized(v):
                    Y[c_at * v + e] = raw[e]
                for e in T.vectorized(v):
                    Y[d_at * v + e] = raw[v + e]

            @T.inline
            def all_rows(v: Any) -> None:
                turned: T.int32 = T.truncdiv(angles, v)
                units: T.int32 = turned + T.truncdiv(rest, v)  # of a row: for a thread each
                for turns in T.serial(T.truncdiv(rows * wide(units) + (step - 1), step)):
                    place: T.int64 = turns * step + first
                    if place < rows * wide(units):
                        row: T.int32 = T.truncdiv(T.Cast("int32", place), units)
                        u: T.int32 = T.Cast("int32", place) - row * units
                        i2: T.int32 = T.truncmod(row, size2)
                        i1: T.int32 = T.truncmod(T.truncdiv(row, size2), size1)
                        i0: T.int32 = T.truncdiv(T.truncdiv(row, size2), size1)
                        at_x: T.int32 = i0 * T.truncdiv(x0, v) + i1 * T.truncdiv(x1, v) + i2 * T.truncdiv(x2, v)
                        at_y: T.int32 = i0 * T.truncdiv(y0, v) + i1 * T.truncdiv(y1, v) + i2 * T.truncdiv(y2, v)
                        if u < turned:
                            table: T.int32 = (
                                i0 * T.truncdiv(table0, v) + i1 * T.truncdiv(table1, v) + i2 * T.truncdiv(table2, v)
                            )
                            left: T.int32 = T.Select(pairs, 2 * u, u)
                            right: T.int32 = T.Select(pairs, 2 * u + 1, turned + u)
                            turn(v, at_x + left, at_x + right, at_y + left, at_y + right, table + u)
                        else:
                            for e in T.vectorized(v):
                                raw[e] = X[(at_x + turned + u) * v + e]
                            for e in T.vectorized(v):
                                Y[(at_y + turned + u) * v + e] = raw[e]

            if s.vector == 1:
                all_rows(1)
            elif T.bitwise_and(every_bit(extents), s.vector - 1) == 0:
                all_rows(s.vector)
            else:
                all_rows(1)

    return rotary


def every_bit(values: Any) -> Any:
    """The bits that any of the values has."""
    found = values[0]
    for value in values[1:]:
        found = T.bitwise_or(found, value)
    return found
