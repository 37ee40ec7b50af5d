"""K in several parts, each summed by blocks of its own: more blocks where C has few tiles.

The parts' sums go to a workspace, float32 [parts, batch, M, N]; a second kernel adds them in their order, so that the
same input gives the same bits.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from .epilogue import finish

THREADS = 64


@T.inline
def keep(x: Any, partial: Any, at: Any) -> None:
    """partial[at:at + V] = x, V float32 in registers."""
    for i in T.unroll(T.int64(int(x.shape[0]) // 4)):
        for e in T.vectorized(T.int64(4)):
            partial[at + i * 4 + e] = x[i * 4 + e]


@T.inline
def add_up(
    partial: Any,
    parts: int,
    C: Any,
    bias: Any,
    residual: Any,
    rows: Any,
    vectors: Any,
    width: int,
    activation: Any,
    flags: Any,
) -> None:
    """The second kernel: C [rows, N] = activation(sum of the parts + bias) + residual. A block has a piece of a row.

    N is ``vectors`` times ``width``.
    """
    with (
        T.launch_thread("blockIdx.x", rows) as row,
        T.launch_thread("blockIdx.y", T.truncdiv(vectors + (THREADS - 1), THREADS)) as piece,
        T.launch_thread("threadIdx.x", THREADS) as thread,
    ):
        y = T.alloc_buffer((width,), "float32", scope="local")
        one = T.alloc_buffer((width,), "float32", scope="local")
        g = T.alloc_buffer((width,), C.dtype, scope="local")
        column = T.meta_var(piece * THREADS + thread)
        if column < vectors:
            at = T.meta_var((T.Cast("int64", row) * T.Cast("int64", vectors) + T.Cast("int64", column)) * width)
            for e in T.unroll(width):
                y[e] = T.float32(0)
            for part in T.serial(parts):
                first = T.meta_var(
                    T.Cast("int64", part) * T.Cast("int64", rows) * T.Cast("int64", vectors) * width + at
                )
                for i in T.unroll(T.int64(width // 4)):
                    for e in T.vectorized(T.int64(4)):
                        one[i * 4 + e] = partial[first + i * 4 + e]
                for e in T.unroll(width):
                    y[e] = y[e] + one[e]
            finish(y, g, C, bias, residual, at, column * width, activation, flags)
