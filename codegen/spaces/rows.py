"""The space of row programs on CPU: how far loops are unrolled, and when threads and streaming stores pay.

The driver (csrc/drivers/rows.cpp) gives the params their meaning; leaves are bound by the names used here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm import tirx

from ..leaves import storage
from ..leaves.rows import rows_leaf
from ..program import Operand, Pass, Program
from ..target import Target
from ..workload import Workload
from .constraints import Constraint, Relation
from .space import Choice, Knob, Leaf

# Upper bounds of the size buckets of a plan; the last bucket has none. csrc/drivers/rows.cpp has the same.
LENGTH_BOUNDS = (16, 128, 1024)
ELEMENT_BOUNDS = (1 << 10, 1 << 14, 1 << 18, 1 << 22)
ROLES = ("row", "vector", "scalar", "partial", "scratch", "single")
FORMS = 2  # row, column
NEVER = 1 << 40


class RowsSpace:
    """Knobs of a row program. ``variants`` maps an activation to the program that applies it.

    ``defaults`` has the values of knobs that a program is known to want others of than most.
    """

    name = "rows"
    driver = "rows"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(
        self,
        workload: Workload,
        target: Target,
        variants: Mapping[str, Program],
        *,
        flat: bool,
        column: bool,
        defaults: Mapping[str, int] | None = None,
    ) -> None:
        self.workload, self.target, self.variants = workload, target, variants
        self.flat, self.column, self.defaults = flat, column, defaults or {}
        self.lanes = target.lanes()
        self.knobs = (
            Knob("unroll", (1, 2, 4, 8), "vectors of a row in one step of the loop"),
            Knob("height", (1,) if flat else (1, 2, 4), "rows side by side, while they fit in L1"),
            Knob("unroll_column", (1, 2, 4, 8) if column else (1,), "vectors of neighbouring rows in one step"),
            Knob("parallel_bytes", (16 << 10, 64 << 10, 256 << 10), "what is worth starting threads for"),
            Knob("stream_bytes", (24 << 20, 48 << 20, 96 << 20, NEVER), "from here on results bypass the caches"),
            Knob("block_bytes", (4 << 10, 16 << 10, 64 << 10), "computed before it is streamed out"),
        )
        self.constraints = (
            Relation(
                "a block to be streamed fits in half of L2",
                ("block_bytes",),
                lambda c: c["block_bytes"] <= target.l2_bytes // 2,
            ),
        )

    def default(self) -> dict[str, int]:
        """What won on the machine that the shipped records come from, before any tuning.

        Every row operand is a stream of memory: two rows of three of them are more than the hardware follows. Gradients
        of weights take registers of their own, and sums several accumulators.
        """
        program = next(iter(self.variants.values()))
        passes = [step for step in program.steps if isinstance(step, Pass)]
        partial = any(o.role == "partial" for o in program.operands)
        streams = sum(o.role == "row" for o in program.operands)
        reduces = any(step.reduce for step in passes)
        return {
            "unroll": 2 if partial and reduces else 4 if reduces else 1,
            "height": 2 if len(passes) > 1 and streams <= 2 else 1,
            "unroll_column": 4 if self.column else 1,
            "parallel_bytes": 64 << 10,
            "stream_bytes": NEVER,
            "block_bytes": 16 << 10,
            **self.defaults,
        }

    def element_bytes(self, operand: Operand) -> int:
        """Of an element in memory."""
        return storage.size(self.workload.dtype if operand.dtype == "data" else operand.dtype)

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver binds: the operands of the program, and the knobs."""
        program = next(iter(self.variants.values()))
        out = {"operands": len(program.operands), "flat": int(self.flat)}
        for i, operand in enumerate(program.operands):
            out[f"role{i}"] = ROLES.index(operand.role)
            out[f"written{i}"] = int(operand.written)
            out[f"bytes{i}"] = self.element_bytes(operand)
        out |= {"tile": self.lanes * choice["unroll_column"], "height": choice["height"]}
        return out | {name: choice[name] for name in ("parallel_bytes", "stream_bytes", "block_bytes")}

    def apply(self, choice: Choice) -> list[Leaf]:
        """The leaves of a choice."""
        op, dtype, n = self.workload.op, self.workload.dtype, self.workload.dims["N"]
        prefix = "tvmops_" + self.target.name.replace("-", "_")
        leaves = []
        height = choice["height"]
        for form in ("row", "column")[: 1 + self.column]:
            column = form == "column"
            unroll = choice["unroll_column" if column else "unroll"]
            how = [f"u{unroll}", *([] if column else [f"h{height}", f"n{n or ''}"])]
            for variant, program in self.variants.items():
                name = f"{form}.{variant}" if variant else form
                symbol = "_".join([prefix, op, dtype, name.replace(".", "_"), *how])

                def make(
                    symbol: str = symbol, program: Program = program, unroll: int = unroll, column: bool = column
                ) -> tirx.PrimFunc:
                    if column:
                        return rows_leaf(symbol, program, dtype, self.lanes, unroll, column=True)
                    element = sum(self.element_bytes(o) for o in program.operands if o.role == "row")
                    longest = self.target.l1_bytes // (height * element)
                    return rows_leaf(symbol, program, dtype, self.lanes, unroll, n, height=height, longest=longest)

                leaves.append(Leaf(name, symbol, make))
        return leaves

    def plan_size(self) -> int:
        """By size alone, or by form, length and size."""
        sizes = len(ELEMENT_BOUNDS) + 1
        by_size = self.flat or self.workload.dims["N"] is not None
        return sizes if by_size else FORMS * (len(LENGTH_BOUNDS) + 1) * sizes
