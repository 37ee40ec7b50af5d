"""Inline assembly as C++: an asm statement is taken apart, and each PTX instruction becomes a call of the runtime."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ...errors import CodegenError

# The C++ type of a register, by PTX type and by constraint.
REGISTERS = {
    "pred": "bool",
    **{f"{kind}16": "uint16_t" for kind in "bus"},
    **{f"{kind}32": "uint32_t" for kind in "bu"},
    **{f"{kind}64": "uint64_t" for kind in "bu"},
    "s32": "int32_t",
    "s64": "int64_t",
    "f32": "float",
    "f64": "double",
    "f16": "uint16_t",
    "f16x2": "uint32_t",
}
# Special registers of three numbers, and the functions of the runtime that give them.
_INDICES = {
    "tid": "thread_index",
    "ntid": "block_size",
    "ctaid": "block_index",
    "nctaid": "grid_size",
    "cluster_ctaid": "cluster_block_index",
    "cluster_nctaid": "cluster_size",
    "clusterid": "cluster_index",
    "nclusterid": "cluster_grid_size",
}
_CONSTRAINTS = {"h": "uint16_t", "r": "uint32_t", "l": "uint64_t", "f": "float", "d": "double", "q": "__int128"}


@dataclass(frozen=True)
class Operand:
    """An operand of an instruction, as C++: a value (``expression``), a memory place, or several in braces."""

    expression: str = ""
    address: bool = False
    items: tuple[Operand, ...] = ()

    def __str__(self) -> str:
        return self.expression


@dataclass(frozen=True)
class Instruction:
    """A PTX instruction: ``opcode`` with all its suffixes, its operands, and the line of the source."""

    opcode: str
    operands: tuple[Operand, ...]
    line: int

    @property
    def parts(self) -> list[str]:
        """The opcode's parts: ``["mma", "sync", "aligned", ...]``."""
        return self.opcode.split(".")


Handler = Callable[[Instruction], str]
_HANDLERS: list[tuple[re.Pattern[str], Handler]] = []


def instruction(pattern: str) -> Callable[[Handler], Handler]:
    """Registers what makes a C++ statement of the instructions whose whole opcode matches the regular expression."""

    def register(handler: Handler) -> Handler:
        _HANDLERS.append((re.compile(pattern), handler))
        return handler

    return register


def statement(found: Instruction) -> str:
    """The C++ statement of an instruction.

    Raises:
        CodegenError: no handler knows it.
    """
    handlers = [handler for pattern, handler in _HANDLERS if pattern.fullmatch(found.opcode)]
    if not handlers:
        raise CodegenError(f"the emulator does not know the PTX instruction {found.opcode!r} (line {found.line})")
    (handler,) = handlers  # two would be a mistake of ours
    return handler(found)


def split(text: str, separator: str) -> list[str]:
    """Splits at separators that stand outside of brackets and quotes."""
    parts, depth, start, quoted = [], 0, 0, False
    at = 0
    while at < len(text):
        c = text[at]
        if quoted:
            if c == "\\":
                at += 1
            elif c == '"':
                quoted = False
        elif c == '"':
            quoted = True
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif depth == 0 and c == separator:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    return [*parts, text[start:]]


@dataclass
class _Statement:
    """What is known while the template of one asm statement is translated."""

    line: int
    operands: list[tuple[str, str]]  # constraint, C++ expression
    outputs: int
    number: int
    registers: dict[str, str] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)

    def value(self, text: str) -> str:
        text = text.strip()
        if match := re.fullmatch(r"%(\d+)", text):
            constraint, expression = self.operands[int(match[1])]
            return f"({expression})" if constraint.strip("=+&") in ("n", "i") else f"a{match[1]}"
        if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
            return f"emulator::as<float>(0x{match[1]}u)"
        if text == "%laneid":
            return "emulator::lane_index()"
        if text == "%cluster_ctarank":
            return "emulator::cluster_rank()"
        if match := re.fullmatch(rf"%({'|'.join(_INDICES)})\.([xyz])", text):
            return f"emulator::{_INDICES[match[1]]}().{match[2]}"
        if text == "%cluster_nctarank":
            size = "emulator::cluster_size()"
            return f"({size}.x * {size}.y * {size}.z)"
        if re.fullmatch(r"!?%?[A-Za-z_$][\w$]*", text):
            name = text.lstrip("!%")
            if name not in self.registers:
                raise CodegenError(f"the asm statement of line {self.line} names {name!r}, which it does not declare")
            return f"{'!' if text[0] == '!' else ''}ptx_{name}"
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
            return text.rstrip("U")
        raise CodegenError(f"the asm statement of line {self.line} has an operand {text!r} that is not understood")

    def operand(self, text: str) -> Operand:
        text = text.strip()
        if text.startswith("{"):
            return Operand(items=tuple(self.operand(t) for t in split(text[1:-1], ",")))
        if text.startswith("["):
            inside = split(text[1:-1], ",")
            base, *offset = re.split(r"\+", inside[0])
            expression = " + ".join([self.value(base), *(self.value(o) for o in offset)])
            return Operand(f"({expression})", True, tuple(self.operand(t) for t in inside[1:]))
        return Operand("_" if text == "_" else self.value(text))


def _predicate(text: str, known: _Statement) -> tuple[str, str]:
    match = re.match(r"@(!?)([\w$%]+)\s+", text)
    if not match:
        return "", text
    return f"if ({match[1]}{known.value(match[2])}) ", text[match.end() :]


def _instruction(text: str, known: _Statement) -> str:
    prefix, text = _predicate(text, known)
    match = re.match(r"[\w.:]+", text)
    if not match:
        raise CodegenError(f"the asm statement of line {known.line} has {text[:60]!r}, which is not understood")
    opcode, rest = match[0], text[match.end() :]
    if opcode.startswith("bra"):
        return f"{prefix}goto label_{known.number}_{rest.strip()};"
    operands = tuple(known.operand(t) for t in split(rest, ",")) if rest.strip() else ()
    return f"{prefix}{{ {statement(Instruction(opcode, operands, known.line))} }}"


def _instructions(template: str, known: _Statement) -> tuple[list[str], list[str]]:
    """Declarations and statements."""
    declarations, statements = [], []
    template = re.sub(r"//[^\n]*|/\*.*?\*/", " ", template, flags=re.S)
    pieces = split(template.replace("%%", "%"), ";")
    for piece in pieces:
        text = " ".join(piece.split())
        while match := re.match(r"([A-Za-z_$][\w$]*)\s*:(?!:)", text):
            statements.append(f"label_{known.number}_{match[1]}: ;")
            text = text[match.end() :].strip()
        if not text:
            continue
        if match := re.match(r"\.reg\s*\.(\w+)\s+(.*)", text):
            for name in match[2].split(","):
                family = re.fullmatch(r"([\w$]+)<(\d+)>", name.strip())
                names = [f"{family[1]}{i}" for i in range(int(family[2]))] if family else [name.strip()]
                for n in names:
                    known.registers[n] = match[1]
                    declarations.append(f"{REGISTERS[match[1]]} ptx_{n};")
        else:
            statements.append(_instruction(text, known))
    return declarations, statements


def _braces_apart(template: str) -> str:
    """Semicolons around the braces of a scope, which are none of an operand's: `split` then sees no nesting."""
    out = []
    depth = 0
    for at, c in enumerate(template):
        before = template[:at].rstrip()
        if c == "{" and depth == 0 and (not before or before[-1] in ";{}:"):
            out.append(";")
        elif c == "{":
            depth += 1
            out.append(c)
        elif c == "}" and depth == 0:
            out.append(";")
        elif c == "}":
            depth -= 1
            out.append(c)
        else:
            out.append(c)
    return "".join(out)


def _operands(text: str) -> list[tuple[str, str]]:
    found = []
    for item in split(text, ","):
        item = item.strip()
        if not item:
            continue
        match = re.fullmatch(r'(?:\[\w+\]\s*)?"([^"]*)"\s*\((.*)\)', item, re.S)
        if not match:
            raise CodegenError(f"an asm operand is not understood: {item[:80]!r}")
        found.append((match[1], match[2]))
    return found


def translate(inside: str, line: int, number: int) -> str:
    """The C++ block of an asm statement.

    Args:
        inside: what stands in the parentheses of ``asm volatile (...)``.
        line: where it begins.
        number: unique in the source.

    Raises:
        CodegenError: it is not understood.
    """
    sections = [s.strip() for s in split(inside, ":")]
    template = "".join(
        bytes(s, "utf-8").decode("unicode_escape") for s in re.findall(r'"((?:[^"\\]|\\.)*)"', sections[0])
    )
    outputs = _operands(sections[1]) if len(sections) > 1 else []
    inputs = _operands(sections[2]) if len(sections) > 2 else []
    known = _Statement(line, [*outputs, *inputs], len(outputs), number)
    declarations, statements = _instructions(_braces_apart(template), known)
    out = []
    for i, (constraint, expression) in enumerate(known.operands):
        kind = constraint.strip("=+&")
        if kind in ("n", "i"):
            continue
        if kind not in _CONSTRAINTS:
            raise CodegenError(f"the asm statement of line {line} has an operand of constraint {constraint!r}")
        register = _CONSTRAINTS[kind]
        if i < len(outputs) and "+" not in constraint:
            out.append(f"{register} a{i};")
        elif constraint.strip("&") == "+f":
            # The operand itself, whose address wgmma keeps: it changes after the statement.
            out.append(f"{register}& a{i} = {expression};")
        else:
            out.append(f"{register} a{i} = emulator::bits_of<{register}>({expression});")
    out += [*declarations, *statements]
    out += [
        f"emulator::put_bits({expression}, a{i});"
        for i, (constraint, expression) in enumerate(outputs)
        if constraint.strip("&") != "+f"
    ]
    return "{ " + " ".join(" ".join(o.split()) for o in out) + " }"
