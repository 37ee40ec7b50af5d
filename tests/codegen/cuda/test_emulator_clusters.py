"""Clusters of blocks in the emulator: the PTX ISA's special registers, addresses, barriers and multicast copies."""

import numpy as np
import pytest

from codegen.measure import emulator
from codegen.measure.emulator import EmulationError
from tests.codegen.cuda.emulated import run
from tests.codegen.cuda.test_emulator_hopper import HELPERS as _HOPPER
from tests.codegen.cuda.test_emulator_hopper import TMA as _ONE_BLOCK

HELPERS = (
    _HOPPER
    + """
__device__ unsigned rank() { unsigned r; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
__device__ unsigned there(const void* p, unsigned rank) {
  unsigned r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(at(p)), "r"(rank));
  return r;
}
__device__ void sync_release() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ void sync_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ void sync_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ void cluster_sync() { sync_release(); sync_wait(); }
__device__ void arrive_at(unsigned b) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" :: "r"(b) : "memory");
}
__device__ void arrive_own(unsigned b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(b) : "memory");
}
__device__ unsigned load(unsigned p) {
  unsigned v;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(p) : "memory");
  return v;
}
__device__ void store(unsigned p, unsigned v) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" :: "r"(p), "r"(v) : "memory");
}
"""
)
PAIR = "__cluster_dims__(2, 1, 1)"


def _run(folder, body, out, **about):
    about = {"grid": 4, "bounds": PAIR, "before": HELPERS, **about}
    run(folder, body, [out], ["unsigned"], **about)


def test_special_registers(tmp_path):
    registers = ["cluster_ctarank", "cluster_nctarank"]
    names = ["cluster_ctaid", "cluster_nctaid", "clusterid", "nclusterid", "ctaid", "nctaid"]
    registers += [f"{name}.{axis}" for name in names for axis in "xyz"]
    body = "if (threadIdx.x == 0) { unsigned v, block = (blockIdx.z * 4 + blockIdx.y) * 6 + blockIdx.x;"
    for i, name in enumerate(registers):
        body += f'asm volatile("mov.u32 %0, %%{name};" : "=r"(v)); p0[block * {len(registers)} + {i}] = v;'
    out = np.zeros((2, 4, 6, len(registers)), np.uint32)
    _run(tmp_path, body + "}", out, grid=(6, 4, 2), bounds="__cluster_dims__(3, 2, 1)")
    for z, y, x in np.ndindex(2, 4, 6):
        expected = [y % 2 * 3 + x % 3, 6, x % 3, y % 2, 0, 3, 2, 1, x // 3, y // 2, z, 2, 2, 2, x, y, z, 6, 4, 2]
        assert out[z, y, x].tolist() == expected


_EXCHANGE = """
  __shared__ unsigned mine[32];
  mine[threadIdx.x] = blockIdx.x * 100 + threadIdx.x;
  cluster_sync();
  p0[blockIdx.x * 32 + threadIdx.x] = load(there(mine + threadIdx.x, rank() ^ 1));
  cluster_sync();
"""


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
@pytest.mark.parametrize("how", ["window", "generic"])
def test_blocks_read_each_other(tmp_path, how, order):
    generic = """{ unsigned long long p; unsigned r = rank() ^ 1;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(p) : "l"(mine + threadIdx.x), "r"(r));
    p0[blockIdx.x * 32 + threadIdx.x] = *(unsigned*)p; }"""
    body = _EXCHANGE
    if how == "generic":
        body = body.replace("p0[blockIdx.x * 32 + threadIdx.x] = load(there(mine + threadIdx.x, rank() ^ 1));", generic)
    out = np.zeros((4, 32), np.uint32)
    _run(tmp_path, body, out, options={"order": order})
    assert np.array_equal(out, np.array([1, 0, 3, 2])[:, None] * 100 + np.arange(32))


_REMOTE = """
  __shared__ __align__(16) uint64_t b[2]; __shared__ unsigned got[1];
  if (threadIdx.x == 0) init(b, 2);
  cluster_sync();
  if (threadIdx.x == 0) { store(there(got, rank() ^ 1), blockIdx.x + 7); arrive(b); arrive_at(there(b, rank() ^ 1)); }
  wait(b, 0);
  if (threadIdx.x == 0) p0[blockIdx.x] = got[0];
  cluster_sync();
"""


_WAIT = """
  asm volatile("{ .reg .pred P; mbarrier.try_wait.parity.shared::cta.b64 P, [%0], 0; }"
    :: "r"(there(b, rank() ^ 1)) : "memory");
"""


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_arrivals_at_each_others_barriers(tmp_path, order):
    """What a thread stored before it arrives is there for who waits."""
    out = np.zeros(4, np.uint32)
    _run(tmp_path, _REMOTE, out, options={"order": order})
    assert out.tolist() == [8, 7, 10, 9]


BAD = {
    "before the other has begun": (_EXCHANGE.replace("cluster_sync();", "", 1), "nothing says has begun"),
    "after the other has returned": (
        _EXCHANGE.replace("  cluster_sync();\n  p0", "  cluster_sync(); if (rank()) return;\n  p0"),
        "has returned|returns, the last of its block, with no barrier after",
    ),
    "without a last barrier": (
        _EXCHANGE[: _EXCHANGE.rindex("cluster_sync")],
        "has returned|returns, the last of its block, with no barrier after",
    ),
    "without an order": (
        _EXCHANGE.replace("  p0[", "  mine[threadIdx.x] = 5;\n  p0["),
        r"which thread \(\d+,0,0\) of block \(\d,0,0\) (read|wrote) with no barrier between",
    ),
    "a relaxed arrival": (
        _EXCHANGE.replace("cluster_sync();", "cluster_sync(); mine[threadIdx.x] = 3; sync_relaxed(); sync_wait();", 1),
        "wrote with no barrier between",
    ),
    "beyond the other's memory": (_EXCHANGE.replace("mine + threadIdx.x, ", "mine + 32, "), "at 128 .*the block has"),
    "a rank there is not": (_EXCHANGE.replace("rank() ^ 1", "2"), "mapa .* of rank 2 in a cluster of 2"),
    "two arrivals": (_EXCHANGE.replace("cluster_sync();", "sync_release(); sync_release();"), "again before it waited"),
    "no arrival": (_EXCHANGE.replace("cluster_sync();", "sync_wait();"), "without having arrived"),
    "half a warp": (
        _EXCHANGE.replace("cluster_sync();", "if (threadIdx.x > 15) return; cluster_sync();"),
        "whole warp|returns while other threads of its warp wait",
    ),
    "nobody arrives": (
        _REMOTE.replace("arrive_at(there(b, rank() ^ 1));", ""),
        r"deadlock in the cluster of block \(\d,0,0\): thread .* of block \(\d,0,0\) waits at mbarrier.try_wait",
    ),
    "a wait for another's barrier": (_REMOTE.replace("wait(b, 0);", _WAIT), "not its own block's"),
    "an arrival that means its own barrier": (_REMOTE.replace("arrive_at(", "arrive_own("), "not its own block's"),
    "no barrier there": (_REMOTE.replace("there(b, ", "there(b + 1, "), "where there is no barrier"),
    "an arrival as the other returns": (
        _REMOTE.replace("wait(b, 0);", "").replace("p0[blockIdx.x] = got[0];\n  cluster_sync();", ";"),
        "has returned|returns, the last of its block, with no barrier after",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_must_not_be_is_said(tmp_path, name):
    """In whatever order the blocks run."""
    body, said = BAD[name]
    for order in ("forward", "backward"):
        with pytest.raises(EmulationError, match=said):
            _run(tmp_path, body, np.zeros((4, 32), np.uint32), options={"order": order})


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"grid": 3}, r"a grid of \(3,1,1\) blocks in clusters of \(2,1,1\)"),
        ({"bounds": "__cluster_dims__(16, 1, 1)", "grid": 16}, r"clusters of \(16,1,1\)"),
        ({"target": "sm_80"}, "clusters on a device of capability 8.0"),
    ],
)
def test_launches_that_cuda_refuses(tmp_path, about, said):
    with pytest.raises(EmulationError, match=said):
        _run(tmp_path, _EXCHANGE, np.zeros((4, 32), np.uint32), **about)


# Block r has the rows from 8 r on of a box of 16 x 8, and gives them to the blocks of the mask.
_BOTH = """
#include <stdint.h>
#include <cuda.h>
#include <cuda_runtime.h>
#include "abi.h"
{helpers}
extern "C" __global__ void __cluster_dims__(2, 1, 1) kernel(const __grid_constant__ CUtensorMap map, uint16_t* out,
                                                            int x, int y) {{
  extern __shared__ __align__(1024) unsigned char shared[];
  uint16_t* tile = (uint16_t*)(shared + 1024);
  if (threadIdx.x == 0) {{
    init(shared, 1);
    expect(shared, {expected});
  }}
  {begin}
  if (threadIdx.x == 0) {{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {{%2, %3}}], [%4], %5;" :: "r"(at(tile + rank() * 64)), "l"(&map), "r"(x), "r"(y + (int)rank() * 8),
      "r"(at(shared)), "h"((uint16_t)({mask})) : "memory");
  }}
  {middle}
  wait(shared, 0);
  for (int i = threadIdx.x; i < 128; i += 32) out[blockIdx.x * 128 + i] = tile[i];
  cluster_sync();
}}
"""


def _both(folder, order="forward", **about):
    about = {"mask": "3", "begin": "cluster_sync();", "middle": "", "expected": 256, **about}
    host = _ONE_BLOCK[_ONE_BLOCK.index("typedef CUresult") :].format(columns=8, rows=8, mode=0)
    text = _BOTH.format(helpers=HELPERS, **about) + host.replace("dim3(1)", "dim3(2)")
    source = np.arange(1, 29 * 16 + 1, dtype=np.uint16).reshape(29, 16)
    out = np.zeros((2, 16, 8), np.uint16)
    emulated = emulator.Emulated(emulator.compile(text, folder), "sm_90a", order=order)
    emulated.launch("it", [source, out], [0, 5, 16, 29, 16])
    return out, source[5:21, :8]


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_a_copy_goes_to_every_block_of_the_mask(tmp_path, order):
    """To the same place of each, whose barrier counts the bytes of both copies."""
    out, box = _both(tmp_path, order)
    assert np.array_equal(out[0], box)
    assert np.array_equal(out[1], box)


def test_a_mask_of_one_block(tmp_path):
    """Both give to block 0 alone; block 1 expects nothing."""
    out, box = _both(tmp_path, mask="1", expected="rank() ? 0 : 256", middle="if (rank()) for (int i = threadIdx.x; "
                     "i < 128; i += 32) tile[i] = 3;")  # fmt: skip
    assert np.array_equal(out[0], box)
    assert (out[1] == 3).all()


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"mask": "5"}, "to the blocks 5 of a cluster of 2"),
        ({"mask": "1u << rank()"}, "deadlock in the cluster of block .* waits at mbarrier.try_wait"),
        ({"begin": "__syncthreads();"}, "nothing says has begun"),
        ({"middle": "if (rank()) return;"}, "while a copy to its shared memory is under way"),
        ({"expected": 128}, "nothing has written|under way"),
        ({"middle": "tile[threadIdx.x] = 1;"}, "under way|with no barrier between"),
    ],
)
def test_what_a_multicast_must_not_do(tmp_path, about, said):
    with pytest.raises(EmulationError, match=said):
        _both(tmp_path, **about)
