"""The space of row programs on a GPU: threads, vectors, what is kept in registers.

``codegen.cuda.rows`` gives the knobs their meaning; the driver is csrc/cuda's "cuda_rows".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tvm import tirx

from ..cuda.kernel import DeviceKernel
from ..cuda.plan import rows_plan_size
from ..cuda.rows import Shape, operands, rows_kernel, sizes
from ..leaves import storage
from ..program import Pass, Program, used
from ..target import GpuTarget
from ..workload import Workload
from .constraints import Choice, Constraint, Relation
from .rows import ROLES
from .space import Knob

WORD = 4  # bytes of a register
# Registers of a thread: at least, for a word that is kept or in flight, and for a load (its address, and whether it is
# one of the row). Fitted to what ptxas 13.0 says for sm_80 of 231 choices of 12 programs in three dtypes, each with at
# most 255, 128 and 64 registers a thread: all 245 that spill are refused, and 89 of the 448 that don't.
BASE_REGISTERS, WORD_REGISTERS, LOAD_REGISTERS = 38, 0.95, 2.5
# Loops are unrolled by nvcc, not in TIR; TVM would take the arrays that become registers for memory to be shared.
PASS_CONFIG = {"tirx.UnrollLoop": {"explicit_unroll": False}, "tirx.disable_storage_rewrite": True}


class DeviceRowsSpace:
    """Knobs of a row program. ``variants`` maps an activation to the program that applies it."""

    name = "device_rows"
    driver = "cuda_rows"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(
        self,
        workload: Workload,
        target: GpuTarget,
        variants: Mapping[str, Program],
        *,
        flat: bool,
        defaults: Mapping[str, int] | None = None,
    ) -> None:
        self.workload, self.target, self.variants, self.flat = workload, target, variants, flat
        self.defaults = defaults or {}
        self.program = next(iter(variants.values()))
        element = storage.size(workload.dtype)
        self.knobs = (
            Knob("threads", (64, 128, 256, 512, 1024), "threads of a block"),
            Knob("vector_bytes", (4, 8, 16), "loaded at once, of a row"),
            Knob("kept", (1,) if flat else (1, 2, 4, 8, 16), "vectors of a row that a thread keeps in registers"),
            Knob("unroll", (1, 2, 4, 8), "vectors in flight of rows that are not kept"),
            Knob("blocks", (1, 2, 4, 8, 16, 32, 64), "blocks of a grid, at most, for each multiprocessor"),
        )
        on_registers = ("vector_bytes", "kept", "unroll")
        self.constraints = (
            Relation(
                f"registers of a thread, estimated: at most {target.registers_thread}, or they spill",
                on_registers,
                lambda c: self.registers(c) <= target.registers_thread,
            ),
            Relation(
                f"registers of a block, estimated: at most {target.registers_sm}",
                ("threads", *on_registers),
                lambda c: self.registers(c) * c["threads"] <= target.registers_sm,
            ),
            Relation(
                f"a block of rows has a thread for each element of a vector of {element} bytes or more",
                ("threads", "vector_bytes"),
                lambda c: c["vector_bytes"] >= element and c["threads"] % target.warp == 0,
            ),
        )

    def registers(self, choice: Choice) -> int:
        """Of a thread, estimated: what is kept or in flight of every operand, and accumulators."""
        vector = choice["vector_bytes"] // storage.size(self.workload.dtype)
        deep = max(choice["kept"], choice["unroll"])
        read = set().union(*map(used, self.program.steps))
        words = loads = 0
        for o in self.program.operands:
            if o.role in ("row", "vector") and (o.name in read or not o.written):
                kind = self.workload.dtype if o.dtype == "data" else o.dtype
                words += vector * storage.size(kind) // WORD * deep
                loads += deep * (not o.written)
            elif o.role in ("scratch", "partial"):
                words += vector * choice["kept"]
        sums = max((len(step.reduce) for step in self.program.steps if isinstance(step, Pass)), default=0)
        return math.ceil(BASE_REGISTERS + WORD_REGISTERS * (words + sums * vector) + LOAD_REGISTERS * loads)

    def shape(self, choice: Choice) -> Shape:
        """What the kernel is made from."""
        return Shape(
            threads=choice["threads"],
            vector=choice["vector_bytes"] // storage.size(self.workload.dtype),
            kept=choice["kept"],
            unroll=choice["unroll"],
            blocks=choice["blocks"] * self.target.multiprocessors,
        )

    def default(self) -> dict[str, int]:
        """By arithmetic, not measured.

        A multiprocessor needs about 16 KB on their way from memory: eight warps with four loads of 16 bytes a thread.
        A thread has up to 32 elements of a row, so that 1024 elements are a warp's, without a barrier. Sums over rows
        take registers and leave a vector for each group of threads: wide blocks, as many as there is room for.
        """
        sums = any(o.role == "partial" for o in self.program.operands)
        choice = {"threads": 512 if sums else 256, "vector_bytes": 16, "kept": 1, "unroll": 1 if sums else 2}
        choice["blocks"] = 2 if sums else 32
        if not self.flat:
            choice["kept"] = 32 * storage.size(self.workload.dtype) // 16
        while self.registers(choice) > 128 and choice["kept"] > 1:
            choice["kept"] //= 2
        return {**choice, **self.defaults}

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver binds: the operands of the program; ``align``: rows may have any length."""
        shape = self.shape(choice)
        names = operands(self.program)
        out = {"operands": len(names), "flat": int(self.flat), "align": 1}
        for i, operand in enumerate(self.program.operand(name) for name in names):
            out[f"role{i}"] = ROLES.index(operand.role)
            out[f"written{i}"] = int(operand.written)
            out[f"bytes{i}"] = storage.size(self.workload.dtype if operand.dtype == "data" else operand.dtype)
        return out | {"threads": shape.threads, "longest_kept": shape.longest_kept}

    def apply(self, choice: Choice) -> list[DeviceKernel]:
        """One kernel for each activation."""
        op, dtype, n = self.workload.op, self.workload.dtype, self.workload.dims["N"]
        shape = self.shape(choice)
        knobs = "".join(f"{k}{v}" for k, v in zip("tvkub", vars(shape).values(), strict=True))
        kernels = []
        for variant, program in self.variants.items():
            prefix = ["tvmops", self.target.name, op, dtype, *([variant] if variant else []), knobs]
            symbol = "_".join([*prefix, *([f"n{n}"] if n else [])])

            def make(program: Program = program) -> tirx.PrimFunc:
                return rows_kernel(program, dtype, shape, n, flat=self.flat)

            name, names = f"launch.{variant}" if variant else "launch", tuple(operands(program))
            kernels.append(
                DeviceKernel(symbol, make, names, tuple(sizes(program)), program.params, "plain", PASS_CONFIG, name)
            )
        return kernels

    def plan_size(self) -> int:
        """By size alone, or by length and size."""
        return rows_plan_size(self.flat or self.workload.dims["N"] is not None)
