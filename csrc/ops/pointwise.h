// Pointwise functions of one tensor, for every row of pointwise_table.h.
#ifndef TVMOPS_OPS_POINTWISE_H_
#define TVMOPS_OPS_POINTWISE_H_

#include <ATen/ATen.h>

#include "ops/pointwise_table.h"

namespace tvmops::ops {

// y = f(x) under the CPU key, by a kernel or ATen; `op` is a row of the table.
at::Tensor pointwise_cpu(size_t op, const at::Tensor& x, const Params& p);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_POINTWISE_H_
