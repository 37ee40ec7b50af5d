// Prefix sums and products along a dimension, also exclusive and from the end.
#ifndef TVMOPS_OPS_SCAN_H_
#define TVMOPS_OPS_SCAN_H_

#include <ATen/ATen.h>

#include <optional>

namespace tvmops::ops {

using OptionalDtype = std::optional<at::ScalarType>;

at::Tensor cumsum_cpu(const at::Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse);
at::Tensor cumprod_cpu(const at::Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_SCAN_H_
