#include "cuda/scan.h"

#include <climits>

#include "cuda/plan.h"
#include "drivers/binding.h"

namespace tvmops::cuda {

using drivers::ScanProblem;

namespace {

// Elements; pieces are whole tiles, and the end of the last one is a 32-bit number, too.
constexpr int64_t kLargest = INT_MAX - (1 << 24);

}  // namespace

ScanKernel::ScanKernel(const runtime::Kernel& kernel) : Kernel(kernel), launcher(Launcher::only(*source)) {
  drivers::check_plan(*source, scan_plan_size());
}

const char* refusal(const ScanKernel&, const ScanProblem& p) {
  int64_t elements;
  if (__builtin_mul_overflow(p.outer, p.n, &elements) || __builtin_mul_overflow(elements, p.inner, &elements) ||
      elements > kLargest)
    return kTooLarge;
  for (const void* pointer : {p.source, p.factor, p.divisor, static_cast<const void*>(p.target)})
    if (misaligned(pointer)) return kMisaligned;
  return nullptr;
}

ScanSizes::ScanSizes(const ScanProblem& p) : list{p.outer, p.n, p.inner, (p.exclusive ? 1 : 0) | (p.reverse ? 2 : 0)} {}

Outcome scan(const ScanKernel& kernel, const ScanProblem& p, const ScanSizes& sizes, const Place& place) {
  void* buffers[4] = {const_cast<void*>(p.source), p.target};
  if (p.factor) {
    buffers[1] = const_cast<void*>(p.divisor), buffers[2] = const_cast<void*>(p.factor);
    buffers[3] = p.target;
  }
  return run(kernel, kernel.launcher,
             {buffers, sizes.list, nullptr, place.workspace, place.stream, static_cast<int32_t>(place.device)});
}

}  // namespace tvmops::cuda
