// Which reduction on a GPU serves a call, or why ATen does.
#ifndef TVMOPS_OPS_GPU_REDUCE_H_
#define TVMOPS_OPS_GPU_REDUCE_H_

#include "cuda/reduce.h"
#include "ops/gpu_table.h"

namespace tvmops::ops {

using GpuReduceChoice = GpuChoice<cuda::ReduceKernel>;

// Within a GpuScope; the result may still lack its memory.
GpuReduceChoice choose_gpu_reduce(const OpKey& op, Storage storage, const drivers::ReduceProblem& problem);

cuda::Outcome run_gpu_reduce(const cuda::ReduceKernel& kernel, const drivers::ReduceProblem& problem);

bool gpu_reduce_serves(const tvmops_kernel* kernel);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_GPU_REDUCE_H_
