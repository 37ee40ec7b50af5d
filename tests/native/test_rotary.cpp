// The driver of rotary embeddings, with plain leaves: which row gets which angles, in every order of dimensions.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "drivers/rotary.h"
#include "runtime/error.h"
#include "threads.h"

namespace {

using tvmops::drivers::ParallelFor;
using tvmops::drivers::RotaryFn;
using tvmops::drivers::RotaryKernel;
using tvmops::drivers::RotaryProblem;
using tvmops::runtime::Error;
using tvmops::runtime::kSerial;

template <bool pairs>
void turn(const void* x, void* y, const float* cos, const float* sin, int rows, int half, int rest, int ldx, int ldy,
          int ldt, float sign) {
  for (int r = 0; r < rows; r++) {
    const float* from = static_cast<const float*>(x) + int64_t{r} * ldx;
    float* to = static_cast<float*>(y) + int64_t{r} * ldy;
    for (int i = 0; i < half; i++) {
      const int one = pairs ? 2 * i : i, other = pairs ? 2 * i + 1 : half + i;
      const float c = cos[int64_t{r} * ldt + i], s = sign * sin[int64_t{r} * ldt + i];
      to[one] = from[one] * c - from[other] * s;
      to[other] = from[other] * c + from[one] * s;
    }
    for (int i = 2 * half; i < 2 * half + rest; i++) to[i] = from[i];
  }
}

struct Made {
  std::vector<tvmops_leaf> leaves = {{"halves", reinterpret_cast<tvmops_function>(static_cast<RotaryFn*>(turn<false>))},
                                     {"pairs", reinterpret_cast<tvmops_function>(static_cast<RotaryFn*>(turn<true>))}};
  std::vector<tvmops_value> params = {{"bytes", 4}, {"parallel_bytes", 0}};
  std::vector<uint8_t> plan;
  tvmops_kernel table = {};

  const tvmops_kernel& kernel() {
    table = {};
    table.name = "k", table.op = "op", table.workload = "op(float32;M=*)", table.target = "x86-64-v3";
    table.driver = "rotary";
    table.params = params.data(), table.n_params = static_cast<uint32_t>(params.size());
    table.leaves = leaves.data(), table.n_leaves = static_cast<uint32_t>(leaves.size());
    table.plan = plan.empty() ? nullptr : plan.data(), table.n_plan = static_cast<uint32_t>(plan.size());
    return table;
  }
};

// Sizes of the three dimensions; which of them has the positions; whether tables differ along the first one.
void check_problem(const int64_t (&sizes)[3], int positions, bool batched, bool permuted, bool pairs, bool inverse,
                   const ParallelFor& parallel) {
  const int64_t half = 3, rest = 2, row = 2 * half + rest;
  const int64_t rows = sizes[0] * sizes[1] * sizes[2];
  const int64_t tables = sizes[positions] * (batched ? sizes[0] : 1) * half;
  std::vector<float> x(static_cast<size_t>(rows * row)), y(x.size(), -7), cos(static_cast<size_t>(tables)), sin(cos);
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 97) - 40;
  for (size_t i = 0; i < cos.size(); i++)
    cos[i] = std::cos(static_cast<float>(i)), sin[i] = std::sin(static_cast<float>(i));

  RotaryProblem p;
  int64_t stride = row;
  for (int k = 2; k >= 0; k--) {  // contiguous, or with the last two dimensions in the other order
    const int d = permuted ? (k == 0 ? 0 : 3 - k) : k;
    p.dim[d] = {sizes[d], stride, stride, 0};
    stride *= sizes[d];
  }
  p.dim[positions].table = half;
  if (batched) p.dim[0].table = sizes[positions] * half;
  p.half = half, p.rest = rest, p.pairs = pairs, p.inverse = inverse;
  p.x = x.data(), p.y = y.data(), p.cos = cos.data(), p.sin = sin.data();

  Made made;
  const RotaryKernel kernel(made.kernel());
  CHECK(fits(kernel, p));
  rotary(kernel, p, parallel);

  std::vector<float> expected(x.size(), -7);
  for (int64_t a = 0; a < sizes[0]; a++)
    for (int64_t b = 0; b < sizes[1]; b++)
      for (int64_t c = 0; c < sizes[2]; c++) {
        const int64_t at = a * p.dim[0].x + b * p.dim[1].x + c * p.dim[2].x;
        const int64_t place[3] = {a, b, c};
        const int64_t t = place[positions] * half + (batched ? a * sizes[positions] * half : 0);
        (pairs ? turn<true> : turn<false>)(&x[static_cast<size_t>(at)], &expected[static_cast<size_t>(at)],
                                           &cos[static_cast<size_t>(t)], &sin[static_cast<size_t>(t)], 1, half, rest, 0,
                                           0, 0, inverse ? -1.0f : 1.0f);
      }
  CHECK(y == expected);
}

TEST(every_order_of_dimensions) {
  for (const auto& sizes : {std::vector<int64_t>{2, 5, 3}, {1, 7, 1}, {4, 1, 1}, {1, 1, 6}, {1, 1, 1}, {3, 2, 40}}) {
    const int64_t all[3] = {sizes[0], sizes[1], sizes[2]};
    for (const int positions : {0, 1, 2})
      for (const bool batched : {false, true})
        for (const bool permuted : {false, true})
          for (const ParallelFor* parallel : {&kSerial, &kThreads})
            if (!batched || positions > 0)
              check_problem(all, positions, batched, permuted, permuted, batched, *parallel);
  }
}

TEST(what_does_not_fit) {
  Made made;
  const RotaryKernel kernel(made.kernel());
  RotaryProblem p;
  p.half = 4;
  p.dim[2] = {8, 8, 8, 0};
  CHECK(fits(kernel, p));
  p.dim[2].x = -8;
  CHECK(!fits(kernel, p));
  p.dim[2].x = int64_t{1} << 29;
  CHECK(!fits(kernel, p));
}

TEST(a_kernel_that_lacks_something_is_named) {
  Made made;
  made.leaves.pop_back();
  CHECK_THROWS(Error, RotaryKernel(made.kernel()), "kernel k", "leaf 'pairs' is missing");
  Made other;
  other.params.pop_back();
  CHECK_THROWS(Error, RotaryKernel(other.kernel()), "param 'parallel_bytes' is missing");
  Made wrong;
  wrong.plan = {1, 1};
  CHECK_THROWS(Error, RotaryKernel(wrong.kernel()), "plan has 2 entries, not 5");
}

TEST(size_buckets) {
  using tvmops::drivers::rotary_plan_bucket;
  CHECK(rotary_plan_bucket(1) == 0);
  CHECK(rotary_plan_bucket(1 << 10) == 0);
  CHECK(rotary_plan_bucket((1 << 10) + 1) == 1);
  CHECK(rotary_plan_bucket(int64_t{1} << 40) == tvmops::drivers::rotary_plan_size() - 1);
}

}  // namespace
