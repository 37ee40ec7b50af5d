"""The instructions of compiled device code, counted."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CodegenError
from . import nvcc

_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)
_ADDRESS = re.compile(r"0x([0-9a-f]+)")


@dataclass(frozen=True)
class Instruction:
    """One of a function: its address in it, what it is with all modifiers, and the address it may jump to."""

    address: int
    opcode: str  # "HMMA.16816.F32"
    jump: int | None = None

    @property
    def kind(self) -> str:
        """What it is without modifiers: "HMMA"."""
        return self.opcode.split(".", 1)[0]


def text(path: Path, architecture: str | None = None) -> str:
    """The instructions of an object, cubin or fatbin, to read; where it has several architectures, those of one.

    Raises:
        CodegenError: cuobjdump or nvdisasm is missing, or the file holds no device code.
    """
    toolkit = nvcc.find()
    tools = [toolkit.tool("cuobjdump"), toolkit.tool("nvdisasm")]  # the one calls the other, which it looks up
    for tool, name in zip(tools, ("cuobjdump", "nvdisasm"), strict=True):
        if not tool:
            raise CodegenError(f"{name} is not found, beside nvcc or on PATH; pip install 'tvmops[cuda]' brings it")
    search = os.pathsep.join([*(str(Path(tool).parent) for tool in tools if tool), os.environ.get("PATH", "")])
    command = [str(tools[0]), "-sass", *(["-arch", architecture] if architecture else []), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": search})
    if done.returncode:
        cause = next(iter((done.stderr + done.stdout).strip().splitlines()), f"exit status {done.returncode}")
        raise CodegenError(f"cuobjdump can't read {path}: {cause}")
    if not _FUNCTION.search(done.stdout):
        raise CodegenError(f"{path} holds no device code")
    return re.sub(r"^\s*/\* 0x\w+ \*/\n|\s*/\* 0x\w+ \*/", "", done.stdout, flags=re.MULTILINE)


def disassemble(path: Path, architecture: str | None = None) -> dict[str, list[Instruction]]:
    """The instructions of an object, cubin or fatbin, by device function.

    Raises:
        CodegenError: as :func:`text`.
    """
    return parse(text(path, architecture))


def parse(text: str) -> dict[str, list[Instruction]]:
    """What ``cuobjdump -sass`` prints, by function."""
    found = {}
    parts = _FUNCTION.split(text)  # [before, name, text, ...]
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = [_instruction(*groups) for groups in _INSTRUCTION.findall(body)]
    return found


def _instruction(address: str, opcode: str, operands: str) -> Instruction:
    target = _ADDRESS.search(operands) if opcode.split(".", 1)[0] in ("BRA", "BRX", "JMP") else None
    return Instruction(int(address, 16), opcode, int(target[1], 16) if target else None)


def kinds(instructions: Iterable[Instruction]) -> Counter[str]:
    """How many of each kind: HMMA, HGMMA, LDSM, LDGSTS, UTMALDG, BAR, STG, ..."""
    return Counter(one.kind for one in instructions)


def loops(instructions: list[Instruction]) -> list[list[Instruction]]:
    """The bodies of the loops: each from the target of a jump back to the jump. An inner loop is part of an outer."""
    jumps = [one for one in instructions if one.jump is not None and one.jump < one.address]
    spans = [(one.jump, one.address) for one in jumps if one.jump is not None]
    return [[one for one in instructions if start <= one.address <= end] for start, end in spans]
