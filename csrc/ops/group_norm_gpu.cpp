// group_norm on a GPU: moments of every group, then every channel scaled and shifted, each by one launch; what differs
// from channel to channel is ATen's, an element or two a channel.
#include "ops/common.h"
#include "ops/group_norm.h"
#include "ops/rows_choice.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RowsProblem;

namespace {

const OpKey &kMoments = kGroupNormMoments, &kApply = kGroupNorm, &kSums = kGroupNormSums,
            &kBackward = kGroupNormBackward;

bool has(const OptionalTensor& t) { return t && t->defined(); }

// A contiguous [N, C, *] as groups of `per` channels of `inner` elements each.
struct Sizes {
  int64_t n, channels, groups, per, inner;
  Sizes(const Tensor& x, int64_t groups)
      : n(x.size(0)),
        channels(x.size(1)),
        groups(groups),
        per(x.size(1) / groups),
        inner(x.numel() / (x.size(0) * x.size(1))) {}

  // A number for each group as one for each channel, [N, groups, per].
  Tensor by_channel(const Tensor& t) const { return t.view({n, groups, 1}).expand({n, groups, per}).contiguous(); }
  // Weights [C] as float32 [1, groups, per].
  Tensor weights(const OptionalTensor& w) const { return w->to(at::kFloat).view({1, groups, per}); }
};

RowsProblem problem_of(int64_t rows, int64_t n, std::initializer_list<Tensor> operands) {
  RowsProblem p;
  p.outer = rows, p.n = n;
  int i = 0;
  for (const Tensor& t : operands) p.operand[i++] = {const_cast<void*>(t.const_data_ptr()), n};
  return p;
}

// Both kernels that a call needs, or neither; recorded under the first key.
struct Both {
  RowsChoice first, second;
  explicit operator bool() const { return first && second; }
};

Both choose(const OpKey& key, const OpKey& other, const Tensor& x, const Sizes& s, bool by_group) {
  const Storage storage = storage_of(x.scalar_type());
  const int64_t rows = s.n * s.channels;
  const Both both{choose_rows(key, storage, rows, s.inner, 1),
                  by_group ? choose_rows(other, storage, s.n * s.groups, s.per * s.inner, 1)
                           : choose_rows(other, storage, rows, s.inner, 1)};
  record(key, x, both.first ? both.second ? both.first : both.second : both.first);
  return both;
}

std::optional<ThreeTensors> by_kernel(const Tensor& x, int64_t groups, const OptionalTensor& weight,
                                      const OptionalTensor& bias, double eps) {
  if (!covers_group_norm(x, groups, weight, bias)) {
    record_aten(kApply.name(), {x}, kUnsupported);
    return std::nullopt;
  }
  const Sizes s(x, groups);
  const Both both = choose(kApply, kMoments, x, s, true);
  if (!both) return std::nullopt;
  const Tensor mean = new_gpu_tensor({s.n, groups}, at::kFloat), rstd = at::empty_like(mean);
  RowsProblem moments = problem_of(s.n * groups, s.per * s.inner, {x, mean, rstd});
  moments.param[0] = static_cast<float>(eps);
  if (!run_chosen(both.second, moments)) return std::nullopt;
  const Tensor means = s.by_channel(mean);
  const Tensor scale = has(weight) ? rstd.unsqueeze(-1) * s.weights(weight) : s.by_channel(rstd);
  const Tensor shift = has(bias) ? s.weights(bias).expand_as(means).contiguous() : at::zeros_like(means);
  const Tensor y = new_result(x.sizes(), x.scalar_type());
  if (!run_chosen(both.first, problem_of(s.n * s.channels, s.inner, {x, means, scale, shift, y}))) return std::nullopt;
  return ThreeTensors{y, mean, rstd};
}

std::optional<ThreeTensors> gradients_by_kernel(const Tensor& grad, const Tensor& x, const Tensor& mean,
                                                const Tensor& rstd, int64_t groups, const OptionalTensor& weight,
                                                const OptionalTensor& bias) {
  const auto is_statistic = [&](const Tensor& t) {
    return t.scalar_type() == at::kFloat && is_here(t) && t.numel() == x.size(0) * groups;
  };
  if (!covers_group_norm(x, groups, weight, bias) || !is_readable(grad) || grad.sizes() != x.sizes() ||
      grad.scalar_type() != x.scalar_type() || !is_statistic(mean) || !is_statistic(rstd)) {
    record_aten(kBackward.name(), {grad, x}, kUnsupported);
    return std::nullopt;
  }
  const Sizes s(x, groups);
  const Both both = choose(kBackward, kSums, x, s, false);
  if (!both) return std::nullopt;
  const int64_t rows = s.n * s.channels;
  const Tensor g = grad.contiguous(), means = s.by_channel(mean.contiguous()), r = rstd.reshape({s.n, groups, 1});
  // By channel of every example: the sum of the gradient, and of its products with x - mean.
  const Tensor total = at::empty_like(means), product = at::empty_like(means);
  if (!run_chosen(both.second, problem_of(rows, s.inner, {g, x, means, total, product}))) return std::nullopt;
  const auto of_group = [&](const Tensor& t) {
    return (has(weight) ? t * s.weights(weight) : t).sum(2, true) / static_cast<double>(s.per * s.inner);
  };
  const Tensor a = has(weight) ? r * s.weights(weight) : s.by_channel(rstd.contiguous());
  const Tensor b = s.by_channel(r.pow(3) * of_group(product) * -1), c = s.by_channel(r * of_group(total) * -1);
  const Tensor dx = new_result(x.sizes(), x.scalar_type());
  if (!run_chosen(both.first, problem_of(rows, s.inner, {g, x, means, a, b, c, dx}))) return std::nullopt;
  const auto gradient = [&](const OptionalTensor& w, const Tensor& sums) {
    return has(w) ? sums.sum(0).view({s.channels}).to(w->scalar_type()) : at::empty({0}, x.options());
  };
  return ThreeTensors{dx, gradient(weight, has(weight) ? product * r : product), gradient(bias, total)};
}

// One kernel of ATen's, of statistics in the dtype of x, where it has one.
ThreeTensors backward_aten(const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& rstd, int64_t groups,
                           const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  const auto type = x.scalar_type();
  const auto is_alike = [&](const OptionalTensor& w) { return !has(w) || w->scalar_type() == type; };
  if (x.dim() < 2 || x.numel() == 0 || grad.scalar_type() != type || !is_alike(weight) || !is_alike(bias))
    return group_norm_backward_aten(grad, x, mean, rstd, groups, weight, bias, eps);
  const int64_t n = x.size(0), c = x.size(1);
  auto [dx, dweight, dbias] =
      at::native_group_norm_backward(grad.contiguous(), x.contiguous(), mean.to(type), rstd.to(type), weight, n, c,
                                     x.numel() / (n * c), groups, {true, has(weight), has(bias)});
  const auto or_empty = [&](const Tensor& t) { return t.defined() ? t : at::empty({0}, x.options()); };
  return {dx, or_empty(dweight), or_empty(dbias)};
}

Tensor forward(const Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  if (const auto out = by_kernel(x, groups, weight, bias, eps)) return std::get<0>(*out);
  return at::group_norm(x, groups, weight, bias, eps);
}

ThreeTensors forward_with_statistics(const Tensor& x, int64_t groups, const OptionalTensor& weight,
                                     const OptionalTensor& bias, double eps) {
  if (auto out = by_kernel(x, groups, weight, bias, eps)) return *std::move(out);
  return group_norm_forward_aten(x, groups, weight, bias, eps);
}

ThreeTensors backward(const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& rstd, int64_t groups,
                      const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  if (auto out = gradients_by_kernel(grad, x, mean, rstd, groups, weight, bias)) return *std::move(out);
  return backward_aten(grad, x, mean, rstd, groups, weight, bias, eps);
}

}  // namespace

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("group_norm", on_gpu<&forward>);
  m.impl("group_norm_forward", on_gpu<&forward_with_statistics>);
  m.impl("group_norm_backward", on_gpu<&backward>);
}

}  // namespace tvmops::ops
