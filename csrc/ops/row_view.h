// How row programs can walk through tensors as a caller has them.
#ifndef TVMOPS_OPS_ROW_VIEW_H_
#define TVMOPS_OPS_ROW_VIEW_H_

#include <ATen/ATen.h>

#include <optional>

#include "drivers/rows.h"
#include "ops/rows_choice.h"

namespace tvmops::ops {

// A tensor [..., n] as rows of n neighbouring elements, `stride` elements from one to the next.
struct RowView {
  int64_t rows, n, stride;
};

// Of a tensor that a kernel can read and that has an element; nothing if its rows are not evenly apart.
std::optional<RowView> row_view(const at::Tensor& t);

// How a program without vectors walks through several tensors at once, and through results of their shape.
struct Walk {
  int64_t rows, n;
  bool rowwise;  // each tensor has a row stride of its own, results are contiguous; else memory is walked in its order
  at::Tensor new_result(const at::Tensor& like) const;
  // Operand i of a problem; `t` is one of the tensors or a result.
  void set(drivers::RowsProblem& problem, int i, const at::Tensor& t) const;
  drivers::RowsProblem problem() const;
};

// Of tensors of one shape and dtype: contiguous memory, rows, or dense memory in the same order.
std::optional<Walk> common_walk(at::ArrayRef<at::Tensor> tensors);

// A gradient in a layout that goes with what was saved: one that is expanded (the gradient of a sum) is copied.
at::Tensor as_readable_gradient(const at::Tensor& g, const at::Tensor& saved);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_ROW_VIEW_H_
