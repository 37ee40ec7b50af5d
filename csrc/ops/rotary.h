// Rotary position embedding (Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021).
#ifndef TVMOPS_OPS_ROTARY_H_
#define TVMOPS_OPS_ROTARY_H_

#include <ATen/ATen.h>

#include "runtime/abi.h"

namespace tvmops::ops {

// Under the CPU key, or in a GpuScope, by a kernel or ATen. input [..., D], whose dimension `seq_dim` has the
// positions; cos and sin [positions, at most D / 2], or the same for each element of the first dimension.
at::Tensor rotary_embedding_cpu(const at::Tensor& input, const at::Tensor& cos, const at::Tensor& sin, bool interleaved,
                                int64_t seq_dim, bool inverse);

bool rotary_serves(const tvmops_kernel* kernel);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_ROTARY_H_
