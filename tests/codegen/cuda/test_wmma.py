"""GEMM kernels with wmma, scheduled from the TE definition, in the emulator, against float64."""

import random

import pytest

from codegen import ops, spaces
from codegen.cuda.lower import emit
from codegen.errors import CodegenError
from codegen.export import nvcc, sass
from codegen.export.pack import abi_header
from codegen.spaces.solver import Solver
from codegen.spaces.space import broken
from codegen.target import GPU_TARGETS, find_gpu
from codegen.workload import Workload
from tests.codegen.cuda.gemm_judge import ACTIVATIONS, BIAS, RESIDUAL, Case, Kernel

NT = Workload.parse("matmul(float16;M=*,N=*,K=*;a=n,b=t)")
SERVED = [w for w in ops.device_workloads("matmul") if w.attrs["a"] == "n" and w.dtype != "float32"]
# Two warps, a block of 32 x 64 with fragments of 16 x 16.
SMALL = {
    "m": 16,
    "n": 16,
    "warps_m": 1,
    "warps_n": 2,
    "fragments_m": 2,
    "fragments_n": 2,
    "block_k": 32,
    "stages": 3,
    "padding": 8,
    "padding_c": 4,
    "vector": 8,
    "vector_c": 4,
}


def space_of(workload, target="sm_80"):
    return spaces.find(workload, find_gpu(target), "wmma")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small kernel."""
    return Kernel(space_of(NT), SMALL, tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("workload", [w for w in SERVED if "rows" not in w.attrs], ids=str)
def test_defaults_are_right(workload, tmp_path):
    space = space_of(workload)
    kernel = Kernel(space, space.default(), tmp_path)
    kernel.check(Case(64, 64, 64))
    kernel.check(Case(129, 72, 136, batch=2, beyond_a=8, beyond_b=16, activation=2, flags=BIAS | RESIDUAL))


@pytest.mark.parametrize("shape", [(32, 8), (8, 32)])
def test_other_shapes_of_fragments(shape, tmp_path):
    kernel = Kernel(space_of(NT), {**SMALL, "m": shape[0], "n": shape[1]}, tmp_path)
    for k in (8, 64, 104):
        kernel.check(Case(75, 72, k, flags=BIAS))


@pytest.mark.parametrize("flags", [0, BIAS, RESIDUAL, BIAS | RESIDUAL])
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_every_epilogue(small, activation, flags):
    small.check(Case(33, 72, 40, activation=activation, flags=flags), seed=activation)


@pytest.mark.parametrize("m", [1, 31, 32, 70])
@pytest.mark.parametrize(("n", "k"), [(8, 8), (64, 32), (72, 104), (136, 520)])
def test_ragged_sizes(small, m, n, k):
    small.check(Case(m, n, k, batch=1 + m % 3, beyond_a=8, beyond_b=24))


@pytest.mark.parametrize("seed", range(3))
def test_any_choice_that_the_solver_finds_is_right(seed, tmp_path):
    rng = random.Random(seed)
    space = space_of(SERVED[2 * seed], rng.choice(list(GPU_TARGETS)))
    choice = Solver(space).sample(rng)
    assert not broken(space, choice)
    kernel = Kernel(space, choice, tmp_path, space.target.name)
    t = space.tiling(choice)
    kernel.check(Case(min(t.block_m + 1, space.rows or 999), t.block_n + 8, 2 * t.block_k + 8, flags=BIAS))


@pytest.mark.parametrize("name", GPU_TARGETS)
def test_defaults_are_valid_and_take_the_shared_memory_that_they_say(name):
    for workload in SERVED:
        space = space_of(workload, name)
        choice = space.default()
        assert not broken(space, choice)
        (launch,) = emit(space.apply(choice)[0], find_gpu(name)).launches
        assert int(launch.shared_bytes) == space.params(choice)["shared_bytes"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"m": 32}, "m * n = 256"),
        ({"block_k": 64, "stages": 4}, "bytes of the stages in shared memory"),
        ({"warps_m": 4, "warps_n": 4}, "registers, estimated"),
        ({"fragments_m": 1, "fragments_n": 1, "warps_n": 4, "warps_m": 4, "block_k": 16}, "same number of vectors"),
        ({"warps_n": 4, "fragments_m": 2, "n": 32, "m": 8}, "columns of a block"),
    ],
)
def test_what_can_not_be_is_excluded_by_name(changed, said):
    space = space_of(NT, "sm_86")
    assert any(said in text for text in broken(space, {**space.default(), **changed}))


def test_narrow_fragments_of_a_row_major_b_would_be_misaligned():
    space = space_of(Workload.parse("matmul(float16;M=*,N=*,K=*;a=n,b=n)"))
    assert any("multiples of 32 bytes" in text for text in broken(space, {**SMALL, "m": 32, "n": 8}))
    assert not broken(space, {**SMALL, "m": 8, "n": 32})


def test_a_transposed_a_is_left_to_other_spaces():
    with pytest.raises(CodegenError, match="has no space 'wmma' on sm_80"):
        space_of(Workload.parse("matmul(float16;M=*,N=*,K=*;a=t,b=n)"))


def test_machine_code_has_the_instructions_and_spills_nothing(tmp_path):
    space = space_of(NT)
    (kernel,) = space.apply(space.default())
    path = tmp_path / "kernel.cu"
    path.write_text(emit(kernel, find_gpu("sm_80")).text)
    nvcc.refuse_spills(
        nvcc.compile_source(path, path.with_suffix(".cubin"), "sm_80", [abi_header().parent]), kernel.symbol
    )
    (code,) = sass.disassemble(path.with_suffix(".cubin")).values()
    main = max((sass.kinds(body) for body in sass.loops(code)), key=lambda kinds: kinds["HMMA"])
    t = space.tiling(space.default())
    assert main["HMMA"] == 2 * t.fragments_m * t.fragments_n * t.block_k // 16
    assert main["LDSM"] > 0
    assert main["LDGSTS"] > 0
