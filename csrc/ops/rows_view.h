// Tensors along one of their dimensions, as the driver of row programs sees them.
#ifndef TVMOPS_OPS_ROWS_VIEW_H_
#define TVMOPS_OPS_ROWS_VIEW_H_

#include <ATen/ATen.h>

#include <functional>
#include <initializer_list>
#include <optional>

#include "drivers/rows.h"
#include "ops/kernel_table.h"

namespace tvmops::ops {

// [outer, n, inner], n the size of dimension `dim` (at least 0) of a shape.
drivers::RowsProblem rows_problem(at::IntArrayRef sizes, int64_t dim);

// An input of a problem along `dim`: the tensor itself where its rows are contiguous and lie evenly (inner == 1), or it
// is contiguous; else a contiguous copy (on a GPU itself, with a stride that no kernel takes). `data` is set to its
// address and the stride of its rows.
at::Tensor row_operand(const at::Tensor& t, const drivers::RowsProblem& problem, drivers::RowsProblem::Data& data);

// Runs a kernel whose operands are the inputs, of one shape, and then the result, of that shape too: if one applies and
// wins, which is recorded. Inputs are readable; `dim` is at least 0.
std::optional<at::Tensor> map_rows(const OpKey& op, std::initializer_list<std::reference_wrapper<const at::Tensor>> in,
                                   int64_t dim);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_ROWS_VIEW_H_
