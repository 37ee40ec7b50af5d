#include "ops/normalization.h"

#include <ATen/OpMathType.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "ops/common.h"
#include "ops/rows_choice.h"
#include "ops/weights.h"
#include "runtime/scratch.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RowsProblem;

namespace {

// By residual and rms.
const OpKey kForward[2][2] = {{OpKey("layer_norm"), OpKey("rms_norm")},
                              {OpKey("add_layer_norm"), OpKey("add_rms_norm")}};
const OpKey kBackward[2][2] = {{OpKey("layer_norm_backward"), OpKey("rms_norm_backward")},
                               {OpKey("add_layer_norm_backward"), OpKey("add_rms_norm_backward")}};

constexpr int kScratchVectors = 7;  // not one of the drivers'

bool has(const OptionalTensor& t) { return t && t->defined(); }
Tensor value_or_undefined(const OptionalTensor& t) { return has(t) ? *t : Tensor(); }

// A tensor as rows of n elements, its last `dims` dimensions.
struct Rows {
  Tensor tensor;  // keeps a copy
  int64_t stride;

  void* data() const { return const_cast<void*>(tensor.const_data_ptr()); }
  RowsProblem::Data operand() const { return {data(), stride}; }
};

// From row to row, or -1: the rows are not contiguous or not evenly apart.
int64_t row_stride(const Tensor& t, int64_t dims) {
  int64_t n = 1, rows = 1;
  int64_t d = t.dim() - 1;
  for (; d >= t.dim() - dims; d--) {
    if (t.size(d) != 1 && t.stride(d) != n) return -1;
    n *= t.size(d);
  }
  int64_t stride = n;
  for (; d >= 0; d--) {
    if (t.size(d) == 1) continue;
    if (rows == 1)
      stride = t.stride(d);
    else if (t.stride(d) != stride * rows)
      return -1;
    rows *= t.size(d);
  }
  return stride;
}

Rows as_rows(const Tensor& t, int64_t dims, int64_t n) {
  if (t.is_contiguous()) return {t, n};
  const int64_t stride = row_stride(t, dims);
  return stride >= 0 || gpu() ? Rows{t, stride} : Rows{t.contiguous(), n};  // a GPU leaves those to ATen
}

// Whether weights are as the kernels and ATen take them: of the rows' dtype, or all of float32.
bool weights_fit(at::ArrayRef<std::reference_wrapper<const OptionalTensor>> weights, at::IntArrayRef shape,
                 at::ScalarType rows) {
  const Tensor* first = nullptr;
  for (const OptionalTensor& w : weights) {
    if (!has(w)) continue;
    if (!is_readable(*w) || w->sizes() != shape || !goes_with(*w, rows)) return false;
    if (first && first->scalar_type() != w->scalar_type()) return false;
    first = &*w;
  }
  return true;
}

bool covers(const NormCall& c, at::IntArrayRef shape) {
  const Tensor& x = c.input;
  if (!is_readable(x) || x.numel() == 0 || shape.empty() || x.dim() < static_cast<int64_t>(shape.size()) ||
      x.sizes().slice(x.dim() - shape.size()) != shape)
    return false;
  if (has(c.residual)) {
    const Tensor& r = *c.residual;
    if (!is_readable(r) || r.scalar_type() != x.scalar_type() || r.sizes() != x.sizes()) return false;
  }
  return weights_fit({c.weight, c.bias}, shape, x.scalar_type());
}

// [..., 1, ...]: one for each row.
Tensor new_statistic(const Tensor& x, int64_t dims, at::ScalarType dtype) {
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  std::fill(sizes.end() - dims, sizes.end(), 1);
  return new_result(sizes, dtype);
}

float* floats(const Tensor& t) { return t.mutable_data_ptr<float>(); }

}  // namespace

double eps_or_default(std::optional<double> eps, at::ScalarType dtype) {
  if (eps) return *eps;
  return dtype == at::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
}

Normalised normalise_cpu(const NormCall& c, at::IntArrayRef shape, bool statistics) {
  const Tensor& x = c.input;
  const OpKey& key = kForward[has(c.residual)][c.rms];
  const auto aten = [&] { return normalise_aten(c, c10::fromIntArrayRefSlow(shape), statistics); };
  if (!covers(c, shape)) {
    record_aten(key.name(), {x, value_or_undefined(c.residual)}, kUnsupported);
    return aten();
  }
  const int64_t n = c10::multiply_integers(shape), rows = x.numel() / n, dims = shape.size();
  const RowsChoice choice = choose_rows(key, storage_of(x.scalar_type()), rows, n, 1);
  if (!choice) {
    record(key, x, choice);
    return aten();
  }

  Normalised out;
  out.result = new_result(x.sizes(), x.scalar_type());
  if (has(c.residual)) out.sum = new_result(x.sizes(), x.scalar_type());
  float* room[4] = {};  // for weight, bias, mean, rstd; in a GpuScope all of them are tensors
  if (!gpu()) {
    room[0] = runtime::scratch<float>(kScratchVectors, static_cast<size_t>(2 * (n + rows)));
    room[1] = room[0] + n, room[2] = room[1] + n, room[3] = room[2] + rows;
  }
  float *mean = room[2], *rstd = room[3];
  if (statistics || gpu()) {
    out.rstd = new_statistic(x, dims, at::kFloat), rstd = floats(out.rstd);
    if (!c.rms) out.mean = new_statistic(x, dims, at::kFloat), mean = floats(out.mean);
  }

  RowsProblem problem;
  problem.outer = rows, problem.n = n;
  problem.param[0] = static_cast<float>(eps_or_default(c.eps, x.scalar_type()));
  Tensor kept[2];
  const Rows input = as_rows(x, dims, n);
  const Rows residual = has(c.residual) ? as_rows(*c.residual, dims, n) : Rows{};
  int i = 0;
  problem.operand[i++] = input.operand();
  if (has(c.residual)) problem.operand[i++] = residual.operand();
  problem.operand[i++].data = as_float32(c.weight, n, 1, room[0], kept[0]);
  if (!c.rms) problem.operand[i++].data = as_float32(c.bias, n, 0, room[1], kept[1]);
  problem.operand[i++] = {out.result.mutable_data_ptr(), n};
  if (has(c.residual)) problem.operand[i++] = {out.sum.mutable_data_ptr(), n};
  if (!c.rms) problem.operand[i++].data = mean;
  problem.operand[i++].data = rstd;
  if (!run_rows(key, x, problem)) return aten();
  if (!statistics) out.mean = out.rstd = Tensor();
  return out;
}

Normalised normalise_aten(const NormCall& c, at::SymIntArrayRef shape, bool statistics) {
  Normalised out;
  const Tensor x = has(c.residual) ? c.input + *c.residual : c.input;
  if (has(c.residual)) out.sum = x;
  const auto type = at::toOpMathType(x.scalar_type());
  if (!c.rms && statistics) {
    std::tie(out.result, out.mean, out.rstd) = at::native_layer_norm_symint(x, shape, c.weight, c.bias, *c.eps);
    out.mean = out.mean.to(type), out.rstd = out.rstd.to(type);
  } else if (!c.rms) {
    out.result = at::layer_norm_symint(x, shape, c.weight, c.bias, *c.eps);
  } else {
    out.result = at::rms_norm_symint(x, shape, c.weight, c.eps);
    if (statistics) {
      std::vector<int64_t> last;
      for (int64_t d = 1; d <= static_cast<int64_t>(shape.size()); d++) last.push_back(-d);
      out.rstd = x.to(type).square().mean(last, true).add(eps_or_default(c.eps, x.scalar_type())).rsqrt();
    }
  }
  return out;
}

NormGradients norm_backward_cpu(const NormBackward& c) {
  const Tensor& x = c.input;
  const OpKey& key = kBackward[has(c.grad_sum)][c.rms];
  const int64_t dims = c.dims;
  const auto shape = x.sizes().slice(x.dim() - dims);
  const auto like_x = [&](const Tensor& t) {
    return is_readable(t) && t.scalar_type() == x.scalar_type() && t.sizes() == x.sizes();
  };
  const bool covered = like_x(x) && x.numel() > 0 && like_x(c.grad) && (!has(c.grad_sum) || like_x(*c.grad_sum)) &&
                       weights_fit({c.weight, c.bias}, shape, x.scalar_type()) && c.rstd.scalar_type() == at::kFloat;
  if (!covered) {
    record_aten(key.name(), {c.grad, x}, kUnsupported);
    return norm_backward_aten(c);
  }
  const int64_t n = c10::multiply_integers(shape), rows = x.numel() / n;
  const RowsChoice choice = choose_rows(key, storage_of(x.scalar_type()), rows, n, 1);
  if (!choice) {
    record(key, x, choice);
    return norm_backward_aten(c);
  }

  NormGradients out;
  out.input = new_result(x.sizes(), x.scalar_type());
  // On a GPU, kernels write all gradients.
  if (has(c.weight) || gpu()) out.weight = new_result(shape, at::kFloat);
  if (has(c.bias) || (gpu() && !c.rms)) out.bias = new_result(shape, at::kFloat);

  RowsProblem problem;
  problem.outer = rows, problem.n = n;
  Tensor kept;
  const Rows grad = as_rows(c.grad, dims, n), input = as_rows(x, dims, n);
  const Rows grad_sum = has(c.grad_sum) ? as_rows(*c.grad_sum, dims, n) : Rows{};
  const Tensor mean = c.rms ? Tensor() : c.mean.contiguous(), rstd = c.rstd.contiguous();
  int i = 0;
  problem.operand[i++] = grad.operand();
  if (has(c.grad_sum)) problem.operand[i++] = grad_sum.operand();
  problem.operand[i++] = input.operand();
  if (!c.rms) problem.operand[i++].data = const_cast<void*>(mean.const_data_ptr());
  problem.operand[i++].data = const_cast<void*>(rstd.const_data_ptr());
  float* const room = gpu() ? nullptr : runtime::scratch<float>(kScratchVectors, static_cast<size_t>(n));
  problem.operand[i++].data = as_float32(c.weight, n, 1, room, kept);
  problem.operand[i++] = {out.input.mutable_data_ptr(), n};
  problem.operand[i++].data = out.weight.defined() ? floats(out.weight) : nullptr;
  if (!c.rms) problem.operand[i++].data = out.bias.defined() ? floats(out.bias) : nullptr;
  if (!run_rows(key, x, problem)) return norm_backward_aten(c);
  out.weight = has(c.weight) ? out.weight.to(c.weight->scalar_type()) : Tensor();
  out.bias = has(c.bias) ? out.bias.to(c.bias->scalar_type()) : Tensor();
  return out;
}

NormGradients norm_backward_aten(const NormBackward& c) {
  const Tensor& x = c.input;
  const auto shape = x.sym_sizes().slice(x.dim() - c.dims);
  NormGradients out;
  if (!c.rms) {
    // As native_layer_norm gives them: float32 only next to weights of float32.
    const bool mixed = has(c.weight) ? c.weight->scalar_type() != x.scalar_type()
                                     : has(c.bias) && c.bias->scalar_type() != x.scalar_type();
    const auto type = mixed ? at::kFloat : x.scalar_type();
    std::tie(out.input, out.weight, out.bias) = at::native_layer_norm_backward_symint(
        c.grad, x, shape, c.mean.to(type), c.rstd.to(type), c.weight, c.bias, {true, has(c.weight), has(c.bias)});
  } else {
    const auto type = at::toOpMathType(x.scalar_type());
    std::vector<int64_t> last, first;
    for (int64_t d = 0; d < x.dim(); d++) (d < x.dim() - c.dims ? first : last).push_back(d);
    const Tensor wide = x.to(type), g = c.grad.to(type);
    const Tensor rstd = wide.square().mean(last, true).add(c.eps).rsqrt();
    const Tensor h = wide * rstd, k = has(c.weight) ? g * c.weight->to(type) : g;
    out.input = (rstd * (k - h * (k * h).mean(last, true))).to(x.scalar_type());
    if (has(c.weight)) {
      const Tensor products = g * h;
      out.weight = (first.empty() ? products : products.sum(first)).to(c.weight->scalar_type());
    }
  }
  if (has(c.grad_sum)) out.input = out.input + *c.grad_sum;
  return out;
}

}  // namespace tvmops::ops
