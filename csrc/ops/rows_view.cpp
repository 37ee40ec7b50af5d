#include "ops/rows_view.h"

#include <array>

#include "ops/common.h"
#include "ops/rows_choice.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RowsProblem;

namespace {

// The stride of rows along the last dimension, if they are contiguous and lie evenly.
std::optional<int64_t> row_stride(const Tensor& t) {
  const auto sizes = t.sizes(), strides = t.strides();
  const int64_t last = t.dim() - 1;
  if (sizes[last] > 1 && strides[last] != 1) return std::nullopt;
  int64_t stride = sizes[last], expected = -1;
  for (int64_t d = last - 1; d >= 0; d--) {
    if (sizes[d] == 1) continue;
    if (expected < 0)
      stride = strides[d];
    else if (strides[d] != expected)
      return std::nullopt;
    expected = strides[d] * sizes[d];
  }
  return stride;
}

}  // namespace

RowsProblem rows_problem(at::IntArrayRef sizes, int64_t dim) {
  RowsProblem problem;
  for (int64_t d = 0; d < dim; d++) problem.outer *= sizes[d];
  problem.n = sizes[dim];
  for (size_t d = dim + 1; d < sizes.size(); d++) problem.inner *= sizes[d];
  return problem;
}

Tensor row_operand(const Tensor& t, const RowsProblem& problem, RowsProblem::Data& data) {
  Tensor held = t;
  data.stride = problem.n;
  if (!t.is_contiguous()) {
    // Of a dimension that is last but for some of size one, the rows are those along the last.
    const bool last = problem.inner == 1 && t.size(-1) == problem.n;
    const auto stride = last ? row_stride(t) : std::nullopt;
    if (stride)
      data.stride = *stride;
    else if (gpu())
      data.stride = -1;  // a copy would cost as much as the kernel: ATen is to run
    else
      held = t.contiguous();
  }
  data.data = const_cast<void*>(held.const_data_ptr());
  return held;
}

std::optional<Tensor> map_rows(const OpKey& op, std::initializer_list<std::reference_wrapper<const Tensor>> in,
                               int64_t dim) {
  const Tensor& like = *in.begin();
  RowsProblem problem = rows_problem(like.sizes(), dim);
  RowsChoice choice = choose_rows(op, storage_of(like.scalar_type()), problem.outer, problem.n, problem.inner);
  Tensor out;
  std::array<Tensor, drivers::RowsKernel::kMaxOperands> held;
  if (choice) {
    size_t i = 0;
    for (const Tensor& t : in) {
      held[i] = row_operand(t, problem, problem.operand[i]);
      i++;
    }
    out = new_result(like.sizes(), like.scalar_type());
    problem.operand[i] = {out.mutable_data_ptr(), problem.n};
    check_fits(choice, problem);
  }
  record(op, like, choice);
  if (!choice || !run_chosen(choice, problem)) return std::nullopt;
  return out;
}

}  // namespace tvmops::ops
