// The matmul family and linear under the CUDA key.
#include <ATen/MemoryOverlap.h>
#include <ATen/TensorUtils.h>
#include <torch/library.h>

#include <array>

#include "ops/activation.h"
#include "ops/common.h"
#include "ops/gpu.h"
#include "ops/gpu_gemm.h"
#include "ops/linear.h"

namespace tvmops::ops {

using at::Tensor;

namespace {

// The rows of [..., k] as one matrix, where that takes no copy.
std::optional<Tensor> rows_of(const Tensor& t) {
  if (t.dim() == 2) return t;
  if (t.dim() < 1 || t.layout() != at::kStrided || t.numel() == 0) return std::nullopt;
  const at::DimVector sizes = {t.numel() / t.size(-1), t.size(-1)};
  const auto strides = at::detail::computeStride(t.sizes(), t.strides(), sizes);
  return strides ? std::optional<Tensor>(t.as_strided(sizes, *strides)) : std::nullopt;
}

Tensor linear_gpu(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, OptionalName activation_name,
                  const OptionalTensor& residual, bool) {
  const int activation = activation_index("linear", activation_name);
  const auto aten = [&] { return linear_aten(input, weight, bias, activation, residual); };
  const auto rows = rows_of(input);
  if (!rows || weight.dim() != 2 || input.size(-1) != weight.size(1)) {
    record_aten("linear", {input, weight}, kUnsupported);
    return aten();
  }
  at::DimVector sizes(input.sizes());
  sizes.back() = weight.size(0);
  const bool odd_bias = bias && (bias->dim() != 1 || bias->size(0) != sizes.back());
  if (odd_bias || (residual && residual->sizes() != at::IntArrayRef(sizes))) {
    record_aten("linear", {input, weight}, kUnsupported);
    return aten();
  }
  const Tensor b = weight.t();
  auto y = multiply_on_gpu({"linear", input.sizes(), weight.sizes(), *rows, b, sizes, bias ? &*bias : nullptr,
                            residual ? &*residual : nullptr, activation});
  return y ? *std::move(y) : aten();
}

bool multipliable(const Tensor& a, const Tensor& b, int64_t dims) {
  return a.dim() == dims && b.dim() == dims && a.size(-1) == b.size(-2) && (dims == 2 || a.size(0) == b.size(0));
}

at::DimVector product_sizes(const Tensor& a, const Tensor& b) {
  at::DimVector sizes(a.sizes());
  sizes.back() = b.size(-1);
  return sizes;
}

// Whether a kernel may write to `out`: it is as a kernel's result, and none of what is read.
bool writable(const Tensor& out, at::IntArrayRef sizes, at::TensorList read) {
  if (!is_here(out) || out.layout() != at::kStrided || out.scalar_type() != read[0].scalar_type() ||
      out.sizes() != sizes || !out.is_contiguous() || out.is_conj() || out.is_neg())
    return false;
  for (const Tensor& t : read)
    if (t.layout() != at::kStrided || at::get_overlap_status(out, t) != at::MemOverlapStatus::No) return false;
  return true;
}

// mm and bmm, by their number of dimensions.
template <int64_t dims>
Tensor product(const Tensor& a, const Tensor& b) {
  constexpr const char* op = dims == 2 ? "mm" : "bmm";
  if (multipliable(a, b, dims)) {
    if (auto y = multiply_on_gpu({op, a.sizes(), b.sizes(), a, b, product_sizes(a, b)})) return *std::move(y);
  } else {
    record_aten(op, {a, b}, kUnsupported);
  }
  return dims == 2 ? at::mm(a, b) : at::bmm(a, b);
}

template <int64_t dims>
Tensor& product_out(const Tensor& a, const Tensor& b, Tensor& out) {
  constexpr const char* op = dims == 2 ? "mm" : "bmm";
  if (multipliable(a, b, dims) && writable(out, product_sizes(a, b), {a, b})) {
    if (multiply_on_gpu({op, a.sizes(), b.sizes(), a, b, out.sizes()}, out)) return out;
  } else {
    record_aten(op, {a, b}, kUnsupported);
  }
  return dims == 2 ? at::mm_out(out, a, b) : at::bmm_out(out, a, b);
}

// What is added, as a bias or a residual of the product; nothing if it is neither.
std::optional<GpuProduct> sum_of(const Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta,
                                 const at::Scalar& alpha, at::IntArrayRef sizes) {
  if (!beta.equal(1) || !alpha.equal(1)) return std::nullopt;
  GpuProduct sum = {"addmm", a.sizes(), b.sizes(), a, b, sizes};
  const bool row = self.dim() == 1 && self.size(0) == sizes[1];
  if (!row && self.sizes() != sizes) return std::nullopt;
  (row ? sum.bias : sum.residual) = &self;
  return sum;
}

Tensor addmm_gpu(const Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta,
                 const at::Scalar& alpha) {
  const auto sizes = multipliable(a, b, 2) ? product_sizes(a, b) : at::DimVector();
  const auto sum = sizes.empty() ? std::nullopt : sum_of(self, a, b, beta, alpha, sizes);
  if (sum) {
    if (auto y = multiply_on_gpu(*sum)) return *std::move(y);
  } else {
    record_aten("addmm", {a, b}, kUnsupported);
  }
  return at::addmm(self, a, b, beta, alpha);
}

Tensor& addmm_out_gpu(const Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta,
                      const at::Scalar& alpha, Tensor& out) {
  const auto sizes = multipliable(a, b, 2) ? product_sizes(a, b) : at::DimVector();
  const auto sum =
      sizes.empty() || !writable(out, sizes, {a, b, self}) ? std::nullopt : sum_of(self, a, b, beta, alpha, sizes);
  if (sum) {
    if (multiply_on_gpu(*sum, out)) return out;
  } else {
    record_aten("addmm", {a, b}, kUnsupported);
  }
  return at::addmm_out(out, self, a, b, beta, alpha);
}

constexpr const char* kVectors = "no kernel on a GPU multiplies by a vector";

Tensor mv_gpu(const Tensor& a, const Tensor& v) {
  record_aten("mv", {a, v}, kVectors);
  return at::mv(a, v);
}

Tensor& mv_out_gpu(const Tensor& a, const Tensor& v, Tensor& out) {
  record_aten("mv", {a, v}, kVectors);
  return at::mv_out(out, a, v);
}

}  // namespace

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("linear", on_gpu<&linear_gpu>);
  m.impl("mm", on_gpu<&product<2>>);
  m.impl("mm.out", on_gpu<&product_out<2>>);
  m.impl("bmm", on_gpu<&product<3>>);
  m.impl("bmm.out", on_gpu<&product_out<3>>);
  m.impl("addmm", on_gpu<&addmm_gpu>);
  m.impl("addmm.out", on_gpu<&addmm_out_gpu>);
  m.impl("mv", &mv_gpu);
  m.impl("mv.out", &mv_out_gpu);
}

}  // namespace tvmops::ops
