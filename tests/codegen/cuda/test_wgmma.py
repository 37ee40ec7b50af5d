"""GEMM kernels with wgmma, in the emulator, against float64; what their machine code has; what their space allows."""

import random

import pytest

from codegen import ops, spaces
from codegen.cuda.hopper import REGISTERS, descriptor
from codegen.errors import CodegenError
from codegen.export import sass
from codegen.spaces.solver import Solver
from codegen.spaces.space import broken
from codegen.target import find_gpu
from codegen.workload import Workload
from tests.codegen.cuda.gemm_judge import ACTIVATIONS, BIAS, RESIDUAL, Case, Kernel
from tests.codegen.cuda.hopper_gemms import LAYOUTS, SMALL, machine_code, space_of

HOPPER = find_gpu("sm_90a")
NT = Workload.parse("matmul(float16;M=*,N=*,K=*;a=n,b=t)")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Small kernels of the layouts, each made once."""
    known = {}

    def get(a="n", b="t"):
        if (a, b) not in known:
            known[a, b] = Kernel(space_of("float16", a, b), SMALL, tmp_path_factory.mktemp(a + b), "sm_90a")
        return known[a, b]

    return get


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("a", "b"), LAYOUTS)
def test_shipped_kernels_are_right(dtype, a, b, tmp_path):
    """Two tiles each way, which one cluster of two blocks takes; a ring that wraps."""
    space = space_of(dtype, a, b, multiprocessors=3)
    kernel = Kernel(space, space.default(), tmp_path, "sm_90a")
    kernel.check(Case(131, 264, 328, beyond_a=8, beyond_b=16))
    kernel.check(Case(8, 8, 8, batch=2, activation=2, flags=BIAS | RESIDUAL))


def test_the_shipped_kernel_of_tf32_is_right(tmp_path):
    """Of float32 that TMA rounds to nearest; both extents along memory are multiples of 4."""
    space = space_of("float32", multiprocessors=4)
    kernel = Kernel(space, space.default(), tmp_path, "sm_90a")
    kernel.check(Case(131, 268, 164, beyond_a=4, beyond_b=8))
    kernel.check(Case(8, 4, 4, batch=2, activation=2, flags=BIAS | RESIDUAL))
    params = space.params(space.default())
    assert (params["align"], params["tf32"], params["block_k"]) == (4, 1, 32)


@pytest.mark.parametrize(("a", "b"), [*LAYOUTS, ("t", "t")])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [
        (64, 64, 64),
        (1, 8, 8),
        (70, 80, 72),  # ragged everywhere
        (200, 200, 40),  # several tiles a block, less than one step of K
        (64, 136, 520),  # the ring wraps many times
        (0, 64, 64),
    ],
)
def test_sizes(small, a, b, m, n, k):
    small(a, b).check(Case(m, n, k))


@pytest.mark.parametrize("m", [7, 63, 65, 129])
def test_rows_that_are_no_multiple_of_anything(small, m):
    small().check(Case(m, 72, 136, beyond_a=8))


def test_without_any_k_sums_are_zero(small):
    small().check(Case(72, 72, 0, beyond_a=8, beyond_b=8, flags=BIAS))


@pytest.mark.parametrize(("a", "b"), LAYOUTS)
def test_batches(small, a, b):
    small(a, b).check(Case(72, 72, 72, batch=3, beyond_a=16, beyond_b=8))


@pytest.mark.parametrize("flags", [0, BIAS, RESIDUAL, BIAS | RESIDUAL])
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_every_epilogue(small, activation, flags):
    small().check(Case(72, 72, 40, batch=2, activation=activation, flags=flags), seed=activation)


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_the_order_of_warps_does_not_matter(small, order):
    case = Case(200, 136, 264, flags=BIAS)
    first = small().check(case)
    assert small().check(case, order=order).tobytes() == first.tobytes()


@pytest.mark.parametrize(
    "choice",
    [
        {"consumers": 3, "block_n": 192, "stages": 3, "chunk": 64},
        {"consumers": 1, "tiles": 2, "block_n": 96, "stages": 4},
        {"consumers": 2, "tiles": 2, "block_n": 128, "stages": 3, "chunk": 64, "group": 1},
        {"consumers": 1, "block_n": 32, "stages": 8, "persistent": 0},
    ],
)
def test_other_choices(choice, tmp_path):
    space = space_of("bfloat16")
    choice = {**space.default(), **choice}
    assert not broken(space, choice)
    Kernel(space, choice, tmp_path, "sm_90a").check(Case(264, 200, 200, flags=BIAS))


@pytest.mark.parametrize("seed", range(3))
def test_any_choice_that_the_solver_finds_is_right(seed, tmp_path):
    rng = random.Random(seed)
    space = space_of("bfloat16", *LAYOUTS[seed])
    choice = Solver(space).sample(rng)
    assert not broken(space, choice)
    params = space.params(choice)
    kernel = Kernel(space, choice, tmp_path, "sm_90a")
    kernel.check(Case(params["block_m"] + 8, params["block_n"] + 8, 136, flags=RESIDUAL))


def test_the_default_choices_are_valid():
    for dtype in ("float16", "bfloat16"):
        for a, b in LAYOUTS:
            space = space_of(dtype, a, b)
            assert not broken(space, space.default())
            params = space.params(space.default())
            assert (params["block_m"], params["block_n"], params["threads"]) == (128, 256, 384)
            assert (params["layout_a"], params["layout_b"]) == (int(a == "t"), int(b == "t"))
            assert params["shared_bytes"] <= HOPPER.shared_bytes


def test_what_a_producer_gives_up_is_what_consumers_get():
    """Or setmaxnreg waits for registers that nobody gives back."""
    for consumers, (given, wanted) in REGISTERS.items():
        if given:
            each = 65536 // (128 * (consumers + 1)) // 8 * 8
            assert given + consumers * wanted <= each * (consumers + 1)
            assert given % 8 == wanted % 8 == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"stages": 5}, "shared memory"),
        ({"chunk": 64}, "shared memory"),
        ({"tiles": 2, "stages": 2}, "registers after setmaxnreg"),
        ({"consumers": 3, "stages": 2}, "registers after setmaxnreg"),
        ({"consumers": 3, "block_n": 224, "stages": 2}, "registers at launch"),
        ({"consumers": 3, "tiles": 2, "block_n": 32, "stages": 2}, "rows of a box of A"),
        ({"block_n": 96, "chunk": 64, "stages": 2}, "whole chunks"),
    ],
)
def test_what_can_not_be_is_excluded_by_name(changed, said):
    space = space_of()
    assert any(said in text for text in broken(space, {**space.default(), **changed}))


def test_boxes_of_a_row_major_b_are_64_columns():
    space = space_of("float16", "n", "n")
    assert any("64 columns" in text for text in broken(space, {**space.default(), "block_n": 96}))


def test_the_descriptor_is_the_isas():
    """128-byte swizzle is 1 in bits 62-63, 1024 bytes from 8 rows to the next in bits 32-45, in units of 16."""
    word = descriptor(8192)
    assert (word >> 62, word >> 32 & 0x3FFF, word >> 16 & 0x3FFF, word & 0x3FFF) == (1, 64, 512, 0)


def test_hopper_has_it_by_default_but_for_few_rows():
    for w in ops.device_workloads("matmul"):
        # Of TF32 operands wgmma takes what is contiguous along K.
        across = w.dtype == "float32" and (w.attrs["a"], w.attrs["b"]) != ("n", "t")
        assert spaces.find(w, HOPPER).name == ("mma_sync" if across or "rows" in w.attrs else "wgmma")


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("matmul(float16;M=*,N=*,K=*;a=n,b=t,rows=64)", "sm_90a"),
        ("matmul(float32;M=*,N=*,K=*;a=n,b=t)", "sm_90a"),
        ("matmul(float32;M=*,N=*,K=*;a=n,b=n,tf32=1)", "sm_90a"),
        ("matmul(float16;M=*,N=*,K=*;a=n,b=t)", "sm_80"),
    ],
)
def test_what_the_space_does_not_serve(key, target):
    with pytest.raises(CodegenError, match=f"has no space 'wgmma' on {target}"):
        spaces.find(Workload.parse(key), find_gpu(target), "wgmma")


@pytest.mark.parametrize(("a", "b"), LAYOUTS)
def test_machine_code_has_the_instructions_and_spills_nothing(a, b, tmp_path):
    space = spaces.find(Workload.parse(f"matmul(bfloat16;M=*,N=*,K=*;a={a},b={b})"), HOPPER, "wgmma")
    code = machine_code(space, tmp_path)
    main = max((sass.kinds(body) for body in sass.loops(code)), key=lambda kinds: kinds["HGMMA"])
    assert main["HGMMA"] >= 4  # a step of K
    kinds = sass.kinds(code)
    assert kinds["UTMALDG"] >= 2
    assert kinds["USETMAXREG"] == 2
    assert not kinds["HMMA"]
