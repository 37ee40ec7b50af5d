"""Which kernel of a GPU serves a call: modes, plans, devices; and what an error of a launch comes to."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

import tvmops
from codegen.cuda import plan
from tests.support import python, randn

from .gpu import Pack, by_aten, by_kernel, compile_pack, on_gpu

RELU = "relu(float32;M=*,N=*)@sm_80"


@pytest.fixture(autouse=True)
def _loaded(pack: Pack) -> None:
    """Every test here calls the kernels of the pack."""


def test_nothing_is_chosen_before_it_was_timed(pack: Pack) -> None:
    before = pack.launches
    x = randn(24, 48).half()
    for name, args in (("mm", (x, x.t())), ("softmax", (x, -1)), ("gelu", (x,)), ("layer_norm", (x, [48]))):
        y, why = by_aten(name, *args, mode="auto")
        assert why == "never timed on a GPU"
        assert y.isfinite().all()
    assert pack.launches == before


def test_mode_off(pack: Pack) -> None:
    before = pack.launches
    for name, args in (("gelu", (randn(20, 48),)), ("mm", (randn(8, 8), randn(8, 8)))):
        assert by_aten(name, *args, mode="off")[1] == "mode is off"
    assert pack.launches == before


def test_a_plan_decides_by_size() -> None:
    small, large = randn(100), randn(1 << 17)
    buckets = plan.rows_plan_size(True)
    wins = bytes(int(b == plan.rows_plan_bucket(True, 1, large.numel())) for b in range(buckets))
    tvmops._C.set_plan(RELU, wins)
    assert by_aten("relu", small, mode="auto")[1] == "ATen is faster at this size by the plan"
    with tvmops.mode("auto"):
        (decision,) = tvmops.explain(on_gpu, "relu", large)
    assert (decision.kernel, decision.route) == (RELU, "cuda_rows")
    assert decision.reason == "a kernel applies and wins at this size by the plan"
    by_kernel("relu", small)  # in mode force


def test_a_plan_of_another_size_is_refused() -> None:
    size = tvmops._C.cuda_gemm_plan_size(False)
    with pytest.raises(RuntimeError, match=f"has 3 entries, not {size}"):
        tvmops._C.set_plan("matmul(bfloat16;M=*,N=*,K=*;a=n,b=n)@sm_80", bytes(3))


def test_the_plans_of_codegen_are_the_same() -> None:
    """codegen/cuda/plan.py and csrc/cuda/plan.cpp have the same bounds and order."""
    bounds = tvmops._C.cuda_plan_bounds()
    assert bounds == {name: getattr(plan, name) for name in bounds}

    def around(*names: str) -> list[int]:
        return sorted({b + d for name in names for b in bounds[name] for d in (0, 1)} | {1})

    sizes = list(itertools.product(*(around(f"GEMM_{name}") for name in ("ROWS", "COLUMNS", "DEPTHS"))))
    for static, batch in itertools.product((False, True), (1, 2)):
        size = plan.gemm_plan_size(static)
        assert tvmops._C.cuda_gemm_plan_size(static) == size
        seen = set()
        for m, n, k in sizes:
            bucket = plan.gemm_plan_bucket(static, batch, m, n, k)
            assert tvmops._C.cuda_gemm_plan_bucket(static, batch, m, n, k) == bucket
            seen.add(bucket)
        assert seen <= set(range(size))
        assert len(seen) == size // 2
    for by_size in (False, True):
        size = plan.rows_plan_size(by_size)
        assert tvmops._C.cuda_rows_plan_size(by_size) == size
        for rows, n in itertools.product(around("LENGTHS", "ELEMENTS"), repeat=2):
            bucket = plan.rows_plan_bucket(by_size, rows, n)
            assert tvmops._C.cuda_rows_plan_bucket(by_size, rows, n) == bucket
            assert 0 <= bucket < size
    size = plan.reduce_plan_size()
    assert tvmops._C.cuda_reduce_plan_size() == size
    seen = set()
    for sizes in itertools.product(around("ELEMENTS"), around("LENGTHS"), (1, 2, 1000)):
        bucket = plan.reduce_plan_bucket(*sizes)
        assert tvmops._C.cuda_reduce_plan_bucket(*sizes) == bucket
        seen.add(bucket)
    assert max(seen) < size


def test_the_plans_of_scans_are_the_same() -> None:
    assert tvmops._C.cuda_scan_plan_size() == plan.scan_plan_size()
    around = sorted({b + d for b in (*plan.LENGTHS, *plan.ELEMENTS) for d in (0, 1)} | {1})
    seen = set()
    for outer, n, inner in itertools.product((1, 1 << 8), around, around):
        bucket = plan.scan_plan_bucket(outer, n, inner)
        assert tvmops._C.cuda_scan_plan_bucket(outer, n, inner) == bucket
        seen.add(bucket)
    assert len(seen) > plan.scan_plan_size() // 2
    assert seen <= set(range(plan.scan_plan_size()))


def test_a_kernel_that_does_not_run_here_is_not_tried_again(pack: Pack) -> None:
    x = randn(20, 48)
    expected = torch.nn.functional.silu(x)
    before = pack.launches
    text = "no kernel image is available for execution on the device (CUDA error 209)"
    why = f"the kernel does not run on this device: {text}"
    for _ in range(3):
        y, said = by_aten("silu", x)
        assert torch.equal(y, expected)
        assert said == why
    assert pack.launches == before + 1
    in_place = x.clone()
    by_aten("silu_", in_place)
    assert torch.equal(in_place, expected)


def test_an_error_is_one_sentence_and_not_the_next_call_s() -> None:
    x = randn(20, 48)
    with tvmops.mode("force"), pytest.raises(RuntimeError) as error:
        on_gpu("sigmoid", x)
    assert str(error.value).splitlines()[0] == (
        "kernel sigmoid(float32;M=*,N=*)@sm_80 could not be launched on CUDA device 0: unspecified launch failure "
        "(CUDA error 719)"
    )
    torch.testing.assert_close(by_kernel("sigmoid", x), torch.sigmoid(x))


def test_a_launch_that_refuses_sizes_is_aten_s() -> None:
    y, why = by_aten("tanh", randn(2000))
    assert torch.equal(y, torch.tanh(randn(2000)))
    assert why == "the launch was refused: invalid configuration argument (CUDA error 9)"
    torch.testing.assert_close(by_kernel("tanh", randn(20)), torch.tanh(randn(20)))


def test_kernels_are_listed(pack: Pack) -> None:
    by_kernel("gelu", randn(8))
    ours = [k for k in tvmops.kernels() if k["pack"] == str(pack.path)]
    assert all(k["gpu"] and k["serves"] and not k["shadowed"] for k in ours)
    assert {k["name"] for k in ours if not k["usable"]} == {
        "matmul(float16;M=*,N=*,K=*;a=n,b=t)@sm_90a",
        "matmul(float16;M=*,N=*,K=*;a=n,b=t,rows=8)@sm_80",  # wants more shared memory than an 8.6 has
    }
    alone = {"TVMOPS_PACK_PATH": str(pack.path)}  # this process may have loaded others before
    told = python("import tvmops; print(tvmops.show_config())", env=alone).stdout
    assert f"kernels for GPUs: {len(ours) - 1} for sm_80, 1 for sm_90a" in told


def test_a_gpu_kernel_does_not_run_as_one_of_the_cpu() -> None:
    x = randn(8, 8)
    with pytest.raises(RuntimeError, match="is for a GPU"):
        tvmops._C.BoundKernel("gelu(float32;M=*,N=*)@sm_80", [x, x])


CODE = """
import sys, torch, tvmops
print(tvmops.load_pack(sys.argv[1]))
keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
x = torch.randn(24, 40).half()
def call():
    y = torch.ops.tvmops.linear.default.redispatch(keys, x, x)
    torch.testing.assert_close(y, x @ x.t())
with tvmops.mode("force"):
    for _ in range(2):
        (d,) = tvmops.explain(call)
        print(d.kernel, d.reason)
"""


@pytest.mark.parametrize(
    ("definitions", "said"),
    [
        ({"CAPABILITY_MAJOR": 8, "CAPABILITY_MINOR": 0}, "matmul(float16;M=*,N=*,K=*;a=n,b=t)@sm_80 a kernel applies"),
        ({"CAPABILITY_MAJOR": 7, "CAPABILITY_MINOR": 5}, "None no loaded kernel runs on this GPU"),
        ({"CAPABILITY_MAJOR": 12, "CAPABILITY_MINOR": 0}, "None no loaded kernel runs on this GPU"),
        # The kernel for sm_90a in the pack is one that fails.
        (
            {"CAPABILITY_MAJOR": 9, "CAPABILITY_MINOR": 0},
            "None the kernel does not run on this device: no kernel image",
        ),
        (
            {"DEVICE_ERROR": 35},
            "None device 0 can't be used: CUDA driver version is insufficient for CUDA runtime version (CUDA error 35)",
        ),
    ],
    ids=["8.0", "7.5", "12.0", "9.0", "driver"],
)
def test_devices(definitions: dict[str, int], said: str, tmp_path: Path) -> None:
    path = compile_pack(tmp_path, **definitions)
    lines = python(CODE, str(path)).stdout.splitlines()
    assert lines[0] == "True"
    assert [line.startswith(said) for line in lines[1:]] == [True, True], lines


def test_a_device_that_could_not_be_had_is_asked_for_again(tmp_path: Path) -> None:
    """Out of memory twice; an error that will stay, such as that of an old driver, is remembered."""
    served = "matmul(float16;M=*,N=*,K=*;a=n,b=t)@sm_80 a kernel applies; mode is force"
    failed = "None device 0 can't be used: {} (CUDA error {})"
    for error, text, after in ((2, "out of memory", served), (35, "CUDA driver version", None)):
        path = compile_pack(tmp_path, f"device{error}", DEVICE_ERROR=error, DEVICE_FAILURES=2)
        code = CODE.replace("range(2)", "range(4)")
        lines = python(code, str(path)).stdout.splitlines()[1:]
        said = failed.format(text, error)
        assert lines[0] == lines[1]
        assert lines[0].startswith(said[: said.index(text) + len(text)])
        assert lines[2:] == [after or lines[0]] * 2


def test_a_pack_without_the_entries_for_a_device(tmp_path: Path) -> None:
    path = compile_pack(tmp_path, NO_DEVICE_ENTRY=1)
    before = tvmops.kernels()
    with pytest.raises(RuntimeError) as error:
        tvmops.load_pack(path)
    assert str(error.value) == (
        f"pack {path}: kernel 'matmul(float16;M=*,N=*,K=*;a=n,b=n)@sm_80' is for target 'sm_80', and the pack has no "
        "entry point tvmops_pack_device"
    )
    assert tvmops.kernels() == before


def test_the_environment_loads_packs(tmp_path: Path) -> None:
    path = compile_pack(tmp_path)
    code = "import tvmops; print(sum(k['gpu'] for k in tvmops.kernels()), tvmops._C.load_pack_path())"
    assert python(code, env={"TVMOPS_PACK_PATH": str(path)}).stdout.split() == ["25", "0"]


def test_the_command_line(tmp_path: Path) -> None:
    path = compile_pack(tmp_path)
    code = "import sys; sys.argv = ['tvmops', 'kernels']; from tvmops.__main__ import main; sys.exit(main())"
    lines = python(code, env={"TVMOPS_PACK_PATH": str(path)}).stdout.splitlines()
    ours = [line for line in lines if "@sm_" in line]
    assert len(ours) == 25
    assert all(line.endswith("for a GPU") and "never timed" in line for line in ours)
