"""Kernels for GPUs: their sources, what builds a pack of them without TVM, and the pack."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

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
    """A kernel as machine code: the object with its launcher, and what its device functions are."""

    kernel: PackKernel
    source: DeviceSource
    object: Path
    usages: Sequence[nvcc.Usage]
    instructions: Mapping[str, Sequence[sass.Instruction]]


def device_kernel(kernel: PackKernel) -> DeviceKernel:
    """What the space made of the kernel's choice: always one."""
    (found,) = kernel.leaves
    return cast(DeviceKernel, found)


def sources(kernels: Sequence[PackKernel], progress: Progress = lambda *_: None) -> list[DeviceSource]:
    """The CUDA source of each kernel.

    Raises:
        CodegenError: two kernels have the same symbol, or one can't be lowered.
    """
    owners: dict[str, str] = {}
    for kernel in kernels:
        symbol = device_kernel(kernel).symbol
        if symbol in owners:
            raise CodegenError(f"{kernel.name} and {owners[symbol]} have the same symbol {symbol}")
        owners[symbol] = kernel.name
    found = []
    for done, kernel in enumerate(kernels, 1):
        found.append(emit(device_kernel(kernel), cast(GpuTarget, kernel.target)))
        progress(f"{kernel.workload.op} for {kernel.target.name}", done, len(kernels))
    return found


def _as_leaves(kernel: PackKernel, source: DeviceSource) -> PackKernel:
    """The kernel with the C functions of its source in place of its schedule."""
    make = device_kernel(kernel).make
    leaves = [Leaf("launch", f"tvmops_launch_{source.symbol}", make)]
    if source.workspace:
        leaves.append(Leaf("workspace", f"tvmops_workspace_{source.symbol}", make))
    return replace(kernel, leaves=leaves)


def _write(path: Path, text: str) -> None:
    """Only if it differs, so that what builds from it sees no change."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def source_path(directory: Path, source: DeviceSource) -> Path:
    """Where :func:`export` puts a source."""
    return directory / f"{PREFIX}{source.symbol}.cu"


def export(
    kernels: Sequence[PackKernel],
    found: Sequence[DeviceSource],
    directory: Path,
    compiled: Sequence[Compiled] = (),
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
    facts = {one.source.symbol: about(one) for one in compiled}
    written = []
    for kernel, source in zip(kernels, found, strict=True):
        _write(source_path(directory, source), source.text)
        more = {"symbol": source.symbol, "source": source_path(directory, source).name, **facts.get(source.symbol, {})}
        written.append(replace(_as_leaves(kernel, source), about={**kernel.about, **more}))
    for stale in set(directory.glob(f"{PREFIX}*.cu")) - {source_path(directory, source) for source in found}:
        stale.unlink()
    pack.write_sources(written, directory)
    _write(directory / pack.DEVICE_ENTRIES, pack.device_entries().read_text())
    _write(directory / "pack.map", pack.SYMBOLS)
    _write(directory / "Makefile", pack.device_makefile().read_text())
    _write(directory / "kernels.mk", _lists(found, directory))


def _lists(found: Sequence[DeviceSource], directory: Path) -> str:
    """What the Makefile reads: which sources are for which target."""
    targets = list(dict.fromkeys(source.target.name for source in found))
    out = [f"KNOWN := {' '.join(targets)}", f"FLAGS := {' '.join(nvcc.FLAGS)}"]
    for target in targets:
        names = [source_path(directory, source).name for source in found if source.target.name == target]
        out.append(" \\\n  ".join([f"KERNELS_{target} :=", *names]))
    return "\n".join(out) + "\n"


def about(one: Compiled) -> dict[str, object]:
    """What the manifest says of machine code: by device function registers, shared memory and instructions; times."""
    functions = {
        usage.function: {
            "registers": usage.registers,
            "spill_bytes": usage.spill_stores + usage.spill_loads,
            "stack_bytes": usage.stack,
            "shared_bytes": usage.shared,
            "instructions": dict(sass.kinds(one.instructions[usage.function])),
        }
        for usage in one.usages
    }
    return {"functions": functions, "predicted": [vars(p) for p in predictions(one)]}


def predictions(one: Compiled) -> list[Prediction]:
    """The predicted times of a kernel at the sizes that it would be timed at."""
    kernel = one.kernel
    sizes = [dict(point.sizes) for point in points(kernel.workload, kernel.driver)]
    return predict(kernel, one.source, one.usages, one.instructions, sizes)


def compile_all(
    kernels: Sequence[PackKernel],
    found: Sequence[DeviceSource],
    directory: Path,
    objects: Path,
    progress: Progress = lambda *_: None,
) -> list[Compiled]:
    """Compiles exported sources, several at a time; an object made from the same content before is taken as it is.

    Raises:
        CodegenError: nvcc or the disassembler is missing or fails, or a kernel spills.
    """
    objects.mkdir(parents=True, exist_ok=True)
    nvcc.find()  # before many look for it at once
    done = 0

    def one(kernel: PackKernel, source: DeviceSource) -> Compiled:
        nonlocal done
        path = objects / f"{PREFIX}{source.symbol}.o"
        usages = _compile(source_path(directory, source), path, source.target.name)
        nvcc.refuse_spills(usages, kernel.name)
        result = Compiled(kernel, source, path, usages, sass.disassemble(path))
        done += 1
        progress(f"{kernel.workload.op} for {kernel.target.name}", done, len(kernels))
        return result

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(one, kernels, found))


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
    made = compile_all(kernels, found, directory, objects, compiled)
    export(kernels, found, directory, made)
    entries = objects / "pack_device.o"
    _compile(directory / pack.DEVICE_ENTRIES, entries, found[0].target.name)
    linked = [*(one.object for one in made), entries]
    return pack.link_if_changed(directory, library, linked, link_options(toolkit))


def link_options(toolkit: nvcc.Toolkit) -> list[str]:
    """The static CUDA runtime and what it needs of the system."""
    return [str(toolkit.runtime), "-lpthread", "-ldl", "-lrt"]
