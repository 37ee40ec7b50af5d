// Which row program serves a call, or why ATen does.
#ifndef TVMOPS_OPS_ROWS_CHOICE_H_
#define TVMOPS_OPS_ROWS_CHOICE_H_

#include <ATen/ATen.h>

#include <functional>
#include <string>

#include "drivers/rows.h"
#include "ops/gpu.h"
#include "ops/gpu_rows.h"
#include "ops/kernel_table.h"

namespace tvmops::ops {

struct RowsChoice {
  const drivers::RowsKernel* kernel = nullptr;
  const char* reason = "";
  const cuda::RowsKernel* on_gpu = nullptr;  // within a GpuScope, instead
  explicit operator bool() const { return kernel || on_gpu; }
};

// For a tensor seen as [outer, n, inner], of a storage dtype that storage_of() gave.
RowsChoice choose_rows(const OpKey& op, Storage storage, int64_t outer, int64_t n, int64_t inner);

bool rows_serves(const tvmops_kernel* kernel);

// Of a dtype that kernels read; kStorages for others.
inline Storage storage_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return kFloat32;
    case at::kBFloat16:
      return kBfloat16;
    case at::kHalf:
      return kFloat16;
    default:
      return kStorages;
  }
}

// A dense tensor where the kernels are, of a dtype that they read.
inline bool is_readable(const at::Tensor& t) {
  return storage_of(t.scalar_type()) != kStorages && t.layout() == at::kStrided && is_here(t) && !t.is_conj() &&
         !t.is_neg();
}

// What a call came to, for tvmops.explain.
void record(const OpKey& op, const at::Tensor& shape_of, const RowsChoice& choice);

// For a problem, whose results may still lack their memory but not their strides; records the decision.
RowsChoice choose_rows(const OpKey& op, const at::Tensor& self, const drivers::RowsProblem& problem);

// For a choice made by sizes alone: none, and why, unless the kernel can run the problem.
void check_fits(RowsChoice& choice, const drivers::RowsProblem& problem);

// Runs a problem by what was chosen and recorded, on a CPU one that fits. Says no, and changes what was recorded, if
// the kernel of a GPU can't: ATen is to run.
bool run_chosen(const RowsChoice& choice, const drivers::RowsProblem& problem);

// Runs a problem by a kernel if one applies and wins, and records the decision; else says no, and ATen is to run.
bool run_rows(const OpKey& op, const at::Tensor& self, const drivers::RowsProblem& problem);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_ROWS_CHOICE_H_
