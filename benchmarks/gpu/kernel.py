"""A compiled kernel, called by ctypes as csrc/runtime/abi.h says."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.devices import Device


class LaunchError(RuntimeError):
    """A launch returned an error."""


class _Launch(ctypes.Structure):
    """``tvmops_launch``."""

    _fields_ = (
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("params", ctypes.POINTER(ctypes.c_float)),
        ("workspace", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("device", ctypes.c_int32),
    )


class Kernel:
    """The functions ``tvmops_launch_SYMBOL`` and, if there is one, ``tvmops_workspace_SYMBOL`` of a library."""

    def __init__(self, library: Path, symbol: str, device: Device) -> None:
        self._library = ctypes.CDLL(str(library))
        self._launch = self._library[f"tvmops_launch_{symbol}"]
        self._launch.restype, self._launch.argtypes = ctypes.c_int, [ctypes.POINTER(_Launch)]
        try:
            self._workspace = self._library[f"tvmops_workspace_{symbol}"]
            self._workspace.restype = ctypes.c_int64
            self._workspace.argtypes = [ctypes.POINTER(ctypes.c_int64)]
        except AttributeError:
            self._workspace = None
        self._device = device

    def workspace_bytes(self, sizes: Sequence[int]) -> int:
        """What a call of these sizes needs of its own."""
        if self._workspace is None:
            return 0
        return int(self._workspace((ctypes.c_int64 * len(sizes))(*sizes)))

    def bind(
        self, buffers: Sequence[Tensor], sizes: Sequence[int], params: Sequence[float], workspace: Tensor | None = None
    ) -> Callable[[], None]:
        """A call, on the stream that is current when it is made. It keeps its tensors alive.

        Raises (when called):
            LaunchError: the launch returned an error.
        """
        needed = self.workspace_bytes(sizes)
        if needed < 0:
            raise LaunchError(f"the workspace of sizes {list(sizes)} is {needed} bytes")
        if needed and workspace is None:
            workspace = torch.empty(needed, dtype=torch.uint8, device=self._device.where)
        launch = _Launch(
            (ctypes.c_void_p * len(buffers))(*(b.data_ptr() for b in buffers)),
            (ctypes.c_int64 * len(sizes))(*sizes),
            (ctypes.c_float * max(1, len(params)))(*params),
            workspace.data_ptr() if workspace is not None else None,
            None,
            self._device.index,
        )
        kept = (launch, buffers, workspace)
        function, stream = self._launch, self._device.stream

        def call() -> None:
            kept[0].stream = stream()
            error = function(ctypes.byref(kept[0]))
            if error:
                raise LaunchError(f"the launch returned error {error}")

        return call
