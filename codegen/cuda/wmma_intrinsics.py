"""The wmma interface as tensor intrinsics: each a pair of what it means and what it becomes.

TVM brings such pairs, but to import them parses some hundred; these are made when they are needed. Source: CUDA C++
Programming Guide, "Warp Matrix Functions".
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

SHARED = "shared.dyn"
Pair = tuple[tirx.PrimFunc, tirx.PrimFunc]
Shape = tuple[int, int, int]  # m, n, k of a fragment
ALIGN = 32  # bytes, of what is loaded and stored


def _index(buffer: Any, stride: Any, rows: int, columns: int) -> Any:
    """Which of the fragments of a buffer this one is."""
    per_row = stride // columns
    return buffer.elem_offset // stride // rows * per_row + buffer.elem_offset % stride // columns


def load(shape: Shape, dtype: str, operand: str, *, across: bool) -> Pair:
    """A fragment of A ("a") or B ("b") from shared memory; ``across``: its columns lie along memory."""
    m, n, k = shape
    rows, columns = (m, k) if operand == "a" else (k, n)
    rows, columns = (columns, rows) if across else (rows, columns)
    scope, layout = f"wmma.matrix_{operand}", "col_major" if across else "row_major"

    @T.prim_func(s_tir=True)
    def meaning(s: T.handle, f: T.handle) -> None:
        S = T.match_buffer(s, (rows, columns), dtype, align=ALIGN, offset_factor=columns, scope=SHARED)
        F = T.match_buffer(f, (rows, columns), dtype, align=ALIGN, offset_factor=columns, scope=scope)
        with T.sblock("root"):
            T.reads(S[0:rows, 0:columns])
            T.writes(F[0:rows, 0:columns])
            for i, j in T.grid(rows, columns):
                with T.sblock("load"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    F[vi, vj] = S[vi, vj]

    @T.prim_func(s_tir=True)
    def becomes(s: T.handle, f: T.handle) -> None:
        s1, s0, f1, f0 = T.int32(), T.int32(), T.int32(), T.int32()
        S = T.match_buffer(
            s, (rows, columns), dtype, align=ALIGN, offset_factor=columns, scope=SHARED, strides=[s1, s0]
        )
        F = T.match_buffer(f, (rows, columns), dtype, align=ALIGN, offset_factor=columns, scope=scope, strides=[f1, f0])
        with T.sblock("root"):
            T.reads(S[0:rows, 0:columns])
            T.writes(F[0:rows, 0:columns])
            at, pointer = T.meta_var((_index(F, f1, rows, columns), S.access_ptr("r", ptr_type=dtype)))
            T.evaluate(T.tvm_load_matrix_sync(F.data, m, n, k, at, pointer, s1, layout, dtype="void"))

    return meaning, becomes


def fill(shape: Shape) -> Pair:
    """Zeros in a fragment of C."""
    m, n, k = shape

    @T.prim_func(s_tir=True)
    def meaning(c: T.handle) -> None:
        C = T.match_buffer(c, (m, n), "float32", align=ALIGN, offset_factor=n, scope="wmma.accumulator")
        with T.sblock("root"):
            T.reads()
            T.writes(C[0:m, 0:n])
            for i, j in T.grid(m, n):
                with T.sblock("init"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = T.float32(0)

    @T.prim_func(s_tir=True)
    def becomes(c: T.handle) -> None:
        c1, c0 = T.int32(), T.int32()
        C = T.match_buffer(
            c, (m, n), "float32", align=ALIGN, offset_factor=n, scope="wmma.accumulator", strides=[c1, c0]
        )
        with T.sblock("root"):
            T.reads()
            T.writes(C[0:m, 0:n])
            T.evaluate(T.tvm_fill_fragment(C.data, m, n, k, _index(C, c1, m, n), T.float32(0), dtype="void"))

    return meaning, becomes


def store(shape: Shape) -> Pair:
    """A fragment of C to shared memory."""
    m, n, k = shape

    @T.prim_func(s_tir=True)
    def meaning(c: T.handle, s: T.handle) -> None:
        C = T.match_buffer(c, (m, n), "float32", align=ALIGN, offset_factor=n, scope="wmma.accumulator")
        S = T.match_buffer(s, (m, n), "float32", align=ALIGN, offset_factor=n, scope=SHARED)
        with T.sblock("root"):
            T.reads(C[0:m, 0:n])
            T.writes(S[0:m, 0:n])
            for i, j in T.grid(m, n):
                with T.sblock("store"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    S[vi, vj] = C[vi, vj]

    @T.prim_func(s_tir=True)
    def becomes(c: T.handle, s: T.handle) -> None:
        c1, c0, s1, s0 = T.int32(), T.int32(), T.int32(), T.int32()
        C = T.match_buffer(
            c, (m, n), "float32", align=ALIGN, offset_factor=n, scope="wmma.accumulator", strides=[c1, c0]
        )
        S = T.match_buffer(s, (m, n), "float32", align=ALIGN, offset_factor=n, scope=SHARED, strides=[s1, s0])
        with T.sblock("root"):
            T.reads(C[0:m, 0:n])
            T.writes(S[0:m, 0:n])
            at, pointer = T.meta_var((_index(C, c1, m, n), S.access_ptr("w", ptr_type="float32")))
            T.evaluate(T.tvm_store_matrix_sync(C.data, m, n, k, at, pointer, s1, "row_major", dtype="void"))

    return meaning, becomes


def sync(shape: Shape, dtype: str, *, along_b: bool) -> Pair:
    """C [m, n] += A [m, k] B [k, n] in float32; ``along_b``: B's buffer is [n, k]."""
    m, n, k = shape
    b_rows, b_columns = (n, k) if along_b else (k, n)

    @T.prim_func(s_tir=True)
    def meaning(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (m, k), dtype, align=ALIGN, offset_factor=k, scope="wmma.matrix_a")
        B = T.match_buffer(b, (b_rows, b_columns), dtype, align=ALIGN, offset_factor=b_columns, scope="wmma.matrix_b")
        C = T.match_buffer(c, (m, n), "float32", align=ALIGN, offset_factor=n, scope="wmma.accumulator")
        with T.sblock("root"):
            T.reads(C[0:m, 0:n], A[0:m, 0:k], B[0:b_rows, 0:b_columns])
            T.writes(C[0:m, 0:n])
            for i, j, r in T.grid(m, n, k):
                with T.sblock(""):
                    vi, vj, vr = T.axis.remap("SSR", [i, j, r])
                    b0, b1 = T.meta_var((vj, vr) if along_b else (vr, vj))
                    C[vi, vj] = C[vi, vj] + T.Cast("float32", A[vi, vr]) * T.Cast("float32", B[b0, b1])

    @T.prim_func(s_tir=True)
    def becomes(a: T.handle, b: T.handle, c: T.handle) -> None:
        a1, a0, b1, b0, c1, c0 = T.int32(), T.int32(), T.int32(), T.int32(), T.int32(), T.int32()
        A = T.match_buffer(a, (m, k), dtype, align=ALIGN, offset_factor=k, scope="wmma.matrix_a", strides=[a1, a0])
        B = T.match_buffer(
            b,
            (b_rows, b_columns),
            dtype,
            align=ALIGN,
            offset_factor=b_columns,
            scope="wmma.matrix_b",
            strides=[b1, b0],
        )
        C = T.match_buffer(
            c, (m, n), "float32", align=ALIGN, offset_factor=n, scope="wmma.accumulator", strides=[c1, c0]
        )
        with T.sblock("root"):
            T.reads(C[0:m, 0:n], A[0:m, 0:k], B[0:b_rows, 0:b_columns])
            T.writes(C[0:m, 0:n])
            at, left = T.meta_var((_index(C, c1, m, n), _index(A, a1, m, k)))
            right = T.meta_var(_index(B, b1, b_rows, b_columns))
            T.evaluate(T.tvm_mma_sync(C.data, at, A.data, left, B.data, right, C.data, at, dtype="void"))

    return meaning, becomes
