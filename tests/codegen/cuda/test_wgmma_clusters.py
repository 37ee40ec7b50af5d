"""GEMM kernels whose blocks share tiles of B in clusters: right against float64, and noticed where they are wrong."""

import re

import pytest

from codegen.export import sass
from codegen.measure import device_batch, emulator
from codegen.spaces.space import broken
from codegen.target import find_gpu
from tests.codegen.cuda.gemm_judge import BIAS, RESIDUAL, Case, Kernel
from tests.codegen.cuda.hopper_gemms import SMALL, machine_code, space_of
from tests.codegen.cuda.test_wgmma_mutants import Mutant

PAIR = {**SMALL, "cluster": 2}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Kernels of layouts, each made once: two clusters of two blocks of 64 x 128."""
    known = {}

    def get(a, b):
        if (a, b) not in known:
            space = space_of("bfloat16", a, b, multiprocessors=4)
            known[a, b] = Kernel(space, {**PAIR, "block_n": 128}, tmp_path_factory.mktemp(a + b), "sm_90a")
        return known[a, b]

    return get


@pytest.mark.parametrize(("a", "b"), [("n", "t"), ("t", "n")])
@pytest.mark.parametrize(
    "case",
    [
        Case(128, 128, 64),
        Case(1, 8, 8),  # the second block has nothing
        Case(200, 264, 72, batch=2, beyond_a=8, beyond_b=16, activation=2, flags=BIAS | RESIDUAL),
        Case(64, 136, 328, batch=3),  # the ring wraps, and each cluster has several tiles
        Case(72, 72, 0, flags=BIAS),
        Case(0, 64, 64),
    ],
    ids=str,
)
def test_sizes(pairs, a, b, case):
    pairs(a, b).check(case)


@pytest.mark.parametrize("order", ["backward", "random"])
def test_the_order_of_blocks_and_warps_does_not_matter(pairs, order):
    pairs("n", "t").check(Case(150, 136, 200), order=order, seed=3)


def test_the_default_tile_in_clusters(tmp_path):
    """128 x 256 and four stages; one cluster for three tiles of 256 rows."""
    space = space_of("float16", "n", "t", multiprocessors=2)
    assert space.default()["cluster"] == 2
    kernel = Kernel(space, space.default(), tmp_path, "sm_90a")
    kernel.check(Case(300, 264, 328, batch=1, beyond_a=8))


BARRIERS = r"  tvm_builtin_ptx_barrier_cluster_arrive_\w+\(\);\n  tvm_builtin_ptx_barrier_cluster_wait_\w+\(\);\n"
EMPTY = (
    r"tvm_builtin_cuda_mbarrier_wait\(\(&\(\(\(uint64_t\*\)shared_ptr\)\[\(ring_ptr\[0\] \+ 2\)"
    r"\]\)\), \(ring_ptr\[1\] \^ 1\)\);"
)
REMOTE = r"tvm_builtin_ptx_mbarrier_arrive_nocount_arrive_shared__cluster_b64\([^;]*\);"
# What is changed: a pattern of the source, what comes in its place, and how often; 0: everywhere.
MUTANTS = {
    "no barrier of the cluster at the beginning": (BARRIERS, "  __syncthreads();\n", 1),
    "no barrier of the cluster at the end": (BARRIERS + r"}", "}", 1),
    "barriers of the cluster that order nothing": (r"arrive\.release\.aligned", "arrive.relaxed.aligned", 0),
    "the mask leaves out the other block": (r"\(ushort\)3\)", "(ushort)(1 << tiles_ptr[3]))", 0),
    "the mask names the other block alone": (r"\(ushort\)3\)", "(ushort)(2 >> tiles_ptr[3]))", 0),
    "the mask names a block there is not": (r"\(ushort\)3\)", "(ushort)7)", 0),
    "both blocks load the same part": (r"\(tiles_ptr\[3\] \* 32\) \+ place_ptr\[2\]", "place_ptr[2]", 0),
    "both parts go to the same place": (r"\(tiles_ptr\[3\] \* 2048\)", "0", 0),
    "an empty barrier counts one block's warps": (r"\(s \+ 2\)\]\)\)\), \(uint\)8\)", "(s + 2)]))), (uint)4)", 0),
    "a full barrier expects one part": (r"\(uint\)16384\)", "(uint)12288)", 0),
    "no arrival at the other block": (REMOTE, lambda m: f"if (lane_ptr[0] == tiles_ptr[3]) {m[0]}", 0),
    "no arrival at the own block": (REMOTE, lambda m: f"if (lane_ptr[0] != tiles_ptr[3]) {m[0]}", 0),
    "all arrivals at the first block": (r"\(uint\)\(lane_ptr\[0\] % 2\)", "(uint)0", 0),
    "no wait for consumers": (EMPTY, "", 0),
    "blocks walk apart": (r"(tile_ptr\[0\] = )\(", r"\1(tiles_ptr[3] + ", 0),
    "blocks have the same rows": (r"\(\(tiles_ptr\[3\] \* 64\) \+ place_ptr\[1\]\)", "place_ptr[1]", 0),
    "no cluster at the launch": (r"clusterDim\.x = \(unsigned\)\(2\)", "clusterDim.x = 1", 0),
}
# Six steps of K in a ring of two, two tiles of 128 rows for the one cluster.
CASE = Case(200, 64, 384)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return Kernel(space_of(), PAIR, tmp_path_factory.mktemp("good"), "sm_90a")


def _noticed(kernel, text, folder):
    for order in ("forward", "random"):
        try:
            Mutant(kernel, text, folder).check(CASE, order=order)
        except (emulator.EmulationError, AssertionError):
            return True
    return False


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_noticed(good, tmp_path, name):
    pattern, change, times = MUTANTS[name]
    text, count = re.subn(pattern, change, good.source.text, count=times)
    assert count, "the mutation changes nothing"
    assert _noticed(good, text, tmp_path)


def test_unchanged_it_is_right(good):
    good.check(CASE)


def test_the_rank_in_descriptors_is_noticed(pairs, tmp_path):
    """An address of shared memory has the block's rank in bits that a descriptor uses for something else."""
    kernel = pairs("t", "n")
    text, count = re.subn(r" & \(uint\)262143", "", kernel.source.text)
    assert count == 2
    with pytest.raises((emulator.EmulationError, AssertionError)):
        Mutant(kernel, text, tmp_path).check(Case(128, 128, 64))


def test_what_a_cluster_can_not_share():
    """Of a row-major B each block loads whole boxes of 64 columns."""
    choice = {"block_n": 64, "cluster": 2}
    assert any("whole boxes" in text for text in broken(space_of("float16", "n", "n"), {**SMALL, **choice}))
    assert not broken(space_of("float16", "n", "t"), {**SMALL, **choice})


def test_what_is_timed_first_has_clusters_and_has_none():
    found = device_batch.candidates([find_gpu("sm_90a")], 1, 0, only="matmul(bfloat16;M=*,N=*,K=*;a=n,b=t)")
    choices = [one.choice for one in found if one.space.name == "wgmma"]
    assert [choice["cluster"] for choice in choices] == [2, 1]
    assert {**choices[0], "cluster": 1} == choices[1]


def test_machine_code_multicasts_and_spills_nothing(tmp_path):
    code = machine_code(space_of("float16", "n", "t", find_gpu("sm_90a").multiprocessors), tmp_path)
    opcodes = [i.opcode for i in code]
    assert "UTMALDG.3D.MULTICAST" in opcodes
    assert "UTMALDG.3D" in opcodes
    assert "UCGABAR_WAIT" in opcodes
    # A fence of the whole device for each stage would cost more than sharing saves.
    main = max(sass.loops(code), key=lambda body: sass.kinds(body)["HGMMA"])
    assert not sass.kinds(main)["MEMBAR"]
