"""Where the emulator thinks TMA and wgmma have their elements, against what the PTX ISA says, stated here once more.

Tables: "Tensor swizzling modes" (which 16-byte unit of a row comes where), "Strides" and "Canonical layouts" of wgmma.
"""

import ctypes
import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest

RUNTIME = Path(__file__).parents[3] / "codegen" / "measure" / "emulator" / "runtime"
SOURCE = """
#include "hopper_layout.h"
extern "C" uint32_t swizzled(uint32_t address, uint32_t span) { return emulator::swizzled(address, span); }
extern "C" uint32_t element(uint64_t descriptor, int transposed, uint32_t i, uint32_t k) {
  return emulator::element_address(emulator::decoded(descriptor), transposed != 0, i, k);
}
extern "C" void place(uint32_t thread, uint32_t j, uint32_t* at) { emulator::accumulator_place(thread, j, at, at + 1); }
extern "C" void decoded(uint64_t descriptor, uint32_t* out) {
  const emulator::Descriptor d = emulator::decoded(descriptor);
  out[0] = d.start, out[1] = d.leading, out[2] = d.stride, out[3] = d.base_offset, out[4] = d.span;
}
"""
MODES = {16: 0, 128: 1, 64: 2, 32: 3}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layout")
    (folder / "layout.cpp").write_text(SOURCE)
    out = folder / "layout.so"
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{RUNTIME}", str(folder / "layout.cpp"), "-o", str(out)],
        check=True,
    )
    lib = ctypes.CDLL(str(out))
    lib.element.argtypes = [ctypes.c_uint64, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint32]
    lib.element.restype = lib.swizzled.restype = ctypes.c_uint32
    lib.decoded.argtypes = [ctypes.c_uint64, ctypes.c_void_p]
    return lib


def _descriptor(start, leading, stride, span):
    """Bits 0-13 start, 16-29 leading, 32-45 stride, all / 16; 62-63 the mode."""
    return start // 16 | leading // 16 << 16 | stride // 16 << 32 | MODES[span] << 62


def test_swizzle_of_128_bytes(library):
    """Row r of 8 units, 128 bytes long: unit c is where unit c ^ r would be."""
    table = [
        (0, 1, 2, 3, 4, 5, 6, 7),
        (1, 0, 3, 2, 5, 4, 7, 6),
        (2, 3, 0, 1, 6, 7, 4, 5),
        (3, 2, 1, 0, 7, 6, 5, 4),
        (4, 5, 6, 7, 0, 1, 2, 3),
        (5, 4, 7, 6, 1, 0, 3, 2),
        (6, 7, 4, 5, 2, 3, 0, 1),
        (7, 6, 5, 4, 3, 2, 1, 0),
    ]
    for r, c in itertools.product(range(24), range(8)):
        assert library.swizzled(4096 + r * 128 + c * 16 + 6, 128) == 4096 + r * 128 + table[r % 8][c] * 16 + 6


@pytest.mark.parametrize(
    ("span", "table"),
    [
        (64, [(0, 1, 2, 3, 4, 5, 6, 7), (1, 0, 3, 2, 5, 4, 7, 6), (2, 3, 0, 1, 6, 7, 4, 5), (3, 2, 1, 0, 7, 6, 5, 4)]),
        (32, [(0, 1, 2, 3, 4, 5, 6, 7), (1, 0, 3, 2, 5, 4, 7, 6)]),
        (16, [(0, 1, 2, 3, 4, 5, 6, 7)]),
    ],
)
def test_narrower_swizzles(library, span, table):
    for r, c in itertools.product(range(16), range(8)):
        assert library.swizzled(r * 128 + c * 16, span) == r * 128 + table[r % len(table)][c] * 16


def test_the_fields_of_a_descriptor(library):
    out = (ctypes.c_uint32 * 5)()
    library.decoded(_descriptor(0x12340, 0x2000, 0x400, 64) | 5 << 49, out)
    assert list(out) == [0x12340, 0x2000, 0x400, 5, 64]


def _canonical(span, transposed, leading, stride, i, k):
    """The offset of a 16-bit element before the swizzle, from the canonical layouts in units of 128 bits.

    K-major: ((8, m), 2) : ((s, SBO), 1) with s units of the swizzle; without one ((8, m), 2) : ((1, SBO), LBO).
    MN-major: ((s, m), (8, k)) : ((1, LBO), (s, SBO)); without a swizzle ((1, m), (8, k)) : ((_, SBO), (1, LBO)).
    """
    s = span // 16
    lbo, sbo = leading // 16, stride // 16
    if not transposed:
        shape, strides = (8, 32, 2), (s, sbo, lbo if span == 16 else 1)
        at = (i % 8, i // 8, k // 8)
        inside = k % 8
    elif span == 16:
        shape, strides = (32, 8, 2), (sbo, 1, lbo)
        at = (i // 8, k % 8, k // 8)
        inside = i % 8
    else:
        shape, strides = (s, 32 // s, 8, 2), (1, lbo, s, sbo)
        at = (i // 8 % s, i // 8 // s, k % 8, k // 8)
        inside = i % 8
    assert all(0 <= a < n for a, n in zip(at, shape, strict=True))
    return sum(a * b for a, b in zip(at, strides, strict=True)) * 16 + inside * 2


@pytest.mark.parametrize("span", [16, 32, 64, 128])
@pytest.mark.parametrize("transposed", [0, 1])
def test_operands_are_where_the_canonical_layouts_say(library, span, transposed):
    leading, stride, start = 0x4800, 0x600, 0x2000
    descriptor = _descriptor(start, leading, stride, span)
    for i, k in itertools.product(range(0, 256, 3), range(16)):
        linear = start + _canonical(span, transposed, leading, stride, i, k)
        assert library.element(descriptor, transposed, i, k) == library.swizzled(linear, span)


def test_a_step_along_k_within_the_swizzle_is_32_bytes(library):
    """What kernels do, as the xor takes bits of the whole address: 64 columns of K, row-major, in rows of 128 bytes."""
    for step, i, k in itertools.product(range(4), range(64), range(16)):
        at = i * 128 + (step * 16 + k) * 2
        unit = at // 16 % 8 ^ i % 8
        expected = 1024 + i * 128 + unit * 16 + at % 16
        assert library.element(_descriptor(1024 + 32 * step, 16, 1024, 128), 0, i, k) == expected


def test_a_step_along_k_where_rows_are_contiguous_is_two_groups_of_eight(library):
    """64 rows of K, each 64 elements of N in 128 bytes, 64 more columns of N 8192 bytes on."""
    for step, i, k in itertools.product(range(4), range(0, 256, 5), range(16)):
        row = step * 16 + k
        unit = i % 64 // 8 ^ row % 8
        expected = 1024 + i // 64 * 8192 + row * 128 + unit * 16 + i % 8 * 2
        assert library.element(_descriptor(1024 + 2048 * step, 8192, 1024, 128), 1, i, k) == expected


def test_accumulators_cover_the_tile(library):
    """Each thread has two neighbours of a row, 8 rows on two more, then the next 8 columns; a warp has 16 rows."""
    seen = np.zeros((64, 256), int)
    at = (ctypes.c_uint32 * 2)()
    for thread, j in itertools.product(range(128), range(128)):
        library.place(thread, j, at)
        seen[at[0], at[1]] += 1
    assert (seen == 1).all()
    library.place(32 + 5, 7, at)  # warp 1, lane 5: row 16 + 5 / 4 + 8, column 8 + 5 % 4 * 2 + 1
    assert list(at) == [25, 11]
