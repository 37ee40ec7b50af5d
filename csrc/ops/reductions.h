// Sum, mean, amax, amin, var, argmax, argmin along any dimensions.
#ifndef TVMOPS_OPS_REDUCTIONS_H_
#define TVMOPS_OPS_REDUCTIONS_H_

#include <ATen/ATen.h>

namespace tvmops::ops {

enum class Reduction : int { kSum, kMean, kAmax, kAmin, kVar, kArgmax, kArgmin };
inline constexpr const char* kReductionNames[] = {"sum", "mean", "amax", "amin", "var", "argmax", "argmin"};
inline constexpr int kReductions = 7;

constexpr bool is_index(Reduction op) { return op == Reduction::kArgmax || op == Reduction::kArgmin; }

// Under the CPU key, by a kernel or ATen. An index is along at most one dimension. `correction` is var's.
at::Tensor reduction_cpu(Reduction op, const at::Tensor& x, at::OptionalIntArrayRef dim, bool keepdim,
                         const at::Scalar& correction);

// By ATen, on any device.
at::Tensor reduction_aten(Reduction op, const at::Tensor& x, at::OptionalIntArrayRef dim, bool keepdim,
                          const at::Scalar& correction);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_REDUCTIONS_H_
