"""The space of prefix sums and products on CPU: how rows and columns are cut, when threads and streaming stores pay.

The driver (csrc/drivers/scan.cpp) gives the params their meaning; leaves are bound by the names used here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from ..leaves import scan, scan_row, storage
from ..target import Target
from ..workload import Workload
from .constraints import Constraint, Relation
from .space import Choice, Knob, Leaf

# Upper bounds of the size buckets of a plan, by the extent that lanes lie along and the number of elements; the last
# bucket has none. csrc/drivers/scan.cpp has the same.
SPAN_BOUNDS = (4, 8, 16, 64, 256, 1024)
ELEMENT_BOUNDS = (1 << 10, 1 << 14, 1 << 18, 1 << 22)
FORMS = 2  # row, column
NEVER = 1 << 40
DOUBLE = 8
ONE = {"float32": 0x3F800000, "bfloat16": 0x3F80, "float16": 0x3C00}


class ScanSpace:
    """Knobs of a scan; ``kind`` is one of ``leaves.scan.KINDS``."""

    name = "scan"
    driver = "scan"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(self, workload: Workload, target: Target, kind: str) -> None:
        self.workload, self.target, self.kind = workload, target, kind
        self.lanes = target.lanes("float64")
        self.width = target.lanes()  # a vector of columns: two vectors of float64
        self.knobs = (
            Knob("fold", (1, 2, 4), "neighbouring elements that share a lane"),
            Knob("block", (4, 8, 16, 32), "groups of lanes * fold elements between the two loops of a row"),
            Knob("tile", (1, 2, 4, 8), "vectors of columns that go down together"),
            Knob("segment", (512, 1024, 2048, 4096), "elements of a row scanned, and streamed out, at a time"),
            Knob("depth", (4, 8, 16, 32), "rows of a tile that are streamed out at a time"),
            Knob("parallel_bytes", (16 << 10, 64 << 10, 256 << 10), "what is worth starting threads for"),
            Knob("stream_bytes", (8 << 20, 24 << 20, 48 << 20, NEVER), "from here on results bypass the caches"),
        )
        registers = target.vector_registers
        self.constraints = (
            Relation(
                f"two accumulators for each vector of a tile, and four to work with, in {registers} registers",
                ("tile",),
                lambda c: 2 * c["tile"] + 4 <= registers,
            ),
            Relation(
                "a block of float64 fits in a quarter of L1",
                ("fold", "block"),
                lambda c: c["block"] * c["fold"] * self.lanes * DOUBLE <= target.l1_bytes // 4,
            ),
            Relation(
                "a segment, its results and a block fit in L1",
                ("segment", "fold", "block"),
                lambda c: (
                    2 * c["segment"] * storage.size(workload.dtype) + c["block"] * c["fold"] * self.lanes * DOUBLE
                    <= target.l1_bytes
                ),
            ),
        )

    def default(self) -> dict[str, int]:
        """What won on the machine that the shipped records come from, before any tuning."""
        big = self.target.vector_registers >= 32
        return {
            "fold": 4 if big else 2,
            "block": 8 if big else 16,
            "tile": 8 if big else 4,
            "segment": 1024,
            "depth": 8,
            "parallel_bytes": 64 << 10,
            "stream_bytes": 24 << 20,
        }

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver binds: the dtype, the operation, and the knobs."""
        dtype = self.workload.dtype
        return {
            "bytes": storage.size(dtype),
            "product": int(self.kind == "prod"),
            "identity_bits": ONE[dtype] if self.kind == "prod" else 0,
            "work": choice["block"] * (choice["fold"] * self.lanes + 1),
            "panel": choice["tile"] * self.width,
            **{name: choice[name] for name in ("segment", "depth", "parallel_bytes", "stream_bytes")},
        }

    def apply(self, choice: Choice) -> list[Leaf]:
        """The leaves of a choice."""
        dtype = self.workload.dtype
        prefix = f"tvmops_{self.target.name.replace('-', '_')}_scan_{self.kind}_{dtype}"
        leaves: list[Leaf] = []

        def add(name: str, suffix: str, make: Callable[..., tirx.PrimFunc], *args: object, **flags: bool) -> None:
            symbol = f"{prefix}_{name.replace('.', '_')}{suffix}"
            leaves.append(Leaf(name, symbol, lambda: make(symbol, self.kind, dtype, *args, **flags)))

        fold, block, tile = choice["fold"], choice["block"], choice["tile"]
        for reverse in (False, True):
            end = ".reverse" if reverse else ""
            add(f"row{end}", f"_f{fold}_b{block}", scan_row.row, self.lanes, fold, block, reverse=reverse)
            if self.kind != "prod":
                add(f"total{end}", f"_f{fold}", scan_row.total, self.lanes, fold, reverse=reverse)
        add("column", f"_t{tile}", scan.column, self.width, tile)
        if self.kind == "prod":
            add("serial", "", scan.serial)
        return leaves

    def plan_size(self) -> int:
        """By form, extent along the lanes, and size."""
        return FORMS * (len(SPAN_BOUNDS) + 1) * (len(ELEMENT_BOUNDS) + 1)
