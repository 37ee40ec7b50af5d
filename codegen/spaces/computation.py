"""What the rules of a derived space look at: the stages of a computation, their axes, and who reads whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir.prim import expr

SPATIAL, REDUCTION = 0, 2  # of tirx.IterVar


@dataclass(frozen=True)
class Axis:
    """A loop of a stage."""

    name: str
    extent: int
    reduced: bool


@dataclass(frozen=True)
class Read:
    """A buffer that a stage reads. ``axes``: by dimension, the axis that indexes it; None where that is more than one.

    ``stage``: the one that computes the buffer; None for an input of the computation.
    """

    buffer: str
    stage: str | None
    axes: tuple[str | None, ...]
    touched: frozenset[str]  # every axis that occurs in the index
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """A block of a TensorIR function that was not scheduled yet."""

    name: str
    axes: tuple[Axis, ...]
    reads: tuple[Read, ...]
    output: bool
    consumers: tuple[str, ...]
    work: int  # operations for one element
    combiner: str | None  # of a reduction of one value: Add, Max or Min

    @property
    def spatial(self) -> tuple[Axis, ...]:
        """Those of its result."""
        return tuple(a for a in self.axes if not a.reduced)

    @property
    def reduced(self) -> tuple[Axis, ...]:
        """Those it sums or maximises over."""
        return tuple(a for a in self.axes if a.reduced)

    @property
    def injective(self) -> bool:
        """Each element of the result comes from its own element of the operands."""
        return not self.reduced

    @property
    def reuses(self) -> bool:
        """Whether it reads an element of two operands again and again: what tiles in a cache or registers are for."""
        if not self.reduced:
            return False
        reused = [r for r in self.reads if any(a.extent > 1 and a.name not in r.touched for a in self.spatial)]
        return len(reused) > 1

    @property
    def elements(self) -> int:
        """Of the result."""
        return math.prod(a.extent for a in self.spatial)


def stages(function: tirx.PrimFunc) -> list[Stage]:
    """The stages of a function, in order."""
    schedule = s_tir.Schedule(function)
    blocks = [schedule.get(b) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    makers = {region.source: block.name_hint for block in blocks for region in block.writes}
    outputs = set(function.params)
    found = []
    for block in blocks:
        axes = tuple(Axis(v.var.name, int(v.dom.extent), v.iter_type != SPATIAL) for v in block.iter_vars)
        reads = tuple(_read(region, makers) for region in block.reads)
        written = [region.source for region in block.writes]
        consumers = tuple(
            other.name_hint
            for other in blocks
            if other is not block and any(region.source in written for region in other.reads)
        )
        output = any(buffer in outputs for buffer in written)
        found.append(
            Stage(block.name_hint, axes, reads, output, consumers, _operations(block.body), _combiner(block.body))
        )
    return found


def _read(region: tvm.ir.TensorRegion, makers: dict[tirx.Var, str]) -> Read:
    found: list[tirx.Var] = []
    for dimension in region.region:
        tvm_ffi.structural_walk(dimension.min, (tirx.Var, found.append))
    axes = tuple(d.min.name if isinstance(d.min, tirx.Var) and int(d.extent) == 1 else None for d in region.region)
    shape = tuple(int(extent) for extent in region.source.shape)
    return Read(region.source.name, makers.get(region.source), axes, frozenset(v.name for v in found), shape)


def _operations(body: tirx.Stmt) -> int:
    """Calls count as several: none is cheaper than an addition, most are dearer."""
    count = 0

    def visit(node: object) -> None:
        nonlocal count
        if isinstance(node, (tvm.ir.Call, expr.Div)):
            count += 4
        elif isinstance(node, expr.BinaryOpExpr):
            count += 1

    tvm_ffi.structural_walk(body, visit)
    return count


def _combiner(body: tirx.Stmt) -> str | None:
    value = getattr(body, "value", None)
    return type(value).__name__ if isinstance(value, (expr.Add, expr.Max, expr.Min)) else None


def divisors(extent: int) -> tuple[int, ...]:
    """All, ascending."""
    return tuple(d for d in range(1, extent + 1) if extent % d == 0)


def named(found: Sequence[Stage], name: str) -> Stage:
    """The stage of that name."""
    return next(s for s in found if s.name == name)
