"""The table of a pack as C source, and the shared library that holds it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..errors import CodegenError
from ..spaces.space import Leaf
from ..target import GpuTarget, Target
from ..workload import Workload
from .manifest import manifest
from .objects import Group, compile_groups

ABI_HEADER = "abi.h"
DEVICE_ENTRIES = "pack_device.cu"
# A linker script: a pack keeps all else to itself, so that tvm and other packs in the process may define the same.
SYMBOLS = """\
{ global: tvmops_pack_entry; tvmops_pack_serve; tvmops_pack_device; tvmops_pack_error; local: *; };
"""
# What whole kernels refer to. The pointers are weak and null in their objects; these, being strong, win.
_SERVICES = """\
static const tvmops_services* services;
int (*__TVMBackendParallelLaunch)(void*, void*, int);
void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
int (*__TVMBackendFreeWorkspace)(int, int, void*);

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  services->raise(kind, parts, count);
}

void TVMOPS_PACK_SERVE(const tvmops_services* given) {
  services = given;
  __TVMBackendParallelLaunch = given->parallel_launch;
  __TVMBackendAllocWorkspace = given->alloc_workspace;
  __TVMBackendFreeWorkspace = given->free_workspace;
}
"""


@dataclass(frozen=True)
class PackKernel:
    """A kernel as it goes into a pack."""

    workload: Workload
    target: Target | GpuTarget
    space: str
    driver: str
    knobs: Mapping[str, int]
    params: Mapping[str, int]
    leaves: Sequence[Leaf]
    plan: Sequence[int] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)  # of the record: times, ratios, machine, error

    @property
    def name(self) -> str:
        """Unique in a pack."""
        return f"{self.workload.key}@{self.target.name}"


def _c_string(text: str) -> str:
    return json.dumps(text)  # ASCII with \uXXXX only inside JSON strings, where it is JSON's own escape


def _long_c_string(text: str, width: int = 100) -> str:
    return "\n    ".join(_c_string(text[i : i + width]) for i in range(0, len(text), width)) or '""'


def table(kernels: Sequence[PackKernel]) -> str:
    """The C source of the table that the pack's entry point returns.

    Kernels for GPUs are left out by the preprocessor if ``TVMOPS_WITH_{target}`` is defined for other targets alone.

    Raises:
        ValueError: there is no kernel, or they are of several architectures.
    """
    symbols = sorted({leaf.linked for k in kernels for leaf in k.leaves})
    out = [f'#include "{ABI_HEADER}"', ""]
    out += _selection(kernels)
    if any(leaf.whole for k in kernels for leaf in k.leaves):
        out.append(_SERVICES)
    out += [f"void {symbol}(void);" for symbol in symbols]
    for i, k in enumerate(kernels):
        out.append(f"\n/* {k.name} */")
        out += _guard(k)
        rows = [f"{{{_c_string(leaf.name)}, {leaf.linked}}}," for leaf in k.leaves]
        out.append(f"static const tvmops_leaf leaves_{i}[] = {{\n  " + "\n  ".join(rows) + "\n};")
        for what, values in (
            ("dims", {n: -1 if v is None else v for n, v in k.workload.dims.items()}),
            ("params", k.params),
        ):
            rows = [f"{{{_c_string(n)}, {v}}}" for n, v in values.items()]
            out.append(f"static const tvmops_value {what}_{i}[] = {{{', '.join(rows)}}};")
        if k.plan is not None:
            out.append(f"static const uint8_t plan_{i}[] = {{{','.join(map(str, k.plan))}}};")
        out += _end_guard(k)
    out.append("\nstatic const tvmops_kernel kernels[] = {")
    for i, k in enumerate(kernels):
        names = ", ".join(map(_c_string, (k.name, k.workload.op, k.workload.key, k.target.name, k.driver)))
        plan = f"plan_{i}, {len(k.plan)}" if k.plan is not None else "0, 0"
        out += _guard(k)
        out.append(
            f"  {{{names}, dims_{i}, {len(k.workload.dims)}, params_{i}, {len(k.params)}, "
            f"leaves_{i}, {len(k.leaves)}, {plan}}},"
        )
        out += _end_guard(k)
    out += ["};\n\nstatic const char manifest[] =", *_manifest_text(kernels)]
    arch = {k.target.arch for k in kernels}
    if len(arch) != 1:
        raise ValueError(f"a pack holds kernels of one architecture, not of {len(arch)}: {', '.join(sorted(arch))}")
    out.append(
        "static const tvmops_pack pack = {TVMOPS_PACK_MAGIC, TVMOPS_ABI_VERSION, "
        f"sizeof(kernels) / sizeof(kernels[0]), {_c_string(arch.pop())}, manifest, kernels}};\n\n"
        "const tvmops_pack* TVMOPS_PACK_ENTRY(void) { return &pack; }\n"
    )
    return "\n".join(out)


def _chosen(k: PackKernel) -> str | None:
    """The macro that says whether the kernel's target is in a pack of some of the targets."""
    return f"TVMOPS_WITH_{k.target.name}" if isinstance(k.target, GpuTarget) else None


def _guard(k: PackKernel) -> list[str]:
    return [f"#ifdef {_chosen(k)}"] if _chosen(k) else []


def _end_guard(k: PackKernel) -> list[str]:
    return ["#endif"] if _chosen(k) else []


def _selection(kernels: Sequence[PackKernel]) -> list[str]:
    """All targets are in, unless some are named."""
    macros = dict.fromkeys(chosen for k in kernels if (chosen := _chosen(k)))
    if not macros:
        return []
    none = " && ".join(f"!defined({macro})" for macro in macros)
    return [f"#if {none}", *(f"#define {macro}" for macro in macros), "#endif", ""]


def _manifest_text(kernels: Sequence[PackKernel]) -> list[str]:
    """The manifest as string literals, with the entries of the kernels that are in."""
    whole = manifest(kernels)
    entries = [json.dumps(entry) for entry in whole.pop("kernels")]
    head, tail = json.dumps({**whole, "kernels": []}).split("[]")
    out, before = [f"    {_c_string(head + '[')}"], dict[str | None, None]()
    for k, entry in zip(kernels, entries, strict=True):
        # A comma follows what is in already.
        if None in before or _chosen(k) in before:
            comma = ['    ","']
        elif before:
            comma = ["#if " + " || ".join(f"defined({macro})" for macro in before), '    ","', "#endif"]
        else:
            comma = []
        out += [*_guard(k), *comma, f"    {_long_c_string(entry)}", *_end_guard(k)]
        before[_chosen(k)] = None
    return [*out, f"    {_c_string(']' + tail)};\n"]


def _carried(folder: str, name: str) -> Path:
    """A file of ours that a pack is built with: in the repository's csrc, or the copy that an installed tvmops has."""
    root = Path(__file__).resolve().parents[2]
    for path in (root / "csrc" / folder / name, root / "include" / name):
        if path.exists():
            return path
    raise CodegenError(f"{name} is neither in csrc/{folder} nor in the installed package")


def abi_header() -> Path:
    """``abi.h``, the contract between a pack and the extension."""
    return _carried("runtime", ABI_HEADER)


def device_entries() -> Path:
    """``pack_device.cu``, the entry points of a pack with kernels for GPUs."""
    return _carried("cuda", DEVICE_ENTRIES)


def device_makefile() -> Path:
    """``pack.mk``, which builds a pack of exported CUDA sources."""
    return _carried("cuda", "pack.mk")


def write_sources(kernels: Sequence[PackKernel], directory: Path) -> None:
    """Writes ``pack.c``, ``abi.h`` and ``manifest.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pack.c").write_text(table(kernels))
    (directory / "manifest.json").write_text(json.dumps(manifest(kernels), indent=1) + "\n")
    shutil.copyfile(abi_header(), directory / ABI_HEADER)


def groups(kernels: Sequence[PackKernel]) -> list[Group]:
    """The kernels by operator and target, whole kernels apart: they are compiled otherwise.

    A leaf that two operators share goes into the first's object.
    """
    by_place: dict[tuple[str, str, bool], list[PackKernel]] = {}
    for k in kernels:
        by_place.setdefault((k.target.name, k.workload.op, k.leaves[0].whole), []).append(k)
    found, placed = [], {k.target.name: set[str]() for k in kernels}
    for (target, op, whole), members in by_place.items():
        own = {leaf.symbol for k in members for leaf in k.leaves}
        choices = [(k.workload, k.space, k.knobs) for k in members]
        goal = cast(Target, members[0].target)
        found.append(Group(op, goal, choices, whole, frozenset(own & placed[target])))
        placed[target] |= own
    return [group for group in found if group.leaves()]


def export(
    kernels: Sequence[PackKernel], directory: Path, progress: Callable[[str, int, int], None] = lambda *_: None
) -> None:
    """Writes what a machine without TVM needs to build the pack: objects, ``pack.c``, ``abi.h``, ``manifest.json``.

    Beside each object lies its LLVM IR, to read. Objects of the same content are left as they are. ``progress`` is
    called with what was done last, how much is done, and how much there is.

    Raises:
        CodegenError: a leaf needs a symbol that leaves may not need, or ``abi.h`` is missing.
        OSError: a file can't be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    wanted = groups(kernels)
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        progress(what, done, len(wanted))

    kept = {path.stem for path in compile_groups(wanted, directory, step)}
    write_sources(kernels, directory)
    for stale in directory.glob("leaves-*.o"):
        if stale.stem not in kept:
            for suffix in (".o", ".ll", ".key"):
                stale.with_suffix(suffix).unlink(missing_ok=True)


def _compiler() -> list[str]:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise CodegenError("no C compiler: neither cc nor gcc is on PATH, and CC is not set")
    return compiler.split()


def link(directory: Path, library: Path, objects: Iterable[Path] | None = None, options: Sequence[str] = ()) -> Path:
    """Builds the shared library of an exported directory with the C compiler (``CC``, else ``cc``, ``gcc``).

    ``objects`` are those to link; by default, those that :func:`export` wrote. ``options`` follow them.

    Raises:
        CodegenError: there is no compiler, or it fails; with the first line it said.
    """
    library.parent.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_name(f"{library.name}.{os.getpid()}.tmp")
    found = sorted(map(str, directory.glob("leaves-*.o") if objects is None else objects))
    symbols = unfinished.with_suffix(".map")
    symbols.write_text(SYMBOLS)
    command = [*_compiler(), "-O1", "-shared", "-fPIC", f"-Wl,--version-script={symbols}", "-o", str(unfinished)]
    command += [str(directory / "pack.c"), *found, *options]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        unfinished.replace(library)  # a process that has the old one mapped keeps it
    except FileNotFoundError:
        raise CodegenError(f"no C compiler: {command[0]} is not there") from None
    except subprocess.CalledProcessError as error:
        said = next(iter(error.stderr.strip().splitlines()), f"exit status {error.returncode}")
        raise CodegenError(f"{command[0]} can't link {library}: {said}") from None
    finally:
        unfinished.unlink(missing_ok=True)
        symbols.unlink(missing_ok=True)
    return library


def link_if_changed(
    directory: Path, library: Path, objects: Iterable[Path] | None = None, options: Sequence[str] = ()
) -> bool:
    """As :func:`link`, unless the library was made from the same content before. Returns whether it did anything.

    What it was made from is remembered in a file beside it, ``{library}.key``.
    """
    digest = hashlib.sha256(" ".join([*_compiler(), SYMBOLS, *options]).encode())
    found = sorted(directory.glob("leaves-*.o") if objects is None else objects)
    for path in [*found, directory / "pack.c", directory / ABI_HEADER]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    stamp = library.with_name(library.name + ".key")
    if library.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest():
        return False
    stamp.unlink(missing_ok=True)
    link(directory, library, found, options)
    stamp.write_text(digest.hexdigest())
    return True
