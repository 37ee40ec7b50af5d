#include "wmma.h"

namespace emulator {
namespace {

struct Move {
  MatrixTile tile;
  const char* memory;
  int64_t leading;
  bool column_major;
};

template <bool Store>
void move_tile(Lanes lanes) {
  constexpr const char* kName = Store ? "store_matrix_sync" : "load_matrix_sync";
  const auto& first = *static_cast<Move*>(lanes[0]->argument);
  const int size = first.tile.element_bytes, count = first.tile.rows * first.tile.columns / kLanes;
  if (reinterpret_cast<uintptr_t>(first.memory) % 32 || first.leading * size % 16) {
    fail("calls %s with a pointer that is not a multiple of 32 bytes, or a leading dimension that is not one of 16",
         kName);
  }
  for (int l = 0; l < kLanes; ++l) {
    const auto& mine = *static_cast<Move*>(lanes[l]->argument);
    if (mine.memory != first.memory || mine.leading != first.leading) {
      fail("calls %s with another pointer or leading dimension than other threads of its warp", kName);
    }
    for (int i = 0; i < count; ++i) {
      const int row = (l * count + i) / mine.tile.columns, column = (l * count + i) % mine.tile.columns;
      const int64_t at = mine.column_major ? column * mine.leading + row : row * mine.leading + column;
      char* element = static_cast<char*>(mine.tile.elements) + i * size;
      auto* there = const_cast<char*>(first.memory) + at * size;
      if (Store) {
        check_write(*lanes[l], there, size, size, kName);
        std::memcpy(there, element, size);
      } else {
        check_read(*lanes[l], there, size, size, kName);
        std::memcpy(element, there, size);
      }
    }
  }
}

struct Multiply {
  Type type;
  int m, n, k;
  void* d;
  const void *a, *b, *c;
  bool d_half, c_half;
};

float operand(Type type, const void* elements, int i) {
  if (type == Type::tf32) return bits_float(static_cast<const uint32_t*>(elements)[i] & 0xffffe000);
  const uint16_t bits = static_cast<const uint16_t*>(elements)[i];
  return type == Type::f16 ? half_value(bits) : bfloat16_value(bits);
}

void multiply_tiles(Lanes lanes) {
  static float a[512], b[512], c[512];
  const auto& first = *static_cast<Multiply*>(lanes[0]->argument);
  const int m = first.m, n = first.n, k = first.k;
  for (int l = 0; l < kLanes; ++l) {
    const auto& mine = *static_cast<Multiply*>(lanes[l]->argument);
    for (int i = 0; i < m * k / kLanes; ++i) a[l * (m * k / kLanes) + i] = operand(mine.type, mine.a, i);
    for (int i = 0; i < k * n / kLanes; ++i) b[l * (k * n / kLanes) + i] = operand(mine.type, mine.b, i);
    for (int i = 0; i < m * n / kLanes; ++i) {
      c[l * (m * n / kLanes) + i] =
          mine.c_half ? half_value(static_cast<const uint16_t*>(mine.c)[i]) : static_cast<const float*>(mine.c)[i];
    }
  }
  for (int row = 0; row < m; ++row) {
    float sum[32] = {};
    for (int i = 0; i < k; ++i) {
      for (int column = 0; column < n; ++column) sum[column] += a[row * k + i] * b[i * n + column];
    }
    for (int column = 0; column < n; ++column) c[row * n + column] += sum[column];
  }
  for (int l = 0; l < kLanes; ++l) {
    const auto& mine = *static_cast<Multiply*>(lanes[l]->argument);
    for (int i = 0; i < m * n / kLanes; ++i) {
      const float value = c[l * (m * n / kLanes) + i];
      if (mine.d_half) {
        static_cast<uint16_t*>(mine.d)[i] = half_bits(value);
      } else {
        static_cast<float*>(mine.d)[i] = value;
      }
    }
  }
}

}  // namespace

void wmma_move(const MatrixTile& tile, const void* memory, int64_t leading, bool column_major, bool store, int line) {
  Move move{tile, static_cast<const char*>(memory), leading, column_major};
  meet(store ? "store_matrix_sync" : "load_matrix_sync", line, kAll, true, store ? move_tile<true> : move_tile<false>,
       &move);
}

void wmma_multiply(Type type, int m, int n, int k, void* d, bool d_half, const void* a, const void* b, const void* c,
                   bool c_half, int line) {
  Multiply operands{type, m, n, k, d, a, b, c, d_half, c_half};
  meet("mma_sync", line, kAll, true, multiply_tiles, &operands);
}

}  // namespace emulator
