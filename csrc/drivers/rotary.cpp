#include "drivers/rotary.h"

#include <algorithm>
#include <iterator>

#include "drivers/binding.h"

namespace tvmops::drivers {

namespace {

using Dim = RotaryProblem::Dim;

// Upper bounds of the size buckets; the last bucket has none. codegen/spaces/rotary.py has the same.
constexpr int64_t kElementBounds[] = {1 << 10, 1 << 14, 1 << 18, 1 << 22};
constexpr int64_t kReach = 1ll << 31;  // of the leaves' indices

// The dimension whose rows one call of the leaf does: the one that is nearest in memory, of those that are not one.
int innermost(const RotaryProblem& p) {
  int best = RotaryProblem::kDims - 1;
  for (int d = 0; d < RotaryProblem::kDims; d++)
    if (p.dim[d].size > 1 && (p.dim[best].size == 1 || p.dim[d].y < p.dim[best].y)) best = d;
  return best;
}

}  // namespace

RotaryKernel::RotaryKernel(const tvmops_kernel& kernel) : source(&kernel) {
  halves = leaf<RotaryFn>(kernel, "halves");
  pairs = leaf<RotaryFn>(kernel, "pairs");
  bytes = param(kernel, "bytes", 1, 8);
  parallel_bytes = param(kernel, "parallel_bytes", 0, INT64_MAX);
  check_plan(kernel, rotary_plan_size());
}

bool fits(const RotaryKernel&, const RotaryProblem& p) {
  const Dim& inner = p.dim[innermost(p)];
  const int64_t row = 2 * p.half + p.rest;
  for (const int64_t stride : {inner.x, inner.y, inner.table})
    if (stride < 0 || (inner.size - 1) * stride + row >= kReach) return false;
  return true;
}

void rotary(const RotaryKernel& kernel, const RotaryProblem& p, const ParallelFor& parallel) {
  const int last = innermost(p);
  const Dim& inner = p.dim[last];
  const Dim &middle = p.dim[last == 2 ? 1 : 2], &outer = p.dim[last == 0 ? 1 : 0];
  RotaryFn* const leaf = p.pairs ? kernel.pairs : kernel.halves;

  const auto some = [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t first = begin % inner.size, place = begin / inner.size;
      const int64_t m = place % middle.size, o = place / middle.size;
      const int64_t count = std::min(inner.size - first, end - begin);
      const int64_t x = o * outer.x + m * middle.x + first * inner.x;
      const int64_t y = o * outer.y + m * middle.y + first * inner.y;
      const int64_t t = o * outer.table + m * middle.table + first * inner.table;
      leaf(static_cast<const char*>(p.x) + x * kernel.bytes, static_cast<char*>(p.y) + y * kernel.bytes, p.cos + t,
           p.sin + t, static_cast<int>(count), static_cast<int>(p.half), static_cast<int>(p.rest),
           static_cast<int>(inner.x), static_cast<int>(inner.y), static_cast<int>(inner.table),
           p.inverse ? -1.0f : 1.0f);
      begin += count;
    }
  };

  const int64_t moved = 2 * p.rows() * (2 * p.half + p.rest) * kernel.bytes;
  if (moved < kernel.parallel_bytes || parallel.threads() == 1) return some(0, p.rows());
  parallel.run(
      p.rows(), [](void* context, int64_t begin, int64_t end) { (*static_cast<decltype(some)*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&some)));
}

int64_t rotary_plan_bucket(int64_t elements) { return bucket(kElementBounds, elements); }
int64_t rotary_plan_size() { return std::size(kElementBounds) + 1; }

}  // namespace tvmops::drivers
