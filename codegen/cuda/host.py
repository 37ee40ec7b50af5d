"""What the host function that TVM made of a kernel does: launches, workspaces and tensor maps, in C's terms.

TVM's host function checks its arguments, which here the extension does, and launches; only the launches are taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from ..errors import CodegenError
from .expressions import c_text
from .kernel import DeviceKernel

_ENCODE = "runtime.cuTensorMapEncodeTiled"
_SHARED = "tirx.use_dyn_shared_memory"


@dataclass(frozen=True)
class Argument:
    """An argument of a device function: its name there, its C type, and what it is at a launch, in C."""

    name: str
    type: str
    value: str
    kind: str  # "buffer", "workspace", "size", "param" or "map"


@dataclass(frozen=True)
class Launch:
    """A device function as it is launched; sizes are C expressions of the launch's sizes."""

    name: str
    grid: tuple[str, str, str]
    block: tuple[str, str, str]
    cluster: tuple[str, str, str]
    shared_bytes: str  # dynamic
    params: tuple[Argument, ...]


@dataclass(frozen=True)
class TensorMap:
    """A map of global memory for TMA: the arguments of cuTensorMapEncodeTiled, as C expressions."""

    name: str
    dtype: str
    buffer: str
    extents: tuple[str, ...]
    strides: tuple[str, ...]  # in bytes, of all dimensions but the innermost
    box: tuple[str, ...]
    steps: tuple[str, ...]
    modes: tuple[str, ...]  # interleave, swizzle, L2 promotion, fill out of bounds


@dataclass
class Host:
    """All of it. ``workspaces`` are (name, bytes); ``scalars`` maps what is used of sizes and params to its C value."""

    launches: list[Launch] = field(default_factory=list)
    workspaces: list[tuple[str, str]] = field(default_factory=list)
    maps: list[TensorMap] = field(default_factory=list)
    scalars: dict[str, str] = field(default_factory=dict)


class _Reader:
    def __init__(self, kernel: DeviceKernel, device: Mapping[str, tirx.PrimFunc]) -> None:
        self.kernel, self.device, self.host = kernel, device, Host()
        self.values: dict[tirx.Var, str] = {}  # of variables bound in the host function
        self.memory: dict[tirx.Var, tuple[str, str]] = {}  # of buffers: what kind, and its name

    def statement(self, stmt: Any) -> None:
        if isinstance(stmt, tirx.SeqStmt):
            for part in stmt.seq:
                self.statement(part)
        elif isinstance(stmt, tirx.AttrStmt):
            self.statement(stmt.body)
        elif isinstance(stmt, tirx.Bind):
            self.bind(stmt.var, stmt.value)
        elif isinstance(stmt, tirx.AllocBuffer):
            self.allocate(stmt.buffer)
        elif isinstance(stmt, tirx.DeclBuffer):
            self.memory[stmt.buffer] = self.memory_of(stmt.data, stmt.buffer.name)
        elif isinstance(stmt, tirx.Evaluate):
            self.call(stmt.value)
        elif isinstance(stmt, tirx.IfThenElse | tirx.For) and _launches(stmt):
            raise CodegenError(
                f"{self.kernel.symbol}: its host function launches in a branch or loop, which is not known"
            )

    def bind(self, var: tirx.Var, value: Any) -> None:
        if self.scalar(var.name) is None and "int" in str(var.ty):
            try:
                self.values[var] = c_text(value, self.name_of)
            except CodegenError:
                return  # of the checks of arguments; what uses it is refused by name

    def scalar(self, name: str) -> str | None:
        """How a launch brings the size or param of that name; N8 or n8 is an eighth of N."""
        sizes, params = self.kernel.sizes, self.kernel.params
        if name in sizes:
            return f"sizes[{sizes.index(name)}]"
        if name in params:
            return f"params[{params.index(name)}]"
        part = re.fullmatch(r"([A-Za-z_]+)(\d+)", name)
        whole = [s for s in sizes if part and s.lower() == part[1].lower()]
        if part and len(whole) == 1:
            return f"sizes[{sizes.index(whole[0])}] / {part[2]}"
        return None

    def name_of(self, var: tirx.Var) -> str:
        if var in self.values:
            return self.values[var]
        value = self.scalar(var.name)
        if value is None:
            known = ", ".join([*self.kernel.sizes, *self.kernel.params])
            raise CodegenError(f"{self.kernel.symbol} needs {var.name!r}, which is none of its sizes: {known}")
        self.host.scalars[var.name] = value
        return str(var.name)

    def allocate(self, buffer: tirx.Buffer) -> None:
        if buffer.scope() != "global":
            return
        count = " * ".join(c_text(extent, self.name_of) for extent in buffer.shape)
        name = f"workspace_{len(self.host.workspaces)}"
        self.host.workspaces.append((name, f"{count} * {(tvm.DataType(buffer.dtype).bits + 7) // 8}"))
        self.memory[buffer] = ("workspace", name)

    def memory_of(self, data: Any, name: str) -> tuple[str, str]:
        """What memory a pointer is into; ``name`` is the buffer's, by which an argument is known."""
        if isinstance(data, tvm.ir.Call) and data.op.name == "tirx.buffer_data" and data.args[0] in self.memory:
            return self.memory[data.args[0]]
        if name not in self.kernel.buffers:
            raise CodegenError(
                f"{self.kernel.symbol} needs {name!r}, none of its buffers: {', '.join(self.kernel.buffers)}"
            )
        return ("buffer", name)

    def pointer(self, data: Any) -> tuple[str, str]:
        kind, name = self.memory_of(data, data.args[0].name)
        if kind == "buffer":
            return kind, f"buffers[{self.kernel.buffers.index(name)}]"
        return kind, name

    def call(self, call: Any) -> None:
        what = getattr(getattr(call, "op", None), "name", "")
        if what == "tirx.call_ffi_kernel":
            self.launch(call)
        elif what == "tirx.tvm_call_packed" and call.args[0].value == _ENCODE:
            self.tensor_map(list(call.args[1:]))

    def tensor_map(self, args: list[Any]) -> None:
        var, dtype, rank, data = args[0], args[1].value, int(args[2]), args[3]
        rest = [c_text(a, self.name_of) for a in args[4:]]
        cuts = [rank, rank - 1, rank, rank, 4]
        if len(rest) != sum(cuts):
            raise CodegenError(
                f"{self.kernel.symbol}: a tensor map of rank {rank} has {len(rest)} numbers, not {sum(cuts)}"
            )
        parts = []
        for cut in cuts:
            parts.append(tuple(rest[:cut]))
            rest = rest[cut:]
        extents, strides, box, steps, modes = parts
        self.host.maps.append(TensorMap(var.name, dtype, self.pointer(data)[1], extents, strides, box, steps, modes))

    def launch(self, call: Any) -> None:
        name, tags = call.args[0].value, [str(tag) for tag in call.attrs.launch_params]
        func = self.device[name]
        given = list(call.args[1:])
        extents = dict(zip(tags, (c_text(e, self.name_of) for e in given[len(func.params) :]), strict=True))
        params = tuple(self.argument(p, value) for p, value in zip(func.params, given, strict=False))
        shared = extents.pop(_SHARED, "0")

        def axes(tag: str) -> tuple[str, str, str]:
            x, y, z = (extents.pop(f"{tag}.{axis}", "1") for axis in "xyz")
            return x, y, z

        grid, block, cluster = axes("blockIdx"), axes("threadIdx"), axes("clusterCtaIdx")
        if extents:
            raise CodegenError(f"{self.kernel.symbol}: a launch with {', '.join(extents)} is not known")
        self.host.launches.append(Launch(name, grid, block, cluster, shared, params))

    def argument(self, param: tirx.Var, value: Any) -> Argument:
        kind = str(param.ty)
        if "TensorMap" in kind or "tensormap" in kind:
            return Argument(param.name, "CUtensorMap", value.name, "map")
        if "handle" in kind:
            memory, text = self.pointer(value)
            return Argument(param.name, "void*", text, memory)
        if "float32" in kind:
            return Argument(param.name, "float", self.name_of(value), "param")
        types = {"int32": "int32_t", "int64": "int64_t", "uint32": "uint32_t", "bool": "bool"}
        found = [types[t] for t in sorted(types, key=len, reverse=True) if t in kind]
        if not found:
            raise CodegenError(f"{self.kernel.symbol}: a parameter {param.name} of type {kind} is not known")
        return Argument(param.name, found[0], c_text(value, self.name_of), "size")


def _launches(stmt: Any) -> bool:
    found = False

    def see(call: tvm.ir.Call, **_: object) -> None:
        nonlocal found
        found |= getattr(call.op, "name", "") == "tirx.call_ffi_kernel"

    tvm_ffi.structural_walk(stmt, (tvm.ir.Call, see), order="pre")
    return found


def read(kernel: DeviceKernel, host: tvm.IRModule, device: Mapping[str, tirx.PrimFunc]) -> Host:
    """What the host function does; ``device`` are the device functions by name.

    Raises:
        CodegenError: it does what a launcher can't, or needs what the kernel's arguments do not name.
    """
    reader = _Reader(kernel, device)
    for func in host.functions.values():
        reader.statement(func.body)
    if not reader.host.launches:
        raise CodegenError(f"{kernel.symbol} launches nothing: its schedule binds no loop to blockIdx or threadIdx")
    return reader.host
