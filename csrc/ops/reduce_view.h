// How a reduction over any dimensions of a tensor is a walk through its memory.
#ifndef TVMOPS_OPS_REDUCE_VIEW_H_
#define TVMOPS_OPS_REDUCE_VIEW_H_

#include <ATen/ATen.h>

#include <bitset>
#include <optional>

#include "drivers/reduce.h"

namespace tvmops::ops {

constexpr int64_t kMaxDims = 64;
using DimSet = std::bitset<kMaxDims>;

// The dimensions that a `dim` argument names, none or an empty list standing for all of them. Nothing if one is out of
// range or named twice, and for more than kMaxDims dimensions.
std::optional<DimSet> dim_set(at::OptionalIntArrayRef dim, int64_t rank);

// A reduction of a tensor along a set of its dimensions, as the driver sees it, without pointers and divisor.
struct ReduceView {
  drivers::ReduceProblem problem;
  int64_t count = 1;  // elements that make one result
  // The dimensions that stay and their sizes, as the driver writes the results. `ordered`: in the tensor's own order.
  at::DimVector kept, kept_sizes;
  bool ordered = true;
};

// Nothing if the memory can't be walked like that: elements apart, overlapping, or none; more than two groups of
// neighbouring dimensions that are reduced (more than one, unless `twice`: for an index).
std::optional<ReduceView> reduce_view(const at::Tensor& x, const DimSet& reduced, bool twice = true);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_REDUCE_VIEW_H_
