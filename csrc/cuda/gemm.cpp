#include "cuda/gemm.h"

#include <algorithm>
#include <climits>

#include "cuda/plan.h"
#include "drivers/binding.h"

namespace tvmops::cuda {

namespace {

using drivers::param;

// Whether an index of `count` matrices is beyond 32 bits: the last one, or one up to `reach` rows and columns further
// on, which a kernel computes and then does not use.
bool beyond(int64_t count, int64_t rows, int64_t columns, int64_t reach) {
  int64_t last;
  return __builtin_mul_overflow(count, rows, &last) || __builtin_add_overflow(last, reach, &last) ||
         __builtin_mul_overflow(last, columns, &last) || __builtin_add_overflow(last, reach, &last) || last > INT_MAX;
}

int64_t optional_param(const tvmops_kernel& kernel, const char* name, int64_t missing, int64_t high) {
  return runtime::find_param(kernel, name) ? param(kernel, name, 0, high) : missing;
}

}  // namespace

GemmKernel::GemmKernel(const runtime::Kernel& kernel) : Kernel(kernel), launcher(Launcher::only(*source)) {
  n = drivers::dim(*source, "N");
  k = drivers::dim(*source, "K");
  align = param(*source, "align", 1, 64);
  transposed_a = param(*source, "layout_a", 0, 1) != 0;
  transposed_b = param(*source, "layout_b", 0, 1) != 0;
  rows = optional_param(*source, "rows", 0, INT_MAX);
  split = std::max<int64_t>(1, optional_param(*source, "split_k", 1, INT_MAX));
  tf32 = optional_param(*source, "tf32", 0, 1) != 0;
  const auto block = [&](const char* name) { return optional_param(*source, name, 0, 1 << 16); };
  reach = std::max({block("block_m"), block("block_n"), block("block_k") * (block("stages") + split + 1)});
  drivers::check_plan(*source, gemm_plan_size(static_nk()));
}

const char* refusal(const GemmKernel& kernel, const GemmProblem& p) {
  if ((kernel.n > 0 && kernel.n != p.n) || (kernel.k > 0 && kernel.k != p.k) || (kernel.rows > 0 && p.m > kernel.rows))
    return "no kernel for these sizes";
  for (const int64_t extent : {p.n, p.lda, p.ldb})
    if (extent % kernel.align != 0) return kRagged;
  // The depth lies along rows but where A is transposed and B is not.
  if ((!p.transposed_a || p.transposed_b) && p.k % kernel.align != 0) return kRagged;
  if (p.transposed_a && (p.m + kernel.align - 1) / kernel.align * kernel.align > p.last_a) return kRagged;
  const int64_t rows_a = p.transposed_a ? p.k : p.m, rows_b = p.transposed_b ? p.n : p.k;
  if (beyond(p.batch, rows_a, p.lda, kernel.reach) || beyond(p.batch, rows_b, p.ldb, kernel.reach) ||
      beyond(kernel.split * p.batch, p.m, p.n, kernel.reach))
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
