"""Leaves that lay operands out for the GEMM micro-kernel."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from .lower import i32, scripted


def pack_rows(name: str, n: int) -> tirx.PrimFunc:
    """``pack_rows.{n}(S, D, K, lds, w)``: D[:K, :n] = S[:K, :w], zero beyond w. A panel of a row-major B."""

    @T.prim_func(s_tir=True, private=True)
    def func(s: T.handle, d: T.handle, K: T.int32, lds: T.int32, w: T.int32):
        S = T.match_buffer(s, (K, n), "float32", strides=(lds, 1))
        D = T.match_buffer(d, (K, n), "float32")
        with T.sblock("pack"):
            T.reads(S[0:K, 0:n])
            T.writes(D[0:K, 0:n])
            if w == n:
                for k in range(K):
                    for j in T.vectorized(n):
                        D[k, j] = S[k, j]
            else:
                for k in range(K):
                    D[k, T.ramp(0, 1, n)] = T.masked_load(
                        f"float32x{n}", S, k, T.ramp(0, 1, n), T.ramp(0, 1, n) < T.broadcast(w, n)
                    )

    return scripted(name, func)


def copy(name: str, lanes: int) -> tirx.PrimFunc:
    """``copy(S, D, R, N, lds, ldd)``: D[:R, :N] = S[:R, :N]. A tile of A, with a leading dimension of our own."""

    @T.prim_func(s_tir=True, private=True)
    def func(s: T.handle, d: T.handle, R: T.int32, N: T.int32, lds: T.int32, ldd: T.int32):
        S = T.match_buffer(s, (R, N), "float32", strides=(lds, 1))
        D = T.match_buffer(d, (R, N), "float32", strides=(ldd, 1))
        with T.sblock("copy"):
            T.reads(S[0:R, 0:N])
            T.writes(D[0:R, 0:N])
            for i in range(R):
                for jo in range(N // lanes):
                    for ji in T.vectorized(lanes):
                        D[i, jo * lanes + ji] = S[i, jo * lanes + ji]
                for jt in range(N % lanes):
                    D[i, N // lanes * lanes + jt] = S[i, N // lanes * lanes + jt]

    return scripted(name, func)


def transpose(name: str, lanes: int) -> tirx.PrimFunc:
    """``transpose(S, D, R, N, lds, ldd)``: D[:N, :R] = S[:R, :N]^T. Packs a transposed A or B.

    Blocks of lanes x lanes go through log2(lanes) stages of interleaving shuffles in registers; the rest is scalar.
    """
    low = [x for j in range(lanes // 2) for x in (j, lanes + j)]
    high = [x for j in range(lanes // 2, lanes) for x in (j, lanes + j)]

    def stages(x, y):  # runs while the script is parsed: emits the shuffles and says where the result is
        for _ in range(lanes.bit_length() - 1):
            for i in range(lanes // 2):
                for q, pick in ((0, low), (1, high)):
                    pair = [x[i, T.ramp(0, 1, lanes)], x[i + lanes // 2, T.ramp(0, 1, lanes)]]
                    T.buffer_store(y, T.Shuffle(pair, [i32(p) for p in pick]), [2 * i + q, T.ramp(0, 1, lanes)])
            x, y = y, x
        return x

    @T.prim_func(s_tir=True, private=True)
    def func(s: T.handle, d: T.handle, R: T.int32, N: T.int32, lds: T.int32, ldd: T.int32):
        S = T.match_buffer(s, (R, N), "float32", strides=(lds, 1))
        D = T.match_buffer(d, (N, R), "float32", strides=(ldd, 1))
        X = T.sblock_alloc_buffer((lanes, lanes), "float32", scope="local")
        Y = T.sblock_alloc_buffer((lanes, lanes), "float32", scope="local")
        with T.sblock("transpose"):
            T.reads(S[0:R, 0:N])
            T.writes(D[0:N, 0:R])
            for io in range(R // lanes):
                for jo in range(N // lanes):
                    for i in T.unroll(lanes):
                        for j in T.vectorized(lanes):
                            X[i, j] = S[io * lanes + i, jo * lanes + j]
                    Z = T.meta_var(stages(X, Y))
                    for i in T.unroll(lanes):
                        for j in T.vectorized(lanes):
                            D[jo * lanes + i, io * lanes + j] = Z[i, j]
                for j in range(N % lanes):
                    for i in range(lanes):
                        D[N // lanes * lanes + j, io * lanes + i] = S[io * lanes + i, N // lanes * lanes + j]
            for i in range(R % lanes):
                for j in range(N):
                    D[j, R // lanes * lanes + i] = S[R // lanes * lanes + i, j]

    return scripted(name, func)
