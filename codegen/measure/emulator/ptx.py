"""What each PTX instruction is in C++. A new one is a handler here; Hopper's are in hopper.py.

Source of the semantics: PTX ISA 9.0.
"""

from __future__ import annotations

from ...errors import CodegenError
from .asm import REGISTERS, Instruction, Operand, instruction


def _array(name: str, kind: str, items: tuple[Operand, ...]) -> str:
    return f"{kind} {name}[] = {{{', '.join(f'emulator::bits_of<{kind}>({i})' for i in items)}}};"


@instruction(r"cp\.async\.c[ag]\.shared(::cta)?\.global(\.L2::(cache_hint|64B|128B|256B))*")
def _cp_async(i: Instruction) -> str:
    to, source, size, *rest = i.operands
    if "cache_hint" in i.opcode:
        rest = rest[:-1]
    wanted = ("16",) if ".cg." in i.opcode else ("4", "8", "16")
    if str(size).strip("()") not in wanted:
        raise CodegenError(f"{i.opcode} copies {' or '.join(wanted)} bytes, not {size} (line {i.line})")
    count = str(size)
    if rest:  # a predicate that says to ignore the source, or the number of bytes to read
        count = f"emulator::bytes_read({rest[0]}, {size})"
    return f"emulator::copy_start({to}, reinterpret_cast<const void*>({source}), {size}, {count});"


@instruction(r"cp\.async\.commit_group")
def _commit(i: Instruction) -> str:
    return "emulator::copy_commit();"


@instruction(r"cp\.async\.wait_group")
def _wait(i: Instruction) -> str:
    return f"emulator::copy_wait({i.operands[0]});"


@instruction(r"cp\.async\.wait_all")
def _wait_all(i: Instruction) -> str:
    return "emulator::copy_wait_all();"


@instruction(r"(ld|st)matrix\.sync\.aligned(\.m8n8)?\.x[124](\.trans)?(\.m8n8)?\.shared(::cta)?\.b16")
def _matrix(i: Instruction) -> str:
    count = int(next(p for p in i.parts if p in ("x1", "x2", "x4"))[1])
    transposed = str(".trans" in i.opcode).lower()
    if i.opcode.startswith("st"):
        place, registers = i.operands[0], i.operands[1].items or (i.operands[1],)
        values = _array("r", "uint32_t", registers)
        return f"{values} emulator::stmatrix(r, {count}, {transposed}, {place}, {i.line});"
    registers, place = i.operands[0].items or (i.operands[0],), i.operands[1]
    if len(registers) != count:
        raise CodegenError(f"{i.opcode} has {len(registers)} registers (line {i.line})")
    back = " ".join(f"{r} = r[{n}];" for n, r in enumerate(registers))
    return f"uint32_t r[{count}]; emulator::ldmatrix(r, {count}, {transposed}, {place}, {i.line}); {back}"


@instruction(r"mma\.sync\.aligned\.m16n8k(4|8|16)\.row\.col\.f32\.(f16|bf16|tf32)\.(f16|bf16|tf32)\.f32")
def _mma(i: Instruction) -> str:
    k, kind = int(i.parts[3].split("k")[1]), i.parts[7]
    registers = k // 4 if kind != "tf32" else k // 2
    if kind != i.parts[8] or k == (16 if kind == "tf32" else 4):
        raise CodegenError(f"there is no instruction {i.opcode} (line {i.line})")
    d, a, b, c = (o.items for o in i.operands)
    if (len(d), len(a), len(b), len(c)) != (4, registers, registers // 2, 4):
        raise CodegenError(
            f"{i.opcode} has operands of {len(d)}, {len(a)}, {len(b)}, {len(c)} registers (line {i.line})"
        )
    inputs = f"{_array('a_', 'uint32_t', a)} {_array('b_', 'uint32_t', b)} {_array('c_', 'float', c)} float d_[4];"
    back = " ".join(f"{r} = d_[{n}];" for n, r in enumerate(d))
    return f"{inputs} emulator::mma(emulator::Type::{kind}, {k}, d_, a_, b_, c_, {i.line}); {back}"


@instruction(r"(bar|barrier)(\.cta)?\.sync(\.aligned)?")
def _barrier(i: Instruction) -> str:
    if len(i.operands) == 1:
        return f"emulator::barrier({i.operands[0]}, 0, true, {i.line}, true);"
    return f"emulator::barrier({i.operands[0]}, {i.operands[1]}, true, {i.line}, false);"


@instruction(r"(bar|barrier)(\.cta)?\.arrive(\.aligned)?")
def _arrive(i: Instruction) -> str:
    return f"emulator::barrier({i.operands[0]}, {i.operands[1]}, false, {i.line}, false);"


@instruction(r"bar\.warp\.sync")
def _warp_sync(i: Instruction) -> str:
    return f"emulator::sync_warp({i.operands[0]}, {i.line});"


@instruction(
    r"membar\..*|fence\.(?!proxy|mbarrier).*|griddepcontrol\..*|prefetch\..*|nanosleep\..*|discard\..*|applypriority\..*"
)
def _nothing(i: Instruction) -> str:
    return ";"


@instruction(r"createpolicy\..*")
def _policy(i: Instruction) -> str:
    return f"{i.operands[0]} = 0;"


@instruction(r"cvta(\.to)?\.(shared|global)(::cta)?\.u(32|64)")
def _cvta(i: Instruction) -> str:
    to, of = i.operands
    if "global" in i.opcode:
        return f"{to} = {of};"
    if ".to." in i.opcode:
        return f"{to} = emulator::shared_address(reinterpret_cast<const void*>({of}));"
    return f"{to} = reinterpret_cast<uint64_t>(emulator::shared_pointer({of}));"


@instruction(r"mov\.\w+")
def _mov(i: Instruction) -> str:
    to, of = i.operands
    if to.items or of.items:
        raise CodegenError(f"{i.opcode} of several registers (line {i.line}) is not known to the emulator")
    return f"{to} = emulator::bits_of<decltype({to})>({of});"


@instruction(r"cvt\.u(32|64)\.u(32|64)")
def _widen(i: Instruction) -> str:
    to, of = i.operands
    return f"{to} = static_cast<uint{i.parts[1][1:]}_t>({of});"


@instruction(r"cvt\.rna\.tf32\.f32")
def _tf32(i: Instruction) -> str:
    to, of = i.operands
    value = f"nvcuda::wmma::__float_to_tf32(emulator::bits_of<float>({of}))"
    return f"{to} = emulator::as<decltype({to})>({value});"


@instruction(r"setp\.(eq|ne|lt|le|gt|ge)\.(b|u|s)(16|32|64)")
def _setp(i: Instruction) -> str:
    to, a, b = i.operands
    sign = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}[i.parts[1]]
    kind = REGISTERS[i.parts[2]]
    return f"{to} = static_cast<{kind}>({a}) {sign} static_cast<{kind}>({b});"


@instruction(r"selp\.\w+")
def _selp(i: Instruction) -> str:
    to, a, b, condition = i.operands
    return f"{to} = {condition} ? {a} : {b};"


@instruction(r"(add|sub|and|or|xor|shl|shr)\.\w+")
def _arithmetic(i: Instruction) -> str:
    to, a, b = i.operands
    sign = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>"}[i.parts[0]]
    return f"{to} = {a} {sign} {b};"


@instruction(r"(ex2|lg2|rcp|rsqrt|sqrt|tanh|sin|cos)\.approx(\.ftz)?\.f32")
def _function(i: Instruction) -> str:
    to, of = i.operands
    call = {"ex2": "exp2f({})", "lg2": "log2f({})", "rcp": "(1.0f / {})", "rsqrt": "rsqrtf({})"}
    return f"{to} = {call.get(i.parts[0], i.parts[0] + 'f({})').format(of)};"


def _memory(i: Instruction) -> tuple[int, int]:
    """Registers, and bytes of each."""
    count = next((int(p[1]) for p in i.parts if p in ("v2", "v4")), 1)
    return count, int(i.parts[-1][1:]) // 8


@instruction(
    r"ld(\.volatile|\.relaxed|\.acquire|\.weak)?(\.gpu|\.cta|\.sys)?(\.shared|\.global)(::cta|::cluster)?[\w.:]*\.[busf](8|16|32|64)"
)
def _load(i: Instruction) -> str:
    count, size = _memory(i)
    registers, place = i.operands[0].items or (i.operands[0],), i.operands[1]
    word = f"uint{size * 8}_t"
    back = " ".join(f"emulator::from_word({r}, r[{n}]);" for n, r in enumerate(registers))
    whole = count * size
    return f'{word} r[{count}]; emulator::load(r, emulator::place({place}), {whole}, {whole}, "{i.opcode}"); {back}'


@instruction(
    r"st(\.volatile|\.relaxed|\.release|\.weak)?(\.gpu|\.cta|\.sys)?(\.shared|\.global)(::cta|::cluster)?[\w.:]*\.[busf](8|16|32|64)"
)
def _store(i: Instruction) -> str:
    count, size = _memory(i)
    place, values = i.operands[0], i.operands[1].items or (i.operands[1],)
    word = f"uint{size * 8}_t"
    items = ", ".join(f"emulator::word<{word}>({v})" for v in values)
    whole = count * size
    return f'{word} r[] = {{{items}}}; emulator::store(emulator::place({place}), r, {whole}, {whole}, "{i.opcode}");'


@instruction(r"elect\.sync")
def _elect(i: Instruction) -> str:
    to = i.operands[-2] if len(i.operands) > 2 else i.operands[0]
    return f"{to} = (emulator::ballot({i.operands[-1]}, true, {i.line}) & ((1u << emulator::lane_index()) - 1)) == 0;"
