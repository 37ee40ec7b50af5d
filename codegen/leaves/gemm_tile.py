"""The GEMM micro-kernel: a register tile of C, from a TE definition.

``tile.{r}x{n}(A, B, C, K, lda, ldb, ldc, w, beta)``: C[:r, :w] = (beta ? C : 0) + A[:r, :K] @ B[:K, :n], row-major with
the given leading dimensions; B has n readable columns in each row, C is touched in its first w columns only.
Every element is one chain of fused multiply-adds in the order of K, so the result does not depend on r and n.
"""

from __future__ import annotations

from tvm import s_tir, te, tirx
from tvm.script import tirx as T

from .lower import block_body, i32, leaf, prefetch, sequence


def define(r: int, n: int, depth: int | None = None) -> tirx.PrimFunc:
    """The computation in TE: A [r, lda], B [K, ldb] -> acc [r, n], float32; K is ``depth`` if given, else symbolic."""
    lda, ldb, extent = (te.var(name, "int32") for name in ("lda", "ldb", "K"))
    extent = extent if depth is None else depth
    a = te.placeholder((r, lda), name="A", dtype="float32")
    b = te.placeholder((extent, ldb), name="B", dtype="float32")
    k = te.reduce_axis((0, extent), name="k")
    acc = te.compute((r, n), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="acc")
    return te.create_prim_func([a, b, acc])


def schedule(r: int, n: int, depth: int | None = None) -> s_tir.Schedule:
    """k outermost, the rows unrolled, the columns in vector registers."""
    sch = s_tir.Schedule(define(r, n, depth))
    block = sch.get_sblock("acc")
    i, j, k = sch.get_loops(block)
    sch.reorder(k, i, j)
    sch.unroll(i)
    sch.vectorize(j)
    sch.decompose_reduction(block, k)
    return sch


def write_back(r: int, n: int) -> tirx.PrimFunc:
    """C[:, :w] = acc, plus what C held when beta is set. A ragged tile takes masked vectors."""

    @T.prim_func(s_tir=True, private=True)
    def out(acc: T.Buffer((r, n), "float32"), c: T.handle, ldc: T.int32, w: T.int32, beta: T.int32):
        C = T.match_buffer(c, (r, n), "float32", strides=(ldc, 1))
        with T.sblock("out"):
            T.reads(acc[0:r, 0:n], C[0:r, 0:n])
            T.writes(C[0:r, 0:n])
            if w == n:
                if beta != 0:
                    for i in T.unroll(r):
                        for j in T.vectorized(n):
                            acc[i, j] = acc[i, j] + C[i, j]
                for i in T.unroll(r):
                    for j in T.vectorized(n):
                        C[i, j] = acc[i, j]
            else:
                if beta != 0:
                    for i in T.unroll(r):
                        acc[i, T.ramp(0, 1, n)] = acc[i, T.ramp(0, 1, n)] + T.masked_load(
                            f"float32x{n}", C, i, T.ramp(0, 1, n), T.ramp(0, 1, n) < T.broadcast(w, n)
                        )
                for i in T.unroll(r):
                    T.evaluate(
                        T.masked_store(
                            C, acc[i, T.ramp(0, 1, n)], i, T.ramp(0, 1, n), T.ramp(0, 1, n) < T.broadcast(w, n)
                        )
                    )

    return out


def tile(name: str, r: int, n: int, distance: int, depth: int | None = None) -> tirx.PrimFunc:
    """The leaf.

    Args:
        name: its symbol.
        r: rows of the tile.
        n: columns of the tile.
        distance: how many rows of B ahead of their use are prefetched; 0: none.
        depth: K if it is static; the argument ``K`` is then not read.
    """
    multiply = schedule(r, n, depth).mod["main"]
    a, b, acc = multiply.params
    lda, ldb = a.shape[1], b.shape[1]
    extent = b.shape[0] if depth is None else te.var("K", "int32")
    store = write_back(r, n)
    view, c, ldc, w, beta = store.params
    zero, loop = block_body(multiply).seq
    ahead = [prefetch(b, [loop.loop_var + i32(distance), i32(j)]) for j in range(0, n, 16)] if distance else []
    loop = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, sequence(*ahead, loop.body))
    body = sequence(zero, loop, store.body)
    return leaf(name, [a, b, c, extent, lda, ldb, ldc, w, beta], body, [acc], {view: acc})
