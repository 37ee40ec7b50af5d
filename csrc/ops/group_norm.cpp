// group_norm: moments of every group, then every channel scaled and shifted. Groups go through both while they are in
// the cache.
#include "ops/group_norm.h"

#include <ATen/OpMathType.h>

#include <algorithm>

#include "ops/common.h"
#include "ops/rows_choice.h"
#include "ops/weights.h"
#include "runtime/scratch.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RowsProblem;

const OpKey kGroupNormMoments("group_norm_moments"), kGroupNorm("group_norm"), kGroupNormSums("group_norm_sums"),
    kGroupNormBackward("group_norm_backward");

namespace {

const OpKey &kMoments = kGroupNormMoments, &kApply = kGroupNorm, &kSums = kGroupNormSums,
            &kBackward = kGroupNormBackward;

constexpr int kScratchChannels = 6, kScratchVectors = 7;  // not the drivers'
constexpr int64_t kBlockBytes = 256 << 10;                // of the groups that are worked on together

bool has(const OptionalTensor& t) { return t && t->defined(); }

// A contiguous [N, C, *] as groups of `per` channels of `inner` elements each.
struct Groups {
  int64_t count, per, inner, channels;
  int64_t element;  // bytes
  int64_t n() const { return per * inner; }

  Groups(const Tensor& x, int64_t groups)
      : count(x.size(0) * groups),
        per(x.size(1) / groups),
        inner(x.numel() / (x.size(0) * x.size(1))),
        channels(x.size(1)),
        element(static_cast<int64_t>(x.element_size())) {}

  // Blocks of groups, in parallel if that pays. The bounds depend on sizes alone.
  template <class Body>
  void for_blocks(Body&& body) const {
    const int64_t some = std::clamp<int64_t>(kBlockBytes / (n() * element), 1, count);
    const int64_t blocks = (count + some - 1) / some;
    const auto range = [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; b++) body(b * some, std::min(count, (b + 1) * some));
    };
    if (blocks == 1 || kAtenParallel.threads() == 1) return range(0, blocks);
    kAtenParallel.run(
        blocks,
        [](void* context, int64_t begin, int64_t end) { (*static_cast<decltype(range)*>(context))(begin, end); },
        const_cast<void*>(static_cast<const void*>(&range)));
  }

  // Where group g begins, in a tensor of the shape of x.
  RowsProblem::Data at(const Tensor& x, int64_t g, int64_t row) const {
    return {static_cast<char*>(const_cast<void*>(x.const_data_ptr())) + g * n() * element, row};
  }
};

RowsProblem problem_of(int64_t rows, int64_t n, std::initializer_list<RowsProblem::Data> operands) {
  RowsProblem problem;
  problem.outer = rows, problem.n = n;
  std::copy(operands.begin(), operands.end(), problem.operand);
  return problem;
}

RowsProblem::Data scalar(const float* data) { return {const_cast<float*>(data), 0}; }

const float* weights(const OptionalTensor& w, int64_t channels, float missing, int64_t which, Tensor& kept) {
  float* const room = runtime::scratch<float>(kScratchVectors, static_cast<size_t>(2 * channels));
  return as_float32(w, channels, missing, room + which * channels, kept);
}

// Both kernels that a call needs, or why ATen does it; recorded under the first key.
struct Choice2 {
  RowsChoice first, second;
  explicit operator bool() const { return first && second; }
};

Choice2 choose(const OpKey& key, const OpKey& other, const Tensor& x, const Groups& g) {
  const Storage storage = storage_of(x.scalar_type());
  const int64_t rows = g.count * g.per;
  Choice2 choice{choose_rows(key, storage, rows, g.inner, 1), &other == &kMoments
                                                                  ? choose_rows(other, storage, g.count, g.n(), 1)
                                                                  : choose_rows(other, storage, rows, g.inner, 1)};
  if (g.n() >= (1 << 30)) choice.first = {nullptr, kUnsupported};
  record(key, x, choice.first ? choice.second ? choice.first : choice.second : choice.first);
  return choice;
}

Tensor statistics(const Tensor& x, int64_t groups, at::ScalarType dtype) {
  return at::empty({x.size(0), groups}, x.options().dtype(dtype));
}

}  // namespace

bool covers_group_norm(const Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias) {
  if (!is_readable(x) || x.dim() < 2 || x.numel() == 0 || !x.is_contiguous() || groups <= 0 || x.size(1) % groups != 0)
    return false;
  const auto fits = [&](const OptionalTensor& w) {
    return !has(w) || (is_readable(*w) && w->dim() == 1 && w->size(0) == x.size(1) && goes_with(*w, x.scalar_type()));
  };
  return fits(weight) && fits(bias) && (!has(weight) || !has(bias) || weight->scalar_type() == bias->scalar_type());
}

std::optional<ThreeTensors> group_norm_kernel(const Tensor& x, int64_t groups, const OptionalTensor& weight,
                                              const OptionalTensor& bias, double eps) {
  if (!covers_group_norm(x, groups, weight, bias)) {
    record_aten(kApply.name(), {x}, kUnsupported);
    return std::nullopt;
  }
  const Groups g(x, groups);
  const Choice2 choice = choose(kApply, kMoments, x, g);
  if (!choice) return std::nullopt;
  const Tensor y = new_result(x.sizes(), x.scalar_type());
  const Tensor mean = statistics(x, groups, at::kFloat), rstd = statistics(x, groups, at::kFloat);
  Tensor kept[2];
  const float* const w = weights(weight, g.channels, 1, 0, kept[0]);
  const float* const b = weights(bias, g.channels, 0, 1, kept[1]);
  float *const means = mean.mutable_data_ptr<float>(), *const rstds = rstd.mutable_data_ptr<float>();
  g.for_blocks([&](int64_t begin, int64_t end) {
    RowsProblem moments =
        problem_of(end - begin, g.n(), {g.at(x, begin, g.n()), scalar(means + begin), scalar(rstds + begin)});
    moments.param[0] = static_cast<float>(eps);
    drivers::rows(*choice.second.kernel, moments, kAtenParallel);
    const int64_t rows = (end - begin) * g.per;
    float* const row_mean = runtime::scratch<float>(kScratchChannels, static_cast<size_t>(3 * rows));
    float *const scale = row_mean + rows, *const shift = scale + rows;
    for (int64_t i = 0; i < rows; i++) {
      const int64_t group = begin + i / g.per, channel = (begin * g.per + i) % g.channels;
      row_mean[i] = means[group], scale[i] = rstds[group] * w[channel], shift[i] = b[channel];
    }
    drivers::rows(
        *choice.first.kernel,
        problem_of(rows, g.inner,
                   {g.at(x, begin, g.inner), scalar(row_mean), scalar(scale), scalar(shift), g.at(y, begin, g.inner)}),
        kAtenParallel);
  });
  return ThreeTensors{y, mean, rstd};
}

ThreeTensors group_norm_backward_aten(const Tensor& grad, const Tensor& x, const Tensor&, const Tensor&, int64_t groups,
                                      const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  const auto type = at::toOpMathType(x.scalar_type());
  const auto n = x.sym_size(0), c = x.sym_size(1);
  const auto grouped = [&](const Tensor& t) { return t.reshape_symint({n, groups, -1}); };
  const auto by_channel = [&](const Tensor& t) { return t.reshape_symint({n, c, -1}).sum(at::IntArrayRef{0, 2}); };
  const Tensor g = grad.to(type), wide = grouped(x.to(type));
  const Tensor d = wide - wide.mean(-1, true);
  const Tensor rstd = d.square().mean(-1, true).add(eps).rsqrt(), h = d * rstd;
  const Tensor k = grouped(has(weight) ? g.reshape_symint({n, c, -1}) * weight->to(type).reshape({1, -1, 1}) : g);
  const Tensor dx = rstd * (k - k.mean(-1, true) - h * (k * h).mean(-1, true));
  const auto empty = at::empty({0}, x.options());
  return {dx.reshape_symint(x.sym_sizes()).to(x.scalar_type()),
          has(weight) ? by_channel(grouped(g) * h).to(weight->scalar_type()) : empty,
          has(bias) ? by_channel(g).to(bias->scalar_type()) : empty};
}

ThreeTensors group_norm_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                                     int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias,
                                     double eps) {
  const bool covered = covers_group_norm(x, groups, weight, bias) && is_readable(grad) && grad.sizes() == x.sizes() &&
                       grad.scalar_type() == x.scalar_type() && mean.scalar_type() == at::kFloat;
  if (!covered) {
    record_aten(kBackward.name(), {grad, x}, kUnsupported);
    return group_norm_backward_aten(grad, x, mean, rstd, groups, weight, bias, eps);
  }
  const Groups g(x, groups);
  const Choice2 choice = choose(kBackward, kSums, x, g);
  if (!choice) return group_norm_backward_aten(grad, x, mean, rstd, groups, weight, bias, eps);
  const Tensor dense = grad.contiguous(), means_kept = mean.contiguous(), rstds_kept = rstd.contiguous();
  const float *const means = means_kept.const_data_ptr<float>(), *const rstds = rstds_kept.const_data_ptr<float>();
  const Tensor dx = new_result(x.sizes(), x.scalar_type());
  // By channel of every example: the sum of the gradient, and of its products with x - mean.
  const Tensor sums = at::empty({2, x.size(0), g.channels}, x.options().dtype(at::kFloat));
  float *const totals = sums.mutable_data_ptr<float>(), *const products = totals + x.size(0) * g.channels;
  Tensor kept;
  const float* const w = weights(weight, g.channels, 1, 0, kept);
  g.for_blocks([&](int64_t begin, int64_t end) {
    const int64_t first = begin * g.per, rows = (end - begin) * g.per;
    float* const row_mean = runtime::scratch<float>(kScratchChannels, static_cast<size_t>(4 * rows));
    float *const a = row_mean + rows, *const b = a + rows, *const c = b + rows;
    for (int64_t i = 0; i < rows; i++) row_mean[i] = means[begin + i / g.per];
    const auto grads = g.at(dense, begin, g.inner), inputs = g.at(x, begin, g.inner);
    drivers::rows(
        *choice.second.kernel,
        problem_of(rows, g.inner, {grads, inputs, scalar(row_mean), scalar(totals + first), scalar(products + first)}),
        kAtenParallel);
    for (int64_t group = begin; group < end; group++) {
      const int64_t channel = group * g.per % g.channels, at = group * g.per;
      float total = 0, product = 0;
      for (int64_t i = 0; i < g.per; i++) {
        total += w[channel + i] * totals[at + i];
        product += w[channel + i] * products[at + i];
      }
      const float r = rstds[group], share = r / static_cast<float>(g.n());
      for (int64_t i = 0; i < g.per; i++) {
        a[at - first + i] = r * w[channel + i];
        b[at - first + i] = -(r * r) * product * share;
        c[at - first + i] = -total * share;
      }
    }
    drivers::rows(
        *choice.first.kernel,
        problem_of(rows, g.inner,
                   {grads, inputs, scalar(row_mean), scalar(a), scalar(b), scalar(c), g.at(dx, begin, g.inner)}),
        kAtenParallel);
  });
  const auto empty = [&] { return at::empty({0}, x.options()); };
  Tensor dweight, dbias;
  if (has(weight)) {
    const Tensor by_group = sums[1].reshape({x.size(0), groups, g.per}) * rstds_kept.unsqueeze(-1);
    dweight = by_group.reshape({x.size(0), g.channels}).sum(0).to(weight->scalar_type());
  }
  if (has(bias)) dbias = sums[0].sum(0).to(bias->scalar_type());
  return {dx, has(weight) ? dweight : empty(), has(bias) ? dbias : empty()};
}

// The parts on their own, rows of a matrix: what the tuner checks and times.
namespace {

Tensor row_scalar(const Tensor& x) { return at::empty({x.size(0)}, x.options().dtype(at::kFloat)); }
float* floats(const Tensor& t) { return t.mutable_data_ptr<float>(); }
RowsProblem::Data rows_of(const Tensor& t) { return {const_cast<void*>(t.const_data_ptr()), t.size(1)}; }
RowsProblem::Data scalar(const Tensor& t) { return scalar(t.const_data_ptr<float>()); }

void run(const OpKey& key, const Tensor& x, std::initializer_list<RowsProblem::Data> operands, double param = 0) {
  RowsProblem problem = problem_of(x.size(0), x.size(1), operands);
  problem.param[0] = static_cast<float>(param);
  TORCH_CHECK(run_rows(key, x, problem), "no kernel of ", key.name());
}

std::tuple<Tensor, Tensor> moments_rows(const Tensor& x, double eps) {
  const Tensor mean = row_scalar(x), rstd = row_scalar(x);
  run(kMoments, x, {rows_of(x), scalar(floats(mean)), scalar(floats(rstd))}, eps);
  return {mean, rstd};
}

Tensor apply_rows(const Tensor& x, const Tensor& mean, const Tensor& scale, const Tensor& shift) {
  const Tensor y = new_result(x.sizes(), x.scalar_type());
  run(kApply, x, {rows_of(x), scalar(mean), scalar(scale), scalar(shift), rows_of(y)});
  return y;
}

std::tuple<Tensor, Tensor> sums_rows(const Tensor& g, const Tensor& x, const Tensor& mean) {
  const Tensor total = row_scalar(x), product = row_scalar(x);
  run(kSums, x, {rows_of(g), rows_of(x), scalar(mean), scalar(floats(total)), scalar(floats(product))});
  return {total, product};
}

Tensor backward_rows(const Tensor& g, const Tensor& x, const Tensor& mean, const Tensor& a, const Tensor& b,
                     const Tensor& c) {
  const Tensor dx = new_result(x.sizes(), x.scalar_type());
  run(kBackward, x, {rows_of(g), rows_of(x), scalar(mean), scalar(a), scalar(b), scalar(c), rows_of(dx)});
  return dx;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  m.def("group_norm_moments_rows(Tensor x, float eps) -> (Tensor, Tensor)");
  m.def("group_norm_rows(Tensor x, Tensor mean, Tensor scale, Tensor shift) -> Tensor");
  m.def("group_norm_sums_rows(Tensor g, Tensor x, Tensor mean) -> (Tensor, Tensor)");
  m.def("group_norm_backward_rows(Tensor g, Tensor x, Tensor mean, Tensor a, Tensor b, Tensor c) -> Tensor");
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("group_norm_moments_rows", &moments_rows);
  m.impl("group_norm_rows", &apply_rows);
  m.impl("group_norm_sums_rows", &sums_rows);
  m.impl("group_norm_backward_rows", &backward_rows);
}

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("group_norm_moments_rows", on_gpu<&moments_rows>);
  m.impl("group_norm_rows", on_gpu<&apply_rows>);
  m.impl("group_norm_sums_rows", on_gpu<&sums_rows>);
  m.impl("group_norm_backward_rows", on_gpu<&backward_rows>);
}

}  // namespace tvmops::ops
