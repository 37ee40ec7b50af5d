// The weights of row programs: vectors of float32, whatever the rows are.
#ifndef TVMOPS_OPS_WEIGHTS_H_
#define TVMOPS_OPS_WEIGHTS_H_

#include <ATen/ATen.h>

#include <optional>

namespace tvmops::ops {

// Whether weights of this dtype go with rows of `rows`: the same dtype, or float32.
inline bool goes_with(const at::Tensor& weight, at::ScalarType rows) {
  return weight.scalar_type() == rows || weight.scalar_type() == at::kFloat;
}

// n weights as float32: their own memory, if they are that already, else written to `room`; `missing` where there are
// none. The tensor is dense float32, bfloat16 or float16; one that is not contiguous is copied to `kept`. In a GpuScope
// `kept` holds whatever is not the weights themselves.
float* as_float32(const std::optional<at::Tensor>& weight, int64_t n, float missing, float* room, at::Tensor& kept);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_WEIGHTS_H_
