"""The space of reductions on CPU: how far loops are unrolled, and into which pieces long rows are cut.

The driver (csrc/drivers/reduce.cpp) gives the params their meaning; leaves are bound by the names used here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from tvm import tirx

from ..leaves import storage
from ..leaves.columns import columns_leaf, short_leaf
from ..leaves.rows import rows_leaf
from ..program import Program
from ..target import Target
from ..workload import Workload
from .constraints import Constraint, Relation
from .rows import ELEMENT_BOUNDS, FORMS, LENGTH_BOUNDS
from .space import Choice, Knob, Leaf

if TYPE_CHECKING:
    from ..ops.reductions import Reduction


# Rows of at most so many elements are transposed first.
SHORT = 16
# Of rows across, of so few elements, a tile stays in registers.
FEW, FEW_VECTORS = 12, 4


class ReduceSpace:
    """Knobs of a reduction."""

    name = "reduce"
    driver = "reduce"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(self, workload: Workload, target: Target, reduction: Reduction) -> None:
        self.workload, self.target, self.reduction = workload, target, reduction
        self.lanes = target.lanes()
        self.knobs = (
            Knob("unroll", (1, 2, 4, 8), "vectors of a row in one step of the loop"),
            Knob("height", (1, 2, 4), "rows side by side, while they fit in L1"),
            Knob("width", (16, 32, 64, 128), "vectors of a tile of neighbouring rows"),
            Knob("segment", (4096, 8192, 16384), "elements of a piece of a long row"),
            Knob("depth", (64, 128, 512), "and if rows lie across"),
            Knob("parallel_bytes", (64 << 10, 256 << 10, 1 << 20), "what is worth starting threads for"),
        )
        self.constraints = (
            Relation(
                "a piece that is walked through twice fits in half of L2",
                ("width", "segment", "depth"),
                lambda c: (
                    not reduction.twice
                    or 4 * max(c["segment"], c["depth"] * c["width"] * self.lanes) <= target.l2_bytes // 2
                ),
            ),
        )

    def default(self) -> dict[str, int]:
        """What won on the machine that the shipped records come from, before any tuning."""
        twice = self.reduction.twice
        return {
            "unroll": 2 if twice else 4,
            "height": 2 if twice else 1,
            "width": 32 if twice else 64,
            "segment": 8192 if twice else 16384,
            "depth": 128 if twice else 512,
            "parallel_bytes": 256 << 10,
        }

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver binds."""
        size = storage.size(self.workload.dtype)
        out = {"bytes": size, "result_bytes": 8 if self.reduction.indexed else size}
        out |= {name: int(getattr(self.reduction, name)) for name in ("parts", "indexed", "twice")}
        out |= {"tile": self.lanes * choice["width"], "few": FEW, "short": SHORT if self.reduction.short else 0}
        return out | {name: choice[name] for name in ("segment", "depth", "parallel_bytes")}

    def apply(self, choice: Choice) -> list[Leaf]:
        """The leaves of a choice: the whole reduction, its part, its join; along rows and across."""
        op, dtype, lanes = self.reduction.leaves or self.workload.op, self.workload.dtype, self.lanes
        prefix = f"tvmops_{self.target.name.replace('-', '_')}_{op}_{dtype}"
        leaves = []

        def add(name: str, how: str, make: Callable[[str], tirx.PrimFunc]) -> None:
            symbol = f"{prefix}_{name.replace('.', '_')}_{how}"
            leaves.append(Leaf(name, symbol, partial(make, symbol)))

        unroll, height, width = choice["unroll"], choice["height"], choice["width"]
        longest = self.target.l1_bytes // (height * storage.size(dtype))
        for variant, program in self.reduction.variants().items():
            of = f".{variant}" if variant else ""

            def row(symbol: str, program: Program = program) -> tirx.PrimFunc:
                return rows_leaf(symbol, program, dtype, lanes, unroll, height=height, longest=longest)

            def column(symbol: str, program: Program = program) -> tirx.PrimFunc:
                return columns_leaf(symbol, program, dtype, lanes, width)

            def short(symbol: str, program: Program = program) -> tirx.PrimFunc:
                return short_leaf(symbol, program, dtype, lanes, SHORT)

            def few(symbol: str, program: Program = program) -> tirx.PrimFunc:
                return rows_leaf(symbol, program, dtype, lanes, FEW_VECTORS, column=True)

            add("row" + of, f"u{unroll}h{height}", row)
            add("column" + of, f"w{width}", column)
            if not variant:
                add("few", f"u{FEW_VECTORS}", few)
                if self.reduction.short:
                    add("short", f"n{SHORT}", short)
        return leaves

    def plan_size(self) -> int:
        """By form, length and size."""
        return FORMS * (len(LENGTH_BOUNDS) + 1) * (len(ELEMENT_BOUNDS) + 1)
