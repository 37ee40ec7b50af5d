"""The CPU targets kernels are made for, and what a schedule space must know of each."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import tvm

from .errors import CodegenError


@dataclass(frozen=True)
class Target:
    """A CPU ISA level. Sizes are in bytes, per core, and describe a typical machine of that level."""

    name: str
    arch: str
    mcpu: str
    mattr: tuple[str, ...]
    vector_bytes: int
    vector_registers: int
    l1_bytes: int
    l2_bytes: int

    def lanes(self, dtype: str = "float32") -> int:
        """Elements of ``dtype`` in one vector register."""
        return self.vector_bytes * 8 // tvm.DataType(dtype).bits

    def tvm_target(self) -> tvm.target.Target:
        """The TVM target that machine code is generated for."""
        return tvm.target.Target({"kind": "llvm", "mcpu": self.mcpu, "mattr": list(self.mattr)})


TARGETS = {
    t.name: t
    for t in (
        Target("x86-64-v3", "x86_64", "x86-64-v3", (), 32, 16, 32 << 10, 512 << 10),
        # LLVM prefers 256-bit vectors for the generic level; our kernels are written in full registers.
        Target("x86-64-v4", "x86_64", "x86-64-v4", ("-prefer-256-bit",), 64, 32, 32 << 10, 1 << 20),
    )
}


@functools.cache
def find(name: str) -> Target:
    """The target called ``name``.

    Raises:
        CodegenError: the name is not known.
    """
    if name not in TARGETS:
        raise CodegenError(f"unknown target {name!r}; known: {', '.join(TARGETS)}")
    return TARGETS[name]
