"""Launching an emulated kernel on NumPy arrays."""

from __future__ import annotations

import _ctypes
import ctypes
import mmap
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...target import GpuTarget, find_gpu

_ORDERS = {"forward": 0, "backward": 1, "random": 2}
_PAGE = mmap.PAGESIZE
_NORESERVE = 0x4000  # Linux's; older Pythons have no name for it
# Unused addresses between two buffers, which take no memory. No 32-bit index of elements of up to 16 bytes leads from
# one buffer into another.
_GAP = 1 << 36
# A larger array is used where it is: a launch that touches little of it should not copy all of it.
_LARGE = 1 << 30


class EmulationError(RuntimeError):
    """A kernel that did what it must not, or a launcher that returned an error; ``code`` is its cudaError_t."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class _Launch(ctypes.Structure):
    """``tvmops_launch`` of csrc/runtime/abi.h."""

    _fields_ = (
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("params", ctypes.POINTER(ctypes.c_float)),
        ("workspace", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("device", ctypes.c_int32),
    )


class _Memory:
    """Device memory for one launch: copies of arrays, far apart; arrays that share memory still do. Those of more than
    1 GiB are no copies.
    """

    def __init__(self, arrays: Sequence[np.ndarray[Any, Any] | None], workspace: int) -> None:
        spans = sorted({_span(a) for a in arrays if a is not None and a.nbytes})
        regions: list[list[int]] = []
        for begin, end, offset in spans:
            if regions and begin < regions[-1][1]:
                regions[-1][1] = max(regions[-1][1], end)
            else:
                regions.append([begin, end, offset])
        large = [end - begin > _LARGE for begin, end, _ in regions]
        sizes = [
            0 if here else (end - begin + 256 + _PAGE) // _PAGE * _PAGE
            for (begin, end, _), here in zip(regions, large, strict=True)
        ]
        total = sum(sizes) + _GAP * (len(sizes) + 2) + (workspace + _PAGE)
        self._map = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        base = self._bytes.ctypes.data
        self.regions: list[tuple[int, int]] = []  # begin and end, where they are now
        self._from: list[tuple[int, int]] = [(begin, end) for begin, end, _ in regions]
        at = _GAP
        for (begin, end, offset), size, here in zip(regions, sizes, large, strict=True):
            start = begin if here else base + at + offset % 256
            self.regions.append((start, start + end - begin))
            at += size + _GAP
        self.workspace = base + at
        self._base = base
        self._bytes[at : at + workspace] = 0xFF

    def address(self, array: np.ndarray[Any, Any] | None) -> int:
        """Where an array is; 0 for none."""
        if array is None or not array.nbytes:
            return 0
        begin = array.ctypes.data
        for (old, end), (new, _) in zip(self._from, self.regions, strict=True):
            if old <= begin < end:
                return new + begin - old
        raise AssertionError("an array that was not given")

    def _copy(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        """The bytes that stand for the array's; None if they are its own."""
        start = self.address(array) - self._base
        return None if self.address(array) == array.ctypes.data else self._bytes[start : start + array.nbytes]

    def read_from(self, array: np.ndarray[Any, Any]) -> None:
        """Copies the array in."""
        if (copy := self._copy(array)) is not None:
            copy[:] = array.reshape(-1).view(np.uint8)

    def write_to(self, array: np.ndarray[Any, Any]) -> None:
        """Copies the array out."""
        if (copy := self._copy(array)) is not None:
            array.reshape(-1).view(np.uint8)[:] = copy


def _span(array: np.ndarray[Any, Any]) -> tuple[int, int, int]:
    """Begin and end of an array, and its offset in the memory that it is a view of, which begins where CUDA's would:
    at a multiple of 256 bytes.
    """
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    begin = array.ctypes.data
    return begin, begin + array.nbytes, begin - whole.ctypes.data


class Emulated:
    """A library that :func:`codegen.measure.emulator.compile` made.

    Args:
        path: the library.
        target: what the launcher believes to run on, and how much shared memory there is.
        order: in which order blocks, warps and lanes run: "forward", "backward" or "random".
        seed: of the random order.
        late: asynchronous copies land as late as the program lets them; else at once.
        races: accesses that no barrier orders are errors.
        uninitialized: reading shared memory that nothing wrote is an error; else it reads NaN.

    A race, an access out of bounds, a misaligned one, a read of what nothing wrote, and a deadlock are found in
    whatever the kernel does with shared memory and with the buffers of a launch; workspaces begin as NaN. Blocks of
    one launch that are not of one cluster may not depend on each other, but by atomic operations.
    """

    def __init__(
        self,
        path: Path | str,
        target: str | GpuTarget = "sm_90a",
        *,
        order: str = "forward",
        seed: int = 0,
        late: bool = True,
        races: bool = True,
        uninitialized: bool = True,
    ) -> None:
        about = find_gpu(target) if isinstance(target, str) else target
        self._library = ctypes.CDLL(str(path))
        # Many libraries may come and go in one process, each with stacks for a whole block.
        weakref.finalize(self, _ctypes.dlclose, self._library._handle)
        self._library.tvmops_emulator_failure.restype = ctypes.c_char_p
        major, minor = about.capability
        self._library.tvmops_emulator_device(major, minor, about.multiprocessors, about.shared_bytes)
        self._options = (_ORDERS[order], ctypes.c_uint64(seed), int(late), int(races), int(uninitialized))

    def fail(self, function: str, error: int) -> None:
        """The next call of a function of the CUDA runtime, say "cudaLaunchKernel", returns this error."""
        self._library.tvmops_emulator_fail(function.encode(), error)

    def workspace(self, symbol: str, sizes: Sequence[int]) -> int:
        """The bytes that a launch with these sizes needs; 0 if the kernel needs none."""
        name = f"tvmops_workspace_{_plain(symbol)}"
        if not hasattr(self._library, name):
            return 0
        function = self._library[name]
        function.restype = ctypes.c_int64
        return int(function((ctypes.c_int64 * max(1, len(sizes)))(*sizes)))

    def launch(
        self,
        symbol: str,
        buffers: Sequence[np.ndarray[Any, Any] | None],
        sizes: Sequence[int],
        params: Sequence[float] = (),
        device: int = 0,
    ) -> None:
        """Runs a kernel; what it writes is in ``buffers`` afterwards, also after an error.

        Args:
            symbol: of the kernel, with or without ``tvmops_launch_``.
            buffers: contiguous arrays of any dtype, in the kernel's order; None is a null pointer. Several may share
                memory. One that is not writeable is not an output. Of one beyond 1 GiB, say of ``numpy.zeros``, only
                what the kernel touches takes memory.
            sizes: the kernel's sizes.
            params: the kernel's float parameters.
            device: the number of the device; there is one, 0.

        Raises:
            EmulationError: the kernel did what it must not, or the launcher returned an error.
            ValueError: an array is not contiguous.
        """
        for array in buffers:
            if array is not None and not array.flags.c_contiguous:
                raise ValueError("an array is not contiguous")
        needed = self.workspace(symbol, sizes)
        memory = _Memory(buffers, needed)
        self._register(memory, buffers, needed)
        self._library.tvmops_emulator_options(*self._options)
        present = [a for a in buffers if a is not None and a.nbytes]
        for array in present:
            memory.read_from(array)
        request = _Launch(
            (ctypes.c_void_p * max(1, len(buffers)))(*[memory.address(a) or None for a in buffers]),
            (ctypes.c_int64 * max(1, len(sizes)))(*sizes),
            (ctypes.c_float * max(1, len(params)))(*params),
            memory.workspace if needed else None,
            None,
            device,
        )
        self._library.tvmops_emulator_failure()
        code = self._library[f"tvmops_launch_{_plain(symbol)}"](ctypes.byref(request))
        for array in present:
            if array.flags.writeable:
                memory.write_to(array)
        said = self._library.tvmops_emulator_failure().decode()
        self._library.tvmops_emulator_buffers(0, None, None, None, None, None)
        if code:
            raise EmulationError(said or f"the launcher of {symbol} returned the error {code}", code)

    def _register(self, memory: _Memory, buffers: Sequence[np.ndarray[Any, Any] | None], workspace: int) -> None:
        rows = []
        for begin, end in memory.regions:
            inside = [
                i for i, a in enumerate(buffers) if a is not None and a.nbytes and begin <= memory.address(a) < end
            ]
            arrays = [a for i in inside if (a := buffers[i]) is not None]
            granule = min(1 << (min(a.itemsize, 8).bit_length() - 1) for a in arrays)
            rows.append((begin, end, granule, int(any(a.flags.writeable for a in arrays)), inside[0]))
        if workspace:
            rows.append((memory.workspace, memory.workspace + workspace, 4, 1, -1))
        count = len(rows)
        begins, ends, sizes, writable, numbers = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        self._library.tvmops_emulator_buffers(
            count,
            (ctypes.c_uint64 * count)(*begins),
            (ctypes.c_uint64 * count)(*ends),
            (ctypes.c_uint32 * count)(*sizes),
            (ctypes.c_int * count)(*writable),
            (ctypes.c_int * count)(*numbers),
        )


def _plain(symbol: str) -> str:
    return symbol.removeprefix("tvmops_launch_")
