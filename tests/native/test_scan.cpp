// The scan driver around leaves written here in plain C++: segments, blocks, panels and threads for every shape, where
// a sanitizer sees each access. (Kernels that TVM made are tested from Python.)
#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "drivers/scan.h"
#include "runtime/error.h"

using namespace tvmops;
using drivers::ScanFn;
using drivers::ScanKernel;
using drivers::ScanProblem;

namespace {

constexpr float kExtreme = 1e30f;  // what the product leaf below refuses

std::atomic<int> serial_calls{0};

double combine(bool product, double a, double b) { return product ? a * b : a + b; }

float at_of(const void* data, int i, float otherwise) { return data ? static_cast<const float*>(data)[i] : otherwise; }

template <bool product, bool reverse, bool stores>
void row(const void* s, const void* p, const void* q, void* d, double* carry, int* extreme, double*, int rows, int n,
         int lds, int ldd) {
  for (int r = 0; r < rows; r++) {
    double local = product;
    for (int i = 0; i < n; i++) {
      const int at = reverse ? n - 1 - i : i;
      const float x = at_of(s, r * lds + at, 0.0f) * at_of(p, r * lds + at, 1.0f);
      if (product && x == kExtreme) *extreme = 1;
      local = combine(product, local, x);
      if (!stores) continue;
      const float divisor = at_of(q, r * lds + at, 1.0f);
      if (divisor == 0.0f) *extreme = 1;
      static_cast<float*>(d)[r * ldd + at] = static_cast<float>(combine(product, carry[r], local)) / divisor;
    }
    carry[r] = combine(product, carry[r], local);
  }
}

template <bool product>
void column(const void* s, const void* p, const void* q, void* d, double* carry, int* extreme, double*, int rows, int n,
            int lds, int ldd) {
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < n; c++) {
      const float x = at_of(s, r * lds + c, 0.0f) * at_of(p, r * lds + c, 1.0f), divisor = at_of(q, r * lds + c, 1.0f);
      carry[c] = combine(product, carry[c], x);
      if (divisor == 0.0f) *extreme = 1;
      static_cast<float*>(d)[r * ldd + c] = static_cast<float>(carry[c]) / divisor;
    }
}

template <bool product>
void serial(const void* s, const void* p, const void* q, void* d, double* carry, int* e, double* w, int rows, int n,
            int lds, int ldd) {
  serial_calls++;
  column<product>(s, p, q, d, carry, e, w, rows, n, lds, ldd);
}

tvmops_function leaf(ScanFn* f) { return reinterpret_cast<tvmops_function>(f); }

struct FakeKernel {
  std::vector<tvmops_leaf> leaves;
  std::vector<tvmops_value> params;
  tvmops_kernel table{};

  template <bool product>
  static FakeKernel make(int64_t stream_bytes) {
    FakeKernel k;
    k.leaves = {
        {"row", leaf(row<product, false, true>)},    {"row.reverse", leaf(row<product, true, true>)},
        {"total", leaf(row<product, false, false>)}, {"total.reverse", leaf(row<product, true, false>)},
        {"column", leaf(column<product>)},           {"serial", leaf(serial<product>)},
    };
    k.params = {{"bytes", 4}, {"product", product},  {"identity_bits", product ? 0x3f800000 : 0},
                {"work", 0},  {"segment", 64},       {"panel", 70},
                {"depth", 3}, {"parallel_bytes", 0}, {"stream_bytes", stream_bytes}};
    k.fill();
    return k;
  }
  void fill() {
    table.name = "fake", table.op = "cumsum", table.workload = "cumsum(float32;M=*,N=*,I=*)";
    table.target = "none", table.driver = "scan";
    table.params = params.data(), table.n_params = static_cast<uint32_t>(params.size());
    table.leaves = leaves.data(), table.n_leaves = static_cast<uint32_t>(leaves.size());
  }
};

const runtime::ParallelFor kThreeThreads = {
    [](int64_t count, runtime::RangeBody body, void* context) {
      std::vector<std::thread> threads;
      for (int64_t i = 0; i < 3; i++) threads.emplace_back(body, context, count * i / 3, count * (i + 1) / 3);
      for (auto& t : threads) t.join();
    },
    [] { return 3; },
};

struct Shape {
  int64_t outer, n, inner;
};

constexpr Shape kShapes[] = {{1, 1, 1},   {1, 2, 1},   {3, 5, 1},   {200, 7, 1}, {1, 63, 1}, {2, 64, 1},
                             {5, 65, 1},  {1, 700, 1}, {2, 129, 1}, {1, 1, 2},   {1, 9, 3},  {3, 4, 70},
                             {1, 10, 71}, {2, 1, 5},   {1, 7, 300}, {1, 3, 16},  {2, 100, 2}};

std::vector<float> scanned(const ScanKernel& kernel, Shape s, const std::vector<float>& x, bool exclusive, bool reverse,
                           const runtime::ParallelFor& parallel) {
  std::vector<float> y(x.size(), NAN);
  const ScanProblem problem = {s.outer, s.n, s.inner, x.data(), y.data(), exclusive, reverse, nullptr, nullptr};
  CHECK(drivers::fits(kernel, problem));
  CHECK(drivers::scan(kernel, problem, parallel));
  return y;
}

// One after the other, as the definition says.
std::vector<float> expected(bool product, Shape s, const std::vector<float>& x, bool exclusive, bool reverse) {
  std::vector<float> y(x.size());
  for (int64_t o = 0; o < s.outer; o++)
    for (int64_t c = 0; c < s.inner; c++) {
      double sum = product;
      for (int64_t i = 0; i < s.n; i++) {
        const int64_t at = (o * s.n + (reverse ? s.n - 1 - i : i)) * s.inner + c;
        const double next = combine(product, sum, x[at]);
        y[at] = static_cast<float>(exclusive ? sum : next);
        sum = next;
      }
    }
  return y;
}

float small_integer(int64_t i) { return static_cast<float>((i * 7919 + 13) % 17 - 8); }         // sums are exact
float power_of_two(int64_t i) { return std::ldexp(i % 3 ? 1.0f : -1.0f, (i * 7919) % 3 - 1); }  // products are

}  // namespace

TEST(every_shape_direction_and_kind_is_exact) {
  for (const int64_t stream_bytes : {int64_t{1} << 40, int64_t{0}})
    for (const bool product : {false, true}) {
      const FakeKernel fake = product ? FakeKernel::make<true>(stream_bytes) : FakeKernel::make<false>(stream_bytes);
      const ScanKernel kernel(fake.table);
      for (const Shape& s : kShapes) {
        std::vector<float> x(s.outer * s.n * s.inner);
        for (size_t i = 0; i < x.size(); i++)
          x[i] = product ? power_of_two(static_cast<int64_t>(i)) : small_integer(static_cast<int64_t>(i));
        for (const bool exclusive : {false, true})
          for (const bool reverse : {false, true})
            for (const auto& parallel : {runtime::kSerial, kThreeThreads})
              CHECK(scanned(kernel, s, x, exclusive, reverse, parallel) == expected(product, s, x, exclusive, reverse));
      }
    }
}

TEST(the_bits_do_not_depend_on_threads) {
  const FakeKernel fake = FakeKernel::make<false>(0);
  const ScanKernel kernel(fake.table);
  for (const Shape& s : {Shape{1, 5000, 1}, Shape{2, 3000, 1}, Shape{7, 100, 1}, Shape{1, 200, 33}}) {
    std::vector<float> x(s.outer * s.n * s.inner);
    for (size_t i = 0; i < x.size(); i++) x[i] = std::sin(static_cast<float>(i));  // sums round
    for (const bool reverse : {false, true})
      CHECK(scanned(kernel, s, x, false, reverse, runtime::kSerial) ==
            scanned(kernel, s, x, false, reverse, kThreeThreads));
  }
}

TEST(what_the_product_leaf_refuses_goes_one_by_one) {
  const FakeKernel fake = FakeKernel::make<true>(0);
  const ScanKernel kernel(fake.table);
  for (const Shape& s : {Shape{1, 700, 1}, Shape{9, 40, 1}}) {
    std::vector<float> x(s.outer * s.n);
    for (size_t i = 0; i < x.size(); i++) x[i] = power_of_two(static_cast<int64_t>(i));
    x[5] = kExtreme;
    x[x.size() - 3] = kExtreme;
    for (const bool reverse : {false, true})
      for (const auto& parallel : {runtime::kSerial, kThreeThreads}) {
        serial_calls = 0;
        CHECK(scanned(kernel, s, x, false, reverse, parallel) == expected(true, s, x, false, reverse));
        CHECK(serial_calls == 2);  // the two segments, or rows, that have one; no others
      }
  }
}

TEST(gradients_multiply_before_and_divide_after) {
  for (const int64_t stream_bytes : {int64_t{1} << 40, int64_t{0}}) {
    const FakeKernel fake = FakeKernel::make<false>(stream_bytes);
    const ScanKernel kernel(fake.table);
    for (const Shape& s : kShapes) {
      const int64_t size = s.outer * s.n * s.inner;
      std::vector<float> g(size), factor(size), divisor(size), product(size);
      for (int64_t i = 0; i < size; i++) {
        g[i] = small_integer(i), factor[i] = small_integer(i + 5), divisor[i] = power_of_two(i);
        product[i] = g[i] * factor[i];
      }
      for (const bool exclusive : {false, true})
        for (const bool reverse : {false, true})
          for (const auto& parallel : {runtime::kSerial, kThreeThreads}) {
            std::vector<float> y(size, NAN), exact = expected(false, s, product, exclusive, reverse);
            for (int64_t i = 0; i < size; i++) exact[i] /= divisor[i];
            const ScanProblem problem = {s.outer,   s.n,     s.inner,       g.data(),      y.data(),
                                         exclusive, reverse, factor.data(), divisor.data()};
            CHECK(drivers::scan(kernel, problem, parallel));
            CHECK(y == exact);
            // A zero is found wherever it is used: the element that an exclusive scan leaves out is not.
            const int64_t left_out = exclusive && s.inner == 1 ? (reverse ? s.n - 1 : 0) : -1;
            for (const int64_t at : {int64_t{0}, size / 2, size - 1}) {
              if (s.n == 1 || (exclusive && s.inner > 1) || at % s.n == left_out) continue;
              std::vector<float> with_zero = divisor;
              with_zero[at] = 0.0f;
              ScanProblem spoilt = problem;
              spoilt.divisor = with_zero.data();
              CHECK(!drivers::scan(kernel, spoilt, parallel));
            }
          }
    }
  }
}

TEST(a_kernel_that_lacks_something_is_refused_by_name) {
  FakeKernel no_leaf = FakeKernel::make<false>(0);
  no_leaf.leaves.erase(no_leaf.leaves.begin() + 3);
  no_leaf.fill();
  CHECK_THROWS(runtime::Error, ScanKernel(no_leaf.table), "total.reverse");
  FakeKernel no_param = FakeKernel::make<false>(0);
  no_param.params.pop_back();
  no_param.fill();
  CHECK_THROWS(runtime::Error, ScanKernel(no_param.table), "'stream_bytes'");
  FakeKernel wild = FakeKernel::make<false>(0);
  wild.params[3].value = 1 << 20;
  CHECK_THROWS(runtime::Error, ScanKernel(wild.table), "'work'");
  FakeKernel plan = FakeKernel::make<false>(0);
  const uint8_t entries[3] = {};
  plan.table.plan = entries, plan.table.n_plan = 3;
  CHECK_THROWS(runtime::Error, ScanKernel(plan.table), "plan");
}

TEST(sizes_beyond_32_bits_do_not_fit) {
  const FakeKernel fake = FakeKernel::make<false>(0);
  const ScanKernel kernel(fake.table);
  CHECK(drivers::fits(kernel, {1, int64_t{1} << 40, 1, nullptr, nullptr, false, false, nullptr, nullptr}));
  CHECK(!drivers::fits(kernel, {1, 2, int64_t{1} << 31, nullptr, nullptr, false, false, nullptr, nullptr}));
}
