"""The GEMM micro-kernel for a B that lies transposed in memory and is read once: dot products along K.

``dot.{r}x{n}(A, B, C, K, lda, ldb, ldc)``: C[i, j] = sum over k of A[i, k] B[j, k] for i < r, j < n. Each element is
``lanes`` chains of fused multiply-adds, added in a fixed tree.
"""

from __future__ import annotations

from tvm import s_tir, te, tirx
from tvm.script import tirx as T

from .lower import block_body, i32, leaf, sequence


def define(r: int, n: int, lanes: int) -> tirx.PrimFunc:
    """The part of K that fills vectors, in TE: A [r, lda], B [n, ldb] -> acc [r, n, lanes], partial sums by lane."""
    lda, ldb, steps = (te.var(name, "int32") for name in ("lda", "ldb", "steps"))
    a = te.placeholder((r, lda), name="A", dtype="float32")
    b = te.placeholder((n, ldb), name="B", dtype="float32")
    extent = te.placeholder((steps,), name="extent", dtype="float32")  # only its length counts: K // lanes
    k = te.reduce_axis((0, steps), name="k")
    acc = te.compute(
        (r, n, lanes), lambda i, j, v: te.sum(a[i, k * lanes + v] * b[j, k * lanes + v], axis=k), name="acc"
    )
    return te.create_prim_func([a, b, extent, acc])


def schedule(r: int, n: int, lanes: int) -> s_tir.Schedule:
    """k outermost, the r x n products unrolled, one vector register each."""
    sch = s_tir.Schedule(define(r, n, lanes))
    block = sch.get_sblock("acc")
    i, j, v, k = sch.get_loops(block)
    sch.reorder(k, i, j, v)
    sch.unroll(i)
    sch.unroll(j)
    sch.vectorize(v)
    sch.decompose_reduction(block, k)
    return sch


def finish(r: int, n: int, lanes: int) -> tirx.PrimFunc:
    """The rest of K by masked loads, then C = the sum over the lanes."""

    def fold(acc, i, j):  # runs while the script is parsed: log2(lanes) halvings of acc[i, j, :]
        width = lanes // 2
        while width > 1:
            low, high = T.ramp(0, 1, width), T.ramp(width, 1, width)
            T.buffer_store(acc, acc[i, j, low] + acc[i, j, high], [i, j, low])
            width //= 2
        return acc[i, j, 0] + acc[i, j, 1]

    @T.prim_func(s_tir=True, private=True)
    def out(
        partial: T.Buffer((r, n, lanes), "float32"),
        a: T.handle,
        b: T.handle,
        c: T.handle,
        K: T.int32,
        lda: T.int32,
        ldb: T.int32,
        ldc: T.int32,
    ):
        A = T.match_buffer(a, (r, K), "float32", strides=(lda, 1))
        B = T.match_buffer(b, (n, K), "float32", strides=(ldb, 1))
        C = T.match_buffer(c, (r, n), "float32", strides=(ldc, 1))
        with T.sblock("out"):
            T.reads(A[0:r, 0:K], B[0:n, 0:K], partial[0:r, 0:n, 0:lanes])
            T.writes(C[0:r, 0:n])
            if K % lanes != 0:
                for i in T.unroll(r):
                    for j in T.unroll(n):
                        partial[i, j, T.ramp(0, 1, lanes)] = partial[i, j, T.ramp(0, 1, lanes)] + T.masked_load(
                            f"float32x{lanes}",
                            A,
                            i,
                            T.ramp(K // lanes * lanes, 1, lanes),
                            T.ramp(0, 1, lanes) < T.broadcast(K % lanes, lanes),
                        ) * T.masked_load(
                            f"float32x{lanes}",
                            B,
                            j,
                            T.ramp(K // lanes * lanes, 1, lanes),
                            T.ramp(0, 1, lanes) < T.broadcast(K % lanes, lanes),
                        )
            for i in T.unroll(r):
                for j in T.unroll(n):
                    total = T.meta_var(fold(partial, i, j))
                    C[i, j] = total

    return out


def dot(name: str, r: int, n: int, lanes: int) -> tirx.PrimFunc:
    """The leaf."""
    multiply = schedule(r, n, lanes).mod["main"]
    a, b, extent, acc = multiply.params
    rest = finish(r, n, lanes)
    view, a_rest, b_rest, c, size, lda, ldb, ldc = rest.params
    zero, loop = block_body(multiply).seq
    bind = {extent.shape[0]: tirx.floordiv(size, i32(lanes)), a.shape[1]: lda, b.shape[1]: ldb}
    body = sequence(zero, loop, rest.body)
    return leaf(name, [a_rest, b_rest, c, size, lda, ldb, ldc], body, [acc], {view: acc, a: a_rest, b: b_rest}, bind)
