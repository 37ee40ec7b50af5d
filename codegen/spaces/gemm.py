"""The space of the GEMM family on CPU: a register tile, cache blocking and prefetch around the leaves of a GEMM.

The driver (csrc/drivers/gemm.cpp) gives the params their meaning; leaves are bound by the names used here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from .. import activations
from ..leaves import epilogue, gemm_dot, gemm_tile, pack
from ..target import Target
from ..workload import Workload
from .constraints import AtMost, Constraint, Multiple, Relation
from .space import Choice, Knob, Leaf

FLOAT = 4
DOT_ROWS, DOT_COLUMNS = 4, 4
# Upper bounds of the size buckets of a plan; the last bucket has none. csrc/drivers/gemm_kernel.cpp has the same.
ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 512)
SIZE_BOUNDS = (8, 16, 32, 64, 128, 256, 1024)
# A longer chain of additions in one accumulator comes close to twice the error of ATen, whose blocks are about 190 deep
# (measured at K = 512: a chain of 512 has 1.97x its error, chains of 256 have 1.4x).
LONGEST_CHAIN = 256
FEW_CHAIN = 64  # where rows or columns are few; csrc/drivers/gemm.h has the same
PLANES = 3  # of a plan: B row-major, B transposed, B prepacked


class GemmSpace:
    """Knobs of C[M, N] = A[M, K] @ B[K, N], float32."""

    name = "gemm"
    driver = "gemm"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(self, workload: Workload, target: Target) -> None:
        self.workload, self.target = workload, target
        v = target.lanes()
        self.lanes = v
        big = target.vector_registers >= 32
        self.knobs = (
            Knob("mr", tuple(range(4, 17)) if big else tuple(range(2, 9)), "rows of the register tile"),
            Knob("nr", (v, 2 * v, 4 * v), "columns of the register tile, and of a panel of B"),
            Knob("kc", (256, 384, 512, 768, 1024, 1536, 2048), "depth of a block"),
            Knob("chain", (128, 192, 256), "k summed in one accumulator"),
            Knob("nc", (256, 512, 1024, 2048, 4096), "columns of a block of B"),
            Knob("mc", (48, 96, 112, 168, 224), "rows of a block of a transposed A"),
            Knob("prefetch", (0, 4, 8, 16, 32), "rows of B ahead of their use that are prefetched"),
            Knob("prefetch_skinny", (0, 8, 16, 32, 64), "the same for tiles of at most half the rows"),
            Knob("copy_a", (0, 1, 2), "copy tiles of a row-major A: never, where its rows share cache sets, always"),
            Knob("skinny_rows", (14, 28, 48), "up to this many rows B passes once, panel by panel"),
            Knob("static_k", (0, 1) if self._static_k() else (0,), "compile K into the tile"),
            Knob("wide_step", (4, 8, 16), "rows of a B in place that 1 to 3 rows of A sweep at a time"),
        )
        registers = target.vector_registers
        self.constraints = (
            AtMost(
                f"registers of {v} floats: accumulators, a row of B, a broadcast of A",
                ((1, ("mr", "nr")), (1, ("nr",)), (v, ())),
                v * registers,
            ),
            Relation(
                "at least half of the registers accumulate, or the multipliers idle",
                ("mr", "nr"),
                lambda c: 2 * c["mr"] * (c["nr"] // v) >= registers,
            ),
            Multiple("nc", "nr"),
            Relation("mc holds at least one tile", ("mr", "mc"), lambda c: c["mc"] >= c["mr"]),
            Relation("a block holds at least one chain", ("kc", "chain"), lambda c: c["chain"] <= c["kc"]),
            Relation(
                "a chain of a tile of A fits in L1",
                ("mr", "chain"),
                lambda c: c["mr"] * (c["chain"] + 16) * FLOAT <= target.l1_bytes,
            ),
            Relation(
                "a panel of B and a tile of A fit in half of L2",
                ("mr", "nr", "kc"),
                lambda c: (c["nr"] + c["mr"]) * c["kc"] * FLOAT <= target.l2_bytes // 2,
            ),
            Relation(
                "a transposed block of A fits in half of L2",
                ("kc", "mc"),
                lambda c: c["mc"] * (c["kc"] + 16) * FLOAT <= target.l2_bytes // 2,
            ),
            Relation(
                f"chain <= {LONGEST_CHAIN}: the error stays within twice ATen's",
                ("chain",),
                lambda c: c["chain"] <= LONGEST_CHAIN,
            ),
            Relation(
                "a static K is summed in one chain",
                ("static_k", "chain"),
                lambda c: not c["static_k"] or (self._static_k() or 0) <= c["chain"],
            ),
            Relation("skinny_rows is at least a tile", ("mr", "skinny_rows"), lambda c: c["skinny_rows"] >= c["mr"]),
        )

    def _static_k(self) -> int | None:
        """K where it is static and short enough for one chain, however few the rows and columns."""
        k = self.workload.dims["K"]
        return k if k is not None and k <= FEW_CHAIN else None

    def default(self) -> dict[str, int]:
        """What won on the machine that the shipped records come from, before any tuning."""
        big = self.target.vector_registers >= 32
        return {
            "mr": 14 if big else 6,
            "nr": 2 * self.lanes,
            "kc": 1024,
            "chain": 256,
            "nc": 1024,
            "mc": 112 if big else 48,
            "prefetch": 32 if big else 16,
            "prefetch_skinny": 0,
            "copy_a": 1,
            "skinny_rows": 28 if big else 14,
            "wide_step": 8,
            "static_k": 0,
        }

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver binds: the blocking knobs, and the shapes of the leaves."""
        kept = {k: choice[k] for k in ("mr", "nr", "kc", "chain", "nc", "mc", "copy_a", "skinny_rows", "wide_step")}
        return {
            **kept,
            "narrow": self.lanes // 2 if choice["nr"] == self.lanes else self.lanes,
            "wide": max(128 // (16 // self.lanes), choice["nr"]),
            "wide_rows": 0 if choice["static_k"] else 3,  # they take a few k at a time
            "dot_columns": DOT_COLUMNS,
            "parallel_work": 300_000,
        }

    def apply(self, choice: Choice) -> list[Leaf]:
        """The leaves of a choice."""
        p = self.params(choice)
        v, nr = self.lanes, choice["nr"]
        depth = self._static_k() if choice["static_k"] else None
        prefix = "tvmops_" + self.target.name.replace("-", "_")
        leaves: list[Leaf] = []

        def add(name: str, suffix: str, make: Callable[..., tirx.PrimFunc], *args: object) -> None:
            symbol = f"{prefix}_{name.replace('.', '_')}{suffix}"
            leaves.append(Leaf(name, symbol, lambda: make(symbol, *args)))

        for columns, rows in ((nr, choice["mr"]), (p["narrow"], choice["mr"]), (p["wide"], p["wide_rows"])):
            for r in range(1, rows + 1):
                distance = choice["prefetch_skinny" if 2 * r <= choice["mr"] else "prefetch"]
                if columns == p["wide"] > nr:
                    distance = 0  # whole rows of B pass in order: the hardware prefetcher does better alone
                suffix = f"_p{distance}" + (f"_k{depth}" if depth else "")
                add(f"tile.{r}x{columns}", suffix, gemm_tile.tile, r, columns, distance, depth)
        for r in range(1, DOT_ROWS + 1):
            for columns in (1, DOT_COLUMNS):
                add(f"dot.{r}x{columns}", "", gemm_dot.dot, r, columns, v)
        add(f"pack_rows.{nr}", "", pack.pack_rows, nr)
        add("copy", "", pack.copy, v)
        add("transpose", "", pack.transpose, v)
        for activation, function in activations.ACTIVATIONS.items():
            add(f"epilogue.{activation}", f"_{nr}", epilogue.epilogue, nr, function)
        unique = {leaf.name: leaf for leaf in leaves}
        return list(unique.values())

    def plan_size(self) -> int:
        """See :func:`plan_size`."""
        return plan_size(self.workload)


def plan_size(workload: Workload) -> int:
    """How many buckets the plan of a workload has: by M where N and K are static, else by plane, M, N and K."""
    rows, sizes = len(ROW_BOUNDS) + 1, len(SIZE_BOUNDS) + 1
    static = workload.dims["N"] is not None and workload.dims["K"] is not None
    return rows if static else PLANES * rows * sizes * sizes
