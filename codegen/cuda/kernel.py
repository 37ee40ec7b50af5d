"""What a space of GPU kernels makes of a choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx


@dataclass(frozen=True)
class DeviceKernel:
    """A kernel on a GPU, as :class:`codegen.spaces.space.Leaf` is one on a CPU.

    ``make`` gives the scheduled function. ``buffers``, ``sizes`` and ``params`` are the names of its arguments in the
    order in which a launch brings them (csrc/runtime/abi.h); the function may leave out what it does not need.
    """

    symbol: str
    make: Callable[[], tirx.PrimFunc]
    buffers: tuple[str, ...]
    sizes: tuple[str, ...]
    params: tuple[str, ...] = ()
    # Of passes. None: the target's own; "tirx": TVM's for what is written at the level of PTX; "plain": see lower.py.
    pipeline: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)  # of TVM's passes
    name: str = "launch"
    whole: bool = False

    @property
    def linked(self) -> str:
        """The name that a linker knows it by."""
        return f"tvmops_launch_{self.symbol}"
