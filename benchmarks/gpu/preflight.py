"""What must be there before anything starts: a GPU, nvcc, torch with CUDA, a C++ compiler."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import subprocess
import sys

from codegen.errors import CodegenError
from codegen.export import nvcc

NO_GPU, LACKING, NO_KERNELS = 3, 4, 5
_ASK = """
import json, torch
here = torch.cuda.is_available()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "available": here}))
"""


class Unable(Exception):
    """The check can't run here. ``status``: the exit status that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def gpus() -> tuple[int, int]:
    """How many GPUs the driver knows, and the newest CUDA version that it serves (13000); (0, 0) without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, 0
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0, version.value
    return count.value, version.value


def check() -> dict[str, str]:
    """Looks for all of it.

    Returns:
        The versions: torch, cuda, driver.

    Raises:
        Unable: something is not there.
    """
    count, version = gpus()
    if not count:
        why = "there is no NVIDIA driver" if not version else "the driver finds none"
        raise Unable(NO_GPU, f"no GPU here ({why}): nothing was checked")
    try:
        nvcc.find()
    except CodegenError as error:
        raise Unable(LACKING, str(error)) from None
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if not shutil.which(compiler[0]):
        raise Unable(LACKING, f"there is no C++ compiler {compiler[0]!r}: set CXX, or put c++ on the PATH")
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True)
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or ["it can't be imported"])[-1]
        raise Unable(LACKING, f"{sys.executable} has no torch that works: {why}")
    found = json.loads(asked.stdout)
    if not found["cuda"]:
        raise Unable(LACKING, f"torch {found['torch']} of {sys.executable} is built without CUDA")
    if not found["available"]:
        served = f"{version // 1000}.{version % 1000 // 10}"
        raise Unable(
            LACKING, f"torch {found['torch']} (CUDA {found['cuda']}) can't use the driver, which serves CUDA {served}"
        )
    return {"torch": found["torch"], "cuda": found["cuda"], "driver": str(version)}
