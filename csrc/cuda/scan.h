// Prefix sums and products on a GPU, and the gradient of products: what drivers/scan.h is on a CPU.
//
// A launch gets the buffers of the source and the target, or, for the gradient, of g, x, the products and the target;
// and the sizes outer, n, inner, flags (bit 0: exclusive; bit 1: from the end). All are contiguous [outer, n, inner].
#ifndef TVMOPS_CUDA_SCAN_H_
#define TVMOPS_CUDA_SCAN_H_

#include <cstdint>

#include "cuda/gemm.h"
#include "cuda/kernel.h"
#include "drivers/scan.h"

namespace tvmops::cuda {

struct ScanKernel : Kernel {
  static constexpr const char* kDriver = "cuda_scan";

  explicit ScanKernel(const runtime::Kernel& kernel);  // throws runtime::Error naming a leaf that is missing

  Launcher launcher;

  int specificity() const { return 0; }
};

// Null if the kernel can take the problem, whose target may still lack its memory; else why not.
const char* refusal(const ScanKernel& kernel, const drivers::ScanProblem& problem);

struct ScanSizes {
  int64_t list[4];
  explicit ScanSizes(const drivers::ScanProblem& problem);
};

// Of the gradient, `factor` are the products and `divisor` is what was multiplied; zeros in it do no harm.
Outcome scan(const ScanKernel& kernel, const drivers::ScanProblem& problem, const ScanSizes& sizes, const Place& place);

}  // namespace tvmops::cuda

#endif  // TVMOPS_CUDA_SCAN_H_
