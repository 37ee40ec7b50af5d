#include "cuda/plan.h"

#include <iterator>

#include "drivers/binding.h"

namespace tvmops::cuda {

namespace {

using drivers::bucket;

// codegen/cuda/plan.py has the same.
constexpr int64_t kGemmRows[] = {16, 64, 256, 1024, 4096};
constexpr int64_t kGemmColumns[] = {1024, 4096};
constexpr int64_t kGemmDepths[] = {1024, 4096};
constexpr int64_t kGemmPlanes = 2;
constexpr int64_t kLengths[] = {256, 1024, 4096, 16384};
constexpr int64_t kElements[] = {1 << 16, 1 << 20, 1 << 23, 1 << 26};

template <size_t count>
constexpr int64_t buckets(const int64_t (&)[count]) {
  return count + 1;
}

template <size_t count>
std::vector<int64_t> list(const int64_t (&bounds)[count]) {
  return {bounds, bounds + count};
}

}  // namespace

int64_t gemm_plan_bucket(bool static_nk, int64_t batch, int64_t m, int64_t n, int64_t k) {
  const int64_t rows = (batch > 1) * buckets(kGemmRows) + bucket(kGemmRows, m);
  if (static_nk) return rows;
  return (rows * buckets(kGemmColumns) + bucket(kGemmColumns, n)) * buckets(kGemmDepths) + bucket(kGemmDepths, k);
}

int64_t gemm_plan_size(bool static_nk) {
  const int64_t rows = kGemmPlanes * buckets(kGemmRows);
  return static_nk ? rows : rows * buckets(kGemmColumns) * buckets(kGemmDepths);
}

int64_t rows_plan_bucket(bool by_size, int64_t rows, int64_t n) {
  const int64_t size = bucket(kElements, rows * n);
  return by_size ? size : bucket(kLengths, n) * buckets(kElements) + size;
}

int64_t rows_plan_size(bool by_size) { return (by_size ? 1 : buckets(kLengths)) * buckets(kElements); }

int64_t reduce_plan_bucket(int64_t outer, int64_t n, int64_t inner) {
  return (inner > 1) * rows_plan_size(false) + rows_plan_bucket(false, outer * inner, n);
}

int64_t reduce_plan_size() { return 2 * rows_plan_size(false); }

int64_t scan_plan_bucket(int64_t outer, int64_t n, int64_t inner) {
  const int64_t across = inner > 1, span = across * buckets(kLengths) + bucket(kLengths, across ? inner : n);
  return span * buckets(kElements) + bucket(kElements, outer * n * inner);
}

int64_t scan_plan_size() { return 2 * buckets(kLengths) * buckets(kElements); }

std::vector<std::pair<std::string, std::vector<int64_t>>> plan_bounds() {
  return {{"GEMM_ROWS", list(kGemmRows)},
          {"GEMM_COLUMNS", list(kGemmColumns)},
          {"GEMM_DEPTHS", list(kGemmDepths)},
          {"LENGTHS", list(kLengths)},
          {"ELEMENTS", list(kElements)}};
}

}  // namespace tvmops::cuda
