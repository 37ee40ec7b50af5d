"""Reductions along a dimension, sum, mean, var, amax, amin, argmax, argmin; and the gradients of var and amax.

A reduction is three programs: the whole of it; its ``part``, which makes partial results in float32 of a piece of a
row; and its ``join``, which makes results of those. Long rows are cut into pieces, for threads, for accuracy, and so
that a second walk finds the piece in the cache (csrc/drivers/reduce.h).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..errors import CodegenError
from ._rows import RowsOperator

if TYPE_CHECKING:
    import numpy as np

    from ..program import Program
    from ..spaces.space import Space
    from ..target import GpuTarget, Target
    from ..workload import Workload

    Value = Callable[[Any], Any]

# The parameters of a program of a reduction: one over the elements of a row; what the result is divided by; 1 over it.
PARAMS = ("share", "divisor", "reciprocal")


@dataclass(frozen=True)
class Reduction(RowsOperator):
    """A reduction. ``leaves``: the operator under whose name they are compiled, if another one has the same.

    ``parts``: partial results; ``indexed``: the second of them is an index; ``twice``: a program walks more than once;
    ``short``: short rows are transposed first, as the end of a walk, from vector to scalar, costs more.
    """

    leaves: str = ""
    parts: int = 1
    indexed: bool = False
    twice: bool = False
    short: bool = True

    def space(self, workload: Workload, target: Target) -> Space:
        """The space of reductions."""
        from ..spaces.reduce import ReduceSpace

        return ReduceSpace(workload, target, self)

    def device_space(self, workload: Workload, target: GpuTarget, name: str | None = None) -> Space:
        """The space of reductions on a GPU.

        Raises:
            CodegenError: there is no other.
        """
        from ..spaces.device_reduce import DeviceReduceSpace

        if name not in (None, DeviceReduceSpace.name):
            known = DeviceReduceSpace.name
            raise CodegenError(f"{workload.key} has no space {name!r} on {target.name}; known: {known}")
        return cast("Space", DeviceReduceSpace(workload, target, self))

    def device_workloads(self) -> Sequence[Workload]:
        """Every dtype, any sizes; none where the kernels of another operator serve."""
        return [] if self.leaves else super().device_workloads()


def _fold(kind: str) -> Callable[[], Mapping[str, Program]]:
    """The programs of a reduction whose partial results are reduced in the same way."""

    def make() -> Mapping[str, Program]:
        from .._tvm import tirx
        from ..mathlib import fma, is_nan
        from ..program import Operand, Pass, Program, Scalars

        # A mean is a division, which takes longer than to sum a few rows: by way of the reciprocal, then corrected.
        # What is not finite is divided by the reciprocal alone.
        values: dict[str, Value] = {
            "q": lambda v: v.r * v.reciprocal,
            "rest": lambda v: fma(-v.q, v.divisor, v.r),
            "mean": lambda v: tirx.Select(is_nan(v.rest), v.q, fma(v.rest, v.reciprocal, v.q)),
        }
        reduce = Pass(reduce={"r": (kind, lambda v: v.x)})

        def program(x: str, y: str, *, result: bool) -> Program:
            operands = (Operand("x", dtype=x), Operand("y", "scalar", True, y))
            divide = result and kind == "sum"
            steps = Scalars(values, {"y": lambda v: v.mean}) if divide else Scalars(store={"y": lambda v: v.r})
            return Program(operands, (reduce, steps), PARAMS)

        return {
            "": program("data", "data", result=True),
            "part": program("data", "float32", result=False),
            "join": program("float32", "data", result=True),
        }

    return make


def _arg(kind: str) -> Callable[[], Mapping[str, Program]]:
    """Of argmax and argmin: the best value, then the first place where it is; NaN is better than any number."""

    def make() -> Mapping[str, Program]:
        from .._tvm import tirx
        from ..mathlib import is_nan
        from ..program import Operand, Pass, Program, Scalars

        best = Pass(reduce={"m": (kind, lambda v: v.x)})

        def first(place: Value) -> Pass:
            # Where the best is NaN, only NaN will do; where it is not, there is none.
            here: Value = lambda v: tirx.Or(v.x == v.m, is_nan(v.x))  # noqa: E731
            none: Value = lambda v: tirx.Select(here(v), place(v), tirx.const(2**31 - 1, "int32"))  # noqa: E731
            return Pass(reduce={"i": ("first", none)})

        def bits(index: Any) -> Any:
            return tirx.reinterpret("float32", index)

        x, y = Operand("x"), Operand("y", "scalar", True, "int64")
        value, place = Operand("value", "scalar", True, "float32"), Operand("place", "scalar", True, "float32")
        found = Scalars(store={"y": lambda v: v.i})
        joined = (Operand("x", dtype="float32"), Operand("places", dtype="float32"), y)
        return {
            "": Program((x, y), (best, first(lambda v: v.j), found), PARAMS),
            "part": Program(
                (x, value, place),
                (best, first(lambda v: v.j), Scalars(store={"value": lambda v: v.m, "place": lambda v: bits(v.i)})),
                PARAMS,
            ),
            "join": Program(joined, (best, first(lambda v: tirx.reinterpret("int32", v.places)), found), PARAMS),
        }

    return make


def _var() -> Mapping[str, Program]:
    """Two walks, the second over deviations from the mean as it was rounded, whose sum corrects for that.

    Source: T. Chan, G. Golub, R. LeVeque, "Algorithms for computing the sample variance", 1983: the corrected two-pass
    algorithm, and how pieces are joined. A partial result is the rounded mean, the sum of deviations, and that of
    their squares.
    """
    from .._tvm import tirx
    from ..leaves.lower import f32
    from ..program import Operand, Pass, Program, Scalars

    def positive(v: Any) -> Any:
        return tirx.Select(v < f32(0.0), f32(0.0), v)  # NaN stays

    walks = (
        Pass(reduce={"mean": ("sum", lambda v: v.x * v.share)}),
        Pass(
            values={"d": lambda v: v.x - v.mean},
            reduce={"d1": ("sum", lambda v: v.d), "d2": ("sum", lambda v: v.d * v.d)},
        ),
    )
    y = Operand("y", "scalar", True)
    parts = ("mean", "d1", "d2")

    def part(name: str) -> tuple[str, Value]:
        return name + "_part", lambda v: getattr(v, name)

    # Of the pieces: ``away`` is the deviation of a piece's mean from that of all.
    pieces = (
        Pass(reduce={"mean": ("sum", lambda v: v.means / v.n), "total": ("sum", lambda v: v.counts)}),
        Pass(
            values={
                "offset": lambda v: v.d1s / v.counts,
                "away": lambda v: (v.means - v.mean) + v.offset,
                "weight": lambda v: v.away * v.counts,
            },
            reduce={
                "d1": ("sum", lambda v: v.weight),
                "d2": ("sum", lambda v: (v.d2s - v.d1s * v.offset) + v.weight * v.away),
            },
        ),
        Scalars(store={"y": lambda v: positive(v.d2 - v.d1 * (v.d1 / v.total)) / v.divisor}),
    )
    return {
        "": Program(
            (Operand("x"), y),
            (*walks, Scalars(store={"y": lambda v: positive(v.d2 - v.d1 * (v.d1 * v.share)) / v.divisor})),
            PARAMS,
        ),
        "part": Program(
            (Operand("x"), *(Operand(name + "_part", "scalar", True, "float32") for name in parts)),
            (*walks, Scalars(store=dict(map(part, parts)))),
            PARAMS,
        ),
        "join": Program(
            (
                *(Operand(name + "s", dtype="float32") for name in parts),
                y,
                Operand("counts", "vector", False, "float32"),
            ),
            pieces,
            PARAMS,
        ),
    }


def _aten(op: str, **kwargs: Any) -> Callable[..., Any]:
    def call(x: Any, dim: int = 1) -> Any:
        import torch

        return getattr(torch, op)(x, dim=dim, **kwargs)

    return call


def _ours(op: str, **kwargs: Any) -> Callable[..., Any]:
    def call(x: Any, dim: int = 1) -> Any:
        import tvmops

        return getattr(tvmops, op)(x, dim=dim, **kwargs)

    return call


def _gradient(op: str, *more: Any) -> Callable[..., Any]:
    """Of the inputs of a program, x and then [M] tensors, in the order of the operator's schema."""

    def call(x: Any, *scalars: Any, dim: int = 1) -> Any:
        import torch

        result, g = (scalars[:-1], scalars[-1].unsqueeze(dim))
        return getattr(torch.ops.tvmops, op)(g, x, *(y.unsqueeze(dim) for y in result), [dim], *more)

    return call


def _amax_gradient(x: Any, y: Any, g: Any, dim: int = 1) -> Any:
    mask = x == y.unsqueeze(dim)
    return g.unsqueeze(dim) * mask / mask.sum(dim, True)


def _with_maxima(name: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """3 is the maximum of every row."""
    import numpy as np

    if name == "y":
        return np.full(shape, 3, "float32")
    x = rng.integers(0, 4, shape).astype("float32")
    if name == "x":
        x[:, 0] = 3
    return x


def _var_gradient(x: Any, g: Any, dim: int = 1) -> Any:
    return 2 / x.shape[dim] * g.unsqueeze(dim) * (x - x.mean(dim, True))


def _reduction(op: str, make: Callable[[], Mapping[str, Program]], **more: Any) -> Reduction:
    kwargs = {"correction": 0} if op == "var" else {}  # of a single element too

    def params(n: int) -> tuple[float, ...]:
        divisor = n if op in ("mean", "var") else 1
        return 1 / n, divisor, 1 / divisor

    return Reduction(
        op, make, _aten(op, **kwargs), _ours(op, **kwargs), params, column=True, device_default=True, **more
    )


def _amax_backward() -> Program:
    """Elements equal to the result share the gradient; none are where that is NaN, and 0 / 0 goes everywhere."""
    from .._tvm import tirx
    from ..leaves.lower import f32
    from ..mathlib import fma
    from ..program import Operand, Pass, Program, Scalars

    operands = (Operand("x"), Operand("y", "scalar"), Operand("g", "scalar"), Operand("dx", written=True))
    return Program(
        operands,
        (
            Pass(reduce={"count": ("sum", lambda v: tirx.Select(v.x == v.y, f32(1.0), f32(0.0)))}),
            Scalars(values={"share": lambda v: v.g / v.count, "none": lambda v: fma(v.share, f32(0.0), f32(0.0))}),
            Pass(store={"dx": lambda v: tirx.Select(v.x == v.y, v.share, v.none)}),
        ),
    )


def _var_backward() -> Program:
    """2 / (n - correction) * g * (x - mean): the parameters are 1 / n and the first factor."""
    from ..program import Operand, Pass, Program, Scalars

    return Program(
        (Operand("x"), Operand("g", "scalar"), Operand("dx", written=True)),
        (
            Pass(reduce={"mean": ("sum", lambda v: v.x * v.share)}),
            Scalars(values={"slope": lambda v: v.g * v.factor}),
            Pass(store={"dx": lambda v: v.slope * (v.x - v.mean)}),
        ),
        ("share", "factor"),
    )


_REDUCTIONS = (
    _reduction("sum", _fold("sum"), short=False),
    _reduction("mean", _fold("sum"), leaves="sum", short=False),
    _reduction("amax", _fold("nanmax")),
    _reduction("amin", _fold("nanmin")),
    _reduction("var", _var, parts=3, twice=True, flops_per_element=5),
    _reduction("argmax", _arg("nanmax"), parts=2, indexed=True, twice=True, flops_per_element=3),
    _reduction("argmin", _arg("nanmin"), parts=2, indexed=True, twice=True, flops_per_element=3),
)
_GRADIENTS = (
    RowsOperator(
        "amax_backward", _amax_backward, _amax_gradient, _gradient("amax_backward"), column=True, fill=_with_maxima
    ),
    RowsOperator(
        "var_backward",
        _var_backward,
        _var_gradient,
        _gradient("var_backward", 0),
        lambda n: (1 / n, 2 / n),
        column=True,
    ),
)
OPERATORS = {op.name: op for op in (*_REDUCTIONS, *_GRADIENTS)}
