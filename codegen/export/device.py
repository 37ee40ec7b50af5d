"""Kernels for GPUs: their sources, what builds a pack of them without TVM, and the pack."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ..cuda.kernel import DeviceKernel
from ..cuda.lower import DeviceSource, emit
from ..cuda.predict import Prediction, predict
from ..errors import CodegenError
from ..measure.device_points import points
from ..spaces.space import Leaf
from ..target import GpuTarget
from . import nvcc, pack, sass
from .pack import PackKernel

# By this its name tells that a source is ours to replace.
PREFIX = "kernel-"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Compiled:
    """A source as machine code: the object with its launcher, and what its device functions are."""

    source: DeviceSource
    object: Path
    usages: Sequence[nvcc.Usage]
    instructions: Mapping[str, Sequence[sass.Instruction]]


Sources = Mapping[str, DeviceSource]  # by symbol


def launches(kernel: PackKernel) -> list[DeviceKernel]:
    """What the space made of the kernel's choice, one for each variant."""
    return cast(list[DeviceKernel], list(kernel.leaves))


def sources(kernels: Sequence[PackKernel], progress: Progress = lambda *_: None) -> dict[str, DeviceSource]:
    """The CUDA sources of kernels, each symbol once.

    Raises:
        CodegenError: kernels for different targets have a symbol in common, or one can't be lowered.
    """
    found: dict[str, DeviceSource] = {}
    for done, kernel in enumerate(kernels, 1):
        target = cast(GpuTarget, kernel.target)
        for one in launches(kernel):
            known = found.get(one.symbol)
            if known and known.target != target:
                names = f"{target.name} and {known.target.name}"
                raise CodegenError(f"{kernel.name}: kernels for {names} have the same symbol {one.symbol}")
            if not known:
                found[one.symbol] = emit(one, target)
        progress(f"{kernel.workload.op} for {target.name}", done, len(kernels))
    return found


def as_leaves(kernel: PackKernel, found: Sources) -> list[Leaf]:
    """The C functions of the kernel's sources, by the names that the extension knows them by."""
    leaves = []
    for one in launches(kernel):
        leaves.append(Leaf(one.name, f"tvmops_launch_{one.symbol}", one.make))
        if found[one.symbol].workspace:
            name = one.name.replace("launch", "workspace", 1)
            leaves.append(Leaf(name, f"tvmops_workspace_{one.symbol}", one.make))
    return leaves


def _write(path: Path, text: str) -> None:
    """Only if it differs, so that what builds from it sees no change."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def source_path(directory: Path, symbol: str) -> Path:
    """Where :func:`export` puts a source."""
    return directory / f"{PREFIX}{symbol}.cu"


def export(
    kernels: Sequence[PackKernel], found: Sources, directory: Path, compiled: Mapping[str, Compiled] | None = None
) -> None:
    """Writes what a machine with nvcc and a C compiler builds a pack from: sources, table, header, manifest, Makefile.

    ``compiled`` adds to the manifest what the compiler says, and the predicted times. Sources of earlier exports that
    are no longer among ``found`` are removed.

    Raises:
        CodegenError: there is no kernel.
        OSError: a file can't be written.
    """
    if not kernels:
        raise CodegenError("there are no kernels for these targets")
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for kernel in kernels:
        more = {"sources": [source_path(directory, one.symbol).name for one in launches(kernel)]}
        if compiled:
            more |= about(kernel, compiled)
        written.append(replace(kernel, leaves=as_leaves(kernel, found), about={**kernel.about, **more}))
    for symbol, source in found.items():
        _write(source_path(directory, symbol), source.text)
    for stale in set(directory.glob(f"{PREFIX}*.cu")) - {source_path(directory, symbol) for symbol in found}:
        stale.unlink()
    pack.write_sources(written, directory)
    _write(directory / pack.DEVICE_ENTRIES, pack.device_entries().read_text())
    _write(directory / "pack.map", pack.SYMBOLS)
    _write(directory / "Makefile", pack.device_makefile().read_text())
    _write(directory / "kernels.mk", _lists(found, directory))


def _lists(found: Sources, directory: Path) -> str:
    """What the Makefile reads: which sources are for which target."""
    targets = list(dict.fromkeys(source.target.name for source in found.values()))
    out = [f"KNOWN := {' '.join(targets)}", f"FLAGS := {' '.join(nvcc.FLAGS)}"]
    for target in targets:
        names = [source_path(directory, symbol).name for symbol, one in found.items() if one.target.name == target]
        out.append(" \\\n  ".join([f"KERNELS_{target} :=", *names]))
    return "\n".join(out) + "\n"


def about(kernel: PackKernel, compiled: Mapping[str, Compiled]) -> dict[str, Any]:
    """What the manifest says of machine code: of each device function what it takes; the predicted times."""
    functions = {}
    for launch in launches(kernel):
        one = compiled[launch.symbol]
        for usage in one.usages:
            functions[usage.function] = {
                "registers": usage.registers,
                "spill_bytes": usage.spill_stores + usage.spill_loads,
                "stack_bytes": usage.stack,
                "shared_bytes": usage.shared,
                "instructions": dict(sass.kinds(one.instructions[usage.function])),
            }
    return {"functions": functions, "predicted": [vars(p) for p in predictions(kernel, compiled)]}


def predictions(kernel: PackKernel, compiled: Mapping[str, Compiled]) -> list[Prediction]:
    """The predicted times of a kernel, of its first variant, at the sizes that it would be timed at."""
    one = compiled[launches(kernel)[0].symbol]
    sizes = [dict(point.sizes) for point in points(kernel.workload, kernel.driver)]
    return predict(kernel, one.source, one.usages, one.instructions, sizes)


def compile_all(
    found: Sources, directory: Path, objects: Path, progress: Progress = lambda *_: None
) -> dict[str, Compiled]:
    """Compiles exported sources, several at a time; an object made from the same content before is taken as it is.

    Raises:
        CodegenError: nvcc or the disassembler is missing or fails, or a kernel spills.
    """
    objects.mkdir(parents=True, exist_ok=True)
    nvcc.find()  # before many look for it at once
    done = 0

    def one(source: DeviceSource) -> Compiled:
        nonlocal done
        path = objects / f"{PREFIX}{source.symbol}.o"
        usages = _compile(source_path(directory, source.symbol), path, source.target.name)
        nvcc.refuse_spills(usages, source.symbol)
        result = Compiled(source, path, usages, sass.disassemble(path))
        done += 1
        progress(source.symbol, done, len(found))
        return result

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(found, pool.map(one, found.values()), strict=True))


def _compile(source: Path, path: Path, target: str) -> list[nvcc.Usage]:
    """Makes the object, unless it was made from the same content before."""
    stamp, header = path.with_suffix(".key"), source.with_name(pack.ABI_HEADER)
    content = [nvcc.find().version, *nvcc.FLAGS, target, source.read_text(), header.read_text()]
    digest = hashlib.sha256("\0".join(content).encode()).hexdigest()
    usages = _remembered(path, digest)
    if usages is None:
        stamp.unlink(missing_ok=True)
        usages = nvcc.compile_source(source, path, target, [source.parent])
        stamp.write_text(json.dumps({"digest": digest, "usages": [vars(u) for u in usages]}))
    return usages


def _remembered(path: Path, digest: str) -> list[nvcc.Usage] | None:
    stamp = path.with_suffix(".key")
    if not path.exists() or not stamp.exists():
        return None
    known = json.loads(stamp.read_text())
    if known["digest"] != digest:
        return None
    return [nvcc.Usage(**{**usage, "losses": tuple(usage["losses"])}) for usage in known["usages"]]


def build(
    kernels: Sequence[PackKernel],
    directory: Path,
    objects: Path,
    library: Path,
    lowered: Progress = lambda *_: None,
    compiled: Progress = lambda *_: None,
) -> bool:
    """Exports to ``directory``, compiles to ``objects``, links ``library``. Returns whether the library is another.

    ``lowered`` and ``compiled`` are told how far it is.

    Raises:
        CodegenError: a kernel can't be lowered or compiled, or spills; a compiler or the disassembler is missing.
    """
    toolkit = nvcc.find()  # before minutes of work
    found = sources(kernels, lowered)
    export(kernels, found, directory)
    made = compile_all(found, directory, objects, compiled)
    export(kernels, found, directory, made)
    entries = objects / "pack_device.o"
    _compile(directory / pack.DEVICE_ENTRIES, entries, kernels[0].target.name)
    linked = [*(one.object for one in made.values()), entries]
    return pack.link_if_changed(directory, library, linked, link_options(toolkit))


def link_options(toolkit: nvcc.Toolkit) -> list[str]:
    """The static CUDA runtime and what it needs of the system."""
    return [str(toolkit.runtime), "-lpthread", "-ldl", "-lrt"]
