"""GEMM kernels with mma.sync of float32 rounded to TF32, in the emulator, against float64."""

import numpy as np
import pytest

from codegen import spaces
from codegen.cuda.lower import emit
from codegen.errors import CodegenError
from codegen.export import nvcc, sass
from codegen.export.pack import abi_header
from codegen.spaces.space import broken
from codegen.target import find_gpu
from codegen.workload import Workload
from tests.codegen.cuda.gemm_judge import BIAS, RESIDUAL, SMALL_TF32, Case, Kernel
from tests.codegen.cuda.mutants import Mutant, noticed

LAYOUTS = [("n", "t"), ("n", "n"), ("t", "n"), ("t", "t")]


def space_of(a="n", b="t", rest=""):
    workload = Workload.parse(f"matmul(float32;M=*,N=*,K=*;a={a},b={b}{rest},tf32=1)")
    return spaces.find(workload, find_gpu("sm_80"), "mma_sync")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Small kernels of the layouts, each made once; every second one is padded in place of swizzled."""
    known = {}

    def get(a="n", b="t"):
        if (a, b) not in known:
            choice = {**SMALL_TF32, "swizzle": 1 - LAYOUTS.index((a, b)) % 2, "buffers": 1 if a == b == "t" else 2}
            known[a, b] = Kernel(space_of(a, b), choice, tmp_path_factory.mktemp(a + b))
        return known[a, b]

    return get


@pytest.mark.parametrize(("a", "b"), LAYOUTS)
@pytest.mark.parametrize(
    "case",
    [
        Case(64, 64, 64),
        Case(1, 4, 4, flags=BIAS),
        Case(37, 76, 92, batch=2, beyond_a=4, beyond_b=8, flags=BIAS | RESIDUAL),
        Case(70, 132, 260, activation=3, flags=RESIDUAL),
    ],
    ids=str,
)
def test_layouts_and_ragged_sizes(small, a, b, case):
    small(a, b).check(case)


def test_operands_are_rounded_to_nearest(small):
    """Of cut-off products sums would be too small by a part in 1,400; rounded ones are so by none on average."""
    case = Case(64, 64, 512)
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(1, 2, (64, 512)).astype("float32") for _ in range(2))
    c = np.zeros((1, 64, 64), "float32")
    small().launch(a[None], b[None], c, case)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    error = c[0] / exact - 1
    assert abs(error.mean()) < 2**-16
    assert np.abs(error).max() < 2**-12


def test_infinity_and_nan_stay_what_they_are(small):
    """Rounding up a NaN with all bits set would make it a zero."""
    case = Case(8, 8, 8)
    a, b = np.ones((1, 8, 8), "float32"), np.ones((1, 8, 8), "float32")
    a.view(np.uint32)[0, 1, 3], a[0, 2, 3] = 0x7FFFFFFF, np.inf
    c = np.zeros((1, 8, 8), "float32")
    small().launch(a, b, c, case)
    assert np.isnan(c[0, 1]).all()
    assert np.isposinf(c[0, 2]).all()
    np.testing.assert_array_equal(np.delete(c[0], [1, 2], axis=0), 8)


_ROUND = r"\w+_rna_tf32_f32\(.*\);"
_MMA = r"(mma_sync_aligned_m16n8k8\w+\()((?:acc_ptr\[\d+\], ){4})((?:a_ptr\[\d+\], ){4})(b_ptr\[\d+\]), (b_ptr\[\d+\])"

MUTANTS = {
    "a register that is not rounded": Mutant(_ROUND, ";", 0),
    "registers of B exchanged": Mutant(_MMA, r"\1\2\3\5, \4"),
    "a word of another row": Mutant(r"(threadIdx\.x\) & )3(\) \* 72\))", r"\g<1>1\2", None),
    "no wait in the loop": Mutant(r"\w+_wait_group_(\d+)\(\);", "", 1),
    "no barrier in the loop": Mutant(r"\w+cta_sync\(\);", "", 1),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_noticed(small, name, tmp_path):
    kernel = small("n", "n")
    assert noticed(kernel, MUTANTS[name].of(kernel.source.text), tmp_path)


def test_words_meet_each_bank_once():
    """In what a warp reads at once of a tile along M or N, swizzled or padded."""
    for swizzle in (0, 1):
        for fragments in (1, 2, 4):
            choice = {**SMALL_TF32, "warps_n": 1, "fragments_n": fragments, "swizzle": swizzle}
            tile = space_of("n", "n").tiling(choice).b
            for k in range(0, 16, 4):
                for n in range(0, tile.length, 8):
                    banks = {int(tile.at(k + lane % 4, n + lane // 4)) % 32 for lane in range(32)}
                    assert len(banks) == 32, (swizzle, fragments, k, n)


def test_the_attribute_is_what_allows_it():
    for key in ("matmul(float32;M=*,N=*,K=*;a=n,b=t)", "matmul(float32;M=*,N=*,K=*;tf32=1)"):
        with pytest.raises(CodegenError, match="has no space on sm_80"):
            spaces.find(Workload.parse(key), find_gpu("sm_80"))
    with pytest.raises(CodegenError, match="has no space 'wmma'"):
        spaces.find(space_of().workload, find_gpu("sm_80"), "wmma")


def test_params_and_shared_memory_are_those_of_four_bytes():
    space = space_of()
    params = space.params(space.default())
    assert (params["align"], params["tf32"], params["block_k"]) == (4, 1, 16)
    assert params["shared_bytes"] == 4 * params["stages"] * 16 * (params["block_m"] + params["block_n"])
    assert not broken(space, space.default())
    too_deep = {**space.default(), "block_k": 32, "stages": 6}
    assert any("bytes of shared memory" in text for text in broken(space, too_deep))


def test_machine_code_has_the_instructions_and_spills_nothing(tmp_path):
    """A comes by ldmatrix, B word by word."""
    space = space_of("n", "n")
    (kernel,) = space.apply(space.default())
    path = tmp_path / "kernel.cu"
    path.write_text(emit(kernel, space.target).text)
    used = nvcc.compile_source(path, path.with_suffix(".cubin"), "sm_80", [abi_header().parent])
    nvcc.refuse_spills(used, kernel.symbol)
    code = sass.disassemble(path.with_suffix(".cubin"))[f"{kernel.symbol}_kernel"]
    main = max((sass.kinds(body) for body in sass.loops(code)), key=lambda kinds: kinds["HMMA"])
    t = space.tiling(space.default())
    steps = t.block_k // 8
    assert main["HMMA"] == 2 * t.fragments_m * t.fragments_n * steps
    assert main["LDSM"] == t.fragments_m * steps
    assert main["LDS"] >= 4 * t.fragments_n * steps
    assert main["LDGSTS"] == space.copies(space.default())
    assert {one.opcode for one in code if one.kind == "HMMA"} == {"HMMA.1688.F32.TF32"}
