"""Tensor intrinsics of CPUs: what a tensorized loop becomes."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tvm import s_tir, tirx
from tvm.ir import Expr
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

_TVM_INTRINSICS = "tvm.s_tir.tensor_intrin"
COMBINERS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "Add": lambda a, b: a + b,
    "Max": tirx.max,
    "Min": tirx.min,
}


@cache
def joined(combiner: str, count: int, lanes: int) -> str:
    """The intrinsic that joins ``count`` float32 to one, in vectors of ``lanes``: halves first, then halves of those.

    ``combiner``: Add, Max or Min.
    """
    combine = COMBINERS[combiner]

    def total(x: tirx.Buffer) -> Expr:
        width = min(count, lanes)
        vector = x.vload([0], f"float32x{width}")
        for start in range(width, count, width):
            vector = combine(vector, x.vload([start], f"float32x{width}"))
        while width > 1:
            width //= 2
            low, high = (T.Shuffle([vector], list(range(start, start + width))) for start in (0, width))
            vector = combine(low, high)
        return vector

    @T.prim_func(s_tir=True)
    def description(x: T.Buffer((count,), "float32", offset_factor=1), y: T.Buffer((1,), "float32", offset_factor=1)):
        with T.sblock("root"):
            T.reads(y[0], x[0:count])
            T.writes(y[0])
            for k in T.serial(count):
                with T.sblock("update"):
                    vk = T.axis.reduce(count, k)
                    y[0] = combine(y[0], x[vk])

    @T.prim_func(s_tir=True)
    def implementation(
        x: T.Buffer((count,), "float32", offset_factor=1), y: T.Buffer((1,), "float32", offset_factor=1)
    ):
        with T.sblock("root"):
            T.reads(y[0], x[0:count])
            T.writes(y[0])
            y[0] = combine(y[0], total(x))

    name = f"tvmops.join.{combiner.lower()}.{count}x{lanes}"
    TensorIntrin.register(name, description, implementation)
    return name


@contextmanager
def only_x86() -> Iterator[None]:
    """While a context is made: TVM would import the intrinsics of every architecture, which takes half a minute."""
    if _TVM_INTRINSICS in sys.modules:
        yield
        return
    package = types.ModuleType(_TVM_INTRINSICS)
    package.__path__ = [str(Path(s_tir.__file__).parent / "tensor_intrin")]
    sys.modules[_TVM_INTRINSICS] = package
    try:
        importlib.import_module(f"{_TVM_INTRINSICS}.x86")
        yield
    finally:
        # Who needs the others still gets them: those of x86 are registered once, as their module stays.
        sys.modules.pop(_TVM_INTRINSICS)
