"""Small kernels for a GPU: each has one thing that a launcher, or a repair, must get right."""

import tvm
from tvm import s_tir, te, tirx
from tvm.script import tirx as T

from codegen.cuda.kernel import DeviceKernel


def _bound(func, blocks, threads=128):
    schedule = s_tir.Schedule(func)
    for name in blocks:
        outer, inner = schedule.split(schedule.fuse(*schedule.get_loops(schedule.get_sblock(name))), [None, threads])
        schedule.bind(outer, "blockIdx.x")
        schedule.bind(inner, "threadIdx.x")
    return schedule.mod["main"]


def _scaled_sum():
    rows, n8, scale = te.var("M", "int32"), te.var("n8", "int32"), te.var("scale", "float32")
    a = te.placeholder((rows, n8 * 8), name="A", dtype="float16")
    x = te.compute((rows, n8 * 8), lambda i, j: a[i, j].astype("float32") * scale, name="X")
    y = te.compute((rows, n8 * 8), lambda i, j: x[i, j] * x[rows - 1 - i, j], name="Y")
    b = te.compute((rows, n8 * 8), lambda i, j: (x[i, j] + y[rows - 1 - i, j]).astype("float16"), name="B")
    return _bound(te.create_prim_func([a, b, rows, n8, scale]), ("X", "Y", "B"))


# B = X + flip(X * flip(X)) with X = scale * A: three device functions and two workspaces of M * N floats.
SCALED_SUM = DeviceKernel("scaled_sum", _scaled_sum, ("A", "B"), ("M", "N"), ("scale",))


def _stale():
    """Reads the same four elements of shared memory before and after they change."""

    @T.prim_func(s_tir=True)
    def func(a: T.handle, b: T.handle):
        A = T.match_buffer(a, (256,), "float16")
        B = T.match_buffer(b, (256,), "float32")
        with T.sblock("root"):
            S = T.sblock_alloc_buffer((128,), "float16", scope="shared")
            for _ in T.thread_binding(1, thread="blockIdx.x"):
                for t in T.thread_binding(32, thread="threadIdx.x"):
                    for v in T.vectorized(4):
                        S[t * 4 + v] = A[t * 4 + v]
                    T.evaluate(T.tvm_storage_sync("shared"))
                    for v in T.vectorized(4):
                        B[t * 4 + v] = T.Cast("float32", S[124 - t * 4 + v])
                    T.evaluate(T.tvm_storage_sync("shared"))
                    for v in T.vectorized(4):
                        S[t * 4 + v] = A[128 + t * 4 + v]
                    T.evaluate(T.tvm_storage_sync("shared"))
                    for v in T.vectorized(4):
                        B[128 + t * 4 + v] = T.Cast("float32", S[124 - t * 4 + v])

    return func


STALE = DeviceKernel("stale", _stale, ("A", "B"), ())


def _two_warp_buffers():
    """B = 2 A, each lane's eight elements in reverse, through two buffers of a warp."""

    @T.prim_func(s_tir=True)
    def func(a: T.handle, b: T.handle):
        A = T.match_buffer(a, (256,), "float32")
        B = T.match_buffer(b, (256,), "float32")
        with T.sblock("root"):
            W = T.sblock_alloc_buffer((256,), "float32", scope="warp")
            V = T.sblock_alloc_buffer((256,), "float32", scope="warp")
            for _ in T.thread_binding(1, thread="blockIdx.x"):
                for t in T.thread_binding(32, thread="threadIdx.x"):
                    for i in T.unroll(8):
                        W[t * 8 + i] = A[i * 32 + t]
                    for i in T.unroll(8):
                        V[t * 8 + i] = W[t * 8 + (7 - i)] * T.float32(2)
                    for i in T.unroll(8):
                        B[i * 32 + t + T.truncdiv(t, 32)] = V[t * 8 + i]

    return func


WARP = DeviceKernel("two_warp_buffers", _two_warp_buffers, ("A", "B"), ())

_TMA = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"


def _tma_copy():
    # fmt: off
    @T.prim_func
    def func(a: T.handle, c: T.handle, M: T.int32, n8: T.int32):
        A = T.match_buffer(a, (M, n8 * 8), dtype="float16", align=16)
        C = T.match_buffer(c, (M, n8 * 8), dtype="float16", align=16)
        A_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
        T.call_packed("runtime.cuTensorMapEncodeTiled", A_map, "float16", 2, A.data,
                      n8 * 8, M, n8 * 16, 64, 64, 1, 1, 0, 0, 2, 0)
        T.device_entry()
        bx, by = T.cta_id([(n8 + 7) // 8, (M + 63) // 64])
        tx = T.thread_id([128])
        dyn = T.alloc_buffer((65536,), "uint8", scope="shared.dyn", align=1024)
        S = T.decl_buffer((64, 64), "float16", dyn.data, scope="shared.dyn", elem_offset=0)
        full = T.decl_buffer((1,), "uint64", dyn.data, scope="shared.dyn", elem_offset=1024)
        if tx == 0:
            T.ptx.mbarrier.init.shared.b64(T.address_of(full[0]), T.uint32(1))
        T.ptx.fence.proxy.async_.shared__cta()
        T.cuda.cta_sync()
        if tx == 0:
            T.ptx.mbarrier.arrive.expect_tx.shared.b64(T.address_of(full[0]), T.uint32(8192))
            T.ptx[_TMA](T.address_of(S[0, 0]), T.address_of(A_map), bx * 64, by * 64, T.address_of(full[0]))
        T.cuda.mbarrier_wait(T.address_of(full[0]), 0)
        for i in T.serial(0, 32):
            row = T.meta_var(i * 2 + tx // 64)
            if by * 64 + row < M and bx * 64 + tx % 64 < n8 * 8:
                C[by * 64 + row, bx * 64 + tx % 64] = S[row, tx % 64]
    # fmt: on
    return func


# C = A, tile by tile, over TMA: a tensor map of symbolic extents, and more shared memory than a block has by itself.
TMA_COPY = DeviceKernel("tma_copy", _tma_copy, ("A", "C"), ("M", "N"), pipeline="tirx")


def _clusters():
    @T.prim_func
    def func(a: T.handle, M: T.int32):
        A = T.match_buffer(a, (M,), dtype="float32", align=16)
        T.device_entry()
        rank = T.cta_id_in_cluster([2])
        bx = T.cta_id([(M + 127) // 128 * 2])
        tx = T.thread_id([128])
        if bx * 128 + tx < M:
            A[bx * 128 + tx] = T.Cast("float32", rank)

    return func


# A = the block's number in its cluster of two.
CLUSTERS = DeviceKernel("clusters", _clusters, ("A",), ("M",), pipeline="tirx")


def copy(symbol="plain_copy", n="N", bind=True):
    """B = A, of as many elements as the size ``n``."""

    def make():
        count = tirx.Var(n, "int32")
        a = te.placeholder((count,), name="A", dtype="float32")
        func = te.create_prim_func([a, te.compute((count,), lambda i: a[i], name="B"), count])
        return _bound(func, ("B",)) if bind else tvm.IRModule({"main": func})["main"]

    return DeviceKernel(symbol, make, ("A", "B"), ("N",))
