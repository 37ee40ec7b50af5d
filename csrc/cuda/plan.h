// The plans of GPU kernels: a byte for each bucket of sizes, 0 for ATen, 1 for the kernel.
#ifndef TVMOPS_CUDA_PLAN_H_
#define TVMOPS_CUDA_PLAN_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tvmops::cuda {

// Of cuda_gemm: plan[plane][m][n][k], or plan[plane][m] when n and k are static. The planes: one product, a batch.
int64_t gemm_plan_bucket(bool static_nk, int64_t batch, int64_t m, int64_t n, int64_t k);
int64_t gemm_plan_size(bool static_nk);

// Of cuda_rows: plan[n][elements], or plan[elements] of kernels that are flat or have a static n.
int64_t rows_plan_bucket(bool by_size, int64_t rows, int64_t n);
int64_t rows_plan_size(bool by_size);

// Of cuda_reduce: plan[across][n][elements].
int64_t reduce_plan_bucket(int64_t outer, int64_t n, int64_t inner);
int64_t reduce_plan_size();

// Of cuda_scan: plan[across][span][elements], the span being n, or inner where the scan goes across rows.
int64_t scan_plan_bucket(int64_t outer, int64_t n, int64_t inner);
int64_t scan_plan_size();

// The upper bounds of all buckets but the last, by the names of codegen/cuda/plan.py, which has the same.
std::vector<std::pair<std::string, std::vector<int64_t>>> plan_bounds();

}  // namespace tvmops::cuda

#endif  // TVMOPS_CUDA_PLAN_H_
