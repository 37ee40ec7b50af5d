"""From the source of a kernel to a shared library, for a GPU or for the CPU in its place."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from codegen.export import nvcc


class CompileError(RuntimeError):
    """A source could not be compiled; the text is the compiler's."""


def compile_source(device: str, source: Path, include: Path, architecture: str, made: Path) -> str:
    """Compiles the source of a kernel into a shared library for a device, "cuda" or "emulated".

    Returns:
        What the compiler said, ptxas's report on registers among it.

    Raises:
        CompileError: it refuses the source.
        CodegenError: there is no nvcc.
    """
    made.parent.mkdir(parents=True, exist_ok=True)
    if device != "cuda":
        return _compile_host(source, include, made)
    temporary = made.with_suffix(".tmp.so")
    # Without nvcc.FLAGS' hidden symbols: ctypes looks them up.
    options = ["-shared", "-O3", "-std=c++17", "-Xcompiler", "-fPIC", "-Xptxas", "-v", nvcc.gencode(architecture)]
    command = [nvcc.find().nvcc, *options, "-I", str(include), "-o", str(temporary), str(source)]
    return _run(command, temporary, made)


def _compile_host(source: Path, include: Path, made: Path) -> str:
    if "__global__" in source.read_text():
        from codegen.measure import emulator

        library = emulator.compile(source.read_text(), made.parent / made.stem)
        shutil.copyfile(library, made)
        return ""
    temporary = made.with_suffix(".tmp.so")
    flags = ["-x", "c++", "-shared", "-O1", "-std=c++17", "-fPIC", "-I", str(include), "-o", str(temporary)]
    return _run(["c++", *flags, str(source)], temporary, made)


def _run(command: Sequence[str], temporary: Path, made: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CompileError((done.stderr or done.stdout).strip())
    temporary.replace(made)
    return done.stdout + done.stderr
