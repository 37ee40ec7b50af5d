#include "ops/reductions.h"

#include <algorithm>

#include "ops/common.h"
#include "ops/gpu.h"
#include "ops/gpu_reduce.h"
#include "ops/reduce_choice.h"
#include "ops/reduce_view.h"
#include "ops/rows_choice.h"

namespace tvmops::ops {

using at::Scalar;
using at::Tensor;

namespace {

// By Reduction.
const OpKey kKeys[kReductions] = {OpKey("sum"), OpKey("mean"),   OpKey("amax"),  OpKey("amin"),
                                  OpKey("var"), OpKey("argmax"), OpKey("argmin")};

at::DimVector result_sizes(const Tensor& x, const DimSet& reduced, bool keepdim) {
  at::DimVector sizes;
  for (int64_t d = 0; d < x.dim(); d++)
    if (!reduced[d] || keepdim) sizes.push_back(reduced[d] ? 1 : x.size(d));
  return sizes;
}

// Results that the driver wrote in the order of memory, in the tensor's own.
Tensor reordered(const Tensor& results, const ReduceView& view) {
  at::DimVector order(view.kept.size());
  for (size_t i = 0; i < order.size(); i++) order[i] = static_cast<int64_t>(i);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return view.kept[a] < view.kept[b]; });
  return results.permute(order).contiguous();
}

template <class Choice>
void record(const OpKey& op, const Tensor& x, const Choice& choice, const char* driver) {
  if (!recording()) return;
  record(Decision{op.name(), shape_text({x.sizes()}), choice ? choice.kernel->source->name : "",
                  choice ? driver : "aten", choice.reason});
}

// Undefined where no kernel covers the call or wins.
Tensor by_kernel(Reduction op, Tensor x, at::OptionalIntArrayRef dim, bool keepdim, double correction) {
  const OpKey& key = kKeys[static_cast<int>(op)];
  const auto reduced = is_readable(x) && x.dim() > 0 ? dim_set(dim, x.dim()) : std::nullopt;
  auto view = reduced ? reduce_view(x, *reduced, !is_index(op)) : std::nullopt;
  if (is_index(op) && reduced && reduced->count() > 1 && !x.is_contiguous()) view = std::nullopt;  // in logical order
  // ATen on a CPU reduces these by the element: a copy that a kernel can walk through costs less.
  if (!view && reduced && !gpu() && (is_index(op) || op == Reduction::kVar) && !x.is_contiguous() &&
      current_mode() != Mode::kOff) {
    const Tensor copy = x.contiguous();
    view = reduce_view(copy, *reduced, !is_index(op));
    if (view) x = copy;
  }
  const double divisor = op == Reduction::kMean  ? static_cast<double>(view ? view->count : 0)
                         : op == Reduction::kVar ? static_cast<double>(view ? view->count : 0) - correction
                                                 : 1.0;
  if (!view || !(divisor > 0)) {  // var without a degree of freedom: torch warns
    record_aten(key.name(), {x}, kUnsupported);
    return {};
  }
  auto& problem = view->problem;
  problem.x = x.const_data_ptr();
  problem.divisor = static_cast<float>(divisor);
  const Storage storage = storage_of(x.scalar_type());
  ReduceChoice choice;
  GpuReduceChoice on_gpu;
  if (gpu()) {  // a mean is a sum that is divided by more than 1
    on_gpu =
        choose_gpu_reduce(op == Reduction::kMean ? kKeys[static_cast<int>(Reduction::kSum)] : key, storage, problem);
    record(key, x, on_gpu, cuda::ReduceKernel::kDriver);
  } else {
    choice = choose_reduce(key, storage, problem);
    record(key, x, choice, "reduce");
  }
  if (!choice && !on_gpu) return {};
  const auto dtype = is_index(op) ? at::kLong : x.scalar_type();
  const auto sizes = result_sizes(x, *reduced, keepdim);
  Tensor y = new_result(view->ordered ? sizes : view->kept_sizes, dtype);
  problem.y = y.mutable_data_ptr();
  if (choice) {
    drivers::reduce(*choice.kernel, problem, kAtenParallel);
  } else if (const cuda::Outcome outcome = run_gpu_reduce(*on_gpu.kernel, problem); !outcome) {
    record_refusal(outcome.refusal);
    return {};
  }
  return view->ordered ? y : reordered(y, *view).view(sizes);
}

}  // namespace

Tensor reduction_aten(Reduction op, const Tensor& x, at::OptionalIntArrayRef dim, bool keepdim,
                      const Scalar& correction) {
  const auto one = dim && !dim->empty() ? std::optional<int64_t>(dim->front()) : std::nullopt;
  const at::IntArrayRef dims = dim ? *dim : at::IntArrayRef();
  switch (op) {
    case Reduction::kSum:
      return at::sum(x, dim, keepdim);
    case Reduction::kMean:
      return at::mean(x, dim, keepdim);
    case Reduction::kAmax:
      return at::amax(x, dims, keepdim);
    case Reduction::kAmin:
      return at::amin(x, dims, keepdim);
    case Reduction::kVar:
      return at::var(x, dim, correction, keepdim);
    case Reduction::kArgmax:
      return at::argmax(x, one, keepdim);
    case Reduction::kArgmin:
      return at::argmin(x, one, keepdim);
  }
  TORCH_INTERNAL_ASSERT(false);
}

Tensor reduction_cpu(Reduction op, const Tensor& x, at::OptionalIntArrayRef dim, bool keepdim,
                     const Scalar& correction) {
  const bool real = !correction.isComplex();
  if (Tensor y = by_kernel(op, x, dim, keepdim, real ? correction.toDouble() : 0); y.defined()) return y;
  return reduction_aten(op, x, dim, keepdim, correction);
}

}  // namespace tvmops::ops
