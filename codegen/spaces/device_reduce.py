"""The space of reductions on a GPU: threads, vectors, loads in flight, and how long rows are cut.

``codegen.cuda.reduce`` gives the knobs their meaning; the driver is csrc/cuda's "cuda_reduce".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvm import tirx

from ..cuda.kernel import DeviceKernel
from ..cuda.plan import reduce_plan_size
from ..cuda.reduce import BUFFERS, PARAMS, reduce_kernel
from ..cuda.reduce_cut import SIZES, ReduceShape
from ..leaves import storage
from ..program import REDUCTIONS, Pass
from ..target import GpuTarget
from ..workload import Workload
from .constraints import Choice, Constraint, Relation
from .device_rows import PASS_CONFIG, WORD
from .space import Knob

if TYPE_CHECKING:
    from ..ops.reductions import Reduction

# Registers besides those that hold elements. From ptxas' output for what ships, rounded up.
BASE_REGISTERS = 64
# Static shared memory of a block, at most.
SHARED_BYTES = 48 << 10


class DeviceReduceSpace:
    """Knobs of a reduction."""

    name = "device_reduce"
    driver = "cuda_reduce"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(self, workload: Workload, target: GpuTarget, reduction: Reduction) -> None:
        self.workload, self.target, self.reduction = workload, target, reduction
        self.programs = reduction.device_variants(workload.dtype)
        self.element = storage.size(workload.dtype)
        walks = [step for step in self.programs[""].steps if isinstance(step, Pass)]
        self.sums = max(len(walk.reduce) for walk in walks)
        self.words = max(WORD * len(walk.reduce) for walk in walks)
        assert all(storage.size(REDUCTIONS[kind].dtype) == WORD for w in walks for kind, _ in w.reduce.values())
        twice = reduction.twice
        self.knobs = (
            Knob("threads", (64, 128, 256, 512), "threads of a block"),
            Knob("vector_bytes", (4, 8, 16), "loaded at once, of a row or of neighbouring rows"),
            Knob("loads", (1, 2, 4, 8), "loads of a thread in flight"),
            Knob("kept", (1, 2, 4, 8) if twice else (0,), "vectors of a row along memory that a thread keeps"),
            Knob("depth", (64, 128, 256) if twice else (0,), "the longest piece of rows across"),
            Knob("blocks", (1, 2, 4, 8, 16), "blocks for each multiprocessor before rows are not cut further"),
        )
        self.constraints = (
            Relation(
                f"registers of a thread, estimated: at most {target.registers_thread}, or they spill",
                ("vector_bytes", "loads", "kept"),
                lambda c: self.registers(c) <= target.registers_thread,
            ),
            Relation(
                f"registers of a block, estimated: at most {target.registers_sm}",
                ("threads", "vector_bytes", "loads", "kept"),
                lambda c: self.registers(c) * c["threads"] <= target.registers_sm,
            ),
            Relation(
                f"a vector has an element of {self.element} bytes or more",
                ("vector_bytes",),
                lambda c: c["vector_bytes"] >= self.element,
            ),
            Relation(
                f"shared memory: results of a vector's rows, for each thread, in at most {SHARED_BYTES} bytes",
                ("threads", "vector_bytes"),
                lambda c: c["threads"] * c["vector_bytes"] // self.element * self.words <= SHARED_BYTES,
            ),
        )

    def registers(self, choice: Choice) -> int:
        """Of a thread, estimated: what is kept or in flight, accumulators, results."""
        vector = choice["vector_bytes"] // self.element
        deep = max(choice["kept"], choice["loads"])
        return BASE_REGISTERS + deep * choice["vector_bytes"] // WORD + 3 * self.sums * vector

    def shape(self, choice: Choice) -> ReduceShape:
        """What the kernel is made from."""
        return ReduceShape(
            threads=choice["threads"],
            vector=choice["vector_bytes"] // self.element,
            loads=choice["loads"],
            kept=choice["kept"],
            depth=choice["depth"],
            blocks=choice["blocks"] * self.target.multiprocessors,
        )

    def default(self) -> dict[str, int]:
        """By arithmetic, not measured.

        What is on its way from memory must be bandwidth times latency: some 20 to 40 KB for a multiprocessor, which
        four loads of 16 bytes are for two blocks of 256 threads. Eight blocks leave none idle where some end sooner.
        Rows that are walked through twice: 32 elements a thread stay in registers. A piece across of 128 rows is 64 KB
        of a block, so that the second walk finds what all blocks have in L2.
        """
        twice = self.reduction.twice
        choice = {"threads": 256, "vector_bytes": 16, "loads": 4, "kept": 0, "depth": 0, "blocks": 8}
        return {**choice, "kept": 2 * self.element, "depth": 128} if twice else choice

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver binds."""
        result = 8 if self.reduction.indexed else self.element
        return {"bytes": self.element, "result_bytes": result, **self.shape(choice).params()}

    def apply(self, choice: Choice) -> list[DeviceKernel]:
        """One kernel."""
        shape, dtype = self.shape(choice), self.workload.dtype
        knobs = "".join(f"{k}{v}" for k, v in zip("tvlkdb", shape.params().values(), strict=True))
        symbol = "_".join(["tvmops", self.target.name, self.workload.op, dtype, knobs])

        def make() -> tirx.PrimFunc:
            return reduce_kernel(self.programs, dtype, shape)

        return [DeviceKernel(symbol, make, BUFFERS, SIZES, PARAMS, "plain", PASS_CONFIG)]

    def plan_size(self) -> int:
        """By form, length and size."""
        return reduce_plan_size()
