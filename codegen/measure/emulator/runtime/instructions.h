// PTX instructions, as ptx.py calls them. Fragment layouts: PTX ISA, "Warp Level Matrix Instructions".
#pragma once

#include <type_traits>

#include "emulator.h"

#pragma GCC visibility push(hidden)
namespace emulator {

enum class Type { f16, bf16, tf32 };

// Each lane gives the address of a row of eight 16-bit elements and gets `count` registers.
void ldmatrix(uint32_t* registers, int count, bool transposed, uint32_t address, int line);
void stmatrix(const uint32_t* registers, int count, bool transposed, uint32_t address, int line);
// d = a b + c with a 16 x k, b k x 8, float32 accumulators. k is 8 or 16 (f16, bf16), 4 or 8 (tf32).
void mma(Type type, int k, float* d, const uint32_t* a, const uint32_t* b, const float* c, int line);

enum class Shuffle { index, up, down, exclusive_or };
uint64_t shuffle(Shuffle how, uint32_t mask, uint64_t value, int lane, int width, int line);
uint32_t ballot(uint32_t mask, bool predicate, int line);
uint32_t match_any(uint32_t mask, uint64_t value, int line);
enum class Reduce { add, minimum, maximum, minimum_signed, maximum_signed, bit_and, bit_or, bit_xor };
uint32_t reduce(Reduce how, uint32_t mask, uint32_t value, int line);

// Loads and stores of instructions, `address` in shared memory or a pointer.
void load(void* to, const void* from, size_t bytes, size_t alignment, const char* what);
void store(void* to, const void* from, size_t bytes, size_t alignment, const char* what);

// An atomic operation: `atomic_load` checks; nothing runs between it and `atomic_store`.
void atomic_load(void* old, const void* from, size_t bytes, const char* what);
void atomic_store(void* to, const void* value, size_t bytes);

// A memory operand of 32 bits is a shared address; a pointer stays one.
inline void* place(uint32_t address) { return shared_pointer(address); }
inline void* place(uint64_t address) { return reinterpret_cast<void*>(address); }

// Registers of an asm statement.
template <class To, class From>
inline To bits_of(const From& from) {
  if constexpr (std::is_pointer_v<From>) {
    return static_cast<To>(reinterpret_cast<uintptr_t>(from));
  } else if constexpr (std::is_arithmetic_v<From> && std::is_arithmetic_v<To>) {
    return static_cast<To>(from);
  } else if constexpr (std::is_enum_v<From>) {
    return static_cast<To>(from);
  } else {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
  }
}
template <class To, class From>
inline void put_bits(To& to, From from) {
  if constexpr (std::is_arithmetic_v<To> && std::is_integral_v<From> && !std::is_floating_point_v<To>) {
    to = static_cast<To>(from);
  } else {
    static_assert(sizeof(To) == sizeof(From));
    std::memcpy(&to, &from, sizeof to);
  }
}
template <class T, class From>
inline T as(From from) {
  static_assert(sizeof(T) == sizeof(From));
  T to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
// A register to and from as many bytes of memory.
template <class Word, class From>
inline Word word(From from) {
  if constexpr (std::is_integral_v<From>) {
    return static_cast<Word>(from);
  } else {
    return as<Word>(from);
  }
}
template <class To, class Word>
inline void from_word(To& to, Word from) {
  if constexpr (std::is_integral_v<To>) {
    to = static_cast<To>(from);
  } else {
    to = as<To>(from);
  }
}
// cp.async's fourth operand.
inline uint32_t bytes_read(bool ignored, uint32_t bytes) { return ignored ? 0 : bytes; }
inline uint32_t bytes_read(uint32_t wanted, uint32_t) { return wanted; }
inline uint32_t bytes_read(int wanted, uint32_t) { return static_cast<uint32_t>(wanted); }

}  // namespace emulator
#pragma GCC visibility pop
