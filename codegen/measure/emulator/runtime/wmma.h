// nvcuda::wmma. Which lane has which element is not specified by CUDA; here, lane l has the l-th run of a row-major
// matrix.
#pragma once

#include "half.h"
#include "instructions.h"

namespace emulator {

struct MatrixTile {
  void* elements;  // of this lane
  int rows, columns;
  int element_bytes;
};
// Between a fragment and memory. All lanes give the same pointer and leading dimension (in elements).
void wmma_move(const MatrixTile& tile, const void* memory, int64_t leading, bool column_major, bool store, int line);
// d = a b + c; accumulators are float or half.
void wmma_multiply(Type type, int m, int n, int k, void* d, bool d_half, const void* a, const void* b, const void* c,
                   bool c_half, int line);

}  // namespace emulator

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
namespace precision {
struct tf32 {};
}  // namespace precision
enum layout_t { mem_row_major, mem_col_major };

template <class T>
struct stored {
  using type = T;
};
template <>
struct stored<precision::tf32> {
  using type = float;
};
template <class Use, int M, int N, int K>
struct extents;
template <int M, int N, int K>
struct extents<matrix_a, M, N, K> {
  static constexpr int rows = M, columns = K;
};
template <int M, int N, int K>
struct extents<matrix_b, M, N, K> {
  static constexpr int rows = K, columns = N;
};
template <int M, int N, int K>
struct extents<accumulator, M, N, K> {
  static constexpr int rows = M, columns = N;
};

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  static_assert((M == 16 && N == 16 && (K == 16 || K == 8)) || (M == 32 && N == 8 && K == 16) ||
                (M == 8 && N == 32 && K == 16));
  using element_type = T;
  using storage_element_type = typename stored<T>::type;
  static constexpr int rows = extents<Use, M, N, K>::rows, columns = extents<Use, M, N, K>::columns;
  static constexpr int num_elements = rows * columns / 32;
  storage_element_type x[num_elements];
};

template <class F>
emulator::MatrixTile tile(F& f) {
  return {f.x, F::rows, F::columns, static_cast<int>(sizeof f.x[0])};
}

template <class F, class V>
void fill_fragment(F& f, V value) {
  for (auto& x : f.x) x = static_cast<typename F::storage_element_type>(value);
}

template <class Use, int M, int N, int K, class T, class Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const typename stored<T>::type* memory, unsigned leading,
                      int line = __builtin_LINE()) {
  emulator::wmma_move(tile(f), memory, leading, std::is_same_v<Layout, col_major>, false, line);
}
template <int M, int N, int K, class T>
void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const T* memory, unsigned leading, layout_t layout,
                      int line = __builtin_LINE()) {
  emulator::wmma_move(tile(f), memory, leading, layout == mem_col_major, false, line);
}
template <int M, int N, int K, class T>
void store_matrix_sync(T* memory, const fragment<accumulator, M, N, K, T>& f, unsigned leading, layout_t layout,
                       int line = __builtin_LINE()) {
  auto& mutable_f = const_cast<fragment<accumulator, M, N, K, T>&>(f);
  emulator::wmma_move(tile(mutable_f), memory, leading, layout == mem_col_major, true, line);
}

template <class T>
constexpr emulator::Type type_of() {
  if constexpr (std::is_same_v<T, __half>) return emulator::Type::f16;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return emulator::Type::bf16;
  if constexpr (std::is_same_v<T, precision::tf32>) return emulator::Type::tf32;
}
template <int M, int N, int K, class D, class T, class LA, class LB, class C>
void mma_sync(fragment<accumulator, M, N, K, D>& d, const fragment<matrix_a, M, N, K, T, LA>& a,
              const fragment<matrix_b, M, N, K, T, LB>& b, const fragment<accumulator, M, N, K, C>& c, bool = false,
              int line = __builtin_LINE()) {
  static_assert((K == 8) == std::is_same_v<T, precision::tf32>);
  emulator::wmma_multiply(type_of<T>(), M, N, K, d.x, std::is_same_v<D, __half>, a.x, b.x, c.x,
                          std::is_same_v<C, __half>, line);
}

inline float __float_to_tf32(float f) { return emulator::bits_float(emulator::tf32_bits(emulator::float_bits(f))); }

}  // namespace nvcuda::wmma
