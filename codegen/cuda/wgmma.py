"""GEMM on Hopper's TensorCores: TMA into a ring of swizzled tiles, wgmma out of it.

A producer, one thread of the first warpgroup, keeps the ring of ``stages`` tiles of A and B full; the other warpgroups,
consumers, multiply, each its rows of the tile. A stage has two mbarriers: ``full`` counts the bytes that arrive,
``empty`` the warps that are done. One wgmma group stays in flight while the stage before is handed back.

The blocks of a cluster have tiles of C below each other, and the same tile of B: each loads its part of that, and TMA
hands it to all of them. So a stage is empty when the warps of all blocks are done with it.

Sources: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions" (descriptors, canonical layouts, fragments),
"Tensor copies" and "mbarrier"; the division of labour is that of CUTLASS's warp-specialised kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from .epilogue import finish
from .hopper import (
    ATOM_BYTES,
    BATCH,
    COLUMN,
    MAP_MODES,
    PHASE,
    RANK,
    REGISTERS,
    ROW,
    ROW_BYTES,
    STAGE,
    STEP_BYTES,
    TILE_M,
    UNIT,
    WARP,
    WARPGROUP,
    advance,
    arrive,
    cluster_sync,
    descriptor,
    load,
    locate,
    start,
    step,
)
from .intrinsics import CHUNK_BYTES, item_bytes

BARRIER_BYTES = ATOM_BYTES  # room for the barriers, which keeps the tiles aligned
PTX_TYPES = {"float16": "f16", "bfloat16": "bf16", "float32": "tf32"}


@dataclass(frozen=True)
class Layout:
    """Where things lie in shared memory, and how wgmma finds them. ``a_t``, ``b_n``: M, N is the contiguous extent."""

    consumers: int
    tiles: int  # of 64 rows that a consumer has
    block_n: int
    stages: int
    chunk: int  # columns of C that a warp passes through shared memory at a time
    a_t: bool
    b_n: bool
    cluster: int = 1  # blocks that share a tile of B

    @property
    def letters(self) -> str:
        """The layout of A and B: "nn", "nt", "tn" or "tt"."""
        return ("t" if self.a_t else "n") + ("n" if self.b_n else "t")

    @property
    def block_m(self) -> int:
        """Rows of a block's tile of C."""
        return TILE_M * self.consumers * self.tiles

    @property
    def part_n(self) -> int:
        """Columns of C whose tile of B a block loads, for itself and the others of its cluster."""
        return self.block_n // self.cluster

    @property
    def threads(self) -> int:
        """Of a block."""
        return WARPGROUP * (self.consumers + 1)

    @property
    def a_bytes(self) -> int:
        """Of a stage's tile of A."""
        return self.block_m * ROW_BYTES

    @property
    def b_bytes(self) -> int:
        """Of a stage's tile of B."""
        return self.block_n * ROW_BYTES

    @property
    def pitch(self) -> int:
        """Floats from row to row of the staged columns: rows begin 8 banks apart."""
        return self.chunk + 8

    @property
    def ring(self) -> int:
        """Where the ring ends."""
        return BARRIER_BYTES + self.stages * (self.a_bytes + self.b_bytes)

    @property
    def shared_bytes(self) -> int:
        """All of it: barriers, the ring, 16 rows of float32 for each consumer warp."""
        return self.ring + 4 * self.consumers * 16 * self.pitch * 4

    @property
    def accumulators(self) -> int:
        """Registers of a consumer thread that hold its part of C."""
        return self.tiles * self.block_n // 2


def gemm(dtype: str, layout: Layout, group: int, blocks: int) -> tirx.PrimFunc:
    """C[b, m, n] = act(sum_k A[b, m, k] B[b, k, n] + bias[n]) + residual[b, m, n], all extents symbolic.

    A is [batch, M, lda], or [batch, K, lda] if ``layout.a_t``; B is [batch, N, ldb], or [batch, K, ldb] if
    ``layout.b_n``; dtype float16, bfloat16, or, where both are along K, float32, which TMA rounds to TF32. Tiles of C
    go in columns of ``group`` tiles, so that blocks that run at the same time share rows of A and columns of B in L2.
    At most ``blocks`` blocks are launched (0: one a tile), which take tile after tile while the producer already loads
    for the next. A cluster walks as one block does, with tiles that are as much higher; where M ends in its midst,
    blocks beyond have tiles of zeros, of which nothing is stored.
    """
    L, a_t, b_n, cluster = layout, layout.a_t, layout.b_n, layout.cluster
    block_m, block_n, stages, chunk, pitch = L.block_m, L.block_n, L.stages, L.chunk, L.pitch
    item, kind = item_bytes(dtype), PTX_TYPES[dtype]
    block_k, width = ROW_BYTES // item, CHUNK_BYTES // item  # width: columns of C that a thread stores at once
    a_size, b_size = L.a_bytes // item, L.b_bytes // item
    a_first, b_first = BARRIER_BYTES // item, (BARRIER_BYTES + stages * L.a_bytes) // item
    narrow = TILE_M * block_k  # elements of 64 rows or columns of a tile
    a_units, b_units, narrow_units = L.a_bytes // UNIT, L.b_bytes // UNIT, narrow * item // UNIT
    multiply = f"wgmma.mma_async.sync.aligned.m64n{block_n}k{STEP_BYTES // item}.f32.{kind}.{kind}"
    map_type, ways = (kind, []) if kind == "tf32" else (dtype, [int(a_t), int(b_n)])
    a_word, b_word = descriptor(UNIT), descriptor(block_k * ROW_BYTES if b_n else UNIT)
    a_box, b_box = ([TILE_M, block_k] if t else [block_k, rows] for t, rows in ((a_t, block_m), (b_n, L.part_n)))
    walk_m = cluster * block_m  # rows of C that a cluster has
    given, wanted = REGISTERS[L.consumers]
    accumulators, warps = L.accumulators, 4 * L.consumers
    vectors = chunk // width  # that a row of staged columns has
    rows_at_once, parts = WARP // vectors, block_n // chunk

    def pick(condition: bool, yes: Any, no: Any) -> Any:
        return yes if condition else no

    def at_most(tiles: Any) -> Any:
        return T.min(tiles, T.int32(max(1, blocks // cluster))) if blocks else tiles

    def across_clusters(of: Any) -> Any:
        return of * cluster if cluster > 1 else of

    # fmt: off
    @T.prim_func(private=True)
    def kernel(
        a: T.handle, b: T.handle, c: T.handle, bias_: T.handle, residual_: T.handle,
        batch: T.int32, M: T.int32, N: T.int32, K: T.int32, lda: T.int32, ldb: T.int32,
        activation: T.int32, flags: T.int32,
    ) -> None:
        A = T.match_buffer(a, (batch * pick(a_t, K, M) * lda,), dtype, align=16)
        B = T.match_buffer(b, (batch * pick(b_n, K, N) * ldb,), dtype, align=16)
        C = T.match_buffer(c, (batch * M * N,), dtype, align=16)
        bias = T.match_buffer(bias_, (N,), dtype, align=16)
        residual = T.match_buffer(residual_, (batch * M * N,), dtype, align=16)
        # An extent of a map is at least 1. Where one is 0, nothing is loaded.
        a_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
        T.call_packed(
            "runtime.cuTensorMapEncodeTiled", a_map, map_type, 3, A.data,
            T.max(pick(a_t, M, K), 1), T.max(pick(a_t, K, M), 1), T.max(batch, 1),
            T.Cast("int64", lda) * T.int64(item),
            T.Cast("int64", T.max(pick(a_t, K, M), 1)) * T.Cast("int64", lda) * T.int64(item),
            *a_box, 1, 1, 1, 1, *MAP_MODES,
        )
        b_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
        T.call_packed(
            "runtime.cuTensorMapEncodeTiled", b_map, map_type, 3, B.data,
            T.max(pick(b_n, N, K), 1), T.max(pick(b_n, K, N), 1), T.max(batch, 1),
            T.Cast("int64", ldb) * T.int64(item),
            T.Cast("int64", T.max(pick(b_n, K, N), 1)) * T.Cast("int64", ldb) * T.int64(item),
            *b_box, 1, 1, 1, 1, *MAP_MODES,
        )
        T.device_entry()
        T.attr({"tirx.launch_bounds_min_blocks_per_sm": 1})  # without which setmaxnreg is ignored
        if cluster > 1:
            rank = T.cta_id_in_cluster([cluster])
        block = T.cta_id([
            across_clusters(at_most(batch * ((M + (walk_m - 1)) // walk_m) * ((N + (block_n - 1)) // block_n)))
        ])
        thread = T.thread_id([L.threads])
        shared = T.alloc_buffer((L.shared_bytes,), "uint8", scope="shared.dyn", align=ATOM_BYTES)
        full = T.decl_buffer((stages,), "uint64", shared.data, scope="shared.dyn", elem_offset=0)
        empty = T.decl_buffer((stages,), "uint64", shared.data, scope="shared.dyn", elem_offset=stages)
        As = T.decl_buffer((stages * a_size,), dtype, shared.data, scope="shared.dyn", elem_offset=a_first)
        Bs = T.decl_buffer((stages * b_size,), dtype, shared.data, scope="shared.dyn", elem_offset=b_first)
        Cs = T.decl_buffer((warps * 16 * pitch,), "float32", shared.data, scope="shared.dyn", elem_offset=L.ring // 4)
        tiles = T.alloc_buffer((4,), "int32", scope="local")
        place = T.alloc_buffer((4,), "int32", scope="local")
        ring = T.alloc_buffer((2,), "int32", scope="local")
        remote = T.alloc_buffer((1,), "uint32", scope="local")
        tiles[0] = T.truncdiv(M + (walk_m - 1), walk_m)
        tiles[1] = T.truncdiv(N + (block_n - 1), block_n)
        tiles[2] = batch * tiles[0] * tiles[1]
        ring[STAGE] = 0
        ring[PHASE] = 0
        steps: T.int32 = T.truncdiv(K + (block_k - 1), block_k)
        tile: T.int32 = T.truncdiv(block, cluster)
        if cluster > 1:
            tiles[RANK] = rank

        if thread == 0:
            for s in range(stages):
                T.ptx.mbarrier.init.shared.b64(T.address_of(full[s]), T.uint32(1))
                T.ptx.mbarrier.init.shared.b64(T.address_of(empty[s]), T.uint32(warps * cluster))
            T.ptx.fence.mbarrier_init.release.cluster()
            T.ptx.fence.proxy.async_.shared__cta()
        if cluster > 1:
            cluster_sync()
        else:
            T.cuda.cta_sync()

        if thread < WARPGROUP:
            if given > 0:
                T.ptx["setmaxnreg.dec.sync.aligned.u32"](given)
            if thread == 0:
                while tile < tiles[2]:
                    locate(place, tile, tiles, group, walk_m, block_n)
                    if cluster > 1:
                        place[ROW] = place[ROW] + tiles[RANK] * block_m
                    for k in T.serial(0, steps):
                        T.cuda.mbarrier_wait(T.address_of(empty[ring[STAGE]]), ring[PHASE] ^ 1)
                        T.ptx.mbarrier.arrive.expect_tx.shared.b64(
                            T.address_of(full[ring[STAGE]]), T.uint32(L.a_bytes + L.b_bytes)
                        )
                        load(
                            As, ring[STAGE] * a_size, a_map, a_t, block_m // TILE_M,
                            k * block_k, place[ROW], place[BATCH], full[ring[STAGE]],
                        )
                        if cluster > 1:
                            load(
                                Bs, ring[STAGE] * b_size + tiles[RANK] * (L.part_n * block_k), b_map, b_n,
                                L.part_n // TILE_M, k * block_k, place[COLUMN] + tiles[RANK] * L.part_n, place[BATCH],
                                full[ring[STAGE]], (1 << cluster) - 1,
                            )
                        else:
                            load(
                                Bs, ring[STAGE] * b_size, b_map, b_n, block_n // TILE_M,
                                k * block_k, place[COLUMN], place[BATCH], full[ring[STAGE]],
                            )
                        advance(ring, stages)
                    tile = tile + at_most(tiles[2])
        else:
            if given > 0:
                T.ptx["setmaxnreg.inc.sync.aligned.u32"](wanted)
            sums = T.alloc_buffer((accumulators,), "float32", scope="local")
            values = T.alloc_buffer((width,), "float32", scope="local")
            halves = T.alloc_buffer((width,), dtype, scope="local")
            # The same in all lanes of a warp, which the compiler is told by the shuffle: descriptors are uniform.
            consumer: T.int32 = T.cuda.__shfl_sync(T.uint32(0xFFFFFFFF), thread // WARPGROUP, 0, WARP) - 1
            lane: T.int32 = thread % WARP
            # Where the warp's rows of C begin in those that pass through shared memory, and in the tile.
            own: T.int32 = (thread // WARP - 4) * (16 * pitch)
            rows: T.int32 = consumer * (L.tiles * TILE_M) + thread // WARP % 4 * 16
            before: T.int32 = 0
            row: T.int32 = 0
            column: T.int32 = 0
            at: T.int64 = 0
            a_start: T.uint64 = start(a_word, As[consumer * (L.tiles * narrow)])
            b_start: T.uint64 = start(b_word, Bs[0])
            if cluster > 1:
                T.ptx["mapa.shared::cluster.u32"](
                    remote[0], T.cuda.cvta_generic_to_shared(T.address_of(empty[0])),
                    T.Cast("uint32", T.truncmod(lane, cluster)),
                )
            while tile < tiles[2]:
                locate(place, tile, tiles, group, walk_m, block_n)
                if cluster > 1:
                    place[ROW] = place[ROW] + tiles[RANK] * block_m
                for i in T.unroll(accumulators):
                    sums[i] = T.float32(0)
                for k in T.serial(0, steps):
                    T.cuda.mbarrier_wait(T.address_of(full[ring[STAGE]]), ring[PHASE])
                    T.ptx.wgmma.fence.sync.aligned()
                    for kk in T.unroll(ROW_BYTES // STEP_BYTES):
                        for i in T.unroll(L.tiles):
                            T.ptx[multiply](
                                *[sums[i * (block_n // 2) + j] for j in range(block_n // 2)],
                                a_start + T.Cast("uint64", ring[STAGE] * a_units + i * narrow_units + kk * step(a_t)),
                                b_start + T.Cast("uint64", ring[STAGE] * b_units + kk * step(b_n)),
                                T.bool(True), 1, 1, *ways,
                            )
                    T.ptx.wgmma.commit_group.sync.aligned()
                    T.ptx.wgmma.wait_group.sync.aligned(1)
                    if T.bitwise_and(k > 0, lane < cluster):
                        arrive(empty[before], remote[0], before, cluster)
                    before = ring[STAGE]
                    advance(ring, stages)
                T.ptx.wgmma.wait_group.sync.aligned(0)
                if T.bitwise_and(steps > 0, lane < cluster):
                    arrive(empty[before], remote[0], before, cluster)
                # A warp passes its 16 rows through shared memory, so that what is stored, and read of the residual, is
                # whole vectors of a row, and the code of the epilogue is there once.
                for part in T.serial(0, L.tiles * parts):
                    for this in T.unroll(L.tiles * parts):
                        if part == this:
                            for i in T.unroll(chunk // 8):
                                for h in T.unroll(2):
                                    for e in T.vectorized(2):
                                        Cs[own + (lane // 4 + h * 8) * pitch + i * 8 + lane % 4 * 2 + e] = sums[
                                            this * (chunk // 2) + i * 4 + h * 2 + e
                                        ]
                    T.cuda.warp_sync()
                    for i in T.serial(0, 16 // rows_at_once):
                        row = i * rows_at_once + T.truncdiv(lane, vectors)
                        for four in T.unroll(width // 4):
                            for e in T.vectorized(4):
                                values[four * 4 + e] = Cs[
                                    own + row * pitch + T.truncmod(lane, vectors) * width + four * 4 + e
                                ]
                        row = place[ROW] + rows + T.truncdiv(part, parts) * TILE_M + row
                        # In vectors, so that TVM sees that the accesses are aligned.
                        column = (
                            T.truncdiv(place[COLUMN], width) + T.truncmod(part, parts) * vectors
                            + T.truncmod(lane, vectors)
                        )
                        at = T.Cast("int64", place[BATCH] * M + row) * T.Cast("int64", T.truncdiv(N, width))
                        at = at + T.Cast("int64", column)
                        if T.bitwise_and(row < M, column * width < N):
                            finish(
                                values, halves, C, bias, residual,
                                at * T.int64(width), column * width, activation, flags,
                            )
                    T.cuda.warp_sync()
                tile = tile + at_most(tiles[2])
        # The others of the cluster may still copy to this block's shared memory, or arrive at its barriers.
        if cluster > 1:
            T.cuda.warp_sync()
            cluster_sync()
    # fmt: on
    return kernel


def layout_of(choice: Mapping[str, int], a_t: bool, b_n: bool) -> Layout:
    """The layout of a choice of :class:`codegen.spaces.wgmma.WgmmaSpace`."""
    consumers, tiles, block_n, stages, chunk = (
        choice[name] for name in ("consumers", "tiles", "block_n", "stages", "chunk")
    )
    # The constraint of shared memory does not name it, as it changes nothing there.
    return Layout(consumers, tiles, block_n, stages, chunk, a_t, b_n, choice.get("cluster", 1))
