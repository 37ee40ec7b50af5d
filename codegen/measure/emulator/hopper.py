"""Hopper's PTX instructions in C++: barriers in shared memory, TMA, setmaxnreg, wgmma. See runtime/hopper.h.

Source of the semantics: PTX ISA 9.0, "mbarrier", "Data Movement and Conversion Instructions: Tensor copy",
"Asynchronous Warpgroup Level Matrix Instructions".
"""

from __future__ import annotations

import re

from ...errors import CodegenError
from .asm import Instruction, Operand, instruction

# Scopes are not told apart: whoever waits sees what those who arrived did.
_ORDER = r"(\.release|\.acquire|\.relaxed)?(\.cta|\.cluster)?"
_SHARED = _ORDER + r"\.shared(::cta)?\.b64"
_ANYWHERE = _ORDER + r"\.shared(::cta|::cluster)?\.b64"


def _flag(value: bool) -> str:
    return str(value).lower()


@instruction(r"mbarrier\.init\.shared(::cta)?\.b64")
def _init(i: Instruction) -> str:
    return f"emulator::mbarrier_init({i.operands[0]}, {i.operands[1]}, {i.line});"


def _barrier_of(i: Instruction) -> Operand:
    """Of an arrival, which has no use for the state that it returns."""
    place = i.operands[1]
    if str(i.operands[0]) != "_" or not place.address:
        raise CodegenError(f"{i.opcode} is known to the emulator only with _ for its state (line {i.line})")
    return place


def _anywhere(i: Instruction) -> str:
    return _flag("shared::cluster" in i.opcode)


@instruction(r"mbarrier\.arrive" + _ANYWHERE)
def _arrive(i: Instruction) -> str:
    place = _barrier_of(i)
    if len(i.operands) > 2:
        raise CodegenError(f"{i.opcode} of several arrivals is not known to the emulator (line {i.line})")
    return f"emulator::mbarrier_arrive({place}, -1, {_anywhere(i)}, {i.line});"


@instruction(r"mbarrier\.arrive\.expect_tx" + _ANYWHERE)
def _arrive_expect(i: Instruction) -> str:
    count = f"static_cast<int64_t>({i.operands[2]})"
    return f"emulator::mbarrier_arrive({_barrier_of(i)}, {count}, {_anywhere(i)}, {i.line});"


@instruction(r"mbarrier\.expect_tx" + _SHARED)
def _expect(i: Instruction) -> str:
    return f"emulator::mbarrier_expect({i.operands[0]}, {i.operands[1]}, {i.line});"


@instruction(r"mbarrier\.try_wait\.parity" + _SHARED)
def _wait(i: Instruction) -> str:
    # It may return early, and a program must then try again; here it does not.
    done, place, parity = i.operands[:3]
    return f"emulator::mbarrier_wait({place}, {parity}, {i.line}); {done} = true;"


@instruction(r"fence\.mbarrier_init\.release\.cluster")
def _fence_barriers(i: Instruction) -> str:
    return "emulator::fence_barriers();"


@instruction(r"fence\.proxy\.async(\.shared::(cta|cluster))?")
def _fence(i: Instruction) -> str:
    return "emulator::fence_async();"


@instruction(
    r"cp\.async\.bulk\.tensor\.[1-5]d\.shared::(cta|cluster)\.global(\.tile)?\.mbarrier::complete_tx::bytes"
    r"(\.multicast::cluster)?(\.L2::cache_hint)?"
)
def _tma(i: Instruction) -> str:
    to, source, barrier = i.operands[:3]
    mask = str(i.operands[3]) if "multicast" in i.opcode else "-1"
    coordinates = source.items[0].items
    rank = int(i.parts[4][0])
    if len(coordinates) != rank:
        raise CodegenError(f"{i.opcode} has {len(coordinates)} coordinates (line {i.line})")
    at = ", ".join(f"static_cast<int32_t>({c})" for c in coordinates)
    return (
        f"const int32_t at[] = {{{at}}}; "
        f"emulator::tma_load({to}, reinterpret_cast<const void*>({source}), at, {rank}, {barrier}, {mask}, {i.line});"
    )


@instruction(r"barrier\.cluster\.(arrive(\.release|\.relaxed)?|wait(\.acquire)?)(\.aligned)?")
def _cluster_barrier(i: Instruction) -> str:
    # Both order memory, unless it says otherwise.
    ordered, aligned = _flag("relaxed" not in i.parts), _flag("aligned" in i.parts)
    return f"emulator::cluster_{i.parts[2]}({ordered}, {aligned}, {i.line});"


@instruction(r"mapa(\.shared::cluster)?\.u(32|64)")
def _map_address(i: Instruction) -> str:
    to, of, rank = i.operands
    if "shared::cluster" in i.opcode:
        return f"{to} = emulator::map_shared({of}, {rank}, {i.line});"
    address = f"emulator::shared_address(reinterpret_cast<const void*>({of}))"
    mapped = f"emulator::map_shared({address}, {rank}, {i.line})"
    return f"{to} = reinterpret_cast<uint64_t>(emulator::shared_pointer({mapped}));"


@instruction(r"setmaxnreg\.(inc|dec)\.sync\.aligned\.u32")
def _registers(i: Instruction) -> str:
    return f"emulator::set_registers({_flag(i.parts[1] == 'inc')}, {i.operands[0]}, {i.line});"


@instruction(r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k(16\.f32\.(f16\.f16|bf16\.bf16)|8\.f32\.tf32\.tf32)")
def _multiply(i: Instruction) -> str:
    n = int(re.fullmatch(r"m64n(\d+)k\d+", i.parts[4])[1])  # type: ignore[index]
    sums, a, b, keep, *scales = i.operands
    # TF32 is K-major: no operand says otherwise.
    if a.items or len(scales) != (2 if i.parts[6] == "tf32" else 4):
        raise CodegenError(
            f"{i.opcode} is known to the emulator only with both operands in shared memory (line {i.line})"
        )
    if len(sums.items) != n // 2:
        raise CodegenError(f"{i.opcode} has {len(sums.items)} accumulators (line {i.line})")
    places = ", ".join(f"&{r}" for r in sums.items)
    kind = f"emulator::Type::{i.parts[6]}"
    rest = ", ".join([str(s) for s in scales[:2]] + [f"({s}) != 0" for s in scales[2:]])
    return (
        f"emulator::Multiply m = {{{{{places}}}, {a}, {b}, {n}, {kind}, static_cast<bool>({keep}), {rest}}}; "
        f"emulator::wgmma(m, {i.line});"
    )


@instruction(r"wgmma\.fence\.sync\.aligned")
def _wgmma_fence(i: Instruction) -> str:
    return f"emulator::wgmma_fence({i.line});"


@instruction(r"wgmma\.commit_group\.sync\.aligned")
def _wgmma_commit(i: Instruction) -> str:
    return f"emulator::wgmma_commit({i.line});"


@instruction(r"wgmma\.wait_group\.sync\.aligned")
def _wgmma_wait(i: Instruction) -> str:
    return f"emulator::wgmma_wait({i.operands[0]}, {i.line});"
