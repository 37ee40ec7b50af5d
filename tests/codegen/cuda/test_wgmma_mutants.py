"""A wgmma kernel that is wrong in one place is noticed by the emulator: by a report, or by wrong numbers."""

import re

import pytest

from codegen.measure import emulator
from tests.codegen.cuda.gemm_judge import Case, Kernel
from tests.codegen.cuda.hopper_gemms import SMALL, space_of

FULL = r"tvm_builtin_cuda_mbarrier_wait\(\(&\(\(\(uint64_t\*\)shared_ptr\)\[ring_ptr\[0\]\]\)\), ring_ptr\[1\]\);"
EMPTY = (
    r"tvm_builtin_cuda_mbarrier_wait\(\(&\(\(\(uint64_t\*\)shared_ptr\)\[\(ring_ptr\[0\] \+ 2\)"
    r"\]\)\), \(ring_ptr\[1\] \^ 1\)\);"
)
EXPECTED = 64 * 128 + 64 * 128

# What is changed: a pattern of the source, and what comes in its place, everywhere.
MUTANTS = {
    "the wait for the group before is weaker": (
        r"wgmma\.wait_group\.sync\.aligned 1;",
        "wgmma.wait_group.sync.aligned 2;",
    ),
    "the last wait leaves a group": (r"wgmma\.wait_group\.sync\.aligned 0;", "wgmma.wait_group.sync.aligned 1;"),
    "groups are not committed": (r'asm volatile\("wgmma\.commit_group[^;]*;"[^;]*;', ""),
    "no wait for what TMA brings": (FULL, ""),
    "no wait for consumers": (EMPTY, ""),
    "consumers wait for the other parity": (FULL, lambda m: m[0].replace("ring_ptr[1])", "ring_ptr[1] ^ 1)")),
    "the producer waits for the other parity": (EMPTY, lambda m: m[0].replace("(ring_ptr[1] ^ 1)", "ring_ptr[1]")),
    "the parity never turns": (r"ring_ptr\[1\] = \(ring_ptr\[1\] \^ 1\);", ""),
    "fewer bytes are expected": (rf"\(uint\){EXPECTED}\)", f"(uint){EXPECTED // 2})"),
    "more bytes are expected": (rf"\(uint\){EXPECTED}\)", f"(uint){EXPECTED + 1024})"),
    "one consumer warp is enough": (r"(ring_ptr\[0\]|s) \+ 2\)\]\)\)\), \(uint\)4\)", r"\1 + 2)]))), (uint)1)"),
    "registers are not handed over": (r'asm volatile\("wgmma\.fence[^;]*;"[^;]*;', ""),
    "barriers are not made known": (r'asm volatile\("fence\.(mbarrier_init|proxy)[^;]*;"[^;]*;', ""),
    "threads do not wait for the barriers": (r"__syncthreads\(\);", ""),
    "the stride of the descriptors": (r"4611686293305360384ULL", f"{4611686293305360384 + (32 << 32)}ULL"),
    "the swizzle of the descriptors": (r"4611686293305360384ULL", f"{4611686293305360384 ^ (3 << 62)}ULL"),
    "the step of the descriptors along K": (r"\* 512\) \+ 4\)", "* 512) + 3)"),
    "lanes read staged rows at once": (r"__syncwarp\([^;]*\);", ""),
    "the box is not swizzled": (r"\(CUtensorMapSwizzle\)3", "(CUtensorMapSwizzle)0"),
    "rows beyond M are stored": (r"row_ptr\[0\] < M", "row_ptr[0] < M + 1"),
    "too many registers": (r"setmaxnreg\.inc\.sync\.aligned\.u32 232", "setmaxnreg.inc.sync.aligned.u32 240"),
}


# Six steps of K in a ring of two, two tiles for the one block.
CASE = Case(72, 64, 384)


class Mutant(Kernel):
    """A kernel with another source."""

    def __init__(self, kernel, text, directory):
        vars(self).update(vars(kernel))
        self.library = emulator.compile(text, directory)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """By the number of consumers."""
    space = space_of("float16", "n", "t", multiprocessors=1)
    return {n: Kernel(space, {**SMALL, "consumers": n}, tmp_path_factory.mktemp(f"{n}"), "sm_90a") for n in (1, 2)}


@pytest.mark.parametrize("consumers", [1, 2])
def test_unchanged_it_is_right(good, consumers):
    good[consumers].check(CASE)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_noticed(good, tmp_path, name):
    pattern, change = MUTANTS[name]
    kernel = good[2 if "setmaxnreg" in pattern else 1]
    text, count = re.subn(pattern, change, kernel.source.text)
    assert count, "the mutation changes nothing"
    mutant = Mutant(kernel, text, tmp_path)
    with pytest.raises((emulator.EmulationError, AssertionError)):
        mutant.check(CASE)
