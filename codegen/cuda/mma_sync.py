"""GEMM with ``mma.sync``: tiles of A and B stream through shared memory by ``cp.async``, ``stages`` deep.

Written at the level of PTX: in a schedule of the TE definition neither an epilogue that branches at run time, nor a
split K, nor a choice of the moment of each wait have a place. What a choice decides is :class:`Tiling`.

Elements are of 16 bits, or float32 that are rounded to TF32 as they come to be multiplied.

Sources: CUTLASS, "Efficient GEMM in CUDA" (the pipeline); Tillet et al., Triton's tutorial of matmul (order of blocks).
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from .epilogue import finish
from .intrinsics import FRAGMENT, ROUND, WARP, copy, ldmatrix, mma
from .mma_tiling import Tiling
from .split_k import add_up, keep


def kernel(t: Tiling, n_static: int | None = None, k_static: int | None = None) -> tirx.PrimFunc:
    """C [batch, M, N] = activation(A B + bias) + residual; N and K are compiled in where they are given."""
    stage, last = t.a.elements + t.b.elements, (t.stages - 1) * (t.a.elements + t.b.elements)
    copies_a = t.a.rows * t.a.length // (t.vector * t.threads)
    copies_b = t.b.rows * t.b.length // (t.vector * t.threads)
    fm, fn, steps, size = t.fragments_m, t.fragments_n, t.block_k // t.depth, t.item * t.vector
    multiply_add, bring_vector = mma(t.dtype), copy(size)
    load_a, load_b = ldmatrix(transposed=t.across_a), ldmatrix(transposed=not t.along_b)
    width, per_row = t.width, t.warp_n // t.width

    def fragment_a(lane: Any, m: Any, k: Any) -> Any:
        return t.a.across(lane, k, m) if t.across_a else t.a.along(lane, m, k)

    def fragment_b(lane: Any, n: Any, k: Any) -> Any:
        return t.b.across(lane, n, k) if t.along_b else t.b.along(lane, k, n)

    def ceil(a: Any, b: Any) -> Any:
        return T.truncdiv(a + (b - 1), b)

    def wide(a: Any) -> Any:
        return T.Cast("int64", a)

    @T.prim_func(check_well_formed=False)
    def gemm(
        A_ptr: T.handle,
        B_ptr: T.handle,
        C_ptr: T.handle,
        bias_ptr: T.handle,
        residual_ptr: T.handle,
        batch: T.int32,
        M: T.int32,
        n8: T.int32,
        K: T.int32,
        lda: T.int32,
        ldb: T.int32,
        activation: T.int32,
        flags: T.int32,
    ) -> None:
        # TVM must see that rows of C hold whole vectors.
        N = T.meta_var(n8 * width if n_static is None else n_static)
        deep = T.meta_var(K if k_static is None else k_static)
        elements = T.int64()
        A = T.match_buffer(A_ptr, (elements,), t.dtype, align=16)
        B = T.match_buffer(B_ptr, (elements,), t.dtype, align=16)
        C = T.match_buffer(C_ptr, (elements,), t.dtype, align=16)
        bias = T.match_buffer(bias_ptr, (elements,), t.dtype, align=16)
        residual = T.match_buffer(residual_ptr, (elements,), t.dtype, align=16)
        if t.split_k > 1:
            partial = T.alloc_buffer((wide(batch) * wide(M) * wide(N) * t.split_k,), "float32", scope="global")
        with (
            T.launch_thread("blockIdx.x", ceil(M, t.block_m) * ceil(N, t.block_n)) as block,
            T.launch_thread("blockIdx.y", t.split_k) as part,
            T.launch_thread("blockIdx.z", batch) as z,
            T.launch_thread("threadIdx.x", t.threads) as thread,
        ):
            shared = T.alloc_buffer((t.shared_bytes // t.item,), t.dtype, scope="shared.dyn", align=128)
            sums = T.decl_buffer((t.shared_bytes // 4,), "float32", shared.data, scope="shared.dyn")
            acc = T.alloc_buffer((fm * fn * 8,), "float32", scope="local")
            a = T.alloc_buffer((t.buffers * fm * 4,), "uint32", scope="local")
            b = T.alloc_buffer((t.buffers * fn * 4,), "uint32", scope="local")
            lane = T.meta_var(T.floormod(thread, WARP))
            warp = T.meta_var(T.floordiv(thread, WARP))
            warp_m = T.meta_var(T.floordiv(warp, t.warps_n) * t.warp_m)
            warp_n = T.meta_var(T.floormod(warp, t.warps_n) * t.warp_n)

            # Which tile of C: groups of group_m rows of blocks, each walked column by column.
            in_group: T.int32 = ceil(N, t.block_n) * t.group_m
            first: T.int32 = T.truncdiv(block, in_group) * t.group_m
            within: T.int32 = T.truncmod(block, in_group)
            height: T.int32 = T.min(ceil(M, t.block_m) - first, t.group_m)
            block_m: T.int32 = first + T.truncmod(within, height)
            block_n: T.int32 = T.truncdiv(within, height)
            m0 = T.meta_var(block_m * t.block_m)
            n0 = T.meta_var(block_n * t.block_n)
            # Which part of K.
            depth = T.meta_var(ceil(ceil(deep, t.block_k), t.split_k) * t.block_k)
            end: T.int32 = T.min(deep, (part + 1) * depth)
            start = T.meta_var(part * depth if t.split_k > 1 else 0)

            @T.inline
            def bring(k0: Any, slot: Any) -> None:
                for i in T.unroll(copies_a):
                    row, column = T.meta_var(t.a.copied(i, thread, t.threads, t.vector))
                    m = T.meta_var(m0 + (column if t.across_a else row))
                    k = T.meta_var(k0 + (row if t.across_a else column))
                    # Zeros where nothing is; of the rows of a transposed A the last vector may be there in part.
                    inside = T.meta_var(
                        T.max(T.min((M - m) * t.item, size), 0) if t.across_a else T.Select(m < M, size, 0)
                    )
                    T.ptx[bring_vector](
                        T.address_of(shared[slot + t.a.at(row, column)]),
                        T.address_of(
                            A[
                                wide(z) * wide((deep if t.across_a else M) * lda)
                                + wide(k * lda + m if t.across_a else m * lda + k)
                            ]
                        ),
                        size,
                        T.Cast("uint32", T.Select(k < end, inside, 0)),
                    )
                for i in T.unroll(copies_b):
                    row, column = T.meta_var(t.b.copied(i, thread, t.threads, t.vector))
                    n = T.meta_var(n0 + (row if t.along_b else column))
                    k = T.meta_var(k0 + (column if t.along_b else row))
                    T.ptx[bring_vector](
                        T.address_of(shared[slot + t.a.elements + t.b.at(row, column)]),
                        T.address_of(
                            B[
                                wide(z) * wide((N if t.along_b else deep) * ldb)
                                + wide(n * ldb + k if t.along_b else k * ldb + n)
                            ]
                        ),
                        size,
                        T.Cast("uint32", T.Select(T.And(k < end, n < N), size, 0)),
                    )
                T.ptx.cp.async_.commit_group()

            @T.inline
            def load(slot: Any, step: Any, side: Any) -> None:
                for f in T.unroll(fm):
                    r = T.meta_var((side * fm + f) * 4)
                    m = T.meta_var(warp_m + f * FRAGMENT)
                    if t.a.words:
                        for e in T.unroll(4):
                            at = T.meta_var(t.a.word(lane, step * t.depth + e // 2 * 4, m + e % 2 * 8))
                            a[r + e] = T.reinterpret("uint32", shared[slot + at])
                    else:
                        at = T.meta_var(fragment_a(lane, m, step * t.depth))
                        T.ptx[load_a](a[r], a[r + 1], a[r + 2], a[r + 3], T.address_of(shared[slot + at]))
                for f in T.unroll(fn):
                    r = T.meta_var((side * fn + f) * 4)
                    n, at_b = T.meta_var((warp_n + f * FRAGMENT, slot + t.a.elements))
                    if t.b.words:
                        for e in T.unroll(4):
                            at = T.meta_var(t.b.word(lane, step * t.depth + e % 2 * 4, n + e // 2 * 8))
                            b[r + e] = T.reinterpret("uint32", shared[at_b + at])
                    else:
                        at = T.meta_var(fragment_b(lane, n, step * t.depth))
                        T.ptx[load_b](b[r], b[r + 1], b[r + 2], b[r + 3], T.address_of(shared[at_b + at]))

            @T.inline
            def multiply(side: Any) -> None:
                # Here and not where they are loaded, so that nothing waits for a load sooner than it must.
                if t.tf32:
                    for e in T.unroll(fm * 4):
                        r = T.meta_var(side * fm * 4 + e)
                        T.ptx[ROUND](a[r], T.reinterpret("float32", a[r]))
                    for e in T.unroll(fn * 4):
                        r = T.meta_var(side * fn * 4 + e)
                        T.ptx[ROUND](b[r], T.reinterpret("float32", b[r]))
                for i in T.unroll(fm):
                    for j in T.unroll(fn * 2):
                        r = T.meta_var((i * fn * 2 + j) * 4)
                        x, y = T.meta_var(((side * fm + i) * 4, side * fn * 4 + j * 2))
                        d = T.meta_var([acc[r + e] for e in range(4)])
                        T.ptx[multiply_add](*d, *[a[x + e] for e in range(4)], b[y], b[y + 1], *d)

            for i in T.unroll(fm * fn * 8):
                acc[i] = T.float32(0)
            for s in T.unroll(t.stages - 1):
                bring(start + s * t.block_k, s * stage)
            reading: T.int32 = 0
            writing: T.int32 = last
            if t.buffers == 1:
                for tile in T.serial(ceil(T.max(end - start, 0), t.block_k)):
                    # The tile to be read is there, and all warps have read the one to be overwritten.
                    T.ptx.cp.async_.wait_group(t.stages - 2)
                    T.cuda.cta_sync()
                    bring(start + (tile + (t.stages - 1)) * t.block_k, writing)
                    for step in T.unroll(steps):
                        load(reading, step, 0)
                        multiply(0)
                    writing = reading
                    reading = T.Select(reading == last, 0, reading + stage)
            else:
                T.ptx.cp.async_.wait_group(t.stages - 2)
                T.cuda.cta_sync()
                load(0, 0, 0)
                for tile in T.serial(ceil(T.max(end - start, 0), t.block_k)):
                    bring(start + (tile + (t.stages - 1)) * t.block_k, writing)
                    writing = reading
                    reading = T.Select(reading == last, 0, reading + stage)
                    for step in T.unroll(steps):
                        if step == steps - 1:
                            T.ptx.cp.async_.wait_group(t.stages - 2)
                            T.cuda.cta_sync()
                            load(reading, 0, (step + 1) % 2)
                        else:
                            load(writing, step + 1, (step + 1) % 2)
                        multiply(step % 2)
            T.ptx.cp.async_.wait_group(0)
            T.cuda.cta_sync()

            x = T.alloc_buffer((width,), "float32", scope="local")
            h = T.alloc_buffer((width,), t.dtype, scope="local")
            own = T.meta_var(warp * (FRAGMENT * t.slab))
            # One loop over the slabs, for one copy of the epilogue; which registers a slab is in must be constant.
            for f in T.serial(fm):
                for i in T.unroll(fm):
                    if f == i:
                        for j in T.unroll(fn * 2):
                            for half in T.unroll(2):
                                row = T.meta_var(half * 8 + T.floordiv(lane, 4))
                                at = T.meta_var(own + row * t.slab + j * 8 + T.floormod(lane, 4) * 2)
                                for e in T.vectorized(2):
                                    sums[at + e] = acc[(i * fn * 2 + j) * 4 + half * 2 + e]
                T.cuda.warp_sync()
                for i in T.serial(FRAGMENT * per_row // WARP):
                    row = T.meta_var(T.floordiv(i * WARP + lane, per_row))
                    column = T.meta_var(T.floormod(i * WARP + lane, per_row) * width)
                    m = T.meta_var(m0 + warp_m + f * FRAGMENT + row)
                    n = T.meta_var(n0 + warp_n + column)
                    if T.And(m < M, n < N):
                        for part_of in T.unroll(width // 4):
                            for e in T.vectorized(4):
                                x[part_of * 4 + e] = sums[own + row * t.slab + column + part_of * 4 + e]
                        at = T.meta_var((wide(z) * wide(M) + wide(m)) * wide(N) + wide(n))
                        if t.split_k == 1:
                            finish(x, h, C, bias, residual, at, n, activation, flags)
                        else:
                            keep(x, partial, wide(part) * wide(batch) * wide(M) * wide(N) + at)
                T.cuda.warp_sync()
        if t.split_k > 1:
            add_up(partial, t.split_k, C, bias, residual, batch * M, T.truncdiv(N, width), width, activation, flags)

    return gemm if width == 8 else _of_parts(gemm, "n8", f"n{width}")


def _of_parts(func: tirx.PrimFunc, old: str, new: str) -> tirx.PrimFunc:
    """The function with a size of another name: n4 is N / 4."""
    size = tirx.Var(new, "int32")
    parts = func.specialize({p: size for p in func.params if p.name == old})
    return tirx.PrimFunc([*parts.params, size], parts.body, attrs=parts.attrs)
