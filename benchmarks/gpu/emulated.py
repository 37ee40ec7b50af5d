"""Kernels in the emulator, in place of a GPU: right or wrong as there, and watched; times mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from codegen.measure.emulator import Emulated


class EmulatedKernel:
    """As :class:`benchmarks.gpu.kernel.Kernel`, of a library that the emulator made."""

    def __init__(self, library: Path, symbol: str, target: str) -> None:
        self._emulated, self._symbol = Emulated(library, target), symbol

    def workspace_bytes(self, sizes: Sequence[int]) -> int:
        """What a call of these sizes needs of its own."""
        return self._emulated.workspace(self._symbol, sizes)

    def bind(self, buffers: Sequence[Tensor], sizes: Sequence[int], params: Sequence[float]) -> Callable[[], None]:
        """A call.

        Raises (when called):
            EmulationError: the kernel did what it must not.
        """
        # NumPy has no bfloat16; the bits are the same.
        arrays = [(b.view(torch.int16) if b.dtype == torch.bfloat16 else b).numpy() for b in buffers]

        def call() -> None:
            self._emulated.launch(self._symbol, arrays, sizes, params)

        return call
