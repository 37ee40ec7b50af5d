#include "cuda/reduce.h"

#include <algorithm>
#include <climits>

#include "cuda/plan.h"
#include "drivers/binding.h"

namespace tvmops::cuda {

using drivers::ReduceProblem;

namespace {

// codegen/cuda/reduce_cut.py has the same.
constexpr int64_t kWarpShift = 5;
constexpr int64_t kOne = 8, kEight = 256, kEightShift = 3;

int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The power of two that holds `count`.
int64_t doublings(int64_t count) {
  int64_t k = 0;
  while (int64_t{1} << k < count) k++;
  return k;
}

int64_t group(const ReduceShape& k, int64_t vectors, int64_t each) {
  const int64_t few = std::min(doublings(vectors), kWarpShift);
  return std::min(doublings(k.threads), std::max(few, doublings(divided_up(vectors, each))));
}

}  // namespace

ReduceKernel::ReduceKernel(const runtime::Kernel& kernel) : Kernel(kernel), launcher(Launcher::only(*source)) {
  const auto param = [&](const char* name, int64_t low) { return drivers::param(*source, name, low, 1 << 20); };
  shape = {param("threads", 1), param("vector", 1), param("loads", 1),
           param("kept", 0),    param("depth", 0),  param("blocks", 1)};
  drivers::check_plan(*source, reduce_plan_size());
}

const char* refusal(const ReduceKernel&, const ReduceProblem& p) {
  if (p.again_n > 0) return "reduced dimensions that are apart";
  int64_t row, elements;
  if (__builtin_mul_overflow(p.n, p.inner, &row) || __builtin_mul_overflow(p.outer, row, &elements) ||
      elements > INT_MAX)
    return kTooLarge;
  if ((p.n_stride != p.inner && p.n > 1) || (p.outer_stride != row && p.outer > 1)) return kScattered;
  return misaligned(p.x) ? kMisaligned : nullptr;
}

ReduceSizes::ReduceSizes(const ReduceShape& k, int64_t outer, int64_t n, int64_t inner) {
  const int64_t shift = doublings(k.threads);
  int64_t rows = outer, least = k.threads * k.vector * k.loads, most = k.threads * k.kept * k.vector;
  int64_t multiple = k.vector, wide = 0, high = 0;
  if (inner > 1) {
    const int64_t columns = inner % k.vector ? inner : inner / k.vector;
    wide = std::min(doublings(columns), kWarpShift);
    high = n < kOne ? 0 : std::min(shift - wide, n < kEight ? kEightShift : shift);
    rows = divided_up(outer * divided_up(columns, int64_t{1} << wide), k.threads >> (wide + high));
    least = k.loads << high;
    most = k.depth;
    multiple = 1;
  }
  int64_t pieces = std::max({int64_t{1}, std::min(k.blocks / rows, n / least), most ? divided_up(n, most) : 1});
  const int64_t length = divided_up(divided_up(n, pieces), multiple) * multiple;
  pieces = divided_up(n, length);
  if (inner == 1) wide = group(k, divided_up(length, k.vector), k.kept ? k.kept : k.loads);
  const int64_t all[] = {outer, n, inner, pieces, length, wide, high, group(k, pieces, k.loads)};
  std::copy(std::begin(all), std::end(all), list);
}

Outcome reduce(const ReduceKernel& kernel, const ReduceProblem& problem, const ReduceSizes& sizes, const Place& place) {
  void* buffers[] = {const_cast<void*>(problem.x), problem.y};
  return run(
      kernel, kernel.launcher,
      {buffers, sizes.list, &problem.divisor, place.workspace, place.stream, static_cast<int32_t>(place.device)});
}

}  // namespace tvmops::cuda
