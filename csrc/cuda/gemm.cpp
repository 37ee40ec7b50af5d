#include "cuda/gemm.h"

#include <algorithm>
#include <climits>
#include <initializer_list>

#include "cuda/plan.h"
#include "drivers/binding.h"

namespace tvmops::cuda {

namespace {

using drivers::param;

constexpr uintptr_t kAlignment = 16;  // bytes: what a thread loads at once

bool misaligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kAlignment != 0; }

// Whether a product of sizes, none negative, is beyond the kernels' indices.
bool beyond(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (const int64_t size : sizes)
    if (__builtin_mul_overflow(product, size, &product) || product > INT_MAX) return true;
  return false;
}

int64_t optional_param(const tvmops_kernel& kernel, const char* name, int64_t missing, int64_t high) {
  return runtime::find_param(kernel, name) ? param(kernel, name, 0, high) : missing;
}

}  // namespace

GemmKernel::GemmKernel(const runtime::Kernel& kernel) : Kernel(kernel), launcher(Launcher::find(*source, "")) {
  if (!launcher) throw runtime::Error(drivers::describe(*source) + ": leaf 'launch' is missing");
  n = drivers::dim(*source, "N");
  k = drivers::dim(*source, "K");
  align = param(*source, "align", 1, 64);
  transposed_a = param(*source, "layout_a", 0, 1) != 0;
  transposed_b = param(*source, "layout_b", 0, 1) != 0;
  rows = optional_param(*source, "rows", 0, INT_MAX);
  split = std::max<int64_t>(1, optional_param(*source, "split_k", 1, INT_MAX));
  tf32 = optional_param(*source, "tf32", 0, 1) != 0;
  drivers::check_plan(*source, gemm_plan_size(static_nk()));
}

const char* refusal(const GemmKernel& kernel, const GemmProblem& p) {
  if ((kernel.n > 0 && kernel.n != p.n) || (kernel.k > 0 && kernel.k != p.k) || (kernel.rows > 0 && p.m > kernel.rows))
    return "no kernel for these sizes";
  const int64_t contiguous_a = p.transposed_a ? p.m : p.k, contiguous_b = p.transposed_b ? p.k : p.n;
  for (const int64_t extent : {contiguous_a, contiguous_b, p.n, p.lda, p.ldb})
    if (extent % kernel.align != 0) return kRagged;
  const int64_t rows_a = p.transposed_a ? p.k : p.m, rows_b = p.transposed_b ? p.n : p.k;
  if (beyond({p.batch, rows_a, p.lda}) || beyond({p.batch, rows_b, p.ldb}) || beyond({kernel.split, p.batch, p.m, p.n}))
    return kTooLarge;
  for (const void* pointer : {p.a, p.b, p.bias, p.residual, static_cast<const void*>(p.c)})
    if (misaligned(pointer)) return kMisaligned;
  return nullptr;
}

GemmSizes::GemmSizes(const GemmProblem& p)
    : list{p.batch, p.m, p.n, p.k, p.lda, p.ldb, p.activation, (p.bias ? 1 : 0) | (p.residual ? 2 : 0)} {}

Outcome gemm(const GemmKernel& kernel, const GemmProblem& p, const GemmSizes& sizes, const Place& place) {
  void* const buffers[] = {const_cast<void*>(p.a), const_cast<void*>(p.b), p.c,
                           p.bias ? const_cast<void*>(p.bias) : p.c, p.residual ? const_cast<void*>(p.residual) : p.c};
  return run(kernel, kernel.launcher,
             {buffers, sizes.list, nullptr, place.workspace, place.stream, static_cast<int32_t>(place.device)});
}

}  // namespace tvmops::cuda
