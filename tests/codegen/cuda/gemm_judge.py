"""Runs a GEMM kernel in the emulator and judges it against float64."""

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from codegen.cuda.lower import emit
from codegen.measure import emulator
from codegen.target import find_gpu

_erf = np.vectorize(math.erf)
# As csrc/drivers/activation.h numbers them.
ACTIVATIONS = [
    lambda x: x,
    lambda x: np.maximum(x, 0),
    lambda x: x / 2 * (1 + _erf(x * math.sqrt(0.5))),
    lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    lambda x: x / (1 + np.exp(-x)),
    lambda x: 1 / (1 + np.exp(-x)),
    np.tanh,
]
BIAS, RESIDUAL = 1, 2
# Of mma_sync: a warp of 32 x 32, a block of 32 x 64: quick to compile, and a few blocks are few elements.
SMALL = {
    "warps_m": 1,
    "warps_n": 2,
    "fragments_m": 2,
    "fragments_n": 2,
    "block_k": 32,
    "stages": 3,
    "swizzle": 1,
    "vector": 8,
    "group_m": 4,
    "split_k": 1,
    "buffers": 2,
}


SMALL_TF32 = {**SMALL, "block_k": 16, "vector": 4}  # as many bytes


@dataclass(frozen=True)
class Case:
    """Sizes and epilogue of a launch.

    Rows of A and B in memory are rounded up to 16 bytes; then ``beyond_a`` and ``beyond_b`` follow. The first 64
    elements that are too many are NaN.
    """

    m: int
    n: int
    k: int
    batch: int = 1
    beyond_a: int = 0
    beyond_b: int = 0
    activation: int = 0
    flags: int = 0


def numpy_dtype(name):
    return np.dtype({"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}[name])


def multiplied(x):
    """What a kernel multiplies of float32: TF32, rounded to nearest, ties away from zero. 16 bits are as they are."""
    if x.dtype != np.float32:
        return x
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


class Kernel:
    """An emulated kernel of a choice of a space."""

    def __init__(self, space, choice, directory, target="sm_80", overflow=False):
        (self.kernel,) = space.apply(choice)
        self.workload, self.target = space.workload, target
        self.source = emit(self.kernel, find_gpu(target))
        self.library = emulator.compile(self.source.text, directory, overflow=overflow)

    def launch(self, a, b, c, case, bias=None, residual=None, **options):
        """Operands as they are in memory, three-dimensional; what there is not of the last two is not read."""
        sizes = [case.batch, case.m, case.n, case.k, a.shape[2], b.shape[2], case.activation, case.flags]
        given = [a, b, c, *(c if x is None else x for x in (bias, residual))]
        emulator.Emulated(self.library, self.target, **options).launch(self.kernel.symbol, given, sizes)

    def run(self, case, seed=0, **options):
        """The result, its float64 reference, and how far they may be apart."""
        rng, dtype = np.random.default_rng(seed), numpy_dtype(self.workload.dtype)
        across, along = (self.workload.attrs[x] == "t" for x in "ab")
        chunk = 16 // dtype.itemsize

        def operand(rows, columns, beyond):
            # Zeros take no memory where nothing is written; what is beyond a short row is NaN.
            whole = np.zeros((case.batch, rows, -(-columns // chunk) * chunk + beyond), dtype)
            whole[:, :, columns : columns + 64] = np.nan
            whole[:, :, :columns] = rng.standard_normal((case.batch, rows, columns))
            whole.setflags(write=False)
            return whole, multiplied(whole)[:, :, :columns].astype(np.float64)

        a, x = operand(*((case.k, case.m) if across else (case.m, case.k)), case.beyond_a)
        b, y = operand(*((case.n, case.k) if along else (case.k, case.n)), case.beyond_b)
        c = np.full((case.batch, case.m, case.n), np.nan, "float32").astype(dtype)
        bias = rng.standard_normal(case.n).astype(dtype)
        residual = rng.standard_normal(c.shape).astype(dtype)
        given = [bias if case.flags & BIAS else None, residual if case.flags & RESIDUAL else None]
        self.launch(a, b, c, case, *given, **options)

        x, y = x.transpose(0, 2, 1) if across else x, y.transpose(0, 2, 1) if along else y
        expected = x @ y + (bias.astype(np.float64) if case.flags & BIAS else 0)
        expected = ACTIVATIONS[case.activation](expected)
        expected = expected + (residual.astype(np.float64) if case.flags & RESIDUAL else 0)
        # One rounding of the result, and the sums' own in float32.
        bound = 0.51 * float(ml_dtypes.finfo(dtype).eps) * np.abs(expected) + 1e-6 * (np.abs(x) @ np.abs(y)) + 2e-5
        return c, expected, bound

    def check(self, case, seed=0, **options):
        """Fails where the result is too far from the reference, or is not a number."""
        c, expected, bound = self.run(case, seed, **options)
        far = ~(np.abs(c.astype(np.float64) - expected) <= bound)
        assert not far.any(), f"{self.workload} {case}: {far.sum()} of {far.size} wrong, first at {np.argwhere(far)[0]}"
        return c
