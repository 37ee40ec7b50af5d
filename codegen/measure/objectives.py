"""What a candidate costs besides time: memory, code, energy."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import CodegenError

# Where Linux tells the energy that processor packages have used.
POWERCAP = Path("/sys/class/powercap")
# Energy is measured over so many seconds: the counters move about every millisecond.
ENERGY_DURATION = 0.05

_EXECUTABLE = 4  # SHF_EXECINSTR
_PROGBITS = 1


def code_bytes(library: Path) -> int:
    """The machine code in a 64-bit little-endian ELF file: the sizes of its ``.text`` sections together, in bytes.

    Raises:
        CodegenError: the file is no such file.
    """
    try:
        data = library.read_bytes()
    except OSError as error:
        raise CodegenError(f"can't read {library}: {error.strerror}") from None
    if data[:6] != b"\x7fELF\x02\x01":
        raise CodegenError(f"{library} is not a 64-bit little-endian ELF file")
    try:
        (table,) = struct.unpack_from("<Q", data, 0x28)
        entry, count, names = struct.unpack_from("<HHH", data, 0x3A)
        # name, type, flags, address, offset, size, ...
        sections = [struct.unpack_from("<IIQQQQ", data, table + i * entry) for i in range(count)]
        total = 0
        for name, kind, flags, _, _, size in sections:
            start = sections[names][4] + name
            text = data[start : data.index(b"\0", start)]
            if kind == _PROGBITS and flags & _EXECUTABLE and (text == b".text" or text.startswith(b".text.")):
                total += size
        return total
    except (struct.error, IndexError, ValueError) as error:
        raise CodegenError(f"{library} is not a whole ELF file: {error}") from None


class Energy:
    """The energy counters of the processor packages (RAPL), where they can be read; often only by root."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._counters: list[tuple[Path, int]] = []  # with the value at which it starts from 0 again, in microjoules
        for domain in sorted(root.glob("intel-rapl:*")):
            try:
                if (domain / "name").read_text().startswith("package"):
                    most = int((domain / "max_energy_range_uj").read_text())
                    int((domain / "energy_uj").read_text())
                    self._counters.append((domain / "energy_uj", most))
            except (OSError, ValueError):
                continue

    @property
    def readable(self) -> bool:
        """Whether there is a counter."""
        return bool(self._counters)

    def read(self) -> list[int]:
        """The counters, in microjoules."""
        return [int(path.read_text()) for path, _ in self._counters]

    def between(self, before: list[int], after: list[int]) -> float:
        """Joules from one reading to a later one; a counter may have started again once."""
        used = 0
        for first, last, (_, most) in zip(before, after, self._counters, strict=True):
            used += last - first if last >= first else last + most - first
        return used / 1e6

    def of(self, call: Callable[[], Any], duration: float = ENERGY_DURATION) -> float | None:
        """Joules a call, of all that runs meanwhile; None where no counter can be read."""
        if not self.readable:
            return None
        before, start, count = self.read(), time.perf_counter(), 0
        while time.perf_counter() - start < duration:
            call()
            count += 1
        return self.between(before, self.read()) / count
