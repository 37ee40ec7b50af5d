"""What happens to a finished tile of C, while it is still in L1: the epilogue is data, one leaf an activation."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from .lower import scripted

HAS_BIAS, HAS_RESIDUAL = 1, 2


def epilogue(name: str, n: int, activation: Callable[[Expr], Expr]) -> tirx.PrimFunc:
    """``epilogue.{activation}(C, bias, residual, r, ldc, ldr, w, flags, alpha, beta)`` on C[:r, :w], w <= n.

    C = activation(alpha C + bias) + beta residual, where flags (HAS_BIAS, HAS_RESIDUAL) says which pointers are given.
    """

    @T.prim_func(s_tir=True, private=True)
    def func(
        c: T.handle,
        b: T.handle,
        s: T.handle,
        r: T.int32,
        ldc: T.int32,
        ldr: T.int32,
        w: T.int32,
        flags: T.int32,
        alpha: T.float32,
        beta: T.float32,
    ):
        C = T.match_buffer(c, (r, n), "float32", strides=(ldc, 1))
        bias = T.match_buffer(b, (n,), "float32")
        residual = T.match_buffer(s, (r, n), "float32", strides=(ldr, 1))
        shift = T.sblock_alloc_buffer((n,), "float32", scope="local")
        row = T.sblock_alloc_buffer((n,), "float32", scope="local")
        with T.sblock("epilogue"):
            T.reads(C[0:r, 0:n], bias[0:n], residual[0:r, 0:n])
            T.writes(C[0:r, 0:n])
            for j in T.vectorized(n):
                shift[j] = T.float32(-0.0)  # which leaves even a -0.0 as it is
            if T.bitwise_and(flags, HAS_BIAS) != 0:
                shift[T.ramp(0, 1, n)] = T.masked_load(
                    f"float32x{n}", bias, T.ramp(0, 1, n), T.ramp(0, 1, n) < T.broadcast(w, n)
                )
            if w == n:
                for i in range(r):
                    for j in T.vectorized(n):
                        row[j] = activation(alpha * C[i, j] + shift[j])
                    if T.bitwise_and(flags, HAS_RESIDUAL) != 0:
                        for j in T.vectorized(n):
                            row[j] = row[j] + beta * residual[i, j]
                    for j in T.vectorized(n):
                        C[i, j] = row[j]
            else:
                for i in range(r):
                    row[T.ramp(0, 1, n)] = T.masked_load(
                        f"float32x{n}", C, i, T.ramp(0, 1, n), T.ramp(0, 1, n) < T.broadcast(w, n)
                    )
                    for j in T.vectorized(n):
                        row[j] = activation(alpha * row[j] + shift[j])
                    if T.bitwise_and(flags, HAS_RESIDUAL) != 0:
                        row[T.ramp(0, 1, n)] = row[T.ramp(0, 1, n)] + T.broadcast(beta, n) * T.masked_load(
                            f"float32x{n}", residual, i, T.ramp(0, 1, n), T.ramp(0, 1, n) < T.broadcast(w, n)
                        )
                    T.evaluate(
                        T.masked_store(C, row[T.ramp(0, 1, n)], i, T.ramp(0, 1, n), T.ramp(0, 1, n) < T.broadcast(w, n))
                    )

    return scripted(name, func)
