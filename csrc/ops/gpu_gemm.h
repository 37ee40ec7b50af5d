// Matrix products on a GPU: which kernel serves a call, or why ATen does.
#ifndef TVMOPS_OPS_GPU_GEMM_H_
#define TVMOPS_OPS_GPU_GEMM_H_

#include <ATen/ATen.h>

#include <optional>

#include "runtime/abi.h"

namespace tvmops::ops {

// activation(a @ b + bias) + residual of matrices [m, k] and [k, n], or as many of both.
struct GpuProduct {
  const char* op;
  at::IntArrayRef left, right;  // the operands as the caller has them, for tvmops.explain
  const at::Tensor &a, &b;
  at::IntArrayRef sizes;                 // of the result
  const at::Tensor* bias = nullptr;      // [n]
  const at::Tensor* residual = nullptr;  // of the result's size
  int activation = 0;
};

// Within a GpuScope: the product by a kernel if one applies and wins, which is recorded; else nothing.
std::optional<at::Tensor> multiply_on_gpu(const GpuProduct& product);
// The same into a tensor of the result's size and dtype, no memory of which is read.
bool multiply_on_gpu(const GpuProduct& product, at::Tensor& out);

bool gpu_gemm_serves(const tvmops_kernel* kernel);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_GPU_GEMM_H_
