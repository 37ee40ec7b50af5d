"""GEMM with the ``wmma`` intrinsics, scheduled from the TE definition: Heron's structure.

Tiles of A and B in shared memory, fragments ``matrix_a`` and ``matrix_b``, an ``accumulator``, and its way through
shared memory to C, where bias, activation and residual are applied. Offsets are 32-bit: A, B and C have less than 2**31
elements each, all of a batch included.

Source: Bi et al., "Heron: Automatically Constrained High-Performance Library Generation for Deep Learning
Accelerators", ASPLOS 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, te, tirx
from tvm.ir import Expr
from tvm.s_tir import TensorIntrin

from ..ops.matmul import device_definition
from ..workload import Workload
from . import epilogue
from . import wmma_intrinsics as intrinsics
from .intrinsics import CHUNK, WARP
from .wmma_intrinsics import SHARED

CONTIGUOUS = ("N", "K", "lda", "ldb")  # sizes that are multiples of CHUNK


@dataclass(frozen=True)
class Tiling:
    """Of a block's ``warps_m`` x ``warps_n`` warps, each has ``fragments_m`` x ``fragments_n`` fragments ``m`` x ``n``.

    ``k``: depth of a fragment. ``padding``: elements after each shared row; ``padding_c``: floats after each row of C.
    ``vector``, ``vector_c``: elements of A, B that one copy brings, and floats that one takes from shared memory to C.
    """

    dtype: str
    along_b: bool  # B is [N, K]
    m: int
    n: int
    warps_m: int
    warps_n: int
    fragments_m: int
    fragments_n: int
    block_k: int
    stages: int
    padding: int
    padding_c: int
    vector: int
    vector_c: int

    k: int = 16

    @property
    def block_m(self) -> int:
        """Rows of C of a block."""
        return self.warps_m * self.fragments_m * self.m

    @property
    def block_n(self) -> int:
        """Columns of C of a block."""
        return self.warps_n * self.fragments_n * self.n

    @property
    def threads(self) -> int:
        """Of a block."""
        return WARP * self.warps_m * self.warps_n

    @property
    def shared_bytes(self) -> int:
        """Of a block: the stages, or C."""
        b = (self.block_n, self.block_k) if self.along_b else (self.block_k, self.block_n)
        stage = sum(rows * (length + self.padding) for rows, length in ((self.block_m, self.block_k), b))
        return max(2 * self.stages * stage, 4 * self.block_m * (self.block_n + self.padding_c))


def _intrinsics(t: Tiling) -> dict[str, str]:
    """The names of the tensor intrinsics of a shape, type and layout, by what they do; registered when first needed."""
    shape = (t.m, t.n, t.k)
    made = {
        "load_a": lambda: intrinsics.load(shape, t.dtype, "a", across=False),
        "load_b": lambda: intrinsics.load(shape, t.dtype, "b", across=t.along_b),
        "fill": lambda: intrinsics.fill(shape),
        "store": lambda: intrinsics.store(shape),
        "sync": lambda: intrinsics.sync(shape, t.dtype, along_b=t.along_b),
    }
    text = f"tvmops_wmma_{t.m}x{t.n}x{t.k}_{t.dtype}_{int(t.along_b)}"
    names = {what: f"{text}_{what}" for what in made}
    for what, name in names.items():
        if TensorIntrin.get(name, allow_missing=True) is None:
            TensorIntrin.register(name, *made[what]())
    return names


def define(workload: Workload) -> tirx.PrimFunc:
    """The definition with rows of any length, and all epilogues."""
    sizes = {name: te.var(name, "int32") for name in CONTIGUOUS}
    a, b, c = device_definition(workload, sizes)
    (total,) = c.op.input_tensors
    bias = te.placeholder((c.shape[2],), workload.dtype, "bias")
    residual = te.placeholder(c.shape, workload.dtype, "residual")
    activation, flags = te.var("activation", "int32"), te.var("flags", "int32")

    def finished(z: tirx.Var, i: tirx.Var, j: tirx.Var) -> Expr:
        zero = tirx.const(0, "float32")
        given = tirx.bitwise_and(flags, epilogue.HAS_BIAS) != 0
        x = total[z, i, j] + tirx.if_then_else(given, bias[j].astype("float32"), zero)
        x = epilogue.chosen(x, activation)
        given = tirx.bitwise_and(flags, epilogue.HAS_RESIDUAL) != 0
        return (x + tirx.if_then_else(given, residual[z, i, j].astype("float32"), zero)).astype(workload.dtype)

    result = te.compute(c.shape, finished, "C")
    return te.create_prim_func([a, b, result, bias, residual, *sizes.values(), activation, flags])


def kernel(t: Tiling, workload: Workload) -> tirx.PrimFunc:
    """The scheduled function."""
    names, warps = _intrinsics(t), t.warps_m * t.warps_n
    sch = s_tir.Schedule(define(workload))
    total = sch.get_sblock("total")
    sch.pad_einsum(total, [1, t.block_m, t.block_n, t.block_k])
    z, i, j, k = sch.get_loops(total)
    (i, ii), (j, jj), (k, kk) = (sch.split(x, [None, w]) for x, w in ((i, t.m), (j, t.n), (k, t.k)))
    sch.reorder(z, i, j, k, ii, jj, kk)
    inner, outer = total, sch.blockize(ii)
    i0, i1, i2 = sch.split(i, [None, t.warps_m, t.fragments_m])
    j0, j1, j2 = sch.split(j, [None, t.warps_n, t.fragments_n])
    k0, k1 = sch.split(k, [None, t.block_k // t.k])
    sch.reorder(z, i0, j0, i1, j1, k0, k1, i2, j2)
    for loop, tag in ((z, "blockIdx.z"), (i0, "blockIdx.y"), (j0, "blockIdx.x")):
        sch.bind(loop, tag)
    warp = sch.fuse(i1, j1)
    sch.bind(warp, "threadIdx.y")

    def spread(block: s_tir.schedule.SBlockRV, vector: int) -> None:
        loops = sch.split(sch.fuse(*sch.get_loops(block)[-2:]), [None, warps, WARP, vector])
        sch.bind(loops[1], "threadIdx.y")
        sch.bind(loops[2], "threadIdx.x")
        sch.vectorize(loops[3])

    def tiled(block: s_tir.schedule.SBlockRV, rows: int, columns: int) -> s_tir.schedule.LoopRV:
        x, y = sch.get_loops(block)[-2:]
        (x0, x1), (y0, y1) = sch.split(x, [None, rows]), sch.split(y, [None, columns])
        sch.reorder(x0, y0, x1, y1)
        sch.unroll(x0)
        sch.unroll(y0)
        return x1

    for operand in (0, 1):
        tile = sch.cache_read(outer, operand, SHARED)
        sch.compute_at(tile, k0)
        spread(tile, t.vector)
        length = t.block_n if operand == 1 and not t.along_b else t.block_k
        sch.storage_align(tile, 0, axis=-2, factor=length, offset=t.padding)
        _inline_producers(sch, tile)
    a, b = (sch.cache_read(outer, x, f"wmma.matrix_{'ab'[x]}") for x in (0, 1))
    for fragment in (a, b):
        sch.compute_at(fragment, k1)
    shared, accumulator = (sch.cache_write(outer, 0, scope) for scope in (SHARED, "wmma.accumulator"))
    sch.reverse_compute_at(accumulator, warp)
    sch.reverse_compute_at(shared, j0)
    init = sch.decompose_reduction(outer, k0)
    sch.tensorize(tiled(a, t.m, t.k), names["load_a"])
    sch.tensorize(tiled(b, *((t.n, t.k) if t.along_b else (t.k, t.n))), names["load_b"])
    sch.tensorize(sch.get_loops(sch.get_child_blocks(init)[0])[-2], names["fill"])
    store = sch.blockize(tiled(accumulator, t.m, t.n))
    # After blockize: an annotation of the block does not outlive tensorizing its loop.
    sch.storage_align(store, 0, axis=-2, factor=t.block_n, offset=t.padding_c)
    sch.tensorize(store, names["store"])
    sch.tensorize(sch.get_loops(inner)[-3], names["sync"])
    _inline_consumers(sch, shared)
    spread(shared, t.vector_c)
    sch.unroll(k1)
    if t.stages > 1:
        sch.annotate(k0, "software_pipeline_stage", [0, 0, t.stages - 1])
        sch.annotate(k0, "software_pipeline_order", [0, 1, 2])
        sch.annotate(k0, "software_pipeline_async_stages", [0])
    return _in_chunks(sch.mod["main"])


def _in_chunks(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function of eighths of sizes, times 8: so TVM knows that vectors are whole, inside or outside.

    In the definition the products would hide from the schedule that padded extents cover what they pad.
    """
    sizes = {p: te.var(f"{p.name}{CHUNK}", "int32") for p in func.params if p.name in CONTIGUOUS}
    parts = func.specialize({size: part * CHUNK for size, part in sizes.items()})
    return tirx.PrimFunc([*parts.params, *sizes.values()], parts.body, attrs=parts.attrs)


def _inline_producers(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """What is done to an operand, cropping its rows and padding with zeros, becomes part of the copy of a tile."""
    producers: Sequence[s_tir.schedule.SBlockRV] = sch.get_producers(block)
    while producers:
        sch.compute_inline(producers[0])
        producers = sch.get_producers(block)


def _inline_consumers(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """What is left to do with C, cropping and the epilogue, becomes part of the copy to global memory."""
    consumers: Sequence[s_tir.schedule.SBlockRV] = sch.get_consumers(block)
    while consumers:
        sch.reverse_compute_inline(consumers[0])
        consumers = sch.get_consumers(block)
