"""NVIDIA's compiler: where it is, CUDA sources to machine code, and what ptxas says of the result."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CodegenError

# Machine code alone, no PTX: a kernel serves the architectures that it was made for and tuned on (sm_80 code runs on
# every 8.x), so code that a driver would make for a newer one would never be called.
# The launchers need nothing of the C++ library, which a pack is not linked to: no exceptions, no guards of statics.
FLAGS = ("-O3", "-std=c++17", "-Xcompiler", "-fPIC,-fvisibility=hidden,-fno-exceptions,-fno-threadsafe-statics")
# Seconds that one source may take.
LIMIT = 600.0

_FUNCTION = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
# "(C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ... in function 'f'"
_LOSS = re.compile(r"\((C\d+)\) (.*) in (?:the )?function '(\S+?)'")


@dataclass(frozen=True)
class Toolkit:
    """An nvcc, and the folder that its headers and libraries are in."""

    nvcc: str
    root: Path
    version: str

    def tool(self, name: str) -> str | None:
        """Another program of the toolkit, or of its wheels."""
        return next((str(p) for p in (self.root / "bin" / name, *_wheels(name)) if p.exists()), shutil.which(name))

    @property
    def runtime(self) -> Path:
        """The static CUDA runtime.

        Raises:
            CodegenError: the toolkit has none.
        """
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            path = self.root / folder / "libcudart_static.a"
            if path.exists():
                return path
        raise CodegenError(f"the CUDA toolkit in {self.root} has no libcudart_static.a (wheel: nvidia-cuda-runtime)")


@dataclass(frozen=True)
class Usage:
    """What one device function takes, by ptxas. Bytes are those of a thread, but for ``shared``, a block's."""

    function: str
    architecture: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int  # static
    losses: tuple[str, ...] = ()  # that ptxas warns of


def _wheels(name: str) -> Iterator[Path]:
    """A program of the wheels nvidia-cuda-*, newest CUDA first."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(folder).glob(f"cu*/bin/{name}"), reverse=True)


def _candidates() -> Iterator[str]:
    if found := shutil.which("nvcc"):
        yield found
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (Path(home) / "bin" / "nvcc").exists():
            yield str(Path(home) / "bin" / "nvcc")
    yield from map(str, _wheels("nvcc"))


def find() -> Toolkit:
    """The nvcc to compile with: ``NVCC``, else on PATH, in CUDA_HOME, in /usr/local/cuda, else the wheels'.

    Raises:
        CodegenError: there is none, or it does not run.
    """
    given = os.environ.get("NVCC")
    nvcc = given or next(_candidates(), None)
    if not nvcc:
        raise CodegenError(
            "nvcc is not found: it is neither on PATH nor in CUDA_HOME nor in /usr/local/cuda, and NVCC is not set; "
            "pip install 'tvmops[cuda]' brings it"
        )
    return _toolkit(nvcc, "NVCC names" if given else "found")


@functools.cache
def _toolkit(nvcc: str, how: str) -> Toolkit:
    said = []
    # A dry run tells the toolkit's folder even where nvcc is a script that calls another.
    for arguments in (["--version"], ["-dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]):
        try:
            done = subprocess.run([nvcc, *arguments], capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise CodegenError(f"{how} {nvcc} as nvcc, but it does not run: {error}") from None
        said.append(done.stdout + done.stderr)
    version, top = re.search(r"V(\d+\.\d+\.\d+)", said[0]), re.search(r"^#\$ TOP=(.*)$", said[1], re.MULTILINE)
    if not version or not top:
        raise CodegenError(f"{how} {nvcc} as nvcc, but it does not say its version and folder as nvcc does")
    return Toolkit(nvcc, Path(top[1].strip()).resolve(), version[1])


def gencode(architecture: str, also: Sequence[str] = ()) -> str:
    """nvcc's option for machine code of an architecture, such as "sm_90a", and from the same PTX of others."""
    code = ",".join([architecture, *also])
    return f"-gencode=arch=compute_{architecture.removeprefix('sm_')},code=[{code}]"


def compile_source(
    source: Path, output: Path, architecture: str, include: Sequence[Path] = (), also: Sequence[str] = ()
) -> list[Usage]:
    """Compiles a ``.cu`` to an object for the linker or, without the part of the host, to a ``.cubin`` or ``.fatbin``.

    ``also`` names architectures to make machine code for from the PTX of ``architecture``; a cubin has no room for it.

    Returns:
        What each device function takes.

    Raises:
        CodegenError: there is no nvcc, it does not know the architecture, or it fails; with the first error it names.
    """
    toolkit = find()
    kind = {".cubin": "-cubin", ".fatbin": "-fatbin"}.get(output.suffix, "-c")
    command = [toolkit.nvcc, *FLAGS, "-Xptxas", "-v", gencode(architecture, also)]
    command += [*(f"-I{path}" for path in include), kind, str(source)]
    try:
        done = subprocess.run([*command, "-o", str(output)], capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise CodegenError(f"nvcc compiles {source.name} for {architecture} for more than {LIMIT:.0f} s") from None
    said = done.stderr + done.stdout
    if "Unsupported gpu architecture" in said:
        raise CodegenError(f"nvcc {toolkit.version} ({toolkit.nvcc}) does not know the architecture {architecture!r}")
    if done.returncode:
        errors = [line for line in said.splitlines() if re.search(r"\berror\b|\bfatal\b", line)]
        cause = next(iter(errors or said.strip().splitlines()), f"exit status {done.returncode}")
        raise CodegenError(f"nvcc can't compile {source} for {architecture}: {cause.strip()}")
    return usages(said)


def usages(said: str) -> list[Usage]:
    """What ``ptxas -v`` says, by device function."""
    losses: dict[str, list[str]] = {}
    for code, what, function in _LOSS.findall(said):
        losses.setdefault(function, []).append(f"{what} ({code})")
    found = []
    # Split at the names of functions: [before, name, architecture, text, name, ...].
    parts = _FUNCTION.split(said)
    for name, architecture, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        stack, registers, shared = _STACK.search(text), _REGISTERS.search(text), _SHARED.search(text)
        if stack and registers:
            frame, stores, loads = (int(bytes_) for bytes_ in stack.groups())
            static = int(shared[1]) if shared else 0
            found.append(
                Usage(name, architecture, int(registers[1]), frame, stores, loads, static, tuple(losses.get(name, ())))
            )
    return found


def refuse_spills(found: Sequence[Usage], what: str) -> None:
    """Refuses code that keeps registers in memory, arrays included, or that ptxas had to make slower.

    Raises:
        CodegenError: a function of ``what`` has a stack frame or spills; says how many bytes.
    """
    for one in found:
        if one.spill_stores or one.spill_loads:
            raise CodegenError(
                f"{what}: {one.function} spills registers, {one.spill_stores} bytes of stores and "
                f"{one.spill_loads} of loads"
            )
        if one.stack:
            raise CodegenError(f"{what}: {one.function} keeps {one.stack} bytes of arrays in memory, not in registers")
        if one.losses:
            raise CodegenError(f"{what}: {one.function}: {one.losses[0]}")
