// Weights in a kernel's own layout, kept as long as the weights they were made from and remade when those change.
#ifndef TVMOPS_OPS_PACKED_WEIGHTS_H_
#define TVMOPS_OPS_PACKED_WEIGHTS_H_

#include <ATen/ATen.h>

#include <memory>

#include "drivers/gemm.h"
#include "runtime/scratch.h"

namespace tvmops::ops {

struct PackedWeight {
  runtime::AlignedBuffer data;
};

// While one lives, the calling thread computes with weights that learn. (Within an autograd function torch turns the
// mode that says so off.)
class LearningGuard {
 public:
  explicit LearningGuard(bool learns);
  LearningGuard(const LearningGuard&) = delete;
  LearningGuard& operator=(const LearningGuard&) = delete;
  ~LearningGuard();

 private:
  bool before_;
};

// `weight` [N, K] packed for `kernel`, or null where packing would not pay: a weight that still learns is packed only
// when it is seen a second time unchanged. The cache is keyed by the memory of the weight and checked against its
// version counter, so that it notices every change that torch itself notices.
std::shared_ptr<const PackedWeight> packed_weight(const at::Tensor& weight, const drivers::GemmKernel& kernel);

// Drops the packed copies of weights that are gone, or all of them. Returns the bytes that remain.
int64_t release_packed_weights(bool all);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_PACKED_WEIGHTS_H_
