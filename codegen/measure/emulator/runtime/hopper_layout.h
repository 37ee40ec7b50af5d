// Where TMA puts, and wgmma finds, the elements of a tile in shared memory. Written from the PTX ISA: "Tensor swizzling
// modes", "Shared Memory Matrix Layout" (major-ness and strides) and "Matrix-descriptor format" of wgmma.
#ifndef TVMOPS_EMULATOR_HOPPER_LAYOUT_H_
#define TVMOPS_EMULATOR_HOPPER_LAYOUT_H_

#include <stdint.h>

namespace emulator {

// The swizzle of `span` bytes (16: none, 32, 64, 128) exchanges 16-byte units: bits 4 and up of an address of shared
// memory are xored with as many bits from bit 7 on.
inline uint32_t swizzled(uint32_t address, uint32_t span) {
  const uint32_t bits = span / 16 - 1;
  return address ^ (((address >> 7) & bits) << 4);
}

// A matrix descriptor. Addresses and offsets are kept in units of 16 bytes there, in bytes here.
struct Descriptor {
  uint32_t start, leading, stride, base_offset, span;
};

inline Descriptor decoded(uint64_t bits) {
  const uint32_t spans[] = {16, 128, 64, 32};
  Descriptor d;
  d.start = (uint32_t)(bits & 0x3fff) << 4;
  d.leading = (uint32_t)(bits >> 16 & 0x3fff) << 4;
  d.stride = (uint32_t)(bits >> 32 & 0x3fff) << 4;
  d.base_offset = (uint32_t)(bits >> 49 & 7);
  d.span = spans[bits >> 62];
  return d;
}

// The address of the element (i, k) of an operand, i along M or N, of 16 bits. `transposed`: M or N is contiguous.
// Others are K-major, with a `size` in bytes.
inline uint32_t element_address(const Descriptor& d, bool transposed, uint32_t i, uint32_t k, uint32_t size = 2) {
  const uint32_t units = d.span / 16;  // in a row of the swizzle's atom of 8 rows
  uint32_t offset;
  if (!transposed) {
    // K-major: rows are span bytes apart, groups of 8 rows `stride`. Without a swizzle a core matrix is 8 rows of one
    // unit, and the second unit is `leading` away.
    const uint32_t unit = k * size / 16;
    offset = i % 8 * d.span + i / 8 * d.stride + unit * (d.span == 16 ? d.leading : 16) + k * size % 16;
  } else if (d.span == 16) {
    // MN-major without a swizzle: the next unit along M or N is `stride` away, the next 8 columns of K `leading`.
    offset = i / 8 * d.stride + k % 8 * 16 + k / 8 * d.leading + i % 8 * 2;
  } else {
    // MN-major: units of M or N fill a row of the atom, then go on `leading` away; the next 8 of K are `stride` away.
    const uint32_t unit = i / 8;
    offset = unit % units * 16 + unit / units * d.leading + k % 8 * d.span + k / 8 * d.stride + i % 8 * 2;
  }
  return swizzled(d.start + offset, d.span);
}

// Which element of the 64 x N tile the thread (0 to 127) of a warpgroup has in its accumulator `j`.
inline void accumulator_place(uint32_t thread, uint32_t j, uint32_t* row, uint32_t* column) {
  *row = thread / 32 * 16 + thread % 32 / 4 + j / 2 % 2 * 8;
  *column = j / 4 * 8 + thread % 4 * 2 + j % 2;
}

}  // namespace emulator

#endif  // TVMOPS_EMULATOR_HOPPER_LAYOUT_H_
