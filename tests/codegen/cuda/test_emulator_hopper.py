"""Hopper's instructions against their definitions in the PTX ISA, in kernels written by hand; what they must not do."""

import ml_dtypes
import numpy as np
import pytest

from codegen.measure import emulator
from codegen.measure.emulator import EmulationError
from tests.codegen.cuda.emulated import run

_BULK = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
HELPERS = """
__device__ unsigned at(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ void init(void* b, unsigned n) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" :: "r"(at(b)), "r"(n) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ void arrive(void* b) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" :: "r"(at(b)) : "memory"); }
__device__ void expect(void* b, unsigned n) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" :: "r"(at(b)), "r"(n) : "memory");
}
__device__ void wait(void* b, unsigned parity) {
  asm volatile("{ .reg .pred P; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 P, [%0], %1; @P bra DONE; bra AGAIN; "
    "DONE: }"
    :: "r"(at(b)), "r"(parity) : "memory");
}
__device__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ void wait_group() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
"""

TMA = """
#include <stdint.h>
#include <cuda.h>
#include <cuda_runtime.h>
#include "abi.h"
{helpers}
extern "C" __global__ void kernel(const __grid_constant__ CUtensorMap map, uint16_t* out, int x, int y) {{
  extern __shared__ __align__(1024) unsigned char shared[];
  uint16_t* tile = (uint16_t*)(shared + 1024 + {offset});
  if (threadIdx.x == 0) {{
    init(shared, 1);
    expect(shared, {bytes});
    asm volatile("{bulk} [%0], [%1, {{%2, %3}}], [%4];"
      :: "r"(at(tile)), "l"(&map), "r"(x), "r"(y), "r"(at(shared)) : "memory");
  }}
  __syncthreads();
  wait(shared, 0);
  for (int i = threadIdx.x; i < {rows} * {columns}; i += 32) out[i] = tile[i];
}}
typedef CUresult (*encode_function)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
  const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
  CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
extern "C" int tvmops_launch_it(const tvmops_launch* call) {{
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status;
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &status);
  CUtensorMap map;
  const cuuint64_t extents[] = {{(cuuint64_t)call->sizes[2], (cuuint64_t)call->sizes[3]}};
  const cuuint64_t strides[] = {{(cuuint64_t)call->sizes[4] * 2}};
  const cuuint32_t box[] = {{{columns}, {rows}}}, steps[] = {{1, 1}};
  int error = ((encode_function)found)(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, call->buffers[0], extents, strides, box,
    steps, CU_TENSOR_MAP_INTERLEAVE_NONE, (CUtensorMapSwizzle){mode}, CU_TENSOR_MAP_L2_PROMOTION_NONE,
    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (error) return error;
  uint16_t* out = (uint16_t*)call->buffers[1];
  int x = (int)call->sizes[0], y = (int)call->sizes[1];
  void* arguments[] = {{&map, &out, &x, &y}};
  return cudaLaunchKernel((const void*)kernel, dim3(1), dim3(32), arguments, 20480, (cudaStream_t)call->stream);
}}
"""


def _tma(folder, mode, columns, x, y, extents, pitch, *, rows=16, offset=0, bytes_=None):
    """What a box at (x, y) of a [extents[1], pitch] array leaves in shared memory, and the array."""
    text = TMA.format(
        helpers=HELPERS,
        bulk=_BULK,
        mode=mode,
        columns=columns,
        rows=rows,
        offset=offset,
        bytes=bytes_ or rows * columns * 2,
    )
    source = np.arange(1, extents[1] * pitch + 1, dtype=np.uint16).reshape(extents[1], pitch)
    out = np.zeros((rows, columns), np.uint16)
    emulated = emulator.Emulated(emulator.compile(text, folder), "sm_90a")
    emulated.launch("it", [source, out], [x, y, *extents, pitch])
    return out, source


# Rows that a swizzle repeats after, and the units of 16 bytes of a row, in 128 bytes of shared memory.
@pytest.mark.parametrize(("mode", "columns"), [(0, 64), (0, 8), (1, 16), (2, 32), (3, 64)])
@pytest.mark.parametrize(("x", "y"), [(0, 0), (8, 3), (-8, -2), (40, 20), (200, 0), (0, 90)])
def test_a_box_lands_swizzled_with_zeros_out_of_bounds(tmp_path, mode, columns, x, y):
    extents, pitch, rows = (72, 29), 80, 16
    out, source = _tma(tmp_path, mode, columns, x, y, extents, pitch)
    expected = np.zeros((rows, columns), np.uint16)
    for r in range(rows):
        for c in range(columns):
            if 0 <= y + r < extents[1] and 0 <= x + c < extents[0]:
                expected[r, c] = source[y + r, x + c]
    units = expected.reshape(-1, 8)  # of 16 bytes; 8 of them are a row of all banks
    at = np.arange(len(units))
    swizzled = units.copy()
    swizzled[at ^ (at // 8 % 8 & ((1 << mode) - 1))] = units
    assert np.array_equal(out.reshape(-1, 8), swizzled)


def test_a_box_of_tf32_is_rounded_on_its_way(tmp_path):
    """To nearest, ties away from zero; infinity and NaN stay."""
    text = TMA.replace("uint16_t", "uint32_t").replace("* 2}}", "* 4}}").replace("TYPE_UINT16", "TYPE_TFLOAT32")
    text = text.format(helpers=HELPERS, bulk=_BULK, mode=0, columns=8, rows=1, offset=0, bytes=32)
    source = np.array([0x3F801000, 0xBF803000, 0x3F800FFF, 0x7F800000, 0x7FFFFFFF, 0xC0490FDB, 1, 0x3FFFF000], "uint32")
    out = np.zeros(8, "uint32")
    emulated = emulator.Emulated(emulator.compile(text, tmp_path), "sm_90a")
    emulated.launch("it", [source, out], [0, 0, 8, 1, 8])
    expected = [0x3F802000, 0xBF804000, 0x3F800000, 0x7F800000, 0x7FFFFFFF, 0xC0490000, 0, 0x40000000]
    assert [hex(x) for x in out] == [hex(x) for x in expected]


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"offset": 16}, "not a multiple of 128"),
        ({"bytes_": 4096}, "deadlock.*mbarrier.try_wait"),
        ({"bytes_": 1024}, "under way|nothing has written|deadlock"),
        ({"pitch": 76}, "1"),  # CUDA_ERROR_INVALID_VALUE: rows that are no multiple of 16 bytes apart
        ({"columns": 128}, "1"),  # a box wider than the swizzle
    ],
)
def test_what_tma_must_not_do(tmp_path, about, said):
    about = {"columns": 64, "pitch": 80, **about}
    with pytest.raises(EmulationError, match=said):
        _tma(tmp_path, 3, about.pop("columns"), 0, 0, (72, 29), about.pop("pitch"), **about)


_GEMM = """
  extern __shared__ __align__(1024) unsigned char shared[];
  uint16_t* tiles = (uint16_t*)shared;
  for (int i = threadIdx.x; i < 4096; i += 128) tiles[i] = p0[i];
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = 100;
  uint64_t a = {a} + (at(shared) >> 4), b = {b} + ((at(shared) + 4096) >> 4);
  fence();
  asm volatile("{{ .reg .pred p; setp.ne.b32 p, %6, 0; "
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%0, %1, %2, %3}}, %4, %5, p, 1, 1, {a_t}, {b_t}; }}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b), "r"({keep}));
  commit();
  wait_group();
  for (int i = 0; i < 4; ++i) {{
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 * 8, column = threadIdx.x % 4 * 2 + i % 2;
    p1[row * 8 + column] = d[i];
  }}
"""


def _word(leading, stride):
    """A descriptor without a swizzle but for its start."""
    return f"({leading // 16}ull << 16 | {stride // 16}ull << 32)"


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("a_t", [0, 1])
@pytest.mark.parametrize("b_t", [0, 1])
def test_wgmma_without_a_swizzle(tmp_path, a_t, b_t, keep):
    """Core matrices are 8 rows of 16 bytes.

    K-major the second 8 of K are ``leading`` away, the next 8 rows ``stride``. MN-major its rows go along K: the next
    8 of K are ``leading`` away, the next 8 of M or N ``stride``.
    """
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in ((64, 16), (8, 16)))
    memory = np.zeros(4096, ml_dtypes.bfloat16)

    def put(matrix, transposed, leading, stride, base):
        for i in range(matrix.shape[0]):
            for k in range(16):
                inside = (k % 8 * 16 + i % 8 * 2) if transposed else (i % 8 * 16 + k % 8 * 2)
                memory[(base + i // 8 * stride + k // 8 * leading + inside) // 2] = matrix[i, k]

    put(a, a_t, 128, 256, 0)
    put(b, b_t, 512, 1024, 4096)
    out = np.zeros((64, 8), np.float32)
    body = _GEMM.format(a=_word(128, 256), b=_word(512, 1024), keep=keep, a_t=a_t, b_t=b_t)
    types = ["uint16_t", "float"]
    run(tmp_path, body, [memory.view(np.uint16), out], types, before=HELPERS, block=128, shared=8192)
    exact = a.astype(np.float64) @ b.astype(np.float64).T + 100 * keep
    assert np.abs(out - exact).max() < 1e-4


def test_wgmma_of_tf32_reads_19_bits(tmp_path):
    """K-major, 8 deep: rows of 4 elements, the second 4 of K 128 and 512 bytes away."""
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(shape).astype("float32").view("uint32") | 0x1FFF for shape in ((64, 8), (8, 8)))
    memory = np.zeros(2048, "uint32")
    for matrix, leading, stride, base in ((a, 128, 256, 0), (b, 512, 1024, 4096)):
        for i, k in np.ndindex(matrix.shape):
            memory[(base + i // 8 * stride + k // 4 * leading + i % 8 * 16 + k % 4 * 4) // 4] = matrix[i, k]
    body = _GEMM.replace("k16.f32.bf16.bf16", "k8.f32.tf32.tf32").replace(", {a_t}, {b_t};", ";")
    body = body.format(a=_word(128, 256), b=_word(512, 1024), keep=1)
    out = np.zeros((64, 8), np.float32)
    types = ["uint16_t", "float"]
    run(tmp_path, body, [memory.view(np.uint16), out], types, before=HELPERS, block=128, shared=8192)
    x, y = ((m & np.uint32(0xFFFFE000)).view("float32").astype(np.float64) for m in (a, b))
    assert np.abs(out - (x @ y.T + 100)).max() < 2e-5


_MULTIPLY = _GEMM.format(a=_word(128, 256), b=_word(512, 1024), keep=1, a_t=0, b_t=0)
_BARRIER = "__shared__ __align__(16) uint64_t b[2]; if (threadIdx.x == 0) init(b, 1); __syncthreads();"

_PROXY = 'asm volatile("fence.proxy.async.shared::cta;" ::: "memory");'
BAD = {
    "no fence after stores": (_MULTIPLY.replace(_PROXY, ""), r"thread \(\d+,0,0\) wrote with no fence.proxy.async"),
    "a fence of other threads": (_MULTIPLY.replace(_PROXY, f"if (threadIdx.x < 32) {_PROXY}"), "no fence.proxy.async"),
    "a fence for barriers alone": (
        _MULTIPLY.replace("fence.proxy.async.shared::cta", "fence.mbarrier_init.release.cluster"),
        "no fence.proxy.async",
    ),
    "no wgmma.fence": (_MULTIPLY.replace("fence();", ""), "wgmma.fence"),
    "a matrix beyond shared memory": (
        _MULTIPLY.replace("at(shared) + 4096", "at(shared) + 262000"),
        "out of bounds|wgmma",
    ),
    "a base offset": (_MULTIPLY.replace("uint64_t a = ", "uint64_t a = (1ull << 49) + "), "base offset"),
    "half a warpgroup agrees": (
        _MULTIPLY.replace("fence();", "fence(); if (threadIdx.x > 63) a += 8;"),
        "another warp",
    ),
    "lanes that differ": (_MULTIPLY.replace("fence();", "fence(); a += threadIdx.x % 2;"), "than lane"),
    "no barrier there": ("__shared__ __align__(16) uint64_t b[2]; arrive(b);", "no barrier"),
    "more arrivals than a phase has": (
        f"{_BARRIER} if (threadIdx.x == 0) expect(b, 64); if (threadIdx.x == 0) arrive(b);",
        "all 1 arrivals",
    ),
    "a barrier overwritten": (f"{_BARRIER} if (threadIdx.x == 0) {{ b[0] = 7; arrive(b); }}", "overwritten"),
    "a barrier nobody waited to be made": (
        "__shared__ __align__(16) uint64_t b[2]; if (threadIdx.x == 0) init(b, 1); if (threadIdx.x == 64) arrive(b);",
        "nothing orders|no barrier",
    ),
    "a phase that does not come": (f"{_BARRIER} wait(b, 0);", "deadlock.*mbarrier.try_wait"),
    "a barrier of nobody": ("__shared__ __align__(16) uint64_t b[2]; init(b, 0);", "0 arrivals"),
    "too few registers to share": (
        'asm volatile("setmaxnreg.inc.sync.aligned.u32 256;"); p1[threadIdx.x] = 0;',
        "deadlock.*setmaxnreg.inc|with 256 registers",
    ),
    "a number of registers there is not": ('asm volatile("setmaxnreg.dec.sync.aligned.u32 20;");', "multiple of 8"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_must_not_be_is_said(tmp_path, name):
    body, said = BAD[name]
    buffers = [np.zeros(4096, np.uint16), np.zeros((64, 8), np.float32)]
    # Three warpgroups, so that a thread has 168 registers at launch.
    block = 384 if "setmaxnreg" in body else 128
    with pytest.raises(EmulationError, match=said):
        run(tmp_path, body, buffers, ["uint16_t", "float"], before=HELPERS, block=block, shared=8192)


def test_sums_under_way_are_not_there(tmp_path):
    """What is read of them before the wait is NaN."""
    body = _MULTIPLY.replace("wait_group();", "float early = d[0]; wait_group(); d[0] = early;")
    out = np.zeros((64, 8), np.float32)
    run(tmp_path, body, [np.zeros(4096, np.uint16), out], ["uint16_t", "float"], before=HELPERS, block=128, shared=8192)
    assert np.isnan(out).sum() == 128


def test_a_barrier_turns_phase_after_phase(tmp_path):
    """Warps take turns by two barriers of one arrival each."""
    body = """
  __shared__ __align__(16) uint64_t b[2]; __shared__ float s[1];
  if (threadIdx.x == 0) { init(b, 1); init(b + 1, 1); s[0] = 0; }
  __syncthreads();
  for (int i = 0; i < 5; ++i) {
    if (threadIdx.x == 0) { wait(b + 1, i & 1 ^ 1); s[0] = s[0] + 1; arrive(b); }
    if (threadIdx.x == 32) { wait(b, i & 1); s[0] = s[0] * 2; arrive(b + 1); }
  }
  __syncthreads();
  p0[threadIdx.x] = s[0];
"""
    for order in ("forward", "backward", "random"):
        out = np.zeros(64, np.float32)
        run(tmp_path, body, [out], ["float"], before=HELPERS, block=64, options={"order": order})
        assert (out == 62).all()
