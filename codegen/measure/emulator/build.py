"""From translated sources to shared libraries, cached by content."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from ...errors import CodegenError
from ...export.pack import abi_header
from .translate import translate

_HERE = Path(__file__).resolve().parent
_RUNTIME, _INCLUDE = _HERE / "runtime", _HERE / "include"
_COMMON = [
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-fno-gnu-unique",
    "-march=native",
    "-w",
]
# The runtime itself is not watched; device code is: each load and store, and each type's alignment.
_DEVICE = [
    "-O1",
    "-fsanitize=thread",
    "-fsanitize=alignment",
    "-ftrivial-auto-var-init=pattern",
    "-fno-threadsafe-statics",
    "-fpermissive",
]
# Indices are sums and products of signed integers. Compiling this takes longer by a quarter to a half.
_OVERFLOW = ["-fsanitize=signed-integer-overflow"]


@functools.cache
def _compiler() -> str:
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not found:
        raise CodegenError("the emulator needs a C++ compiler: g++ is not on PATH, and CXX is not set")
    return found


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise CodegenError(f"no C++ compiler: {command[0]} is not there") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines() or ["?"]
        raise CodegenError(f"{command[0]} can't compile the emulated source: {lines[0]}") from None


def _who() -> str:
    """For names of files that no other process or thread uses meanwhile."""
    return f"{os.getpid()}-{threading.get_ident()}"


def _into(path: Path, command: list[str]) -> Path:
    """Runs a compiler whose output, ``-o``, becomes ``path`` when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{_who()}.tmp")
    try:
        _run([*command, "-o", str(unfinished)])
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def default_cache() -> Path:
    """Where compiled sources are kept: ``TVMOPS_EMULATOR_CACHE``, else in the directory for temporary files."""
    named = os.environ.get("TVMOPS_EMULATOR_CACHE")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"tvmops-emulator-{os.getuid()}"


@functools.cache
def _base() -> str:
    """A hash of all but the source: the emulator, the compiler, the processor."""
    digest = hashlib.sha256(" ".join([*_COMMON, *_DEVICE, *_OVERFLOW]).encode())
    version = subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    digest.update(version.encode())
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        digest.update(next((line for line in cpu.read_text().splitlines() if line.startswith("flags")), "").encode())
    for path in sorted([*_RUNTIME.iterdir(), *_INCLUDE.iterdir(), *_HERE.glob("*.py"), abi_header()]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _flags() -> list[str]:
    return [*_COMMON, f"-I{_RUNTIME}", f"-I{_INCLUDE}", f"-I{abi_header().parent}"]


def _runtime(cache: Path) -> list[Path]:
    """The objects of the runtime."""
    directory = cache / _base()
    objects = []
    for source in sorted(_RUNTIME.glob("*.cpp")):
        made = directory / f"{source.stem}.o"
        if not made.exists():
            _into(made, [_compiler(), *_flags(), "-O3", "-c", str(source)])
        objects.append(made)
    return objects


def _header(cache: Path) -> Path:
    """The directory of ``device.h``, compiled ahead."""
    directory = cache / _base() / "ahead"
    made = directory / "device.h.gch"
    if not made.exists():
        _into(made, [_compiler(), *_flags(), *_DEVICE, "-x", "c++-header", str(_RUNTIME / "device.h")])
    return directory


def _compiled(text: str, suffix: str, flags: list[str], cache: Path) -> Path:
    kind = "-overflow" if _OVERFLOW[0] in flags else ""
    made = cache / _base() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}{kind}.o"
    if made.exists():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    source = made.with_suffix(f".{_who()}{suffix}")
    source.write_text(translate(text) if suffix == ".cpp" else text)
    try:
        return _into(made, [_compiler(), *flags, "-c", str(source)])
    finally:
        if not os.environ.get("TVMOPS_EMULATOR_KEEP"):
            source.unlink(missing_ok=True)


def compile_object(text: str, cache: Path | None = None, overflow: bool = False) -> Path:
    """The object file of a CUDA source, to be linked with :func:`link`. It is compiled once; ``overflow`` as in
    :func:`compile`.

    Raises:
        CodegenError: the source is not understood, or does not compile.
    """
    cache = cache or default_cache()
    flags = [f"-I{_header(cache)}", *_flags(), *_DEVICE, *(_OVERFLOW if overflow else [])]
    return _compiled(text, ".cpp", flags, cache)


def compile_host(text: str, cache: Path | None = None, language: str = "c") -> Path:
    """The object file of a source in C, or in ``language`` "c++", that is not watched.

    Raises:
        CodegenError: it does not compile.
    """
    flags = [*_flags(), "-fvisibility=default", "-O1", "-x", language]
    return _compiled(text, ".host", flags, cache or default_cache())


def link(objects: list[Path], library: Path, cache: Path | None = None, extra: list[str] | None = None) -> Path:
    """A shared library of objects and the emulator's runtime."""
    found = [*map(str, objects), *map(str, _runtime(cache or default_cache()))]
    return _into(library, [_compiler(), "-shared", "-Wl,-Bsymbolic", "-Wl,-z,muldefs", *(extra or []), *found])


def compile(text: str, directory: Path | str, cache: Path | None = None, *, overflow: bool = False) -> Path:
    """A shared library in ``directory`` that runs a CUDA source, launcher included, on the CPU.

    It has the same symbols ``tvmops_launch_...`` and ``tvmops_workspace_...``; see
    :class:`codegen.measure.emulator.launch.Emulated`. With ``overflow``, a sum, difference, product or quotient of
    signed integers that is beyond their type is an error; else only what comes of it can be one.

    Raises:
        CodegenError: the source is not understood, does not compile, or there is no compiler.
    """
    cache = cache or default_cache()
    made = compile_object(text, cache, overflow)
    library = Path(directory) / f"{made.parent.name}-{made.stem}.so"
    return library if library.exists() else link([made], library, cache)
