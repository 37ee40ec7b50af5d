"""GEMM kernels with mma.sync, in the emulator, against float64."""

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
from tests.codegen.cuda.gemm_judge import ACTIVATIONS, BIAS, RESIDUAL, SMALL, Case, Kernel

NT = Workload.parse("matmul(float16;M=*,N=*,K=*;a=n,b=t)")
FEW = Workload.parse("matmul(bfloat16;M=*,N=*,K=*;a=n,b=t,rows=64)")


def space_of(workload, target="sm_80"):
    return spaces.find(workload, find_gpu(target), "mma_sync")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small kernel."""
    return Kernel(space_of(NT), SMALL, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """The same with K in four parts."""
    return Kernel(space_of(NT), {**SMALL, "split_k": 4}, tmp_path_factory.mktemp("split"))


@pytest.mark.parametrize("workload", ops.device_workloads("matmul"), ids=str)
def test_shipped_kernels_are_right_whatever_the_sizes(workload, tmp_path):
    space = space_of(workload)
    kernel = Kernel(space, space.default(), tmp_path)
    kernel.check(Case(64, 64, 64))
    # Ragged in every size; of a transposed A the last vector of a row is there in part.
    kernel.check(Case(37, 72, 88, batch=2, beyond_a=8, beyond_b=16, flags=BIAS))
    if not space.rows:
        kernel.check(Case(129, 136, 40, activation=2, flags=RESIDUAL))


@pytest.mark.parametrize("flags", [0, BIAS, RESIDUAL, BIAS | RESIDUAL])
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_every_epilogue(small, split, activation, flags):
    for kernel in (small, split):
        kernel.check(Case(33, 72, 40, activation=activation, flags=flags), seed=activation)


@pytest.mark.parametrize("m", [1, 31, 32, 33, 70])
@pytest.mark.parametrize(("n", "k"), [(8, 8), (64, 32), (72, 104), (136, 520)])
def test_ragged_sizes(small, m, n, k):
    small.check(Case(m, n, k, batch=1 + m % 3, beyond_a=8, beyond_b=24))


@pytest.mark.parametrize("k", [8, 32, 40, 256, 520])
def test_parts_of_k_are_added_in_one_order_whatever_that_of_blocks(split, k):
    case = Case(40, 72, k, batch=2, flags=BIAS)
    first = split.check(case)
    again = split.check(case, order="random", seed=0)
    assert first.tobytes() == again.tobytes()


def test_a_dimension_that_is_static_is_compiled_in(tmp_path):
    kernel = Kernel(space_of(Workload.parse("matmul(float16;M=*,N=72,K=104;a=n,b=t)")), SMALL, tmp_path)
    kernel.check(Case(45, 72, 104, beyond_a=8))
    assert " n8" not in kernel.source.text


@pytest.mark.parametrize("seed", range(4))
def test_any_choice_that_the_solver_finds_is_right(seed, tmp_path):
    rng = random.Random(seed)
    workload = ops.device_workloads("matmul")[seed]
    space = space_of(workload, rng.choice(list(GPU_TARGETS)))
    choice = Solver(space).sample(rng)
    assert not broken(space, choice)
    kernel = Kernel(space, choice, tmp_path, space.target.name)
    tiling = space.tiling(choice)
    m = min(tiling.block_m + 1, space.rows or 999)
    kernel.check(Case(m, tiling.block_n + 8, 2 * tiling.block_k + 8, flags=BIAS | RESIDUAL))


@pytest.mark.parametrize("name", GPU_TARGETS)
def test_defaults_are_valid_on_every_target(name):
    for workload in ops.device_workloads("matmul"):
        space = space_of(workload, name)
        choice = space.default()
        assert not broken(space, choice)
        params = space.params(choice)
        assert params["shared_bytes"] <= find_gpu(name).shared_bytes
        assert params["threads"] == 128
        assert (params["layout_a"], params["layout_b"]) == tuple(int(workload.attrs[x] == "t") for x in "ab")
        assert (params["rows"], params["split_k"]) == ((64, 4) if "rows" in workload.attrs else (0, 1))


@pytest.mark.parametrize(
    ("workload", "changed", "said"),
    [
        (NT, {"block_k": 64, "stages": 6}, "fit in the 101376 bytes"),
        (NT, {"warps_m": 1, "warps_n": 1, "fragments_m": 1, "stages": 6, "block_k": 64}, "copies at most 16"),
        (NT, {"fragments_n": 3, "warps_n": 1, "warps_m": 4}, "same number of vectors"),
        (NT, {"block_k": 16}, "even number of steps"),
        (NT, {"warps_m": 4, "warps_n": 4}, "registers of a block"),
        (FEW, {"fragments_m": 4}, "no more rows than there are"),
    ],
)
def test_what_can_not_be_is_excluded_by_name(workload, changed, said):
    space = space_of(workload, "sm_86")
    assert any(said in text for text in broken(space, {**space.default(), **changed}))


def test_another_space_is_known_by_name_only():
    with pytest.raises(CodegenError, match="has no space 'gemm' on sm_80"):
        spaces.find(NT, find_gpu("sm_80"), "gemm")
    assert spaces.find(NT, find_gpu("sm_80")).name == "mma_sync"


@pytest.mark.parametrize("key", [NT.key, FEW.key])
def test_machine_code_has_the_instructions_and_spills_nothing(key, tmp_path):
    space = space_of(Workload.parse(key))
    (kernel,) = space.apply(space.default())
    path = tmp_path / "kernel.cu"
    path.write_text(emit(kernel, find_gpu("sm_80")).text)
    used = nvcc.compile_source(path, path.with_suffix(".cubin"), "sm_80", [abi_header().parent])
    nvcc.refuse_spills(used, key)
    assert len(used) == (2 if space.rows else 1)
    code = sass.disassemble(path.with_suffix(".cubin"))[f"{kernel.symbol}_kernel"]
    t = space.tiling(space.default())
    main = max((sass.kinds(body) for body in sass.loops(code)), key=lambda kinds: kinds["HMMA"])
    steps = t.block_k // 16
    assert main["HMMA"] == 2 * t.fragments_m * t.fragments_n * steps
    assert main["LDSM"] == (t.fragments_m + t.fragments_n) * steps
    assert main["LDGSTS"] == space.copies(space.default())
    assert {one.opcode for one in code if one.kind == "HMMA"} == {f"HMMA.16816.F32{'.BF16' if space.rows else ''}"}
