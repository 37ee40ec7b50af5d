"""Leaves of a row program against numpy, however many rows go side by side."""

from __future__ import annotations

import ctypes
import itertools
import subprocess

import pytest
import torch
from torch import Tensor

import tvmops
from codegen.export import objects
from codegen.leaves.rows import rows_leaf
from codegen.program import MAX_OPERANDS, MAX_PARAMS, Operand, Pass, Program, Scalars
from codegen.spaces.space import Leaf
from codegen.target import TARGETS, find

# Every role, a sum of what was stored and so rounded, three passes.
PROGRAM = Program(
    (
        Operand("x"),
        Operand("other"),
        Operand("weight", "vector", dtype="float32"),
        Operand("scale", "scalar", dtype="float32"),
        Operand("sum", written=True),
        Operand("y", written=True),
        Operand("mean", "scalar", written=True, dtype="float32"),
        Operand("largest", "scalar", written=True, dtype="float32"),
        Operand("dweight", "partial", written=True, dtype="float32"),
        Operand("kept", "scratch", written=True, dtype="float32"),
    ),
    (
        Pass(store={"sum": lambda v: v.x + v.other}, reduce={"total": ("sum", lambda v: v.sum)}),
        Scalars(values={"m": lambda v: v.total / v.n}, store={"mean": lambda v: v.m}),
        Pass(
            values={"d": lambda v: v.sum - v.m},
            reduce={"top": ("max", lambda v: v.d)},
            add={"dweight": lambda v: v.d * v.scale},
            store={"kept": lambda v: v.d},
            prefetch=("y",),
        ),
        Scalars(store={"largest": lambda v: v.top}),
        Pass(store={"y": lambda v: v.kept * v.weight * v.scale + v.p}, prefetch=("x", "other")),
    ),
    ("p",),
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCHEDULES = [(1, 4), (2, 2), (4, 1)]


def operands(dtype: torch.dtype, rows: int, n: int) -> dict[str, Tensor]:
    torch.manual_seed(rows * 1000 + n)
    shapes = {"row": (rows, n), "vector": (n,), "scalar": (rows,), "partial": (n,), "scratch": (4, n)}
    made = {}
    for o in PROGRAM.operands:
        kind = dtype if o.dtype == "data" else torch.float32
        made[o.name] = (torch.zeros if o.written else torch.randn)(shapes[o.role]).to(kind)
    return made


class Leaves:
    """The program's leaves by dtype and schedule, callable."""

    def __init__(self, target: str, directory) -> None:
        lanes = find(target).lanes()
        leaves = []
        for dtype, (height, unroll) in itertools.product(DTYPES, SCHEDULES):
            symbol = f"{dtype}_{height}_{unroll}"
            leaves.append(
                Leaf(
                    symbol,
                    symbol,
                    lambda s=symbol, d=dtype, h=height, u=unroll: rows_leaf(s, PROGRAM, d, lanes, u, height=h),
                )
            )
        made = objects.compile_leaves(leaves, find(target), directory)
        subprocess.run(["gcc", "-shared", "-o", directory / "leaves.so", made], check=True)
        self._library = ctypes.CDLL(str(directory / "leaves.so"))

    def __call__(self, dtype: str, schedule, x: dict[str, Tensor], param: float) -> dict[str, Tensor]:
        x = {name: t.clone() for name, t in x.items()}
        rows, n = x["x"].shape
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in x.values()]
        strides = [t.stride(0) if t.dim() == 2 else 0 for t in x.values()]
        function = getattr(self._library, f"{dtype}_{schedule[0]}_{schedule[1]}")
        function.restype = None
        function(
            *pointers, *[None] * (MAX_OPERANDS - len(pointers)),
            *map(ctypes.c_int, [*strides, *[0] * (MAX_OPERANDS - len(strides)), rows, n]),
            *map(ctypes.c_float, [param] + [0] * (MAX_PARAMS - 1)),
        )  # fmt: skip
        return x


@pytest.fixture(scope="module", params=TARGETS)
def leaves(request, tmp_path_factory) -> Leaves:
    if request.param not in tvmops._C.usable_targets():
        pytest.skip(f"this machine does not run {request.param}")
    return Leaves(request.param, tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 7, 16, 40, 64, 65, 131, 1000, 5000])
def test_every_schedule(leaves: Leaves, dtype: str, n: int) -> None:
    for rows, schedule in itertools.product((1, 2, 3, 5, 8), SCHEDULES):
        x = operands(DTYPES[dtype], rows, n)
        got = leaves(dtype, schedule, x, 0.5)
        total = (x["x"].float() + x["other"].float()).to(DTYPES[dtype])
        assert torch.equal(got["sum"], total)
        mean = total.double().mean(1)
        torch.testing.assert_close(got["mean"].double(), mean, rtol=1e-6, atol=1e-6)
        d = total.double() - mean[:, None]
        torch.testing.assert_close(got["largest"].double(), d.amax(1), rtol=1e-6, atol=1e-6)
        scale = x["scale"].double()[:, None]
        torch.testing.assert_close(got["dweight"].double(), (d * scale).sum(0), rtol=1e-5, atol=1e-5)
        expected = (d * x["weight"].double() * scale + 0.5).to(DTYPES[dtype])
        torch.testing.assert_close(got["y"], expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_side_by_side_or_alone_gives_the_same_bits(leaves: Leaves, dtype: str) -> None:
    """Where a row lies in its group depends on the number of threads."""
    for schedule in SCHEDULES:
        x = operands(DTYPES[dtype], 9, 333)
        whole = leaves(dtype, schedule, x, 0.5)
        for first in range(9):
            part = {o.name: x[o.name][first:] if o.role in ("row", "scalar") else x[o.name] for o in PROGRAM.operands}
            rest = leaves(dtype, schedule, part, 0.5)
            for name in ("sum", "y", "mean", "largest"):
                assert torch.equal(rest[name], whole[name][first:])
