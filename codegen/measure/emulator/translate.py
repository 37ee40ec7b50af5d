"""A CUDA source as C++ for the emulator: device code keeps its text, but for what C++ does not have.

Inline assembly becomes calls (asm.py, ptx.py); variables in shared memory become references into the block's; kernels
become functions of this file alone, known to the runtime by name. All else (``__device__``, ``threadIdx``, ``half``,
``nvcuda::wmma``, the CUDA runtime that launchers call) is defined by the headers in runtime/ and include/. Lines keep
their numbers, so that a message can name one.
"""

from __future__ import annotations

import hashlib
import re

from ...errors import CodegenError
from . import hopper, ptx  # noqa: F401  they register their instructions
from .asm import translate as translate_asm

_ASM = re.compile(r"\b(?:__asm__|asm|__asm)\s*(?:__volatile__|volatile|__volatile)?\s*\(")
_ALIGNED = r"(?:(?:alignas|__align__)\((?P<align>\d+)\)\s*)?"
_DYNAMIC = re.compile(rf"extern\s+__shared__\s+{_ALIGNED}(?P<type>[\w: ]+?)\s+(?P<name>\w+)\s*\[\s*\]\s*;")
_STATIC = re.compile(rf"__shared__\s+{_ALIGNED}(?P<type>[\w: ]+?)\s+(?P<name>\w+)\s*(?P<extents>(?:\[[^\]]*\])*)\s*;")
_KERNEL = re.compile(
    r'(?:extern\s+"C"\s+)?__global__\s+void\s*(?:__cluster_dims__\((?P<cluster>[^)]*)\)\s*)?'
    r"(?:__launch_bounds__\((?P<bounds>[^)]*)\)\s*)?(?P<name>\w+)\s*\("
)
_HELPER = re.compile(r"^(?:static\s+|inline\s+)*__forceinline__\s+__device__\s+[\w\s*&]+?\b(\w+)\s*\(", re.M)
# Fields of a launch's configuration, whose names are macros in device code.
_FIELD = re.compile(r"(?<=[.>])(gridDim|blockDim)\b")
_EXPORTED = re.compile(r'extern\s+"C"\s+(?=\w+\s+tvmops_(?:launch|workspace)_\w+\s*\()')
_INCLUDES = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<(?:cuda/std|cooperative_groups|cutlass|cute)[^>]*>", re.M)


def _closing(text: str, start: int) -> int:
    """Where the bracket closes that opens at ``start``."""
    depth, at, quoted = 0, start, False
    while at < len(text):
        c = text[at]
        if quoted:
            if c == "\\":
                at += 1
            elif c == '"':
                quoted = False
        elif c == '"':
            quoted = True
        elif c in "({":
            depth += 1
        elif c in ")}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    raise CodegenError("a bracket of the CUDA source does not close")


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _without_asm(text: str) -> str:
    out, at, number = [], 0, 0
    for match in _ASM.finditer(text):
        if match.start() < at:
            continue
        end = _closing(text, match.end() - 1)
        semicolon = text.index(";", end)
        made = translate_asm(text[match.end() : end], _line(text, match.start()), number)
        out += [text[at : match.start()], made, "\n" * text.count("\n", match.start(), semicolon)]
        at = semicolon + 1
        number += 1
    return "".join([*out, text[at:]])


def _definitions(text: str) -> list[tuple[str, str, str, int, int]]:
    """Name, bounds, shape of clusters, begin and end of the kernels that are defined, not only declared."""
    found = []
    for match in _KERNEL.finditer(text):
        after = _closing(text, match.end() - 1) + 1
        brace = re.compile(r"\s*\{").match(text, after)
        if brace:
            about = match["name"], match["bounds"] or "", match["cluster"] or ""
            found.append((*about, match.start(), _closing(text, brace.end() - 1)))
    return found


def _shared_variable(match: re.Match[str], offset: str, key: str) -> tuple[str, str]:
    """What reserves room for a variable in shared memory, before the kernel, and what stands for its declaration."""
    kind, extents = match["type"], match["extents"]
    whole = f"std::remove_reference_t<decltype(std::declval<{kind}(&){extents}>())>" if extents else kind
    align = f"std::max<size_t>({match['align'] or 1}, alignof({kind}))"
    room = f'static const uint32_t {offset} = emulator::reserve_shared("{key}", sizeof({whole}), {align}); '
    place = f"*reinterpret_cast<{kind} (*){extents}>(emulator::static_shared({offset}))"
    return room, f"{kind} (&{match['name']}){extents} = {place};"


def _told_lines(text: str, begin: int) -> str:
    """Macros that tell each call, from ``begin`` on, of a function before it on which line it stands.

    So that a message, and what a warp meets at, names the line in the kernel, not one in the helpers that TVM writes.
    """
    names = dict.fromkeys(match[1] for match in _HELPER.finditer(text, 0, begin))
    if not names:
        return ""
    macros = [f"#define {name}(...) (emulator::At(__LINE__), {name}(__VA_ARGS__))" for name in names]
    return "\n".join(["", *macros, f'#line {_line(text, begin)} "kernel.cu"', ""])


def translate(text: str) -> str:
    """The C++ text of a CUDA source, device code and launcher, to be compiled with runtime/device.h.

    Raises:
        CodegenError: something in it is not understood.
    """
    unit = hashlib.sha256(text.encode()).hexdigest()[:8]
    text = _without_asm(text)
    before: dict[int, str] = {}
    changes: list[tuple[int, int, str]] = []
    registered = []
    for name, bounds, shape, begin, end in _definitions(text):
        key = f"{unit}:{name}"
        rooms = []
        for number, match in enumerate(_STATIC.finditer(text, begin, end)):
            if not text[: match.start()].rstrip().endswith("extern"):
                room, made = _shared_variable(match, f"emulator_offset_{name}_{number}", key)
                rooms.append(room)
                changes.append((*match.span(), made))
        before[begin] = "".join(rooms)
        most = bounds.split(",")[0].strip() or "0"
        sizes = [s.strip() for s in shape.split(",")] if shape else []
        sizes += ["1"] * (3 - len(sizes)) if sizes else ["0"] * 3
        cluster = f"emulator::Index{{{', '.join(sizes)}}}"
        registered.append(
            f'static const emulator::Registered emulator_kernel_{name}("{key}", {name}, {most}, {cluster});'
        )
    for match in _DYNAMIC.finditer(text):
        kind, align = match["type"], max(16, int(match["align"] or 1))
        made = f"{kind}* {match['name']} = reinterpret_cast<{kind}*>(emulator::dynamic_shared({align}));"
        changes.append((*match.span(), made))
    kernels = list(_KERNEL.finditer(text))
    if kernels:
        first = kernels[0].start()
        before[first] = _told_lines(text, first) + before.get(first, "")
    for match in kernels:
        # In this file only: several kernels of one name may go into one library.
        head = f"static {match[0]}".replace('static extern "C"', "static")
        changes.append((*match.span(), before.get(match.start(), "") + head))
    out, at = [], 0
    for begin, end, new in sorted(changes):
        out += [text[at:begin], new]
        at = end
    text = "".join([*out, text[at:]])
    text = _FIELD.sub(r"launch_\1", _INCLUDES.sub("", text))
    text = _EXPORTED.sub(r'extern "C" __attribute__((visibility("default"))) ', text)
    # Kernels make themselves known when the library is loaded.
    return "\n".join(['#include "device.h"', '#line 1 "kernel.cu"', text, *registered, ""])
