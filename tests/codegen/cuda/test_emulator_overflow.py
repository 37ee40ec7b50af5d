"""Indices at the edge of 32 bits: an overflow is noticed, and kernels have none at the sizes that are served."""

import numpy as np
import pytest

from codegen import spaces
from codegen.measure import emulator
from codegen.measure.emulator import EmulationError
from codegen.target import find_gpu
from codegen.workload import Workload
from tests.codegen.cuda import hopper_gemms
from tests.codegen.cuda.emulated import source
from tests.codegen.cuda.gemm_judge import BIAS, SMALL, Case, Kernel

LIMIT = 2**31 - 1
WIDE = "int64_t at = (int64_t)s0 * blockIdx.x + threadIdx.x; p0[at] += 1;"


def test_an_index_that_was_narrowed(tmp_path):
    """Three rows of which the last begins beyond 32 bits; the buffer takes as much memory as is touched."""
    apart = (1 << 30) + 64
    about = {"sizes": [1], "grid": 3, "block": 32}
    data = np.zeros(2 * apart + 32, np.int8)
    library = emulator.compile(source(WIDE, ["signed char"], **about), tmp_path, overflow=True)
    emulator.Emulated(library).launch("it", [data], [apart])
    rows = np.array([data[at : at + 40 if at < 2 * apart else None][:32] for at in (0, apart, 2 * apart)])
    assert (rows == 1).all()
    assert not data[32:64].any()
    narrow = source(WIDE.replace("int64_t", "int").replace("blockIdx", "(int)blockIdx"), ["signed char"], **about)
    library = emulator.compile(narrow, tmp_path, overflow=True)
    with pytest.raises(EmulationError, match=r"block \(2,0,0\) computes 2 \* 1073741888, .* beyond 'int' \(line 9\)"):
        emulator.Emulated(library).launch("it", [data], [apart])


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("s0 + s2", r"computes (2147483647 \+ 5|5 \+ 2147483647), which is beyond 'int' \(line 9\)"),
        ("s0 - s1", r"computes 2147483647 - -2147483648"),
        ("-s1", r"computes 0 - -2147483648"),
        ("(long long)s0 * s0 * s0", r"beyond 'long long int'"),
    ],
)
def test_each_operation(tmp_path, expression, message):
    text = source(f"p0[0] = {expression};", ["long long"], sizes=[1, 2, 3], block=1)
    out, sizes = np.zeros(1, np.int64), [LIMIT, -LIMIT - 1, 5]
    with pytest.raises(EmulationError, match=message):
        emulator.Emulated(emulator.compile(text, tmp_path, overflow=True)).launch("it", [out], sizes)
    emulator.Emulated(emulator.compile(text, tmp_path)).launch("it", [out], sizes)  # is not looked at


def test_unsigned_numbers_may_wrap(tmp_path):
    text = source("p0[0] = (unsigned)s0 * 4u + (unsigned)s0;", ["unsigned"], sizes=[1], block=1)
    out = np.zeros(1, np.uint32)
    emulator.Emulated(emulator.compile(text, tmp_path, overflow=True)).launch("it", [out], [LIMIT])
    assert out[0] == LIMIT * 5 % 2**32


HOPPER = {**hopper_gemms.SMALL, "consumers": 2}
KERNELS = {
    "mma_sync nn": ("mma_sync", "sm_80", "nn", {**SMALL, "split_k": 4}),
    "mma_sync tn": ("mma_sync", "sm_80", "tn", SMALL),
    "wmma nt": ("wmma", "sm_80", "nt", None),
    "wgmma nt": ("wgmma", "sm_90a", "nt", HOPPER),
}


@pytest.mark.parametrize("which", KERNELS)
def test_the_largest_sizes_that_are_served(tmp_path, which):
    """Rows of A and B are as far apart as csrc/cuda/gemm.cpp lets them be."""
    name, arch, (a, b), choice = KERNELS[which]
    space = spaces.find(Workload.parse(f"matmul(float16;M=*,N=*,K=*;a={a},b={b})"), find_gpu(arch), name)
    choice = choice or space.default()
    kernel = Kernel(space, choice, tmp_path, arch, overflow=True)
    params = space.params(choice)
    deep = params["block_k"] * (params["stages"] + params["split_k"] + 1)
    reach = max(params["block_m"], params["block_n"], deep)

    def beyond(rows, columns):
        return (LIMIT - reach) // (rows + reach) // 8 * 8 - (columns + 7) // 8 * 8

    m, n, k = 37, 72, 40
    beyond_a = beyond(k, m) if a == "t" else beyond(m, k)
    beyond_b = beyond(n, k) if b == "t" else beyond(k, n)
    kernel.check(Case(m, n, k, beyond_a=beyond_a, beyond_b=beyond_b, flags=BIAS))
