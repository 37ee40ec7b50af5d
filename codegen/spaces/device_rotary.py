"""The space of rotary embeddings on a GPU: threads, vectors, blocks.

``codegen.cuda.rotary`` gives the knobs their meaning; the driver is csrc/cuda's "cuda_rotary".
"""

from __future__ import annotations

from collections.abc import Sequence

from ..cuda.kernel import DeviceKernel
from ..cuda.plan import rows_plan_size
from ..cuda.rotary import Shape, kernel
from ..leaves import storage
from ..target import GpuTarget
from ..workload import Workload
from .constraints import Choice, Constraint, Relation
from .space import Knob

BUFFERS = ("X", "cos", "sin", "Y")
# Of three dimensions: sizes and strides, in elements; of a row: pairs, and elements that are not turned.
OF_ROW = ("angles", "rest")
SIZES = (
    *(f"size{d}" for d in range(3)),
    *OF_ROW,
    *(f"{of}{d}" for of in ("x", "y", "table") for d in range(3)),
    "flags",
)


class DeviceRotarySpace:
    """Knobs of a rotary embedding."""

    name = "device_rotary"
    driver = "cuda_rotary"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(self, workload: Workload, target: GpuTarget) -> None:
        self.workload, self.target = workload, target
        element = storage.size(workload.dtype)
        self.knobs = (
            Knob("threads", (64, 128, 256, 512), "threads of a block"),
            Knob("vector_bytes", (4, 8, 16), "loaded at once, of a row"),
            Knob("blocks", (1, 2, 4, 8, 16, 32), "blocks of a grid, at most, for each multiprocessor"),
        )
        self.constraints = (
            Relation(
                f"a vector has an element of {element} bytes or more",
                ("vector_bytes",),
                lambda c: c["vector_bytes"] >= element,
            ),
        )

    def shape(self, choice: Choice) -> Shape:
        """What the kernel is made from."""
        vector = choice["vector_bytes"] // storage.size(self.workload.dtype)
        return Shape(choice["threads"], vector, choice["blocks"] * self.target.multiprocessors)

    def default(self) -> dict[str, int]:
        """By arithmetic, not measured: with 2048 threads on a multiprocessor, 64 KB are on their way from memory."""
        return {"threads": 256, "vector_bytes": 16, "blocks": 16}

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver binds."""
        return {"bytes": storage.size(self.workload.dtype), "threads": choice["threads"]}

    def apply(self, choice: Choice) -> list[DeviceKernel]:
        """The one kernel."""
        dtype, s = self.workload.dtype, self.shape(choice)
        knobs = "".join(f"{k}{v}" for k, v in zip("tvb", vars(s).values(), strict=True))
        symbol = "_".join(["tvmops", self.target.name, self.workload.op, dtype, knobs])
        return [DeviceKernel(symbol, lambda: kernel(dtype, s), BUFFERS, SIZES, pipeline="tirx")]

    def plan_size(self) -> int:
        """By size alone."""
        return rows_plan_size(True)
