"""An emitted wmma kernel with one thing wrong: the emulator notices each, by an error or by wrong numbers."""

import pytest

from codegen import spaces
from codegen.target import find_gpu
from codegen.workload import Workload
from tests.codegen.cuda.gemm_judge import Kernel
from tests.codegen.cuda.mutants import Mutant, noticed

NT = Workload.parse("matmul(float16;M=*,N=*,K=*;a=n,b=t)")
# Two warps, a block of 32 x 64.
CHANGED = {"warps_m": 1, "warps_n": 2, "fragments_m": 2, "fragments_n": 2, "block_k": 32, "stages": 3}

# A helper's call with the arguments: to, offset, from, offset, predicate.
_COPY = r"(ptx_cp_async_legacy_pred_cg_16_2_2\(\w+, )(.*)(, [AB]_ptr, )(.*), (.*)\);"
_LOAD = r"(load_matrix_sync\((\w+_matrix_a_\w+)\[)(\d)(\], \(&\(\(\(half\*\)buf_dyn_shmem_ptr\)\[)(.*)(\]\)\)), 40\);"
_COMMIT = r"\w+_commit_group\(\);"
_WAIT = r"\w+_wait_group_(\d+)\(\);"
_BARRIER = r"__syncthreads\(\);"

MUTANTS = {
    "no wait in the loop": Mutant(_WAIT, "", 0),
    "no wait behind the loop": Mutant(_WAIT, "", 1),
    "a wait that leaves one more": Mutant(r"wait_group 2;", "wait_group 3;", in_helpers=True),
    "no barrier before a stage is written": Mutant(_BARRIER, "", 0),
    "no barrier behind the wait": Mutant(_BARRIER, "", 1),
    "no barrier behind the loop": Mutant(_BARRIER, "", 2),
    "no barrier before results go to shared memory": Mutant(_BARRIER, "", -2),
    "no barrier before results are read": Mutant(_BARRIER, "", -1),
    "a barrier before the wait": Mutant(rf"({_WAIT})\s*({_BARRIER})", r"\3 \1", 0),
    "the first commit left out": Mutant(_COMMIT, "", 0),
    "the commit in the loop left out": Mutant(_COMMIT, "", 2),
    "a copy to a misaligned address": Mutant(_COPY, r"\1\2 + 4\3\4, \5);"),
    "a copy to where another goes": Mutant(_COPY, r"\1\2 + 8\3\4, \5);"),
    "a copy from a misaligned address": Mutant(_COPY, r"\1\2\3\4 + 4, \5);"),
    "a copy without its bounds": Mutant(_COPY, r"\1\2\3\4, 1);"),
    "a copy that is not there": Mutant(_COPY, ";", 1),
    "the next fragment of A": Mutant(_LOAD, r"\1\3\4\5 + 640\6, 40);"),
    "a misaligned fragment": Mutant(_LOAD, r"\1\3\4\5 + 8\6, 40);"),
    "a fragment far beyond": Mutant(_LOAD, r"\1\3\4\5 + 65536\6, 40);"),
    "another row length": Mutant(_LOAD, r"\1\3\4\5\6, 48);"),
    "a row length that is not whole vectors": Mutant(_LOAD, r"\1\3\4\5\6, 36);"),
    "one fragment twice": Mutant(_LOAD, r"\g<1>0\4\5\6, 40);", 1),
    "B by rows": Mutant(r"(matrix_b, 16, 16, 16, half, nvcuda::wmma::)col", r"\1row"),
    "a fragment of A for another": Mutant(r"(mma_sync\([^;]*matrix_a\w+\[)\w+\]", r"\g<1>0]"),
    "a sum that goes elsewhere": Mutant(r"mma_sync\((\w+)\[\(\(\w+ \* 2\) \+ (\w+)\)\]", r"mma_sync(\1[\2]"),
    "sums that do not begin at zero": Mutant(r"nvcuda::wmma::fill_fragment\([^;]*;", ";"),
    "only one warp stores": Mutant(r"(nvcuda::wmma::store_matrix_sync)", r"if (threadIdx.y == 0) \1"),
    "half of a warp stores": Mutant(r"(nvcuda::wmma::store_matrix_sync)", r"if (threadIdx.x < 16) \1"),
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    space = spaces.find(NT, find_gpu("sm_80"), "wmma")
    return Kernel(space, {**space.default(), **CHANGED}, tmp_path_factory.mktemp("kernel"))


def test_nothing_is_noticed_in_the_kernel_itself(kernel, tmp_path):
    assert noticed(kernel, kernel.source.text, tmp_path) is None


@pytest.mark.parametrize("what", MUTANTS)
def test_a_mutant_is_noticed(kernel, what, tmp_path):
    found = noticed(kernel, MUTANTS[what].of(kernel.source.text), tmp_path)
    print(found)
    assert found
