"""The symbols that an object file leaves to others, read from its ELF tables."""

from __future__ import annotations

import struct
from pathlib import Path

from ..errors import CodegenError

# A compiler may call these for a loop that copies or clears; every C library has them.
ALLOWED = frozenset({"memcpy", "memset"})
# A whole kernel calls, besides, what its pack gets from the extension, and the C library's mathematics.
SERVICES = frozenset(
    {
        "TVMFFIErrorSetRaisedFromCStrParts",
        "__TVMBackendAllocWorkspace",
        "__TVMBackendFreeWorkspace",
        "__TVMBackendParallelLaunch",
    }
)
_NAMES = "acos acosh asin asinh atan atan2 atanh ceil cos cosh erf exp exp10 exp2 fabs floor fma fmax fmin fmod hypot"
_NAMES += " ldexp log log10 log1p log2 nearbyint pow rint round sin sinh sqrt tan tanh trunc"
LIBM = frozenset(name + suffix for name in _NAMES.split() for suffix in ("", "f"))

_SYMTAB = 2


def undefined(path: Path) -> set[str]:
    """The names that a 64-bit little-endian ELF object uses and does not define.

    Raises:
        CodegenError: the file is no such object.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise CodegenError(f"{path} is not a 64-bit little-endian ELF object")
    try:
        (table,) = struct.unpack_from("<Q", data, 0x28)
        entry_size, count = struct.unpack_from("<HH", data, 0x3A)
        # name, type, flags, address, offset, size, link, info, alignment, entry size
        sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry_size) for i in range(count)]
        names = set()
        for section in sections:
            if section[1] != _SYMTAB:
                continue
            strings = sections[section[6]][4]
            for at in range(section[4] + section[9], section[4] + section[5], section[9]):  # the first is null
                name, _info, _other, index = struct.unpack_from("<IBBH", data, at)
                if index == 0:
                    start = strings + name
                    names.add(data[start : data.index(b"\0", start)].decode())
        return names
    except (struct.error, IndexError, ValueError) as error:
        raise CodegenError(f"{path} is not a whole ELF object: {error}") from None


def check(path: Path, whole: bool = False) -> None:
    """Refuses an object that needs more than a leaf, or a whole kernel, may.

    Raises:
        CodegenError: it does, or it is no ELF object.
    """
    foreign = sorted(undefined(path) - ALLOWED - (SERVICES | LIBM if whole else frozenset()))
    if foreign and whole:
        raise CodegenError(f"{path}: a kernel needs {', '.join(foreign)} from outside")
    if foreign:
        raise CodegenError(
            f"{path}: a leaf needs {', '.join(foreign)} from outside; only memcpy and memset are allowed"
        )
