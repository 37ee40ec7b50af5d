"""The targets kernels are made for, CPU ISA levels and GPU architectures, and what a space must know of each."""

from __future__ import annotations

import functools
import platform
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


@dataclass(frozen=True)
class GpuTarget:
    """An NVIDIA architecture. Sizes are in bytes; the last four describe the card that ``card`` names.

    Source of the limits: CUDA C++ Programming Guide, "Compute Capabilities"; of the cards', NVIDIA's data sheets.
    """

    name: str
    capability: tuple[int, int]
    shared_bytes: int  # that one block may have
    shared_bytes_sm: int  # of all blocks of a multiprocessor
    threads_sm: int
    card: str
    multiprocessors: int
    l2_bytes: int
    tensor_tflops: float  # dense, 16-bit operands, float32 accumulators
    bandwidth: float  # GB/s of device memory
    registers_sm: int = 65536  # 32-bit ones
    registers_thread: int = 255
    threads_block: int = 1024
    warp: int = 32

    @property
    def arch(self) -> str:
        """Of the host that a pack with such kernels is loaded on: this machine's."""
        return platform.machine()

    def tvm_target(self) -> tvm.target.Target:
        """The TVM target that CUDA sources are generated for."""
        return tvm.target.Target(
            {
                "kind": "cuda",
                "arch": self.name,
                "max_threads_per_block": self.threads_block,
                "max_num_threads": self.threads_block,
                "max_shared_memory_per_block": self.shared_bytes,
                "thread_warp_size": self.warp,
            },
            host={"kind": "llvm"},
        )


GPU_TARGETS = {
    t.name: t
    for t in (
        GpuTarget("sm_80", (8, 0), 163 << 10, 164 << 10, 2048, "A100 SXM", 108, 40 << 20, 312.0, 2039.0),
        GpuTarget("sm_86", (8, 6), 99 << 10, 100 << 10, 1536, "A10", 72, 6 << 20, 125.0, 600.0),
        GpuTarget("sm_89", (8, 9), 99 << 10, 100 << 10, 1536, "L4", 58, 48 << 20, 121.0, 300.0),
        GpuTarget("sm_90a", (9, 0), 227 << 10, 228 << 10, 2048, "H100 SXM", 132, 50 << 20, 989.0, 3350.0),
    )
}


@functools.cache
def find(name: str) -> Target:
    """The CPU target called ``name``.

    Raises:
        CodegenError: the name is not known.
    """
    if name not in TARGETS:
        raise CodegenError(f"unknown target {name!r}; known: {', '.join(TARGETS)}")
    return TARGETS[name]


@functools.cache
def find_gpu(name: str) -> GpuTarget:
    """The GPU target called ``name``.

    Raises:
        CodegenError: the name is not known.
    """
    if name not in GPU_TARGETS:
        raise CodegenError(f"unknown GPU target {name!r}; known: {', '.join(GPU_TARGETS)}")
    return GPU_TARGETS[name]
