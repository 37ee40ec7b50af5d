#include "ops/gpu_rows.h"

#include "cuda/plan.h"
#include "ops/gpu.h"

namespace tvmops::ops {

namespace {

const GpuTable<cuda::RowsKernel>& table() {
  static const GpuTable<cuda::RowsKernel> rows(&slot_by_operator);
  return rows;
}

template <class Refusal>
GpuRowsChoice choose(const OpKey& op, Storage storage, int64_t rows, int64_t n, Refusal refusal) {
  return choose_on_gpu<cuda::RowsKernel>(
      table(), slot_of(op, storage), gpu_index(), refusal,
      [&](const cuda::RowsKernel& kernel) { return cuda::rows_plan_bucket(kernel.by_size(), rows, n); });
}

}  // namespace

GpuRowsChoice choose_gpu_rows(const OpKey& op, Storage storage, int64_t rows, int64_t n, int64_t inner) {
  return choose(op, storage, rows, n,
                [&](const cuda::RowsKernel& kernel) { return cuda::refusal(kernel, rows, n, inner, drivers::kNone); });
}

GpuRowsChoice choose_gpu_rows(const OpKey& op, Storage storage, const drivers::RowsProblem& problem) {
  return choose(op, storage, problem.outer, problem.n,
                [&](const cuda::RowsKernel& kernel) { return cuda::refusal(kernel, problem); });
}

cuda::Outcome run_gpu_rows(const cuda::RowsKernel& kernel, const drivers::RowsProblem& problem) {
  const cuda::RowsSizes sizes(kernel, problem);
  const GpuPlace place(kernel.launcher[problem.variant].workspace_bytes(sizes.list));
  return cuda::rows(kernel, problem, sizes, *place);
}

bool gpu_rows_serves(const tvmops_kernel* kernel) { return table().serves(kernel); }

}  // namespace tvmops::ops
