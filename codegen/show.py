"""A kernel, to read: its space, TE, TIR, LLVM IR, assembly, CUDA source, SASS, or its entry in the table of a pack."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import tvm
from tvm import te

from . import ops, spaces
from .cuda.kernel import DeviceKernel
from .cuda.lower import emit
from .errors import CodegenError
from .export import device, objects, pack, sass
from .export.pack import PackKernel
from .records import store
from .spaces import space as searching
from .spaces.space import Choice, Knob, Leaf
from .target import GpuTarget, Target
from .workload import Workload

# Of a knob; of more only a few are shown.
MOST_VALUES = 32


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
    return str(_compiled(kernel, leaf).mod.inspect_source("ll"))


def show_asm(kernel: PackKernel, leaf: str | None) -> str:
    """The leaf as assembly."""
    return str(_compiled(kernel, leaf).mod.inspect_source("asm"))


def _compiled(kernel: PackKernel, leaf: str | None) -> tvm.runtime.Executable:
    module = objects.module([pick(kernel, leaf)])
    return objects.compile_module(module, cast(Target, kernel.target), kernel.leaves[0].whole)


def show_cu(kernel: PackKernel, leaf: str | None) -> str:
    """The CUDA source, launcher included."""
    return emit(_launch(kernel, leaf), cast(GpuTarget, kernel.target)).text


def show_sass(kernel: PackKernel, leaf: str | None) -> str:
    """The machine code of a GPU, disassembled."""
    with _on_device(kernel) as compiled:
        return sass.text(compiled[_launch(kernel, leaf).symbol].object)


def show_time(kernel: PackKernel, leaf: str | None) -> str:
    """Registers, instructions and predicted times."""
    with _on_device(kernel) as compiled:
        return json.dumps(device.about(kernel, compiled), indent=1)


def _launch(kernel: PackKernel, leaf: str | None) -> DeviceKernel:
    return cast(DeviceKernel, pick(kernel, leaf))


@contextlib.contextmanager
def _on_device(kernel: PackKernel) -> Iterator[dict[str, device.Compiled]]:
    with tempfile.TemporaryDirectory() as folder:
        found = device.sources([kernel])
        device.export([kernel], found, Path(folder))
        yield device.compile_all(found, Path(folder), Path(folder))


def show_c(kernel: PackKernel, leaf: str | None) -> str:
    """The C source of a pack that holds this kernel alone."""
    return pack.table([kernel])


def show_space(
    workload: Workload, target: Target | GpuTarget, name: str | None, record: store.Record | None, fixed: Choice
) -> str:
    """The knobs with their domains, the constraints, how many choices there are, and the leaves of one of them.

    Args:
        workload: what is computed.
        target: for which machine.
        name: of the space; None: the record's, or the workload's own.
        record: whose values are marked; the space's default where it is None, or of another space.
        fixed: values of knobs, which leave only a part of the space.

    Raises:
        CodegenError: there is no such space, knob or value, or no choice meets the constraints; says which clash.
    """
    from .spaces import counting  # OR-tools, for this alone
    from .spaces.solver import Solver

    space = spaces.find(workload, target, name or (record.space if record else None))
    recorded = record is not None and record.space == space.name
    start = record.knobs if record and recorded else space.default()
    searching.pin(space, fixed)
    clash = Solver(space).clash()
    if clash:
        pinned = ", ".join(f"{knob}={value}" for knob, value in fixed.items())
        raise CodegenError(
            f"the space {space.name} of {workload.key} on {target.name} has no valid choice"
            f"{f' with {pinned}' if pinned else ''}, as these clash: {'; '.join(clash)}"
        )
    own = {**start, **fixed}
    lines = [f"{space.name}: {counting.count(space).text}", ""]
    lines.append(f"knobs (in brackets the value of {'the record' if recorded else 'the default'})")
    width = max((len(knob.name) for knob in space.knobs), default=0)
    for knob in space.knobs:
        lines.append(f"  {knob.name:<{width}}  {_domain(knob, own.get(knob.name)):<40}  {knob.meaning}".rstrip())
    lines += ["", "constraints", *(f"  {c.text}" for c in space.constraints)]
    problems = searching.broken(space, own)
    shown = "none, as the marked values break: " + problems[0] if problems else ""
    lines += ["", "leaves", "  " + (shown or " ".join(leaf.name for leaf in space.apply(own)))]
    return "\n".join(lines)


def _domain(knob: Knob, own: int | None) -> str:
    """The values, the own one in brackets; of many the first few and the last."""
    texts = [f"[{v}]" if v == own else str(v) for v in knob.values]
    if len(texts) <= MOST_VALUES:
        return " ".join(texts)
    few = [*texts[:4], "...", *([f"[{own}]", "..."] if own in knob.values[4:-1] else []), texts[-1]]
    return f"{' '.join(few)} ({len(texts)} values)"


VIEWS: dict[str, Callable[[PackKernel, str | None], str]] = {
    "tir": show_tir,
    "ll": show_ll,
    "asm": show_asm,
    "te": show_te,
    "c": show_c,
}
DEVICE_VIEWS: dict[str, Callable[[PackKernel, str | None], str]] = {
    "tir": show_tir,
    "cu": show_cu,
    "sass": show_sass,
    "time": show_time,
    "te": show_te,
}
# The views of a kernel, and the one of its space, which needs no kernel.
WHAT = (*VIEWS, "space")
DEVICE_WHAT = (*DEVICE_VIEWS, "space")


def show(kernel: PackKernel, what: str, leaf: str | None) -> str:
    """The text.

    Raises:
        CodegenError: there is no such view, or no such leaf.
    """
    on_device = isinstance(kernel.target, GpuTarget)
    views = DEVICE_VIEWS if on_device else VIEWS
    if what not in views:
        known = ", ".join(DEVICE_WHAT if on_device else WHAT)
        raise CodegenError(f"unknown view {what!r}; known: {known}")
    return views[what](kernel, leaf).rstrip("\n")
