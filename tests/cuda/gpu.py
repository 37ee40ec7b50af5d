"""What the tests of GPU kernels share: the pack of plain C, and calls under the CUDA key with CPU tensors."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tvmops
from tests.support import ROOT, observed

OPS = torch.ops.tvmops
CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
HALF = (torch.float16, torch.bfloat16)
UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def compile_pack(folder: Path, name: str = "pack", **definitions: int) -> Path:
    """The pack of pack.c with these definitions."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler")
    path = folder / f"{name}.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-I", str(ROOT / "csrc" / "runtime")]
    flags += [f"-D{key}={value}" for key, value in definitions.items()]
    subprocess.run([compiler, *flags, str(ROOT / "tests/cuda/pack.c"), "-o", str(path), "-lm"], check=True)
    return path


class Launch(ctypes.Structure):
    """``tvmops_launch`` of abi.h."""

    _fields_ = [
        ("buffers", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
        ("params", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("device", ctypes.c_int32),
    ]


class Pack:
    """A loaded pack of plain C, with what its last launch got."""

    def __init__(self, path: Path) -> None:
        tvmops.load_pack(path)
        self.path = path
        self.library = ctypes.CDLL(str(path))

    @property
    def launches(self) -> int:
        """So far, of all kernels."""
        return ctypes.c_int64.in_dll(self.library, "launches").value

    @property
    def last(self) -> Launch:
        """The last launch."""
        return Launch.in_dll(self.library, "last")

    @property
    def sizes(self) -> list[int]:
        """Of the last launch."""
        return list((ctypes.c_int64 * 8).in_dll(self.library, "last_sizes"))

    @property
    def buffers(self) -> list[int]:
        """Of the last launch."""
        return [x or 0 for x in (ctypes.c_void_p * 10).in_dll(self.library, "last_buffers")]


def on_gpu(name: str, *args: Any, **kwargs: Any) -> Any:
    """The operator's function under the CUDA key, on CPU tensors; "mm.out" is the overload of that name."""
    op, _, overload = name.partition(".")
    return getattr(getattr(OPS, op), overload or "default").redispatch(CUDA, *args, **kwargs)


def by_kernel(name: str, *args: Any, **kwargs: Any) -> Any:
    """The same, by a kernel: a test of one must not be one of ATen."""
    with tvmops.mode("force"):
        result, decisions = observed(on_gpu, name, *args, **kwargs)
    assert [bool(d.kernel) for d in decisions] == [True], str(decisions)
    assert decisions[0].route.startswith("cuda_")
    return result


def by_aten(name: str, *args: Any, mode: str = "force", **kwargs: Any) -> tuple[Any, str]:
    """The same, by ATen, and why."""
    with tvmops.mode(mode):
        result, decisions = observed(on_gpu, name, *args, **kwargs)
    assert [(d.kernel, d.route) for d in decisions] == [(None, "aten")], str(decisions)
    return result, decisions[0].reason


def assert_rounded(value: Tensor, exact: Tensor, magnitude: Tensor | None = None, depth: int = 1) -> None:
    """One rounding to the dtype away from float64, and what ``depth`` float32 operations on ``magnitude`` lose."""
    assert value.shape == exact.shape
    large = exact.abs() if magnitude is None else magnitude.maximum(exact.abs())
    allowed = 1.01 * UNIT[value.dtype] * exact.abs() + (depth + 8) * 2.0**-23 * large + 2.0**-25
    worst = ((value.double() - exact).abs() - allowed).max()
    assert worst <= 0, f"{worst.item()} too far from float64"
