// What a warp does together: ldmatrix, mma, shuffles, votes.
#include "instructions.h"

#include <type_traits>

#include "half.h"

namespace emulator {
namespace {

struct MatrixMove {
  uint32_t* registers;
  int count;
  bool transposed;
  uint32_t address;
};

// Element e of lane l's register m is at [row][column] of the matrix m.
template <bool Store>
void move_matrix(Lanes lanes) {
  constexpr const char* kName = Store ? "stmatrix" : "ldmatrix";
  const auto& first = *static_cast<MatrixMove*>(lanes[0]->argument);
  for (int m = 0; m < first.count; ++m) {
    const char* rows[8];
    for (int r = 0; r < 8; ++r) {
      const Thread& giver = *lanes[m * 8 + r];
      rows[r] = shared_pointer(static_cast<MatrixMove*>(giver.argument)->address);
      if (Store) {
        check_write(giver, rows[r], 16, 16, kName);
      } else {
        check_read(giver, rows[r], 16, 16, kName);
      }
    }
    for (int l = 0; l < kLanes; ++l) {
      const auto& mine = *static_cast<MatrixMove*>(lanes[l]->argument);
      uint16_t pair[2];
      if (Store) std::memcpy(pair, &mine.registers[m], 4);
      for (int e = 0; e < 2; ++e) {
        const int row = first.transposed ? l % 4 * 2 + e : l / 4;
        const int column = first.transposed ? l / 4 : l % 4 * 2 + e;
        auto* element = const_cast<char*>(rows[row] + column * 2);
        if (Store) {
          std::memcpy(element, &pair[e], 2);
        } else {
          std::memcpy(&pair[e], element, 2);
        }
      }
      if (!Store) std::memcpy(&mine.registers[m], pair, 4);
    }
  }
}

struct Mma {
  float* d;
  const uint32_t *a, *b;
  const float* c;
};

template <Type T>
float element(uint32_t bits, int half) {
  if (T == Type::f16) return half_value(static_cast<uint16_t>(bits >> half * 16));
  if (T == Type::bf16) return bfloat16_value(static_cast<uint16_t>(bits >> half * 16));
  return bits_float(bits & 0xffffe000);  // the tensor core reads 19 bits
}

// Registers hold 16-bit elements in pairs along k; a register covers 8 (tf32: 4) of k for each group of 4 lanes.
template <Type T, int K>
void multiply(Lanes lanes) {
  constexpr int kPer = T == Type::tf32 ? 1 : 2, kStep = 4 * kPer;
  float a[16][K], b[K][8], c[16][8];
  for (int l = 0; l < kLanes; ++l) {
    const auto& mine = *static_cast<Mma*>(lanes[l]->argument);
    const int group = l / 4, in_group = l % 4;
    for (int r = 0; r < 2 * K / kStep; ++r) {
      for (int e = 0; e < kPer; ++e) {
        a[group + r % 2 * 8][r / 2 * kStep + in_group * kPer + e] = element<T>(mine.a[r], e);
      }
    }
    for (int r = 0; r < K / kStep; ++r) {
      for (int e = 0; e < kPer; ++e) b[r * kStep + in_group * kPer + e][group] = element<T>(mine.b[r], e);
    }
    for (int i = 0; i < 4; ++i) c[group + i / 2 * 8][in_group * 2 + i % 2] = mine.c[i];
  }
  for (int row = 0; row < 16; ++row) {
    float sum[8] = {};
    for (int k = 0; k < K; ++k) {
      for (int column = 0; column < 8; ++column) sum[column] += a[row][k] * b[k][column];
    }
    for (int column = 0; column < 8; ++column) c[row][column] += sum[column];
  }
  for (int l = 0; l < kLanes; ++l) {
    const auto& mine = *static_cast<Mma*>(lanes[l]->argument);
    for (int i = 0; i < 4; ++i) mine.d[i] = c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
  }
}

struct Exchange {
  uint64_t value, result;
  int lane, width;
};

template <Shuffle How>
void exchange(Lanes lanes) {
  for (int l = 0; l < kLanes; ++l) {
    if (!lanes[l]) continue;
    auto& mine = *static_cast<Exchange*>(lanes[l]->argument);
    const int begin = l / mine.width * mine.width, end = begin + mine.width;
    int from = How == Shuffle::index  ? begin + mine.lane % mine.width
               : How == Shuffle::up   ? l - mine.lane
               : How == Shuffle::down ? l + mine.lane
                                      : l ^ mine.lane;
    if (from < begin || from >= end) from = l;
    // The value of a lane that does not take part is undefined: poison.
    mine.result = lanes[from] ? static_cast<Exchange*>(lanes[from]->argument)->value : ~uint64_t(0);
  }
}

struct Vote {
  uint64_t value;
  uint32_t result;
};

void count_votes(Lanes lanes) {
  uint32_t bits = 0;
  for (int l = 0; l < kLanes; ++l) {
    if (lanes[l] && static_cast<Vote*>(lanes[l]->argument)->value) bits |= 1u << l;
  }
  for (Thread* t : lanes) {
    if (t) static_cast<Vote*>(t->argument)->result = bits;
  }
}

void count_equal(Lanes lanes) {
  for (Thread* t : lanes) {
    if (!t) continue;
    auto& mine = *static_cast<Vote*>(t->argument);
    mine.result = 0;
    for (int l = 0; l < kLanes; ++l) {
      if (lanes[l] && static_cast<Vote*>(lanes[l]->argument)->value == mine.value) mine.result |= 1u << l;
    }
  }
}

uint32_t combine(Reduce how, uint32_t a, uint32_t b) {
  const auto x = static_cast<int32_t>(a), y = static_cast<int32_t>(b);
  switch (how) {
    case Reduce::add:
      return a + b;
    case Reduce::minimum:
      return a < b ? a : b;
    case Reduce::maximum:
      return a > b ? a : b;
    case Reduce::minimum_signed:
      return x < y ? a : b;
    case Reduce::maximum_signed:
      return x > y ? a : b;
    case Reduce::bit_and:
      return a & b;
    case Reduce::bit_or:
      return a | b;
    default:
      return a ^ b;
  }
}

template <Reduce How>
void reduce_all(Lanes lanes) {
  bool any = false;
  uint32_t result = 0;
  for (Thread* t : lanes) {
    if (!t) continue;
    const auto value = static_cast<uint32_t>(static_cast<Vote*>(t->argument)->value);
    result = any ? combine(How, result, value) : value;
    any = true;
  }
  for (Thread* t : lanes) {
    if (t) static_cast<Vote*>(t->argument)->result = result;
  }
}

}  // namespace

void ldmatrix(uint32_t* registers, int count, bool transposed, uint32_t address, int line) {
  MatrixMove move{registers, count, transposed, address};
  meet("ldmatrix", line, kAll, true, move_matrix<false>, &move);
}

void stmatrix(const uint32_t* registers, int count, bool transposed, uint32_t address, int line) {
  MatrixMove move{const_cast<uint32_t*>(registers), count, transposed, address};
  meet("stmatrix", line, kAll, true, move_matrix<true>, &move);
}

void mma(Type type, int k, float* d, const uint32_t* a, const uint32_t* b, const float* c, int line) {
  Mma operands{d, a, b, c};
  auto* action = type == Type::f16    ? (k == 16 ? multiply<Type::f16, 16> : multiply<Type::f16, 8>)
                 : type == Type::bf16 ? (k == 16 ? multiply<Type::bf16, 16> : multiply<Type::bf16, 8>)
                                      : (k == 8 ? multiply<Type::tf32, 8> : multiply<Type::tf32, 4>);
  meet("mma.sync", line, kAll, true, action, &operands);
}

uint64_t shuffle(Shuffle how, uint32_t mask, uint64_t value, int lane, int width, int line) {
  if (width <= 0 || width > kLanes || (width & (width - 1))) fail("shuffles (line %d) with a width of %d", line, width);
  Exchange mine{value, 0, lane, width};
  auto* action = how == Shuffle::index  ? exchange<Shuffle::index>
                 : how == Shuffle::up   ? exchange<Shuffle::up>
                 : how == Shuffle::down ? exchange<Shuffle::down>
                                        : exchange<Shuffle::exclusive_or>;
  meet("a shuffle", line, mask, false, action, &mine);
  return mine.result;
}

uint32_t ballot(uint32_t mask, bool predicate, int line) {
  Vote mine{predicate, 0};
  meet("a vote", line, mask, false, count_votes, &mine);
  return mine.result;
}

uint32_t match_any(uint32_t mask, uint64_t value, int line) {
  Vote mine{value, 0};
  meet("a match", line, mask, false, count_equal, &mine);
  return mine.result;
}

uint32_t reduce(Reduce how, uint32_t mask, uint32_t value, int line) {
  static constexpr void (*kActions[])(Lanes) = {reduce_all<Reduce::add>,
                                                reduce_all<Reduce::minimum>,
                                                reduce_all<Reduce::maximum>,
                                                reduce_all<Reduce::minimum_signed>,
                                                reduce_all<Reduce::maximum_signed>,
                                                reduce_all<Reduce::bit_and>,
                                                reduce_all<Reduce::bit_or>,
                                                reduce_all<Reduce::bit_xor>};
  Vote mine{value, 0};
  meet("a reduction", line, mask, false, kActions[static_cast<int>(how)], &mine);
  return mine.result;
}

void load(void* to, const void* from, size_t bytes, size_t alignment, const char* what) {
  check_read(*self, from, bytes, alignment, what);
  std::memcpy(to, from, bytes);
}

void store(void* to, const void* from, size_t bytes, size_t alignment, const char* what) {
  check_write(*self, to, bytes, alignment, what);
  std::memcpy(to, from, bytes);
}

void atomic_load(void* old, const void* from, size_t bytes, const char* what) {
  check_atomic(*self, from, bytes, what);
  std::memcpy(old, from, bytes);
}

void atomic_store(void* to, const void* value, size_t bytes) { std::memcpy(to, value, bytes); }

}  // namespace emulator
