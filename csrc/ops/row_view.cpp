#include "ops/row_view.h"

#include <algorithm>

#include "ops/common.h"

namespace tvmops::ops {

using at::Tensor;

namespace {

std::optional<RowView> rows_of(const Tensor& t) {
  const int64_t dims = t.dim();
  if (dims == 0 || t.numel() == 0) return std::nullopt;
  RowView view{1, t.size(-1), t.size(-1)};
  if (view.n > 1 && t.stride(-1) != 1) return std::nullopt;
  for (int64_t d = dims - 2; d >= 0; d--) {
    const int64_t size = t.size(d);
    if (size == 1) continue;
    if (view.rows == 1)
      view.stride = t.stride(d);
    else if (t.stride(d) != view.stride * view.rows)
      return std::nullopt;
    view.rows *= size;
  }
  return view;
}

void* data_of(const Tensor& t) { return const_cast<void*>(t.const_data_ptr()); }

}  // namespace

std::optional<RowView> row_view(const Tensor& t) { return is_readable(t) ? rows_of(t) : std::nullopt; }

std::optional<Walk> common_walk(at::ArrayRef<Tensor> tensors) {
  const Tensor& first = tensors[0];
  const auto all = [&](auto holds) { return std::all_of(tensors.begin(), tensors.end(), holds); };
  if (first.numel() == 0 || !all([&](const Tensor& t) {
        return is_readable(t) && t.scalar_type() == first.scalar_type() && t.sizes() == first.sizes();
      }))
    return std::nullopt;
  if (all([](const Tensor& t) { return t.is_contiguous(); })) return Walk{1, first.numel(), true};
  if (all([](const Tensor& t) { return rows_of(t).has_value(); })) {
    const RowView view = *rows_of(first);
    return Walk{view.rows, view.n, true};
  }
  if (first.is_non_overlapping_and_dense() && all([&](const Tensor& t) { return t.strides() == first.strides(); }))
    return Walk{1, first.numel(), false};
  return std::nullopt;
}

Tensor Walk::new_result(const Tensor& like) const {
  if (rowwise) return ops::new_result(like.sizes(), like.scalar_type());
  return new_strided_result(like);
}

void Walk::set(drivers::RowsProblem& problem, int i, const Tensor& t) const {
  problem.operand[i] = {data_of(t), rows > 1 ? rows_of(t)->stride : n};
}

drivers::RowsProblem Walk::problem() const {
  drivers::RowsProblem problem;
  problem.outer = rows;
  problem.n = n;
  return problem;
}

Tensor as_readable_gradient(const Tensor& g, const Tensor& saved) {
  if (g.sizes() != saved.sizes() || g.is_non_overlapping_and_dense() || row_view(g)) return g;
  if (!saved.is_non_overlapping_and_dense()) return g.contiguous();
  return at::empty_strided(saved.sizes(), saved.strides(), g.options()).copy_(g);
}

}  // namespace tvmops::ops
