#include "cuda/rotary.h"

#include <climits>

#include "cuda/plan.h"
#include "drivers/binding.h"

namespace tvmops::cuda {

using drivers::RotaryProblem;

namespace {

using Stride = int64_t RotaryProblem::Dim::*;

// Whether 32-bit indices reach all rows of `length` elements that lie so.
bool reaches(const RotaryProblem& p, Stride stride, int64_t length) {
  int64_t end = length;
  for (const RotaryProblem::Dim& dim : p.dim) {
    int64_t more;
    if (dim.*stride < 0 || __builtin_mul_overflow(dim.size - 1, dim.*stride, &more) ||
        __builtin_add_overflow(end, more, &end))
      return false;
  }
  return end <= INT_MAX;
}

// Of all rows.
bool beyond_32_bits(const RotaryProblem& p) {
  int64_t elements = 2 * p.half + p.rest;
  for (const RotaryProblem::Dim& dim : p.dim)
    if (__builtin_mul_overflow(elements, dim.size, &elements)) return true;
  return elements > INT_MAX;
}

}  // namespace

RotaryKernel::RotaryKernel(const runtime::Kernel& kernel) : Kernel(kernel), launcher(Launcher::only(*source)) {
  drivers::check_plan(*source, rows_plan_size(true));
}

const char* refusal(const RotaryKernel&, const RotaryProblem& p) {
  using Dim = RotaryProblem::Dim;
  const int64_t row = 2 * p.half + p.rest;
  if (beyond_32_bits(p) || !reaches(p, &Dim::x, row) || !reaches(p, &Dim::y, row) || !reaches(p, &Dim::table, p.half))
    return kTooLarge;
  for (const void* pointer :
       {p.x, static_cast<const void*>(p.y), static_cast<const void*>(p.cos), static_cast<const void*>(p.sin)})
    if (misaligned(pointer)) return kMisaligned;
  return nullptr;
}

RotarySizes::RotarySizes(const RotaryProblem& p)
    : list{p.dim[0].size, p.dim[1].size,  p.dim[2].size,  p.half,         p.rest,
           p.dim[0].x,    p.dim[1].x,     p.dim[2].x,     p.dim[0].y,     p.dim[1].y,
           p.dim[2].y,    p.dim[0].table, p.dim[1].table, p.dim[2].table, (p.pairs ? 1 : 0) | (p.inverse ? 2 : 0)} {}

Outcome rotary(const RotaryKernel& kernel, const RotaryProblem& p, const Place& place) {
  void* const buffers[] = {const_cast<void*>(p.x), const_cast<float*>(p.cos), const_cast<float*>(p.sin), p.y};
  const RotarySizes sizes(p);
  return run(kernel, kernel.launcher,
             {buffers, sizes.list, nullptr, place.workspace, place.stream, static_cast<int32_t>(place.device)});
}

}  // namespace tvmops::cuda
