#include "ops/gpu_reduce.h"

#include "cuda/plan.h"
#include "ops/gpu.h"

namespace tvmops::ops {

using cuda::ReduceKernel;
using drivers::ReduceProblem;

namespace {

const GpuTable<ReduceKernel>& table() {
  static const GpuTable<ReduceKernel> kernels(&slot_by_operator);
  return kernels;
}

}  // namespace

GpuReduceChoice choose_gpu_reduce(const OpKey& op, Storage storage, const ReduceProblem& p) {
  return choose_on_gpu<ReduceKernel>(
      table(), slot_of(op, storage), gpu_index(), [&](const ReduceKernel& kernel) { return cuda::refusal(kernel, p); },
      [&](const ReduceKernel&) { return cuda::reduce_plan_bucket(p.outer, p.n, p.inner); });
}

cuda::Outcome run_gpu_reduce(const ReduceKernel& kernel, const ReduceProblem& problem) {
  const cuda::ReduceSizes sizes(kernel.shape, problem.outer, problem.n, problem.inner);
  const GpuPlace place(kernel.launcher.workspace_bytes(sizes.list));
  return cuda::reduce(kernel, problem, sizes, *place);
}

bool gpu_reduce_serves(const tvmops_kernel* kernel) { return table().serves(kernel); }

}  // namespace tvmops::ops
