"""What a kernel of a row program has its numbers in: operands in memory, registers, shared memory."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr

from ..errors import CodegenError
from ..leaves import storage
from ..program import REDUCTIONS, Program
from .arithmetic import Slots


def i64(value: int) -> tirx.IntImm:
    """An int64 constant."""
    return tirx.IntImm("int64", value)


class Memory:
    """The operands of a program and what its kernel has besides, by name."""

    def __init__(self, program: Program, dtype: str, n: int | None) -> None:
        if program.constants:
            raise CodegenError("tables for the vectors of a CPU have no place in a kernel for a GPU")
        self.program = program
        self.rows = tirx.Var("rows", "int64")
        self.n: Expr = tirx.Var("n", "int64") if n is None else i64(n)
        self.params = [tirx.Var(name, "float32") for name in program.params]
        # From row to row of an operand, in elements; a launch brings one for each operand, in order.
        in_memory = [o for o in program.operands if o.role != "scratch"]
        self.strides = {o.name: tirx.Var(f"stride{i}", "int64") for i, o in enumerate(in_memory) if o.role == "row"}
        self.low = dtype != "float32"
        self.kinds = {o.name: dtype if o.dtype == "data" else o.dtype for o in program.operands}
        extents: dict[str, Expr] = {"vector": self.n, "partial": self.n, "scalar": self.rows, "single": i64(1)}
        extents |= {name: self.rows * stride for name, stride in self.strides.items()}
        self.operands = {o.name: o for o in program.operands if o.role != "scratch"}
        # Arguments, and what is seen of them: TVM passes a pointer for each buffer that is used.
        self._arguments = {
            o.name: tirx.decl_buffer(
                (extents[o.name if o.role == "row" else o.role],), storage.memory(self.kinds[o.name]), o.name
            )
            for o in self.operands.values()
        }
        self._buffer = {
            name: tirx.decl_buffer(b.shape, b.dtype, f"{name}_elements", data=b.data)
            for name, b in self._arguments.items()
        }
        self.scratch = {o.name for o in program.operands if o.role == "scratch"}
        # Sums over rows: room for as many vectors as there are groups, and which of them is this group's.
        self.rooms: dict[str, tirx.Buffer] = {}
        self.slot: Expr = i64(0)
        self._words: dict[str, tirx.Buffer] = {}
        self._made: dict[tuple[str, int, str, str], tirx.Buffer] = {}
        self.slots = Slots()

    def adopt(self, name: str, buffer: tirx.Buffer, *, own: bool = False) -> None:
        """An operand is this buffer; ``own``: the function's own, of which there are no other views."""
        self._arguments[name] = buffer
        elements = tirx.decl_buffer(buffer.shape, buffer.dtype, f"{name}_elements", data=buffer.data)
        self._buffer[name] = buffer if own else elements

    @property
    def buffers(self) -> list[tirx.Buffer]:
        """The operands, in order."""
        return list(self._arguments.values())

    def argument(self, name: str) -> tirx.Buffer:
        """An operand as a launch brings it."""
        return self._arguments[name]

    def views(self) -> list[tuple[tirx.Buffer, tirx.Buffer]]:
        """Operands seen as elements and as words."""
        found = [(view, self._arguments[name]) for name, view in (*self._buffer.items(), *self._words.items())]
        return [(view, buffer) for view, buffer in found if not view.same_as(buffer)]

    def buffers_made(self) -> list[tirx.Buffer]:
        """Of registers and of shared memory."""
        return [*self._made.values(), *self.slots.buffers()]

    def buffer(self, name: str) -> tirx.Buffer:
        """An operand."""
        return self._buffer[name]

    def _make(self, name: str, size: int, dtype: str, scope: str) -> tirx.Buffer:
        key = (name, size, dtype, scope)
        if key not in self._made:
            self._made[key] = tirx.decl_buffer((size,), dtype, f"{name}_{size}", scope=scope)
        return self._made[key]

    def registers(self, name: str, size: int, dtype: str = "float32") -> tirx.Buffer:
        """An array that becomes registers, as every index is known once loops are unrolled."""
        return self._make(name, size, dtype, "local")

    def local(self, name: str, size: int, kind: str) -> tirx.Buffer:
        """Registers for results of a reduction."""
        return self.registers(name, size, REDUCTIONS[kind].dtype)

    def shared(self, name: str, size: int, kind: str) -> tirx.Buffer:
        """Shared memory for results of a reduction."""
        return self._make(name, size, REDUCTIONS[kind].dtype, "shared")
