"""Predicted times: what a roofline must say."""

import pytest

from codegen.cuda import predict
from codegen.cuda.host import Launch
from codegen.cuda.lower import DeviceSource
from codegen.export import nvcc, sass
from codegen.export.pack import PackKernel
from codegen.target import find_gpu
from codegen.workload import Workload

A100 = find_gpu("sm_80")
TILE = {"block_m": 128, "block_n": 128}
GRID = ("floor_div((N + 127), 128)", "floor_div((M + 127), 128)", "1")
SCALARS = {"M": "sizes[1]", "N": "sizes[2]", "K": "sizes[3]"}


def product(loop, threads=128, registers=168, shared=49152, target=A100):
    """A GEMM of 128x128 tiles with these instructions in its main loop."""
    launch = Launch("f", GRID, (str(threads), "1", "1"), ("1", "1", "1"), str(shared), ())
    source = DeviceSource("f", target, "", (launch,), False, SCALARS)
    kernel = PackKernel(
        Workload.parse("matmul(float16;M=*,N=*,K=*;a=n,b=t)"), target, "test", "cuda_gemm", {}, TILE, []
    )
    body = [sass.Instruction(16 * i, opcode) for i, opcode in enumerate(["MOV", *loop])]
    body.append(sass.Instruction(16 * len(body), "BRA", 16))
    usage = nvcc.Usage("f", "sm_80", registers, 0, 0, 0, 0)

    def at(m, n, k):
        (found,) = predict.predict(kernel, source, [usage], {"f": body}, [{"M": m, "N": n, "K": k}])
        return found

    return at


def test_matrix_instructions_alone_run_at_the_peak_of_the_card():
    found = product(["HMMA.16816.F32"] * 64)(8192, 8192, 8192)
    assert found.limit == "tensor"
    waves = 4096 / (3 * 108)  # blocks in all, at once
    assert found.tflops == pytest.approx(A100.tensor_tflops * waves / (int(waves) + 1), rel=0.01)


def test_tf32_runs_at_half_of_it():
    """An instruction of half the depth takes as long."""
    half, tf32 = (product([name] * 64)(8192, 8192, 8192) for name in ("HMMA.16816.F32", "HMMA.1688.F32.TF32"))
    assert tf32.limit == "tensor"
    assert tf32.tflops == pytest.approx(half.tflops / 2, rel=0.01)


def test_few_blocks_leave_multiprocessors_idle():
    at = product(["HMMA.16816.F32"] * 64)
    assert at(1024, 1024, 8192).tflops < 0.7 * at(8192, 8192, 8192).tflops


def test_a_product_of_few_rows_is_limited_by_memory():
    found = product(["HMMA.16816.F32"] * 64)(16, 3 * 108 * 2 * 128, 4096)
    assert found.limit == "memory"
    assert found.gigabytes_per_second == pytest.approx(A100.bandwidth, rel=0.02)


def test_a_small_product_is_limited_by_the_launch():
    found = product(["HMMA.16816.F32"] * 64)(8, 8, 8)
    assert found.limit == "launch"
    assert found.seconds == pytest.approx(2e-6)


@pytest.mark.parametrize(
    ("more", "limit"),
    [(["IADD3"] * 900, "issue"), (["LDS.128"] * 300, "shared"), (["MUFU.EX2"] * 100, "special")],
)
def test_other_instructions_can_take_longer(more, limit):
    fast, slow = product(["HMMA.16816.F32"] * 64), product(["HMMA.16816.F32"] * 64 + more)
    assert slow(8192, 8192, 8192).limit == limit
    assert slow(8192, 8192, 8192).seconds > 1.2 * fast(8192, 8192, 8192).seconds


def test_what_is_before_the_loop_does_not_count():
    body = [sass.Instruction(16 * i, op) for i, op in enumerate(["IADD3"] * 500 + ["HMMA.16816.F32", "LDS"])]
    body.append(sass.Instruction(16 * len(body), "BRA", 16 * 500))
    assert [one.opcode for one in predict.main_loop(body)] == ["HMMA.16816.F32", "LDS", "BRA"]


def test_a_loop_around_the_main_one_and_a_wait_out_of_line_do_not_count():
    opcodes = ["IADD3"] * 50 + ["HGMMA.64x256x16.F32.BF16"] * 4 + ["IADD3"] * 9 + ["BRA"]  # from 50: the main loop
    opcodes += ["HGMMA.64x256x16.F32.BF16"] * 8 + ["STG"] * 300 + ["BRA", "SYNCS", "BRA"]
    body = [sass.Instruction(16 * i, op) for i, op in enumerate(opcodes)]
    for at, target in ((63, 50), (372, 0), (374, 52)):  # the last: a wait, which jumps back into the main loop
        body[at] = sass.Instruction(16 * at, "BRA", 16 * target)
    assert predict.main_loop(body) == body[50:64]


@pytest.mark.parametrize(
    ("opcode", "flops"),
    [
        ("HMMA.16816.F32.BF16", 4096),
        ("HMMA.1688.F32", 2048),
        ("HGMMA.64x128x16.F32.BF16", 65536),  # of one of the four warps
        ("IMMA.16832.S8.S8", 0),
        ("FFMA", 0),
    ],
)
def test_operations_of_an_instruction(opcode, flops):
    assert predict.tensor_flops(opcode) == flops


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "blocks"),
    [(128, 168, 49152, 3), (128, 255, 0, 2), (256, 32, 0, 8), (128, 64, 166912, 1), (1024, 64, 0, 1), (32, 16, 0, 32)],
)
def test_blocks_of_a_multiprocessor(threads, registers, shared, blocks):
    assert predict.resident_blocks(A100, threads, registers, shared) == blocks


def row_kernel(opcodes):
    params = {"operands": 2, "role0": 0, "bytes0": 2, "role1": 0, "bytes1": 2}
    kernel = PackKernel(Workload.parse("softmax(float16;M=*,N=*)"), A100, "test", "cuda_rows", {}, params, [])
    launch = Launch("f", ("1", "1", "1"), ("128", "1", "1"), ("1", "1", "1"), "0", ())
    source = DeviceSource("f", A100, "", (launch,), False, {})
    body = [sass.Instruction(16 * i, opcode) for i, opcode in enumerate(opcodes)]
    usage = nvcc.Usage("f", "sm_80", 32, 0, 0, 0, 0)
    (found,) = predict.predict(kernel, source, [usage], {"f": body}, [{"M": 8192, "N": 4096}])
    return found


def test_a_copy_runs_at_the_bandwidth_of_the_card():
    found = row_kernel(["LDG.E.128", "IADD3", "STG.E.128"])
    assert found.limit == "memory"
    assert found.gigabytes_per_second == pytest.approx(A100.bandwidth, rel=0.05)


@pytest.mark.parametrize(
    ("sizes", "gigabytes", "launches"), [((8192, 4096, 1), 0.134, 1), ((1, 1 << 20, 64), 0.268, 2)]
)
def test_a_reduction_is_the_kernel_of_its_form_and_a_join(sizes, gigabytes, launches):
    params = {"bytes": 4, "result_bytes": 4, "threads": 256, "vector": 4, "loads": 4, "kept": 0, "depth": 0}
    kernel = PackKernel(
        Workload.parse("sum(float32;M=*,N=*)"), A100, "test", "cuda_reduce", {}, {**params, "blocks": 864}, []
    )
    names = ("along", "across", "join")
    made = tuple(Launch(name, ("1", "1", "1"), ("256", "1", "1"), ("1", "1", "1"), "0", ()) for name in names)
    source = DeviceSource("f", A100, "", made, True, {})
    wanted = "along" if sizes[2] == 1 else "across"
    # What does not run would take long.
    bodies = {n: ["LDG.E.128", "FADD"] if n in (wanted, "join") else ["LDG.E.U16", *["MUFU.EX2"] * 400] for n in names}
    bodies = {n: [sass.Instruction(16 * i, op) for i, op in enumerate(body)] for n, body in bodies.items()}
    usages = [nvcc.Usage(name, "sm_80", 32, 0, 0, 0, 0) for name in names]
    point = dict(zip(("M", "N", "inner"), sizes, strict=True))
    (found,) = predict.predict(kernel, source, usages, bodies, [point])
    assert found.limit == "memory"
    assert found.seconds == pytest.approx(gigabytes / A100.bandwidth + launches * 2e-6, rel=0.01)


def test_exponentials_can_be_the_limit_of_rows():
    many = ["LDG.E.U16", "STG.E.U16"] + ["MUFU.EX2"] * 40
    assert row_kernel(many).limit == "special"
