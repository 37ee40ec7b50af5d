"""Builds the extension tvmops._C and puts the default kernel pack beside it.

The pack is made by ``python -m codegen build`` (build/pack); if it is not there, this runs it, which needs apache-tvm.
Where PyTorch has CUDA and nvcc is there, a pack of CUDA kernels is made too (codegen/export/cuda_pack.py says more).
``TVMOPS_NO_EXTENSION=1`` leaves the extension out, for an editable install whose extension is built in place;
``TVMOPS_NO_PACK=1`` leaves the packs out, for kernels that come from elsewhere (``make gpu-check``).
"""

import os
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from setuptools import Extension, find_packages, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).resolve().parent
DEFAULT_PACK = Path("build/pack/default.so")
CUDA_PACK = Path("build/pack/cuda.so")
# What codegen builds packs with.
CARRIED = ("csrc/runtime/abi.h", "csrc/cuda/pack_device.cu", "csrc/cuda/pack.mk")
TORCH_HEADERS = ROOT / "csrc/ops/torch_headers.h"


class BuildWithPack(BuildExtension):
    """The extension, and beside it in ``tvmops/packs`` the default pack and that of CUDA kernels."""

    def build_extension(self, ext: Extension) -> None:
        self.precompile_torch_headers(ext)
        super().build_extension(ext)

    def precompile_torch_headers(self, ext: Extension) -> None:
        """Halves the time of the build with GCC, which ignores such a header where a flag differs."""
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        version = subprocess.run([*compiler, "--version"], capture_output=True, text=True)
        if "Free Software Foundation" not in version.stdout:
            return
        folder = Path(self.build_temp).resolve() / "precompiled"
        folder.mkdir(parents=True, exist_ok=True)
        flags = [
            *self.compiler.compiler_so[1:],
            *(f"-I{path}" for path in [*self.compiler.include_dirs, *ext.include_dirs]),
        ]
        options = [*ext.extra_compile_args, "-DTORCH_API_INCLUDE_EXTENSION_H", "-DTORCH_EXTENSION_NAME=_C"]
        header, made = folder / TORCH_HEADERS.name, folder / f"{TORCH_HEADERS.name}.gch"
        command = [*compiler, *flags, *options, "-x", "c++-header", str(TORCH_HEADERS), "-o", str(made)]
        key = folder / "command"
        wanted = "\n".join([*command, torch.__version__, version.stdout, TORCH_HEADERS.read_text()])
        if not made.exists() or not key.exists() or key.read_text() != wanted:
            shutil.copyfile(TORCH_HEADERS, header)
            subprocess.run(command, check=True)
            key.write_text(wanted)
        ext.extra_compile_args += ["-include", str(header)]

    def run(self) -> None:
        super().run()
        if os.environ.get("TVMOPS_NO_PACK") == "1":
            return
        stale = not self.inplace and find_spec("tvm")  # make sees to it in place; elsewhere a check costs seconds
        if not find_spec("tvm") and os.environ.get("TVMOPS_CUDA_SOURCES"):
            print("no CPU kernels are built: there is no apache-tvm to make them")
        elif stale or not (ROOT / DEFAULT_PACK).exists():
            subprocess.run([sys.executable, "-m", "codegen", "build"], cwd=ROOT, check=True)
        cuda = subprocess.run([sys.executable, "-m", "codegen.export.cuda_pack"], cwd=ROOT, stdout=subprocess.PIPE)
        print(cuda.stdout.decode(), end="")
        if cuda.returncode:
            raise SystemExit(cuda.returncode)
        package = ROOT / "tvmops" if self.inplace else Path(self.build_lib).resolve() / "tvmops"
        (package / "packs").mkdir(parents=True, exist_ok=True)
        if not self.inplace:  # an installed codegen builds packs with these
            (package / "include").mkdir(parents=True, exist_ok=True)
            for path in CARRIED:
                shutil.copyfile(ROOT / path, package / "include" / Path(path).name)
        made = [DEFAULT_PACK] if (ROOT / DEFAULT_PACK).exists() else []  # no kernels may ship for this architecture
        if cuda.stdout.strip().endswith(str(CUDA_PACK).encode()):
            made.append(CUDA_PACK)
        for pack in made:
            fresh = package / "packs" / f"{pack.name}.tmp"
            shutil.copyfile(ROOT / pack, fresh)
            fresh.replace(package / "packs" / pack.name)  # a process that has the old one mapped keeps it

    def get_outputs(self) -> list[str]:
        package = Path(self.build_lib) / "tvmops"
        more = [package / "packs" / pack.name for pack in (DEFAULT_PACK, CUDA_PACK)]
        more += [package / "include" / Path(path).name for path in CARRIED]
        return [*super().get_outputs(), *(str(path) for path in more if not self.inplace and path.exists())]


def sources() -> list[str]:
    """All of csrc: what belongs to the extension lies there, and nothing else."""
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.cpp"))


extension = CppExtension(
    "tvmops._C",
    sources(),
    include_dirs=[str(ROOT / "csrc")],
    depends=sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.h")),
    extra_compile_args=[
        *("-O2", "-g0", "-std=c++20", "-fvisibility=hidden", "-fopenmp", "-Wall"),
        *("-Wno-unused-function", "-Wno-sign-compare"),  # of torch's headers
    ],
    extra_link_args=["-Wl,--no-undefined-version"],
)
packages = find_packages(include=["tvmops", "tvmops.*"])
packages += ["tvmops." + name for name in find_packages(include=["codegen", "codegen.*"])]
setup(
    packages=packages,
    ext_modules=[] if os.environ.get("TVMOPS_NO_EXTENSION") == "1" else [extension],
    cmdclass={"build_ext": BuildWithPack},
)
