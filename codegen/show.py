"""A kernel, to read: its schedule space, TE, TIR, LLVM IR, assembly, or its entry in the table of a pack."""

from __future__ import annotations

from collections.abc import Callable

from tvm import te

from . import ops, spaces
from .errors import CodegenError
from .export import objects, pack
from .export.pack import PackKernel
from .spaces import space as searching
from .spaces.space import Leaf


def pick(kernel: PackKernel, name: str | None) -> Leaf:
    """The leaf of that name, by default the one where the time goes: a GEMM's full register tile, else the first.

    Raises:
        CodegenError: the kernel has no such leaf.
    """
    first = kernel.leaves[0].name
    wanted = name or (f"tile.{kernel.knobs['mr']}x{kernel.knobs['nr']}" if "mr" in kernel.knobs else first)
    for leaf in kernel.leaves:
        if leaf.name == wanted:
            return leaf
    raise CodegenError(f"unknown leaf {wanted!r}; known: {', '.join(leaf.name for leaf in kernel.leaves)}")


def show_te(kernel: PackKernel, leaf: str | None) -> str:
    """The whole operator, from its TE definition, as TVMScript."""
    definition = ops.load(kernel.workload.op).definition(kernel.workload)
    return str(te.create_prim_func(definition).script())


def show_tir(kernel: PackKernel, leaf: str | None) -> str:
    """The scheduled leaf as TVMScript."""
    return str(pick(kernel, leaf).make().script())


def show_ll(kernel: PackKernel, leaf: str | None) -> str:
    """The leaf as LLVM IR."""
    module = objects.module([pick(kernel, leaf)])
    return str(objects.compile_module(module, kernel.target, kernel.leaves[0].whole).mod.inspect_source("ll"))


def show_asm(kernel: PackKernel, leaf: str | None) -> str:
    """The leaf as assembly."""
    module = objects.module([pick(kernel, leaf)])
    return str(objects.compile_module(module, kernel.target, kernel.leaves[0].whole).mod.inspect_source("asm"))


def show_c(kernel: PackKernel, leaf: str | None) -> str:
    """The C source of a pack that holds this kernel alone."""
    return pack.table([kernel])


def show_space(kernel: PackKernel, leaf: str | None) -> str:
    """The knobs with the values chosen here, the constraints, and how many choices there are."""
    space = spaces.find(kernel.workload, kernel.target, kernel.space)
    total, valid = searching.size(space)
    lines = [f"{space.name}: {valid} valid choices of {total}", "", "knobs (the kernel's own value in brackets)"]
    for knob in space.knobs:
        values = (f"[{v}]" if v == kernel.knobs[knob.name] else str(v) for v in knob.values)
        lines.append(f"  {knob.name:<16} {' '.join(values):<50} {knob.meaning}")
    lines += ["", "constraints", *(f"  {c.text}" for c in space.constraints)]
    lines += ["", "leaves", "  " + " ".join(leaf.name for leaf in kernel.leaves)]
    return "\n".join(lines)


WHAT: dict[str, Callable[[PackKernel, str | None], str]] = {
    "tir": show_tir,
    "ll": show_ll,
    "asm": show_asm,
    "te": show_te,
    "space": show_space,
    "c": show_c,
}


def show(kernel: PackKernel, what: str, leaf: str | None) -> str:
    """The text.

    Raises:
        CodegenError: there is no such view, or no such leaf.
    """
    if what not in WHAT:
        raise CodegenError(f"unknown view {what!r}; known: {', '.join(WHAT)}")
    return WHAT[what](kernel, leaf).rstrip("\n")
