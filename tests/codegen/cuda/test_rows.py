"""Kernels made of row programs: every role and every way to go along a row, against float64; the space."""

import random
import re

import pytest
import torch

from codegen import ops, spaces
from codegen.cuda.lower import emit
from codegen.cuda.rows import Shape, rows_kernel
from codegen.errors import CodegenError
from codegen.export import nvcc
from codegen.export.pack import abi_header
from codegen.program import Operand, Pass, Program, Scalars
from codegen.spaces.solver import Solver
from codegen.spaces.space import broken
from codegen.target import GPU_TARGETS, find_gpu
from codegen.workload import Workload
from tests.codegen.cuda.device_rows import TARGET, TORCH, Rows, kernel, within
from tests.codegen.cuda.one_source import together

# Every role, a sum of what was stored and so rounded, two reductions in one pass, three passes.
PROGRAM = Program(
    (
        Operand("x"),
        Operand("other"),
        Operand("weight", "vector", dtype="float32"),
        Operand("bias", "vector"),
        Operand("scale", "scalar", dtype="float32"),
        Operand("sum", written=True),
        Operand("y", written=True),
        Operand("mean", "scalar", written=True, dtype="float32"),
        Operand("largest", "scalar", written=True, dtype="float32"),
        Operand("kept", "scratch", written=True, dtype="float32"),
    ),
    (
        Pass(store={"sum": lambda v: v.x + v.other}, reduce={"total": ("sum", lambda v: v.sum)}),
        Scalars(values={"m": lambda v: v.total / v.n}, store={"mean": lambda v: v.m}),
        Pass(
            values={"d": lambda v: v.sum - v.m},
            reduce={"top": ("max", lambda v: v.d), "squares": ("sum", lambda v: v.kept * v.kept)},
            store={"kept": lambda v: v.d * v.scale},
            prefetch=("y",),
        ),
        Scalars(store={"largest": lambda v: v.top}),
        Pass(store={"y": lambda v: v.kept / v.squares * v.weight + v.bias + v.p}),
    ),
    ("p",),
)
# A block of two warps, rows of at most 64 * 2 vectors kept, few blocks, so that each has several rows.
VECTORS = {"float32": (1, 4), "bfloat16": (2, 8), "float16": (1, 4, 8)}
LENGTHS = {1: 9, 7: 5, 8: 70, 40: 21, 64: 10, 100: 5, 131: 3, 256: 3, 512: 2, 1024: 2, 1032: 2, 2056: 1, 2057: 1}


def given(dtype, rows, n):
    torch.manual_seed(rows * 10000 + n)
    shapes = {"row": (rows, n), "vector": (n,), "scalar": (rows,)}
    return {
        o.name: torch.randn(shapes[o.role]).to(TORCH[dtype if o.dtype == "data" else o.dtype])
        for o in PROGRAM.operands
        if not o.written
    }


def check(rows_of, dtype, rows, n, gap=0):
    x = given(dtype, rows, n)
    got = rows_of(x, rows, n, [0.5], gap)
    total = (x["x"].float() + x["other"].float()).to(TORCH[dtype])
    assert torch.equal(got["sum"], total)
    mean = total.double().mean(1)
    torch.testing.assert_close(got["mean"].double(), mean, rtol=1e-6, atol=1e-6)
    d = total.double() - mean[:, None]
    torch.testing.assert_close(got["largest"].double(), d.amax(1), rtol=1e-6, atol=1e-6)
    kept = d * x["scale"].double()[:, None]
    if n > 1:
        y = kept / kept.square().sum(1, keepdim=True) * x["weight"].double() + x["bias"].double() + 0.5
        within(got["y"], y, 1e-6)


@pytest.mark.parametrize(("dtype", "vector"), [(d, v) for d, vs in VECTORS.items() for v in vs])
def test_every_way_along_a_row(tmp_path, dtype, vector):
    shape = Shape(threads=64, vector=vector, kept=2, unroll=2, blocks=3)
    rows_of = Rows(kernel(PROGRAM, dtype, shape), PROGRAM, dtype, tmp_path)
    for n, rows in LENGTHS.items():
        check(rows_of, dtype, rows, n)
    for n, rows in ((40, 21), (131, 3), (1032, 2)):
        check(rows_of, dtype, rows, n, gap=8 if n % 8 == 0 else 5)


@pytest.mark.parametrize("n", [40, 1024, 2057])
def test_a_length_compiled_in(tmp_path, n):
    shape = Shape(threads=128, vector=4, kept=2, unroll=1, blocks=2)
    check(Rows(kernel(PROGRAM, "float32", shape, n), PROGRAM, "float32", tmp_path), "float32", 5, n)


def test_a_single_warp_needs_no_barrier(tmp_path):
    shape = Shape(threads=32, vector=4, kept=1, unroll=2, blocks=7)
    made = kernel(PROGRAM, "float32", shape)
    assert "__syncthreads" not in emit(made, find_gpu(TARGET)).text
    rows_of = Rows(made, PROGRAM, "float32", tmp_path)
    for n, rows in ((1, 40), (33, 9), (128, 9), (132, 9)):
        check(rows_of, "float32", rows, n)


def test_the_same_bits_whatever_the_grid(tmp_path):
    """A row's sum depends on its own length alone."""
    results = []
    for i, blocks in enumerate((1, 5)):
        shape = Shape(threads=64, vector=4, kept=2, unroll=2, blocks=blocks)
        (tmp_path / str(i)).mkdir()
        rows_of = Rows(kernel(PROGRAM, "float32", shape), PROGRAM, "float32", tmp_path / str(i))
        results.append(rows_of(given("float32", 7, 300), 7, 300, [0.5]))
    for name, tensor in results[0].items():
        assert torch.equal(tensor, results[1][name])


@pytest.mark.parametrize("dtype", sorted(TORCH.keys() - {"int64"}))
def test_places(tmp_path, dtype):
    program = ops.load("argmax").variants(dtype)[""]
    shape = Shape(threads=64, vector=4, kept=2, unroll=2, blocks=3)
    rows_of = Rows(kernel(program, dtype, shape), program, dtype, tmp_path)
    for rows, n in ((9, 1), (5, 7), (9, 64), (3, 512), (2, 1000), (1, 2001)):
        torch.manual_seed(n)
        x = torch.randint(-9, 9, (rows, n)).to(TORCH[dtype])  # many ties
        if n > 7:
            x[0, [n // 2, n - 1]] = torch.nan
        assert torch.equal(rows_of({"x": x}, rows, n, [1.0] * 3)["y"], x.argmax(1))


@pytest.mark.parametrize("dtype", sorted(TORCH.keys() - {"int64"}))
def test_flat_programs(tmp_path, dtype):
    program = ops.load("relu").variants(dtype)[""]
    shape = Shape(threads=64, vector=16 // TORCH[dtype].itemsize, kept=1, unroll=2, blocks=2)
    rows_of = Rows(kernel(program, dtype, shape, flat=True), program, dtype, tmp_path, flat=True)
    for n in (1, 3, 8, 63, 64, 1000, 4096, 4097, 9999):
        x = torch.randn(1, n).to(TORCH[dtype])
        x[0, n // 2] = torch.nan
        x[0, n // 3] = -torch.inf
        torch.testing.assert_close(rows_of({"x": x}, 1, n)["y"], x.relu(), rtol=0, atol=0, equal_nan=True)
    for rows, n in ((5, 8), (3, 2048), (40, 136)):
        x = torch.randn(rows, n).to(TORCH[dtype])
        assert torch.equal(rows_of({"x": x}, rows, n, gap=n + 8)["y"], x.relu())


def test_in_place(tmp_path):
    program = ops.load("relu").variants("float32")[""]
    shape = Shape(threads=64, vector=4, kept=1, unroll=2, blocks=2)
    rows_of = Rows(kernel(program, "float32", shape, flat=True), program, "float32", tmp_path, flat=True)
    x = torch.randn(1001)
    expected = x.relu()
    rows_of.emulated.launch("rows", [x.numpy(), x.numpy()], [1, 1001, 1001, 1001])
    assert torch.equal(x, expected)


@pytest.mark.parametrize(
    ("key", "reads", "writes"), [("softmax(float16;M=*,N=1024)", 1, 1), ("add_rms_norm(bfloat16;M=*,N=4096)", 2, 2)]
)
def test_a_row_that_fits_is_read_once(key, reads, writes):
    space = spaces.find(Workload.parse(key), find_gpu(TARGET))
    (made,) = space.apply(space.default())
    body = emit(made, find_gpu(TARGET)).text.split("__global__")[-1].split("\n}")[0]
    of_rows = "|".join(o.name for o in space.program.operands if o.role == "row")
    vector = rf"\*\(uint4\*\)\(\(\(uint\*\)({of_rows})_ptr\)"
    assert len(re.findall(rf"= {vector}", body)) == reads
    assert len(re.findall(rf"^\s*{vector}", body, re.MULTILINE)) == writes
    assert not re.search(rf"({of_rows})_ptr\[", body)


def test_what_has_no_kernel():
    shape = Shape(threads=64, vector=4, kept=2, unroll=2, blocks=3)
    tabulated = ops.load("gelu").wide()
    with pytest.raises(CodegenError, match="tables"):
        rows_kernel(tabulated, "float32", shape, flat=True)


@pytest.mark.parametrize("target", GPU_TARGETS)
@pytest.mark.parametrize("key", ["softmax(float16;M=*,N=*)", "gated_activation(float32;N=*)"])
def test_the_space(target, key):
    space = spaces.find(Workload.parse(key), find_gpu(target))
    assert broken(space, space.default()) == []
    solver, rng = Solver(space), random.Random(0)
    for _ in range(5):
        choice = solver.sample(rng)
        assert broken(space, choice) == []
        assert space.registers(choice) * choice["threads"] <= find_gpu(target).registers_sm
    params = space.params(space.default())
    assert params["operands"] == len(space.apply(space.default())[0].buffers)
    assert params["align"] == 1


@pytest.mark.parametrize(
    ("key", "vector_bytes", "kept", "threads"),
    [
        ("add_rms_norm(float16;M=*,N=*)", 8, 16, 64),
        ("add_layer_norm(bfloat16;M=*,N=*)", 8, 16, 64),
        ("add_layer_norm(float32;M=*,N=*)", 4, 16, 512),
        ("rms_norm(float16;M=*,N=*)", 4, 16, 512),
        ("log_softmax(float32;M=*,N=*)", 8, 8, 1024),
    ],
)
def test_what_ptxas_spilled_is_no_choice(key, vector_bytes, kept, threads):
    space = spaces.find(Workload.parse(key), find_gpu(TARGET))
    choice = {**space.default(), "vector_bytes": vector_bytes, "kept": kept, "unroll": 1, "threads": threads}
    assert any("registers" in reason for reason in broken(space, choice))


@pytest.mark.parametrize("key", ["add_rms_norm(float16;M=*,N=*)", "layer_norm(float32;M=*,N=*)", "gelu(float16;N=*)"])
def test_what_the_solver_finds_spills_nothing(key, tmp_path):
    space, rng = spaces.find(Workload.parse(key), find_gpu(TARGET)), random.Random(1)
    solver = Solver(space)
    choices = {tuple(choice.items()): choice for choice in (solver.sample(rng) for _ in range(2))}
    made = [emit(kernel, find_gpu(TARGET)).text for choice in choices.values() for kernel in space.apply(choice)]
    for i, (text, which) in enumerate(together(made)):
        path = tmp_path / f"{i}.cu"
        path.write_text(text)
        usages = nvcc.compile_source(path, path.with_suffix(".cubin"), TARGET, [abi_header().parent])
        assert len(usages) == len(which)
        nvcc.refuse_spills(usages, key)


def test_a_space_of_another_name():
    with pytest.raises(CodegenError, match="known: device_rows"):
        spaces.find(Workload.parse("softmax(float16;M=*,N=*)"), find_gpu(TARGET), "wgmma")
