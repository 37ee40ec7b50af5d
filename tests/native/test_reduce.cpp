// The driver of reductions, with plain leaves: every way to cut rows into pieces, strides, numbers of threads.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "drivers/reduce.h"
#include "runtime/error.h"
#include "threads.h"

namespace {

using tvmops::drivers::ParallelFor;
using tvmops::drivers::ReduceKernel;
using tvmops::drivers::ReduceProblem;
using tvmops::drivers::RowsFn;
using tvmops::runtime::Error;
using tvmops::runtime::kSerial;

#define LEAF(name)                                                                                                    \
  void name(void* p0, void* p1, void* p2, void* p3, void* p4, void*, void*, void*, void*, void*, int s0, int s1, int, \
            int, int, int, int, int, int, int, int rows, int n, float f0, float f1, float f2, float)

float at(const void* x, int64_t i) { return static_cast<const float*>(x)[i]; }

// The sum over f1: of integers, so that every order gives the same.
template <bool column>
LEAF(sum) {
  (void)p2, (void)p3, (void)p4, (void)s1, (void)f0;
  for (int64_t r = 0; r < rows; r++) {
    float total = 0;
    for (int64_t i = 0; i < n; i++) total += column ? at(p0, i * s0 + r) : at(p0, r * s0 + i);
    static_cast<float*>(p1)[r] = total * (f1 == 1 / f2 ? f2 : 0);
  }
}

template <bool column>
LEAF(sum_part) {
  (void)f1, (void)f2;
  sum<column>(p0, p1, p2, p3, p4, 0, 0, 0, 0, 0, s0, s1, 0, 0, 0, 0, 0, 0, 0, 0, rows, n, f0, 1, 1, 0);
}

// The place of the first maximum; part: the maximum too, and the place as bits.
template <bool column>
void first(const void* x, int s0, int rows, int n, float* best, int64_t* place) {
  for (int64_t r = 0; r < rows; r++) {
    place[r] = 0;
    for (int64_t i = 0; i < n; i++) {
      const float value = column ? at(x, i * s0 + r) : at(x, r * s0 + i);
      if (i == 0 || value > best[r]) best[r] = value, place[r] = i;
    }
  }
}

template <bool column>
LEAF(argmax) {
  (void)p2, (void)p3, (void)p4, (void)s1, (void)f0, (void)f1, (void)f2;
  std::vector<float> best(static_cast<size_t>(rows));
  first<column>(p0, s0, rows, n, best.data(), static_cast<int64_t*>(p1));
}

template <bool column>
LEAF(argmax_part) {
  (void)p3, (void)p4, (void)s1, (void)f0, (void)f1, (void)f2;
  std::vector<int64_t> place(static_cast<size_t>(rows));
  first<column>(p0, s0, rows, n, static_cast<float*>(p1), place.data());
  for (int64_t r = 0; r < rows; r++) {
    const auto bits = static_cast<int32_t>(place[static_cast<size_t>(r)]);
    std::memcpy(static_cast<char*>(p2) + r * 4, &bits, 4);
  }
}

template <bool column>
LEAF(argmax_join) {
  (void)p3, (void)p4, (void)f0, (void)f1, (void)f2;
  for (int64_t r = 0; r < rows; r++) {
    int32_t best = -1;
    float value = 0;
    for (int64_t i = 0; i < n; i++) {
      const int64_t e = column ? i * s0 + r : r * s0 + i;
      int32_t place;
      std::memcpy(&place, static_cast<char*>(p1) + (column ? i * s1 + r : r * s1 + i) * 4, 4);
      if (best < 0 || at(p0, e) > value || (at(p0, e) == value && place < best)) value = at(p0, e), best = place;
    }
    static_cast<int64_t*>(p2)[r] = best;
  }
}

// Parts are the sum, and how many elements it is of, twice: the driver's counts must say the same.
template <bool column>
LEAF(counted_part) {
  sum<column>(p0, p1, 0, 0, 0, 0, 0, 0, 0, 0, s0, s1, 0, 0, 0, 0, 0, 0, 0, 0, rows, n, f0, 1, 1, 0);
  (void)p4, (void)f1, (void)f2;
  for (int64_t r = 0; r < rows; r++)
    static_cast<float*>(p2)[r] = static_cast<float*>(p3)[r] =
        f0 == 1 / static_cast<float>(n) ? static_cast<float>(n) : -1;
}

template <bool column>
LEAF(counted_join) {
  sum<column>(p0, p3, 0, 0, 0, 0, 0, 0, 0, 0, s0, s1, 0, 0, 0, 0, 0, 0, 0, 0, rows, n, f0, f1, f2, 0);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < n; i++) {
      const int64_t e = column ? i * s1 + r : r * s1 + i;
      if (at(p1, e) != at(p4, i) || at(p2, e) != at(p4, i)) static_cast<float*>(p3)[r] = -12345;
    }
}

tvmops_function any(RowsFn* leaf) { return reinterpret_cast<tvmops_function>(leaf); }

struct Made {
  std::vector<tvmops_value> params;
  std::vector<tvmops_leaf> leaves;
  tvmops_value dims[1] = {{"N", -1}};
  tvmops_kernel table = {};

  Made(int64_t parts, bool indexed, bool twice, std::vector<tvmops_leaf> with)
      : params{{"bytes", 4},         {"result_bytes", indexed ? 8 : 4},
               {"parts", parts},     {"indexed", indexed},
               {"twice", twice},     {"tile", 16},
               {"segment", 32},      {"depth", 20},
               {"few", 0},           {"short", 0},
               {"parallel_bytes", 0}},
        leaves(std::move(with)) {
    fill();
  }
  void fill() {
    table = {"k",
             "op",
             "op(float32;M=*,N=*)",
             "x86-64-v3",
             "reduce",
             dims,
             1,
             params.data(),
             static_cast<uint32_t>(params.size()),
             leaves.data(),
             static_cast<uint32_t>(leaves.size()),
             nullptr,
             0};
  }
};

enum Kind { kSum, kArgmax, kCounted };

Made made(Kind kind, bool twice) {
  switch (kind) {
    case kSum:
      return {1,
              false,
              twice,
              {{"row", any(sum<false>)},
               {"column", any(sum<true>)},
               {"row.part", any(sum_part<false>)},
               {"column.part", any(sum_part<true>)},
               {"row.join", any(sum<false>)},
               {"column.join", any(sum<true>)}}};
    case kArgmax:
      return {2,
              true,
              twice,
              {{"row", any(argmax<false>)},
               {"column", any(argmax<true>)},
               {"row.part", any(argmax_part<false>)},
               {"column.part", any(argmax_part<true>)},
               {"row.join", any(argmax_join<false>)},
               {"column.join", any(argmax_join<true>)}}};
    default:
      return {3,
              false,
              twice,
              {{"row", any(sum<false>)},
               {"column", any(sum<true>)},
               {"row.part", any(counted_part<false>)},
               {"column.part", any(counted_part<true>)},
               {"row.join", any(counted_join<false>)},
               {"column.join", any(counted_join<true>)}}};
  }
}

// Of [outer, n, inner] in memory with these strides; `more` elements lie between rows and between matrices.
void check_reduction(Kind kind, bool twice, int64_t outer, int64_t n, int64_t inner, int64_t more) {
  const Made m = made(kind, twice);
  const ReduceKernel kernel(m.table);
  ReduceProblem p;
  p.outer = outer;
  p.n = n;
  p.inner = inner;
  p.n_stride = inner == 1 ? 1 : inner + more;
  p.outer_stride = n * p.n_stride + more;
  p.divisor = 2;
  std::vector<float> x(static_cast<size_t>(outer * p.outer_stride));
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>((i * i + 3 * i) % 13) - 6;
  p.x = x.data();
  CHECK(fits(kernel, p));
  for (const ParallelFor* parallel : {&kSerial, &kThreads}) {
    std::vector<int64_t> y(static_cast<size_t>(outer * inner) + 1, 77);
    p.y = y.data();
    reduce(kernel, p, *parallel);
    bool right = true;
    for (int64_t o = 0; o < outer; o++)
      for (int64_t c = 0; c < inner; c++) {
        float total = 0, best = -100;
        int64_t place = 0;
        for (int64_t i = 0; i < n; i++) {
          const float value = x[static_cast<size_t>(o * p.outer_stride + i * p.n_stride + c)];
          total += value;
          if (value > best) best = value, place = i;
        }
        const int64_t r = o * inner + c;
        right = right && (kind == kArgmax ? y[static_cast<size_t>(r)] == place : at(y.data(), r) == total / 2);
      }
    CHECK(right);
    CHECK(y.back() == 77);
  }
}

TEST(every_way_to_cut) {
  for (const Kind kind : {kSum, kArgmax, kCounted})
    for (const bool twice : {false, true})
      for (const int64_t more : {0, 3})
        for (const int64_t outer : {1, 2, 5, 40})
          for (const int64_t n : {1, 2, 31, 64, 65, 96, 331})
            for (const int64_t inner : {1, 2, 3, 7, 8, 16, 17, 50}) check_reduction(kind, twice, outer, n, inner, more);
}

TEST(long_and_narrow_ones_are_folded) {
  for (const Kind kind : {kSum, kArgmax, kCounted})
    for (const int64_t n : {8192, 9001})
      for (const int64_t inner : {2, 3, 5, 8}) check_reduction(kind, true, 2, n, inner, 0);
}

TEST(results_are_reduced_once_more) {
  for (const Kind kind : {kSum, kCounted}) {
    const Made m = made(kind, true);
    const ReduceKernel kernel(m.table);
    const int64_t a = 3, b = 4, c = 5, n = 90;
    for (const int64_t inner : {1, 6}) {
      ReduceProblem p;
      p.outer = a * b * c;
      p.n = n;
      p.inner = inner;
      p.n_stride = inner;
      p.outer_stride = n * inner;
      p.again_outer = a;
      p.again_n = b;
      p.again_inner = c * inner;
      std::vector<float> x(static_cast<size_t>(p.outer * n * inner)), y(static_cast<size_t>(a * c * inner));
      for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 7);
      p.x = x.data();
      p.y = y.data();
      CHECK(fits(kernel, p));
      reduce(kernel, p, kThreads);
      std::vector<float> expected(y.size());
      for (size_t i = 0; i < x.size(); i++) {
        const size_t per = static_cast<size_t>(n * inner), o = i / per, column = i % static_cast<size_t>(inner);
        const size_t outer = o / static_cast<size_t>(b * c), k = o % static_cast<size_t>(c);
        expected[(outer * c + k) * static_cast<size_t>(inner) + column] += x[i];
      }
      CHECK(y == expected);
    }
  }
}

TEST(what_the_indices_do_not_reach) {
  const Made m = made(kSum, false);
  const ReduceKernel kernel(m.table);
  ReduceProblem p;
  p.outer = 1;
  p.n = int64_t{1} << 31;
  p.n_stride = 1;
  CHECK(!fits(kernel, p));
  p.n = (int64_t{1} << 31) - 1;  // in segments
  CHECK(fits(kernel, p));
  p.n = 10;
  p.inner = 3;
  p.n_stride = int64_t{1} << 31;
  CHECK(!fits(kernel, p));
}

TEST(what_is_missing_is_named) {
  Made m = made(kSum, false);
  m.leaves.pop_back();
  m.fill();
  CHECK_THROWS(Error, ReduceKernel(m.table), "kernel k", "leaf 'column.join' is missing");
  m = made(kSum, false);
  m.params.erase(m.params.begin());
  m.fill();
  CHECK_THROWS(Error, ReduceKernel(m.table), "param 'bytes' is missing");
}

}  // namespace
