// Which row program on a GPU serves a call, or why ATen does.
#ifndef TVMOPS_OPS_GPU_ROWS_H_
#define TVMOPS_OPS_GPU_ROWS_H_

#include "cuda/rows.h"
#include "ops/gpu_table.h"
#include "ops/kernel_table.h"

namespace tvmops::ops {

using GpuRowsChoice = GpuChoice<cuda::RowsKernel>;

// Within a GpuScope. By sizes alone, then for a problem, whose results may still lack their memory.
GpuRowsChoice choose_gpu_rows(const OpKey& op, Storage storage, int64_t rows, int64_t n, int64_t inner);
GpuRowsChoice choose_gpu_rows(const OpKey& op, Storage storage, const drivers::RowsProblem& problem);

// Runs a problem that cuda::refusal has nothing against.
cuda::Outcome run_gpu_rows(const cuda::RowsKernel& kernel, const drivers::RowsProblem& problem);

bool gpu_rows_serves(const tvmops_kernel* kernel);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_GPU_ROWS_H_
