"""CUDA kernels of reductions, in the emulator, against float64: along memory and across, whole rows and pieces."""

from dataclasses import astuple

import numpy as np
import pytest
import torch

import tvmops
from benchmarks.gpu import calls, cases
from benchmarks.gpu.devices import Host
from benchmarks.gpu.emulated import EmulatedKernel
from benchmarks.gpu.worker import Worker
from codegen import ops, spaces
from codegen.cuda.kernel import DeviceKernel
from codegen.cuda.lower import emit
from codegen.cuda.reduce import BUFFERS, PARAMS, reduce_kernel
from codegen.cuda.reduce_cut import SIZES, ReduceShape, launch_sizes
from codegen.measure import device_batch, device_points, emulator
from codegen.measure.device_files import Point
from codegen.measure.emulator import EmulationError
from codegen.spaces.device_rows import PASS_CONFIG
from codegen.target import find_gpu
from codegen.workload import Workload
from tests.codegen.cuda.device_rows import TORCH, array
from tests.codegen.cuda.mutants import Mutant

TARGET = find_gpu("sm_80")
OPS = ("sum", "amax", "amin", "var", "argmax", "argmin")
SHIPPED = [w.key for op in OPS for w in ops.device_workloads(op)]
# outer, n, inner. One element; less than a vector, rows that begin anywhere; a warp; several; pieces, one of them
# ragged, one of one element.
ALONG = [(5, 1, 1), (70, 7, 1), (3, 100, 1), (2, 1027, 1), (1, 9001, 1), (3, 5000, 1)]
# Single elements and whole vectors side by side, few and many; one thread along n, eight, all.
ACROSS = [(5, 1, 3), (4, 7, 3), (3, 9, 70), (2, 100, 8), (1, 1000, 8), (2, 300, 5), (1, 700, 264)]
# Of what ships, on as few threads as reach every branch: pieces along, pieces across, and neither.
FEW = [(3, 37, 1), (1, 20003, 1), (3, 9, 6), (1, 900, 24)]


def shape_of(op, dtype):
    """So small that short rows are cut, too."""
    vector, twice = (4 if dtype == "float32" else 8), ops.load(op).twice
    return ReduceShape(64, vector, 2, 2 if twice else 0, 16 if twice else 0, 12)


class Reduction:
    """A kernel that can be called."""

    def __init__(self, op, dtype, kernel, shape, directory, text=None, **options):
        self.op, self.dtype, self.kernel, self.shape = op, dtype, kernel, shape
        self.text = text or emit(kernel, TARGET).text
        self.emulated = emulator.Emulated(emulator.compile(self.text, directory), TARGET.name, **options)

    def __call__(self, x, divisor=1.0):
        """Of [outer, n, inner]; what it writes is full of 7 before."""
        outer, n, inner = x.shape
        y = torch.full((outer, inner), 7, dtype=torch.int64 if self.op.startswith("arg") else TORCH[self.dtype])
        sizes = launch_sizes(self.shape, outer, n, inner)
        self.emulated.launch(self.kernel.symbol, [array(x), array(y)], sizes, [divisor])
        return y


def made(op, dtype, directory, **options):
    """A kernel of a small shape."""
    shape, programs = shape_of(op, dtype), ops.load(op).device_variants(dtype)

    def make():
        return reduce_kernel(programs, dtype, shape)

    kernel = DeviceKernel("reduction", make, BUFFERS, SIZES, PARAMS, "plain", PASS_CONFIG)
    return Reduction(op, dtype, kernel, shape, directory, **options)


def numbers(op, dtype, size, seed=0):
    torch.manual_seed(seed)
    # With ties, for what asks where; away from zero, for what could cancel.
    x = torch.randint(-9, 10, size) if op.startswith("arg") else torch.randn(size, dtype=torch.float64) + 0.5
    return x.to(TORCH[dtype])


def assert_right(op, got, x, mean=False):
    """Up to one rounding, and what float32 loses of the sum of magnitudes."""
    exact = ops.load("mean" if mean else op).aten(x.double())
    if op[:2] in ("ar", "am"):
        assert torch.equal(got, exact.to(got.dtype))
        return
    scale = exact if op == "var" else (x.double().abs().mean(1) if mean else x.double().abs().sum(1))
    allowed = torch.finfo(got.dtype).eps * exact.abs() + 2e-6 * scale
    assert ((got.double() - exact).abs() <= allowed).all()


@pytest.fixture(scope="module")
def summed(tmp_path_factory):
    return made("sum", "float32", tmp_path_factory.mktemp("sum"))


@pytest.mark.parametrize(("op", "dtype"), [("sum", "float16"), ("var", "bfloat16"), ("argmin", "float32")])
def test_every_form_against_float64(op, dtype, tmp_path):
    reduction = made(op, dtype, tmp_path)
    again = made(op, dtype, tmp_path, order="random")
    for size in (*ALONG, *ACROSS):
        x = numbers(op, dtype, size)
        divisor = float(size[1]) if op == "var" else 1.0
        got = reduction(x, divisor)
        assert_right(op, got, x)
        assert torch.equal(got, again(x, divisor))


def test_a_mean_is_a_sum_divided(summed):
    for size in ((70, 7, 1), (1, 9001, 1), (2, 100, 8)):
        x = numbers("sum", "float32", size)
        assert_right("sum", summed(x, float(size[1])), x, mean=True)


@pytest.mark.parametrize("op", ["sum", "var", "amax", "argmax"])
def test_what_is_not_a_number(op, tmp_path):
    """NaN, the first of several, and infinities, in every form and at every end of a row."""
    reduction = made(op, "float32", tmp_path)
    infinity, nan = float("inf"), float("nan")
    for outer, n, inner in ((9, 103, 1), (9, 2500, 1), (2, 9, 7), (1, 600, 8)):
        x = numbers(op, "float32", (outer, n, inner))
        rows = x.transpose(1, 2).reshape(-1, n)
        for row, (at, value) in zip(
            rows, [(0, nan), (n - 1, nan), (n // 2, nan), (0, infinity), (n - 1, -infinity)], strict=False
        ):
            row[at] = value
        rows[5] = infinity
        rows[6] = -infinity
        rows[7, n // 3 :] = nan
        x = rows.view(outer, inner, n).transpose(1, 2).contiguous()
        got, exact = reduction(x, float(n) if op == "var" else 1.0), ops.load(op).aten(x.double())
        if op == "argmax":
            assert torch.equal(got, exact)
        else:
            torch.testing.assert_close(got.double(), exact, equal_nan=True, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("key", SHIPPED)
def test_what_ships(key, tmp_path):
    workload = Workload.parse(key)
    space = spaces.find(workload, TARGET)
    choice = space.default()
    (kernel,) = space.apply(choice)
    reduction = Reduction(workload.op, workload.dtype, kernel, space.shape(choice), tmp_path)
    for size in FEW:
        x = numbers(workload.op, workload.dtype, size)
        assert_right(workload.op, reduction(x, float(size[1]) if workload.op == "var" else 1.0), x)


@pytest.mark.parametrize("key", ["argmax(float16;M=*,N=*)", "var(float32;M=*,N=*)"])
def test_the_check_on_a_gpu(key, tmp_path):
    """As gpu_check.py does it, with the emulator in the GPU's place."""
    (candidate,) = device_batch.candidates([TARGET], 0, 0, only=key)
    source = device_batch.source_of(candidate)
    points = device_points.points(candidate.workload, candidate.space.driver)
    request = device_batch.request_of(candidate, source, [None] * len(points))
    library, worker = emulator.compile(source.text, tmp_path), Worker(Host())
    worker._kernel = lambda *_: EmulatedKernel(library, request.symbol, request.target)
    assert worker.check(request, library, cases.checks(request))["status"] == "ok"
    problem = cases.problem(request, Point({"M": 2, "N": 70, "inner": 6}), 0, Host())
    torch.testing.assert_close(calls.ours(request, problem)(), problem.aten())


def test_the_cut_of_the_extension_is_the_same():
    """codegen/cuda/reduce_cut.py and csrc/cuda/reduce.cpp; and pieces are what the kernels take for granted."""
    rng = np.random.default_rng(0)
    shapes = [ReduceShape(256, 8, 4, 4, 128, 864), ReduceShape(64, 1, 1, 0, 0, 40), shape_of("var", "float32")]
    for _ in range(3000):
        outer, n, inner = (int(2 ** rng.uniform(0, most)) for most in (12, 20, 10))
        inner = 1 if rng.integers(2) else inner
        for shape in shapes:
            found = launch_sizes(shape, outer, n, inner)
            assert tvmops._C.cuda_reduce_sizes(astuple(shape), outer, n, inner) == found
            _, _, _, pieces, length, wide, high, join = found
            assert (pieces - 1) * length < n <= pieces * length
            assert 0 <= wide + high <= shape.shift
            assert 0 <= join <= shape.shift
            if inner == 1:
                assert length % shape.vector == 0
                assert not shape.kept or length <= (shape.kept if wide > 4 else 1) * shape.vector << wide
            else:
                assert not shape.depth or length <= shape.depth


MUTANTS = {
    "no barrier before what is read": Mutant(r"__syncthreads\(\);", "", 3),
    "no barrier before what is written": Mutant(r"__syncthreads\(\);", "", 2),
    "no barrier between warps": Mutant(r"__syncthreads\(\);", "", 1),
    "half of a warp": Mutant(r", 16, 32\)", ", 8, 32)", 0),
    "a mask without lanes": Mutant(r"\(uint\)4294967295", "(uint)65535", 0),
    "a piece that is not joined": Mutant(r"\? pieces : ", "? pieces - 1 : "),
    "edges that are left out": Mutant(r"\(\(int64_t\)0 - (l_ptr\[\d+\])\) & \(int64_t\)3", r"(\1 * (int64_t)0)"),
    "pieces that are written to one place": Mutant(r"y_room_ptr\[l_ptr\[\d+\]\]", "y_room_ptr[0]"),
}


def noticed(mutant):
    for size in ((70, 7, 1), (3, 100, 1), (3, 5000, 1), (1, 1000, 8)):
        x = numbers("sum", "float32", size)
        try:
            assert_right("sum", mutant(x), x)
        except (EmulationError, AssertionError):
            return True
    return False


@pytest.mark.parametrize("what", MUTANTS)
def test_a_mutant_is_noticed(what, summed, tmp_path):
    text = MUTANTS[what].of(summed.text)
    mutant = Reduction(summed.op, summed.dtype, summed.kernel, summed.shape, tmp_path, text)
    assert noticed(mutant)
