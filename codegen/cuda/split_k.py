"""K in several parts, each summed by blocks of its own: more blocks where C has few tiles.

The parts' sums go to a workspace, float32 [parts, batch, M, N]; a second kernel adds them in their order, so that the
same input gives the same bits.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from .epilogue import VECTOR, finish

THREADS = 64


@T.inline
def keep(x: Any, partial: Any, at: Any) -> None:
    """partial[at:at + VECTOR] = x."""
    for half in T.unroll(T.int64(2)):
        for e in T.vectorized(T.int64(4)):
            partial[at + half * 4 + e] = x[half * 4 + e]


@T.inline
def add_up(
    partial: Any, parts: int, C: Any, bias: Any, residual: Any, rows: Any, n8: Any, activation: Any, flags: Any
) -> None:
    """The second kernel: C [rows, N] = activation(sum of the parts + bias) + residual. A block has a piece of a row."""
    with (
        T.launch_thread("blockIdx.x", rows) as row,
        T.launch_thread("blockIdx.y", T.truncdiv(n8 + (THREADS - 1), THREADS)) as piece,
        T.launch_thread("threadIdx.x", THREADS) as thread,
    ):
        y = T.alloc_buffer((VECTOR,), "float32", scope="local")
        one = T.alloc_buffer((VECTOR,), "float32", scope="local")
        g = T.alloc_buffer((VECTOR,), C.dtype, scope="local")
        column = T.meta_var(piece * THREADS + thread)
        if column < n8:
            at = T.meta_var((T.Cast("int64", row) * T.Cast("int64", n8) + T.Cast("int64", column)) * VECTOR)
            for e in T.unroll(VECTOR):
                y[e] = T.float32(0)
            for part in T.serial(parts):
                first = T.meta_var(T.Cast("int64", part) * T.Cast("int64", rows) * T.Cast("int64", n8) * VECTOR + at)
                for half in T.unroll(T.int64(2)):
                    for e in T.vectorized(T.int64(4)):
                        one[half * 4 + e] = partial[first + half * 4 + e]
                for e in T.unroll(VECTOR):
                    y[e] = y[e] + one[e]
            finish(y, g, C, bias, residual, at, column * VECTOR, activation, flags)
