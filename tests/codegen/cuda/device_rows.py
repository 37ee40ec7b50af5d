"""Runs kernels of row programs on the emulator, with torch's tensors."""

from pathlib import Path

import numpy as np
import torch

from codegen import ops, spaces
from codegen.cuda.kernel import DeviceKernel
from codegen.cuda.lower import emit
from codegen.cuda.rows import operands, rows_kernel, sizes
from codegen.measure import emulator
from codegen.program import Program
from codegen.spaces.device_rows import PASS_CONFIG
from codegen.target import find_gpu
from codegen.workload import Workload

TARGET = "sm_80"
TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int64": torch.int64}
# One element; less than a vector; many rows a block; no whole vectors; a warp; more; the longest that registers hold
# (of 16-bit elements) and longer, in whole vectors and not.
SIZES = [(5, 1), (3, 7), (70, 24), (33, 64), (3, 100), (2, 1024), (3, 1000), (1, 8192), (2, 9000), (2, 9001)]


def array(tensor):
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def kernel(program, dtype, shape, n=None, *, flat=False):
    """A kernel of a program, whatever its space would say."""
    return DeviceKernel(
        "rows", lambda: rows_kernel(program, dtype, shape, n, flat=flat), tuple(operands(program)),
        tuple(sizes(program)), program.params, "plain", PASS_CONFIG,
    )  # fmt: skip


class Rows:
    """A kernel that can be called; what it writes is full of 7 before."""

    def __init__(
        self,
        kernel: DeviceKernel,
        program: Program,
        dtype: str,
        directory: Path,
        flat: bool = False,
        order: str = "forward",
    ) -> None:
        self.kernel, self.program, self.dtype, self.flat = kernel, program, dtype, flat
        library = emulator.compile(emit(kernel, find_gpu(TARGET)).text, directory)
        self.emulated = emulator.Emulated(library, TARGET, order=order)

    def __call__(self, given, rows, n, params=(), gap=0):
        """``given``: tensors by name; ``gap``: elements between two rows. Returns those that are written."""
        shapes = {"row": (rows, n), "vector": (n,), "partial": (n,), "scalar": (rows,), "single": (1,)}
        tensors = {}
        for name in self.kernel.buffers:
            o = self.program.operand(name)
            kind = TORCH[self.dtype if o.dtype == "data" else o.dtype]
            tensors[name] = (
                torch.full(shapes[o.role], 7, dtype=kind) if o.written else given[name].to(kind).contiguous()
            )
            if gap and o.role == "row":
                wide = torch.full((rows, n + gap), 7, dtype=kind)
                wide[:, :n] = tensors[name]
                tensors[name] = wide
        sizes = [1, rows * n] if self.flat and not gap else [rows, n]
        sizes += [sizes[1] + gap] * len(tensors)
        self.emulated.launch(self.kernel.symbol, [array(t) for t in tensors.values()], sizes, params)
        if gap:
            for name in tensors:
                if self.program.operand(name).role == "row":
                    assert (tensors[name][:, n:] == 7).all()
                    tensors[name] = tensors[name][:, :n].contiguous()
        return {name: t for name, t in tensors.items() if self.program.operand(name).written}


def shipped(*names):
    """Keys of what is shipped, of some operators."""
    return [w.key for w in ops.device_shipped(find_gpu(TARGET)) if w.op in names]


def kernels(key, directory, **knobs):
    """The kernels of a workload by activation, callable."""
    workload = Workload.parse(key)
    space = spaces.find(workload, find_gpu(TARGET))
    made = space.apply({**space.default(), **knobs})
    flat = ops.load(workload.op).flat
    return {
        variant: Rows(kernel, program, workload.dtype, directory, flat)
        for kernel, (variant, program) in zip(made, space.variants.items(), strict=True)
    }


def inputs(key, rows, n, seed=0):
    """An operator's own, as its dtype has them."""
    workload = Workload.parse(key)
    operator, sizes = ops.load(workload.op).on_device, {"M": rows, "N": n}
    program = next(iter(operator.device_variants(workload.dtype).values()))
    made = {}
    for (name, _), x in zip(operator.shapes(sizes), operator.inputs(workload, sizes, seed), strict=True):
        o = program.operand(name)
        made[name] = torch.from_numpy(np.asarray(x)).to(TORCH[workload.dtype if o.dtype == "data" else o.dtype])
    return made


def within(got, expected, tolerance):
    """Whether numbers agree, up to a rounding to their own dtype and a share of the largest of their row."""
    expected = expected.reshape(got.shape).double()
    info = torch.finfo(got.dtype)
    finite = expected.where(expected.isfinite(), 0.0)
    largest = finite.abs().amax(-1, keepdim=True) if got.dim() > 1 else finite.abs().amax()
    allowed = info.eps * finite.abs() + tolerance * largest + info.smallest_normal * info.eps
    error = (got.double() - expected).abs().where(expected.isfinite(), 0.0)
    assert (error <= allowed).all(), f"off by up to {(error / allowed).max().item():.2f} of what is allowed"
    assert torch.equal(
        got[~expected.isfinite()].nan_to_num(7), expected[~expected.isfinite()].to(got.dtype).nan_to_num(7)
    )
