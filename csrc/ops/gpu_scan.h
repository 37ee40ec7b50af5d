// Which kernels on a GPU serve scans and rotary embeddings, or why ATen does.
#ifndef TVMOPS_OPS_GPU_SCAN_H_
#define TVMOPS_OPS_GPU_SCAN_H_

#include <ATen/ATen.h>

#include <functional>
#include <initializer_list>

#include "cuda/rotary.h"
#include "drivers/scan.h"
#include "ops/gpu_table.h"

namespace tvmops::ops {

// Within a GpuScope: scans tensors of one shape, of which the problem has the sizes, into `out`, which is allocated
// once a kernel is chosen if it is undefined. `read`: the source, or, for the gradient of a product, the gradient of
// the result, the source and the result. Returns whether a kernel did it, and records that, or why not.
bool scan_on_gpu(const OpKey& op, std::initializer_list<std::reference_wrapper<const at::Tensor>> read,
                 drivers::ScanProblem problem, at::Tensor& out);

// A kernel for a rotary embedding of so many elements, which may refuse their layout.
GpuChoice<cuda::RotaryKernel> choose_gpu_rotary(const OpKey& op, Storage storage, int64_t elements);
// Runs it; why it did not, or null.
const char* run_gpu_rotary(const cuda::RotaryKernel& kernel, const drivers::RotaryProblem& problem);

bool gpu_scan_serves(const tvmops_kernel* kernel);
bool gpu_rotary_serves(const tvmops_kernel* kernel);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_GPU_SCAN_H_
