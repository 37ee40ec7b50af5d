"""What TVM 0.27 gets wrong on the way from TIR to CUDA source, put right: in TIR and in the text."""

from __future__ import annotations

import re
from collections.abc import Mapping

import tvm
import tvm_ffi
from tvm import sym, tirx

# What may change memory: a barrier or another asm statement, a call, and a store through a pointer or an index.
_WRITES = re.compile(r"\basm\b|__asm__|[)\]]\s*[-+*/|&]?=[^=]|^\s*\w[\w:<>, ]*\(.*\);$")
_LOAD = re.compile(r"^\s*\w[\w ]* (?P<name>v_\w*) = (?P<load>.*(?:\[|\*\().*);$")
_LOOP = re.compile(r"\b(for|while) \(")


def warp_memory(mod: tvm.IRModule) -> tvm.IRModule:
    """Fragments in registers: what is to become of buffers of scope "warp".

    LowerWarpMemory stops at the first such buffer of a sequence of statements; each of the others stays an array of the
    whole warp's size in each thread, in local memory. So it is run once a buffer. What it makes indexes a fragment by
    ``truncdiv(threadIdx.x, 32)`` and the like, which the simplifier leaves alone; as floordiv it becomes a constant,
    without which the fragment can't be in registers.
    """
    count = 0

    def see(alloc: tirx.AllocBuffer, **_: object) -> None:
        nonlocal count
        count += alloc.buffer.scope() == "warp"

    for func in mod.functions.values():
        tvm_ffi.structural_walk(func.body, (tirx.AllocBuffer, see), order="pre")
    if not count:
        return mod
    for _ in range(count):
        mod = tirx.transform.LowerWarpMemory()(mod)
    mod = tvm.IRModule({name: _floor_divisions(func) for name, func in mod.functions.items()}, attrs=mod.attrs)
    return tirx.transform.StmtSimplify()(mod)


def _floor_divisions(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Truncating divisions of what is never negative, as flooring ones."""
    analyzer = sym.Analyzer()

    def bind(stmt: tirx.Stmt, **_: object) -> None:
        if isinstance(stmt, tirx.For):
            analyzer.bind(stmt.loop_var, tvm.ir.Range.from_min_extent(stmt.min, stmt.extent))
        elif stmt.attr_key in ("thread_extent", "virtual_thread"):
            zero = tirx.const(0, stmt.value.ty)
            analyzer.bind(stmt.node.var, tvm.ir.Range.from_min_extent(zero, stmt.value))

    tvm_ffi.structural_walk(func.body, ((tirx.For, tirx.AttrStmt), bind), order="pre")

    def floor(div: tirx.Div) -> tvm.ir.Expr:
        if "int" in str(div.a.ty) and analyzer.can_prove(div.a >= 0) and analyzer.can_prove(div.b > 0):
            return tirx.FloorDiv(div.a, div.b)
        return div

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.Div, floor)))


def local_helpers(source: str) -> str:
    """What TVM's text defines for itself, such as ``max`` of two halves, as static: else two sources would not link."""
    return re.sub(r"^(?=(?:__host__ )?__device__ )", "static ", source, flags=re.MULTILINE)


def launch_bounds(source: str) -> str:
    """Bounds that name one block for a multiprocessor at least, where they name none.

    Without it ptxas aims at more blocks, and spills registers for them.
    """
    return re.sub(r"__launch_bounds__\((\d+)\)", r"__launch_bounds__(\1, 1)", source)


def wide_offsets(source: str) -> str:
    """Offsets in bytes that helpers compute of those in elements, in 64 bits: the latter may take all of 32."""
    return re.sub(r"\b(src_off|dst_off) \* (\d+)", r"(int64_t)\1 * \2", source)


def text(source: str) -> str:
    """All repairs of the text."""
    return stale_vectors(wide_offsets(launch_bounds(local_helpers(source))))


def stale_vectors(source: str) -> str:
    """A vector loaded from memory is loaded again where it is used after the memory may have changed.

    To convert a vector element by element, the generator of CUDA text first puts the loaded vector into a variable
    ``v_...``. It knows such a variable by the text of the load and takes it for every later load of the same text in
    scope, across stores and barriers. Here each use that follows a write, a barrier, or the head of a loop gets a
    reload before it; nvcc drops those that are not needed.
    """
    out: list[str] = []
    scopes: list[dict[str, str]] = [{}]  # of variable to its load
    fresh: set[str] = set()
    for line in source.split("\n"):
        declared = _LOAD.match(line)
        if not declared and not line.lstrip().startswith("#"):
            known: Mapping[str, str] = {name: load for scope in scopes for name, load in scope.items()}
            used = [name for name in known if name not in fresh and re.search(rf"\b{name}\b", line)]
            indent = line[: len(line) - len(line.lstrip())]
            out += [f"{indent}{name} = {known[name]};" for name in used]
            fresh.update(used)
        out.append(line)
        if declared:
            scopes[-1][declared["name"]] = declared["load"]
            fresh.add(declared["name"])
        elif _WRITES.search(line) or _LOOP.search(line) or "}" in line:
            fresh.clear()
        for mark in line:
            if mark == "{":
                scopes.append({})
            elif mark == "}" and len(scopes) > 1:
                scopes.pop()
    return "\n".join(out)
