"""The pack of CUDA kernels that goes with the extension; setup.py runs ``python -m codegen.export.cuda_pack``.

It is made where PyTorch has CUDA and nvcc is there: ``TVMOPS_CUDA=1`` asks for it elsewhere too, ``TVMOPS_CUDA=0`` for
none. ``TORCH_CUDA_ARCH_LIST`` chooses the architectures, as for PyTorch's own extensions; without it all are taken. The
kernels are generated, which takes TVM, or ``TVMOPS_CUDA_SOURCES`` names a folder that ``tvmops-codegen export`` wrote.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from ..errors import CodegenError
from . import nvcc

LIBRARY = Path("build/pack/cuda.so")
# Of GPU_TARGETS in codegen.target, which needs TVM.
TARGETS = {(8, 0): "sm_80", (8, 6): "sm_86", (8, 9): "sm_89", (9, 0): "sm_90a"}
# Names that PyTorch knows besides numbers.
_NAMED = {"Ampere": ("8.0", "8.6"), "Ada": ("8.9",), "Hopper": ("9.0",)}
_OTHERS = ("Kepler", "Maxwell", "Pascal", "Volta", "Turing", "Blackwell", "Tegra")


def targets_of(architectures: str) -> list[str]:
    """The targets that serve what ``TORCH_CUDA_ARCH_LIST`` names: "8.0;9.0a", "Ampere 8.9+PTX".

    A target serves an architecture of the same major version that is not older; sm_90a serves 9.0 alone.

    Raises:
        CodegenError: it is no such list.
    """
    found = []
    for word in re.split(r"[;\s]+", architectures.strip()):
        name = word.removesuffix("+PTX").split("+", 1)[0]
        numbers = _NAMED.get(name, (name,))
        for number in () if name in _OTHERS or not name else numbers:
            match = re.fullmatch(r"(\d+)\.(\d)[af]?", number)
            if not match:
                raise CodegenError(f"TORCH_CUDA_ARCH_LIST: not an architecture: {word!r} (expected e.g. 8.0;9.0a)")
            major, minor = int(match[1]), int(match[2])
            served = [known for known in TARGETS if known[0] == major and known[1] <= minor]
            if served and (major != 9 or minor == 0):
                found.append(TARGETS[max(served)])
    return list(dict.fromkeys(found))


def wanted() -> bool:
    """Whether a pack is to be made here.

    Raises:
        CodegenError: TVMOPS_CUDA is neither 0 nor 1.
    """
    asked = os.environ.get("TVMOPS_CUDA", "")
    if asked not in ("", "0", "1"):
        raise CodegenError(f"TVMOPS_CUDA is 0 or 1, not {asked!r}")
    if asked:
        return asked == "1"
    import torch

    if torch.version.cuda is None:
        return False
    try:
        nvcc.find()
    except CodegenError as error:
        print(f"no CUDA kernels are built: {error}")
        return False
    return True


def known_targets(directory: Path) -> list[str]:
    """Those that an exported folder has kernels for.

    Raises:
        CodegenError: it is no such folder.
    """
    lists = directory / "kernels.mk"
    found = re.search(r"^KNOWN := (.*)$", lists.read_text(), re.MULTILINE) if lists.exists() else None
    if not found:
        raise CodegenError(f"TVMOPS_CUDA_SOURCES: {directory} is not what 'tvmops-codegen export --target sm_80' wrote")
    return found[1].split()


def build(library: Path, targets: Iterable[str]) -> bool:
    """Makes the pack, of exported sources or with TVM. Returns whether there is anything to make it of.

    Raises:
        CodegenError: there are no kernels for these targets, or they can't be compiled.
    """
    targets, exported = list(targets), os.environ.get("TVMOPS_CUDA_SOURCES")
    if exported:
        known = known_targets(Path(exported))
        both = [target for target in targets if target in known]
        if not both:
            raise CodegenError(f"{exported} has kernels for {', '.join(known)}, none for {', '.join(targets)}")
        folder = library.resolve().parent / "cuda-sources"
        shutil.copytree(exported, folder, dirs_exist_ok=True)  # which may not be written to
        make = ["make", "-C", str(folder), f"-j{os.cpu_count() or 1}", f"TARGETS={' '.join(both)}"]
        _run([*make, f"NVCC={nvcc.find().nvcc}", f"LIBRARY={library.resolve()}"])
        return True
    if importlib.util.find_spec("tvm") is None:
        print("no CUDA kernels are built: there is no apache-tvm to make them, and TVMOPS_CUDA_SOURCES is not set")
        return False
    options = [option for target in targets for option in ("--target", target)]
    _run([sys.executable, "-m", "codegen", "build", *options, "--out", str(library.parent)])
    return True


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise CodegenError(f"{command[0]} is not there") from None
    except subprocess.CalledProcessError as error:
        raise CodegenError(f"{command[0]} could not build the CUDA kernels (status {error.returncode})") from None


def main() -> int:
    """The command line; prints the path of the pack as its last line if there is one."""
    try:
        if not wanted():
            return 0
        listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
        targets = targets_of(listed) if listed.strip() else list(TARGETS.values())
        if not targets:
            print(f"no CUDA kernels are built: there are none for {listed}, only for {', '.join(TARGETS.values())}")
        elif build(LIBRARY, targets):
            print(LIBRARY)
        elif os.environ.get("TVMOPS_CUDA") == "1":
            return 2
    except CodegenError as error:
        print(f"error: {error}; TVMOPS_CUDA=0 builds without CUDA kernels", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
