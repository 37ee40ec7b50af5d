"""The space of scans on a GPU: threads, vectors, how much of a row or column a thread has, when these are cut.

``codegen.cuda.scan`` gives the knobs their meaning; the driver is csrc/cuda's "cuda_scan".
"""

from __future__ import annotations

from collections.abc import Sequence

from ..cuda.kernel import DeviceKernel
from ..cuda.plan import scan_plan_size
from ..cuda.scan import SINGLE, Shape, kernel
from ..cuda.scan_states import kind_of
from ..leaves import storage
from ..target import GpuTarget
from ..workload import Workload
from .constraints import Choice, Constraint, Relation
from .space import Knob

SIZES = ("outer", "n", "inner", "flags")
# Registers besides those that hold elements; rounded up from ptxas' output.
BASE_REGISTERS = 48


class DeviceScanSpace:
    """Knobs of a scan; ``kind`` is one of ``codegen.cuda.scan_states.KINDS``."""

    name = "device_scan"
    driver = "cuda_scan"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(self, workload: Workload, target: GpuTarget, kind: str) -> None:
        self.workload, self.target, self.kind = workload, target, kind_of(kind)
        element = storage.size(workload.dtype)
        self.knobs = (
            Knob("threads", (64, 128, 256), "threads of a block"),
            Knob("vector_bytes", (4, 8, 16), "loaded at once"),
            Knob("count", (1, 2, 4), "vectors of a tile of a row that a thread has"),
            Knob("depth", (1, 2, 4, 8), "rows of a column that a thread loads at once"),
            Knob("blocks", (1, 2, 4, 8), "blocks for each multiprocessor, below which rows and columns are cut"),
        )
        self.constraints = (
            Relation(
                f"a vector has an element of {element} bytes or more",
                ("vector_bytes",),
                lambda c: c["vector_bytes"] >= element,
            ),
            Relation(
                "each lane of a warp has one of the totals that the warps of a block come to",
                ("threads", "count"),
                lambda c: c["threads"] // target.warp * max(c["count"], SINGLE) <= target.warp,
            ),
            Relation(
                f"registers of a thread, estimated: at most {target.registers_thread}, or they spill",
                ("vector_bytes", "count", "depth"),
                lambda c: self.registers(c) <= target.registers_thread,
            ),
        )

    def registers(self, choice: Choice) -> int:
        """Of a thread, estimated: elements as they are in memory, their states, those of vectors."""
        vector = choice["vector_bytes"] // storage.size(self.workload.dtype)
        words, states = choice["vector_bytes"] // 4 * (3 if self.kind.gradient else 1), self.kind.size
        of_row = choice["count"] * (words + states * (vector + 2))
        return BASE_REGISTERS + max(of_row, choice["depth"] * words + states * vector)

    def shape(self, choice: Choice) -> Shape:
        """What the kernel is made from."""
        vector = choice["vector_bytes"] // storage.size(self.workload.dtype)
        blocks = choice["blocks"] * self.target.multiprocessors
        return Shape(choice["threads"], vector, choice["count"], choice["depth"], blocks)

    def default(self) -> dict[str, int]:
        """By arithmetic, not measured: 16 elements of a row to a thread, of a gradient 8."""
        vector = 16 // storage.size(self.workload.dtype)
        count = (8 if self.kind.gradient else 16) // vector
        return {"threads": 256, "vector_bytes": 16, "count": count, "depth": 4, "blocks": 4}

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver binds, and how many tensors there are."""
        return {"operands": 4 if self.kind.gradient else 2, "threads": choice["threads"]}

    def apply(self, choice: Choice) -> list[DeviceKernel]:
        """The one kernel, of several launches."""
        dtype, s = self.workload.dtype, self.shape(choice)
        knobs = "".join(f"{k}{v}" for k, v in zip("tvcdb", vars(s).values(), strict=True))
        symbol = "_".join(["tvmops", self.target.name, self.workload.op, dtype, knobs])
        buffers = ("G", "X", "Y", "D") if self.kind.gradient else ("X", "Y")
        config = {"tirx.UnrollLoop": {"explicit_unroll": False}}  # nvcc unrolls
        return [
            DeviceKernel(symbol, lambda: kernel(self.kind, dtype, s), buffers, SIZES, pipeline="tirx", config=config)
        ]

    def plan_size(self) -> int:
        """By form, extent and size."""
        return scan_plan_size()
