"""An emitted mma.sync kernel with one thing wrong: the emulator notices each, by an error or by wrong numbers."""

import pytest

from codegen import spaces
from codegen.target import find_gpu
from tests.codegen.cuda.gemm_judge import Kernel
from tests.codegen.cuda.mutants import Mutant, noticed
from tests.codegen.cuda.test_mma_sync import NT, SMALL

# To, from, and how many bytes of it to read.
_COPY = r"(cp_async_cg_src_size_\w+\(.*\[)(.*)(\]\)\)+, \(&\([AB]_ptr\[)(.*)(\]\)\), )\(\(uint\)(.*)\)\);"
# The first two registers, and the address.
_LOAD = r"(ldmatrix_sync_aligned\w+\(.*?)(\w+_ptr\[\d+\]), (\w+_ptr\[\d+\])(.*shared_ptr\[)(.*)(\]\)\)+;)"
_MMA = r"(mma_sync_aligned_m16n8k16\w+\()((?:acc_ptr\[\d+\], ){4})((?:a_ptr\[\d+\], ){4})(b_ptr\[\d+\]), (b_ptr\[\d+\])"
_COMMIT = r"\w+_commit_group\(\);"
_WAIT = r"\w+_wait_group_(\d+)\(\);"
_BARRIER = r"\w+cta_sync\(\);"

MUTANTS = {
    "no wait before the loop": Mutant(_WAIT, "", 0),
    "no wait in the loop": Mutant(_WAIT, "", 1),
    "no wait behind the loop": Mutant(_WAIT, "", 2),
    "a wait that leaves one more": Mutant(r"wait_group 1;", "wait_group 2;", in_helpers=True),
    "no barrier before the loop": Mutant(_BARRIER, "", 0),
    "no barrier in the loop": Mutant(_BARRIER, "", 1),
    "no barrier behind the loop": Mutant(_BARRIER, "", 2),
    "a barrier before the wait": Mutant(rf"({_WAIT})\s*({_BARRIER})", r"\3 \1", 1),
    "a barrier that one warp does not reach": Mutant(rf"({_BARRIER})", r"if (threadIdx.x < 32) \1", 1),
    "no barrier of the warp": Mutant(r"\w+warp_sync\(\);", "", 0),
    "no barrier of the warp at the end": Mutant(r"\w+warp_sync\(\);", "", 1),
    "the first commit left out": Mutant(_COMMIT, "", 0),
    "the second commit left out": Mutant(_COMMIT, "", 1),
    "the commit in the loop left out": Mutant(_COMMIT, "", 2),
    "a copy to a misaligned address": Mutant(_COPY, r"\1\2 + 1\3\4\5((uint)\6));"),
    "a copy from a misaligned address": Mutant(_COPY, r"\1\2\3\4 + 4\5((uint)\6));"),
    "a copy to where another goes": Mutant(_COPY, r"\1\2 + 8\3\4\5((uint)\6));"),
    "a copy from the next row": Mutant(_COPY, r"\1\2\3\4 + lda\5((uint)\6));"),
    "a copy without its bounds": Mutant(_COPY, r"\1\2\3\4\5(16u));"),
    "all copies without their bounds": Mutant(_COPY, r"\1\2\3\4\5(16u));", None),
    "a copy that is not there": Mutant(r"\w+" + _COPY, ";", 3),
    "a copy of the last row that is left out": Mutant(r"< M\) \? 16 : 0", "< M - 1) ? 16 : 0", None),
    "a row of ldmatrix further on": Mutant(_LOAD, r"\1\2, \3\4\5 + 8\6"),
    "a misaligned row of ldmatrix": Mutant(_LOAD, r"\1\2, \3\4\5 + 4\6"),
    "rows of ldmatrix far beyond": Mutant(_LOAD, r"\1\2, \3\4\5 + 65536\6"),
    "two registers of ldmatrix exchanged": Mutant(_LOAD, r"\1\3, \2\4\5\6"),
    "ldmatrix transposed": Mutant(r"x4\.shared", "x4.trans.shared", in_helpers=True),
    "no swizzle": Mutant(r"threadIdx\.x\) & 7\) >> 1\)", "threadIdx.x) & 0) >> 1)", None),
    "a fragment of B exchanged": Mutant(_MMA, r"\1\2\3\5, \4"),
    "a fragment of A from elsewhere": Mutant(r"(a_ptr\[)4(\], a_ptr\[5\].*acc_ptr)", r"\g<1>0\2"),
    "a sum that goes elsewhere": Mutant(_MMA, r"\1acc_ptr[0], acc_ptr[1], acc_ptr[2], acc_ptr[3], \3\4, \5", 2),
    "bfloat16 for float16": Mutant(r"f32\.f16\.f16\.f32", "f32.bf16.bf16.f32", in_helpers=True),
    "a sum that does not begin at zero": Mutant(r"acc_ptr\[5\] = 0x0p\+0f[^;]*;", ""),
    "the stage that is being written": Mutant(r"reading_ptr\[0\] \+ 3072", "reading_ptr[0] + 0"),
    "a loop that ends early": Mutant(r"\+ 31\) / 32\)", "+ 0) / 32)"),
    "an absent bias that is read": Mutant(r"0 < \(flags & 1\)", "true"),
    "an absent residual that is read": Mutant(r"0 < \(flags & 2\)", "true"),
    "a result without its bounds": Mutant(r"< M\) && ", "< M + 64) && ", None),
    "a misaligned result": Mutant(r"\*\(uint4\*\)\(C_ptr \+ \(", "*(uint4*)(C_ptr + 4 + ("),
    "a result of a neighbour": Mutant(r"\*\(uint4\*\)\(C_ptr \+ \(", "*(uint4*)(C_ptr + 8 + ("),
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    return Kernel(spaces.find(NT, find_gpu("sm_80"), "mma_sync"), SMALL, tmp_path_factory.mktemp("kernel"))


def test_nothing_is_noticed_in_the_kernel_itself(kernel, tmp_path):
    assert noticed(kernel, kernel.source.text, tmp_path) is None


@pytest.mark.parametrize("what", MUTANTS)
def test_a_mutant_is_noticed(kernel, what, tmp_path):
    found = noticed(kernel, MUTANTS[what].of(kernel.source.text), tmp_path)
    print(found)
    assert found
