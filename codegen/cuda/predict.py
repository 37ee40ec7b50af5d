"""How long a kernel should take on its target's card: a roofline, from its instructions and the bytes it must move.

A bound, not a simulation: latencies, bank conflicts, misses in L2 and clocks that drop are not in it. It tells what
limits a kernel, and which kernels to time first. Of a launch it takes the longest of:

- **memory**: everything that the operator touches, once, at the bandwidth of the card;
- **tensor**: the matrix instructions of all blocks, at the rate of the tensor cores;
- **issue**: all instructions, one a cycle for each quarter of a multiprocessor;
- **special**: exponentials, reciprocals, conversions, of which a quarter has fewer units;
- **shared**: reads and writes of shared memory, 128 bytes a cycle for a multiprocessor.

A product's instructions are those of its main loop (the smallest that holds most of the matrix instructions), by how
often it must run for the tiles of the grid; blocks come in waves of as many as registers, shared memory and threads
allow on a multiprocessor. Of another kernel all instructions count by the bytes of global memory that they come with;
of a reduction those of the kernel that reads its rows, and one launch more where their pieces are joined.

Rates are NVIDIA's: CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions", and the architectures'
white papers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..export import nvcc, sass
from ..target import GpuTarget
from . import expressions
from .host import Launch
from .lower import DeviceSource
from .reduce_cut import SIZES, ReduceShape, launch_sizes

if TYPE_CHECKING:
    from ..export.pack import PackKernel

# Floating-point operations a cycle of one multiprocessor's tensor cores: 16-bit operands, float32 accumulators. Of TF32
# half as many.
_TENSOR_RATE = {(8, 0): 2048, (8, 6): 1024, (8, 9): 1024, (9, 0): 4096}
_QUARTERS = 4
_SHARED_RATE = 128  # bytes a cycle
# Cycles that a quarter is busy with one instruction of a warp, where it is more than one.
_SLOW = {"MUFU": 8, "F2F": 8, "F2I": 8, "I2F": 8, "I2FP": 2, "F2FP": 2, "SHFL": 4, "REDUX": 16, "DADD": 16, "DMUL": 16}
_SHARED = {"LDS", "STS", "LDSM", "STSM", "LDGSTS"}
_GLOBAL = {"LDG", "STG", "LDGSTS"}
# Seconds from one kernel of a stream to the next.
_LAUNCH = 2e-6

_WIDTH = re.compile(r"\.(8|16|U8|S8|U16|S16|64|128)\b")
_BLOCKS = 32  # of a multiprocessor, at most


@dataclass(frozen=True)
class Prediction:
    """A predicted time, and what sets it: "memory", "tensor", "issue", "special", "shared" or "launch"."""

    sizes: Mapping[str, int]
    seconds: float
    limit: str
    tflops: float
    gigabytes_per_second: float


@dataclass(frozen=True)
class _Cycles:
    """Cycles that a quarter of a multiprocessor, or all of it, is busy with instructions of one warp."""

    tensor: float
    issue: float
    special: float
    shared: float

    def longest(self, warps: float) -> tuple[float, str]:
        """Of ``warps`` on a multiprocessor: the cycles, and what they go to."""
        a_quarter = warps / _QUARTERS
        times = {name: getattr(self, name) * a_quarter for name in ("tensor", "issue", "special")}
        times["shared"] = self.shared * warps
        name = max(times, key=lambda one: times[one])
        return times[name], name


def predict(
    kernel: PackKernel,
    source: DeviceSource,
    usages: Sequence[nvcc.Usage],
    instructions: Mapping[str, Sequence[sass.Instruction]],
    sizes: Sequence[Mapping[str, int]],
) -> list[Prediction]:
    """The predicted time of a kernel for each of ``sizes``: batch, M, N, K of a product, rows M of N of another."""
    target = kernel.target
    assert isinstance(target, GpuTarget)
    usage = {one.function: one for one in usages}
    found = []
    for one in sizes:
        flops, moved = _work(kernel, one)
        memory = moved / (target.bandwidth * 1e9)
        launches = _launches(kernel, source, one)
        times = {"launch": _LAUNCH * len(launches), "memory": memory}
        for launch in launches:
            body = instructions[launch.name]
            if _tensor_flops(body):
                seconds, limit = _product(kernel, target, source, launch, usage[launch.name], body, one)
            else:
                seconds, limit = _streaming(target, body, moved if launch is launches[0] else 0.0)
            times[limit] = times.get(limit, 0.0) + seconds
        limit = max(times, key=lambda name: times[name])
        seconds = times[limit] + (times["launch"] if limit != "launch" else 0.0)
        found.append(Prediction(one, seconds, limit, flops / seconds / 1e12, moved / seconds / 1e9))
    return found


def _launches(kernel: PackKernel, source: DeviceSource, sizes: Mapping[str, int]) -> Sequence[Launch]:
    """Those that have blocks; of a reduction or scan those for rows along memory or across, whole or in pieces."""
    if kernel.driver == "cuda_scan":
        given = [sizes["M"], sizes["N"], sizes["I"], 0]  # as the driver's sizes are
        return [x for x in source.launches if all(expressions.value(e, source.scalars, given) > 0 for e in x.grid)]
    if kernel.driver != "cuda_reduce":
        return source.launches
    shape = ReduceShape(**{name: kernel.params[name] for name in ReduceShape.__dataclass_fields__})
    inner = sizes.get("inner", 1)
    pieces = launch_sizes(shape, sizes["M"], sizes["N"], inner)[SIZES.index("pieces")]
    along, across, join = source.launches
    return [across if inner > 1 else along, *([join] if pieces > 1 else [])]


def _element_bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def _work(kernel: PackKernel, sizes: Mapping[str, int]) -> tuple[float, float]:
    """Floating-point operations of a product, and bytes of global memory that are touched."""
    item = _element_bytes(kernel.workload.dtype)
    if kernel.driver == "cuda_gemm":
        batch, m, n, k = (sizes.get(name, 1) for name in ("batch", "M", "N", "K"))
        return 2.0 * batch * m * n * k, float(item * batch * (m * k + k * n + m * n))
    if kernel.driver == "cuda_reduce":
        outer, n, inner = (sizes.get(name, 1) for name in ("M", "N", "inner"))
        return 0.0, float(outer * inner * (n * kernel.params["bytes"] + kernel.params["result_bytes"]))
    if kernel.driver == "cuda_rotary":
        m, h, n = (sizes[name] for name in "MHN")
        return 0.0, float(2 * item * m * h * n + 4 * m * n)
    if kernel.driver == "cuda_scan":
        return 0.0, float(item * kernel.params["operands"] * math.prod(sizes.values()))
    # Of a row program: the operands that are rows (role 0); those of one row, or of one column, are small.
    rows = [i for i in range(kernel.params["operands"]) if kernel.params[f"role{i}"] == 0]
    return 0.0, float(sum(kernel.params[f"bytes{i}"] for i in rows) * math.prod(sizes.values()))


def _tensor_flops(body: Sequence[sass.Instruction]) -> float:
    return sum(tensor_flops(one.opcode) for one in body)


def tensor_flops(opcode: str) -> float:
    """Operations of a warp's matrix instruction, else 0: "HMMA.16816" is m16n8k16, "HGMMA.64x128x16" four warps'."""
    kind, *rest = opcode.split(".")
    if kind == "HGMMA":
        shape = next((part for part in rest if re.fullmatch(r"\d+x\d+x\d+", part)), None)
        return 2.0 * math.prod(map(int, shape.split("x"))) / 4 if shape else 0.0
    if kind == "HMMA":
        known = {"16816": (16, 8, 16), "1688": (16, 8, 8), "1684": (16, 8, 4)}
        return next((2.0 * math.prod(known[part]) for part in rest if part in known), 0.0)
    return 0.0


def _width(opcode: str) -> int:
    """Bytes that one thread moves."""
    if opcode.startswith("LDSM") or opcode.startswith("STSM"):
        return 16 if ".4" in opcode else 8 if ".2" in opcode else 4
    found = _WIDTH.search(opcode)
    if not found:
        return 4
    bits = int(found[1].lstrip("US"))
    return bits // 8


def _cycles(body: Sequence[sass.Instruction], target: GpuTarget) -> _Cycles:
    rate = _TENSOR_RATE[target.capability] / _QUARTERS
    return _Cycles(
        sum(tensor_flops(one.opcode) * (2 if "TF32" in one.opcode else 1) for one in body) / rate,
        float(len(body)),
        float(sum(_SLOW.get(one.kind, 0) for one in body)),
        sum(_width(one.opcode) * target.warp for one in body if one.kind in _SHARED) / _SHARED_RATE,
    )


def _clock(target: GpuTarget) -> float:
    """The clock that the card's data sheet means."""
    return target.tensor_tflops * 1e12 / (target.multiprocessors * _TENSOR_RATE[target.capability])


def main_loop(body: Sequence[sass.Instruction]) -> Sequence[sass.Instruction]:
    """The loop that is densest in matrix instructions; all of it where they are in no loop.

    A loop around it, over tiles of C, has others before and after the inner one, and more besides. What waits out of
    line and jumps back in looks like a loop, too, and is long.
    """
    loops = [loop for loop in sass.loops(list(body)) if _tensor_flops(loop)]
    return max(loops, key=lambda loop: _tensor_flops(loop) / len(loop), default=body)


def resident_blocks(target: GpuTarget, threads: int, registers: int, shared: int) -> int:
    """Blocks that a multiprocessor holds at once. Registers come in units of 8 a thread, shared memory adds 1 KiB."""
    of_registers = target.registers_sm // max(1, -(-registers // 8) * 8 * threads)
    of_shared = target.shared_bytes_sm // (shared + 1024)
    return max(1, min(of_registers, of_shared, target.threads_sm // threads, _BLOCKS))


def _product(
    kernel: PackKernel,
    target: GpuTarget,
    source: DeviceSource,
    launch: Launch,
    usage: nvcc.Usage,
    body: Sequence[sass.Instruction],
    sizes: Mapping[str, int],
) -> tuple[float, str]:
    """Seconds in which the blocks of a matrix product compute, and what limits them."""
    batch, m, n, k = (sizes.get(name, 1) for name in ("batch", "M", "N", "K"))
    a_across = kernel.workload.attrs.get("a") == "t"
    b_across = kernel.workload.attrs.get("b") == "t"
    given = [batch, m, n, k, m if a_across else k, k if b_across else n, 0, 0]  # as the driver's sizes are

    def number(text: str) -> int:
        return expressions.value(text, source.scalars, given)

    blocks = math.prod(map(number, launch.grid))
    threads = math.prod(map(number, launch.block))
    resident = resident_blocks(target, threads, usage.registers, usage.shared + number(launch.shared_bytes))
    loop = main_loop(body)
    tile_m, tile_n = kernel.params.get("block_m", 1), kernel.params.get("block_n", 1)
    padded = 2.0 * batch * -(-m // tile_m) * tile_m * -(-n // tile_n) * tile_n * k
    warps = threads / target.warp
    # How often a warp goes through the loop; where only some warps compute, as with TMA, those do the more.
    rounds = padded / blocks / warps / _tensor_flops(loop)
    share = min(resident, -(-blocks // target.multiprocessors))
    cycles, limit = _cycles(loop, target).longest(warps * share)
    waves = -(-blocks // (share * target.multiprocessors))
    return waves * rounds * cycles / _clock(target), limit


def _streaming(target: GpuTarget, body: Sequence[sass.Instruction], moved: float) -> tuple[float, str]:
    """Seconds in which a kernel's instructions are issued, if each byte comes with as many as the code has of them."""
    bytes_ = sum(_width(one.opcode) * target.warp for one in body if one.kind in _GLOBAL)
    if not bytes_:
        return 0.0, "issue"
    cycles, limit = _cycles(body, target).longest(moved / bytes_ / target.multiprocessors)
    return cycles / _clock(target), limit
