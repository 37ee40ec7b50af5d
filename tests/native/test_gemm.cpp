// The GEMM driver around leaves written here in plain C++: its blocking, packing and threading on every route, layout
// and ragged size, where a sanitizer sees each access. (Kernels that TVM made are tested from Python.)
#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "drivers/gemm.h"
#include "runtime/error.h"

using namespace tvmops;
using drivers::GemmKernel;
using drivers::GemmProblem;
using drivers::Route;

namespace {

constexpr int kRows = 3, kColumns = 4, kNarrow = 2, kWide = 8, kDotColumns = 4;

template <int r, int n>
void tile(const float* a, const float* b, float* c, int k, int lda, int ldb, int ldc, int w, int beta) {
  for (int i = 0; i < r; i++) {
    std::array<float, n> sum{};
    for (int x = 0; x < k; x++)
      for (int j = 0; j < n; j++) sum[j] += a[i * lda + x] * b[x * ldb + j];  // n readable columns, as TVM's leaves ask
    for (int j = 0; j < w; j++) c[i * ldc + j] = sum[j] + (beta ? c[i * ldc + j] : 0.0f);
  }
}

template <int r, int n>
void dot(const float* a, const float* b, float* c, int k, int lda, int ldb, int ldc) {
  for (int i = 0; i < r; i++)
    for (int j = 0; j < n; j++) {
      float sum = 0.0f;
      for (int x = 0; x < k; x++) sum += a[i * lda + x] * b[j * ldb + x];
      c[i * ldc + j] = sum;
    }
}

void pack_rows(const float* s, float* d, int k, int lds, int w) {
  for (int x = 0; x < k; x++)
    for (int j = 0; j < kColumns; j++) d[x * kColumns + j] = j < w ? s[x * lds + j] : 0.0f;
}

void copy(const float* s, float* d, int rows, int cols, int lds, int ldd) {
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < cols; j++) d[i * ldd + j] = s[i * lds + j];
}

void transpose(const float* s, float* d, int rows, int cols, int lds, int ldd) {
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < cols; j++) d[j * ldd + i] = s[i * lds + j];
}

// The driver does not care which function it is: all activations are this one.
void epilogue(float* c, const float* bias, const float* residual, int r, int ldc, int ldr, int w, int flags,
              float alpha, float beta) {
  for (int i = 0; i < r; i++)
    for (int j = 0; j < w; j++) {
      float x = alpha * c[i * ldc + j] + (flags & 1 ? bias[j] : 0.0f);
      c[i * ldc + j] = x + (flags & 2 ? beta * residual[i * ldr + j] : 0.0f);
    }
}

template <class F>
tvmops_function leaf(F* f) {
  return reinterpret_cast<tvmops_function>(f);
}

struct FakeKernel {
  std::vector<tvmops_leaf> leaves = {
      {"tile.1x4", leaf(tile<1, 4>)}, {"tile.2x4", leaf(tile<2, 4>)},   {"tile.3x4", leaf(tile<3, 4>)},
      {"tile.1x2", leaf(tile<1, 2>)}, {"tile.2x2", leaf(tile<2, 2>)},   {"tile.3x2", leaf(tile<3, 2>)},
      {"tile.1x8", leaf(tile<1, 8>)}, {"tile.2x8", leaf(tile<2, 8>)},   {"dot.1x4", leaf(dot<1, 4>)},
      {"dot.2x4", leaf(dot<2, 4>)},   {"dot.3x4", leaf(dot<3, 4>)},     {"dot.4x4", leaf(dot<4, 4>)},
      {"dot.1x1", leaf(dot<1, 1>)},   {"dot.2x1", leaf(dot<2, 1>)},     {"dot.3x1", leaf(dot<3, 1>)},
      {"dot.4x1", leaf(dot<4, 1>)},   {"pack_rows.4", leaf(pack_rows)}, {"copy", leaf(copy)},
      {"transpose", leaf(transpose)},
  };
  std::vector<std::string> names;
  std::vector<tvmops_value> params = {
      {"mr", kRows},
      {"nr", kColumns},
      {"narrow", kNarrow},
      {"wide", kWide},
      {"kc", 32},
      {"chain", 16},
      {"nc", 8},
      {"mc", 6},
      {"skinny_rows", 5},
      {"wide_rows", 2},
      {"wide_step", 3},
      {"copy_a", 2},
      {"dot_columns", kDotColumns},
      {"parallel_work", 0},
  };
  tvmops_kernel table{};

  FakeKernel() {
    for (const char* activation : drivers::kActivationNames) names.push_back(std::string("epilogue.") + activation);
    for (const auto& name : names) leaves.push_back({name.c_str(), leaf(epilogue)});
    fill();
  }
  void fill() {
    table.name = "fake", table.op = "matmul", table.workload = "matmul(float32;M=*,N=*,K=*)";
    table.target = "none", table.driver = "gemm";
    table.params = params.data(), table.n_params = static_cast<uint32_t>(params.size());
    table.leaves = leaves.data(), table.n_leaves = static_cast<uint32_t>(leaves.size());
  }
};

const runtime::ParallelFor kThreeThreads = {
    [](int64_t count, runtime::RangeBody body, void* context) {
      std::vector<std::thread> threads;
      for (int64_t i = 0; i < count; i++) threads.emplace_back(body, context, i, i + 1);
      for (auto& t : threads) t.join();
    },
    [] { return 3; },
};

float value(int64_t i) { return static_cast<float>((i * 7919 + 13) % 17 - 8); }  // products and sums are exact

// [rows, columns] in exactly as much memory as it takes, so that a read beyond is one beyond the allocation.
struct Matrix {
  std::vector<float> data;
  int64_t rows, columns;
  drivers::MatrixView view;

  Matrix(int64_t r, int64_t c, int layout, int seed) : rows(r), columns(c) {
    const int64_t row = layout == 0   ? c + 2
                        : layout == 1 ? 1
                                      : 2 * c + 1,
                  column = layout == 0   ? 1
                           : layout == 1 ? r + 1
                                         : 2;
    data.resize(r > 0 && c > 0 ? (r - 1) * row + (c - 1) * column + 1 : 1);
    view = {data.data(), row, column};
    for (int64_t i = 0; i < r; i++)
      for (int64_t j = 0; j < c; j++) data[i * row + j * column] = value(i * c + j + seed);
  }
  float at(int64_t i, int64_t j) const { return data[i * view.row + j * view.column]; }
};

void compare(const GemmKernel& kernel, int64_t m, int64_t n, int64_t k, int a_layout, int b_layout, Route route,
             const runtime::ParallelFor& parallel) {
  const Matrix a(m, k, a_layout, 1), b(k, n, b_layout, 2);
  const int64_t ldc = n + 3;
  std::vector<float> c((m - 1) * ldc + n, NAN), bias(n), residual((m - 1) * (n + 1) + n), packed;
  for (int64_t j = 0; j < n; j++) bias[j] = value(j);
  for (size_t i = 0; i < residual.size(); i++) residual[i] = value(static_cast<int64_t>(i));
  GemmProblem p = {m, n, k, a.view, b.view, nullptr, c.data(), ldc, {}};
  p.epilogue.bias = bias.data();
  p.epilogue.residual = residual.data();
  p.epilogue.residual_row = n + 1;
  p.epilogue.beta = 2.0f;
  if (route == Route::kPrepacked) {
    packed.resize(kernel.packed_size(n, k));
    drivers::pack_b(kernel, b.view, k, n, packed.data(), parallel);
    p.packed_b = packed.data();
    p.b = {nullptr, 1, 1};
  }
  CHECK(drivers::fits(kernel, p));
  drivers::gemm(kernel, p, route, parallel);
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      float exact = bias[j] + 2.0f * residual[i * (n + 1) + j];
      for (int64_t x = 0; x < k; x++) exact += a.at(i, x) * b.at(x, j);
      if (c[i * ldc + j] != exact) {
        CHECK(c[i * ldc + j] == exact);
        return;
      }
    }
}

constexpr Route kRoutes[] = {Route::kInPlace, Route::kPack, Route::kDot, Route::kPrepacked};

}  // namespace

TEST(every_route_layout_and_ragged_size_is_exact) {
  const FakeKernel fake;
  const GemmKernel kernel(fake.table);
  for (const int64_t m : {1, 2, 3, 5, 6, 7, 13})
    for (const int64_t n : {1, 2, 3, 4, 5, 8, 11, 21})
      for (const int64_t k : {1, 7, 16, 33, 70})
        for (int a_layout = 0; a_layout < 3; a_layout++)
          for (int b_layout = 0; b_layout < 3; b_layout++)
            for (const Route route : kRoutes) compare(kernel, m, n, k, a_layout, b_layout, route, runtime::kSerial);
}

TEST(threads_split_the_work) {
  const FakeKernel fake;
  const GemmKernel kernel(fake.table);
  for (const int64_t m : {1, 4, 13})
    for (const int64_t n : {3, 12, 21})
      for (const Route route : kRoutes) compare(kernel, m, n, 40, 0, 1, route, kThreeThreads);
}

TEST(no_k_leaves_the_epilogue) {
  const FakeKernel fake;
  const GemmKernel kernel(fake.table);
  for (const Route route : {Route::kInPlace, Route::kPack}) compare(kernel, 4, 5, 0, 0, 0, route, runtime::kSerial);
}

TEST(batches_follow_their_offsets) {
  const FakeKernel fake;
  const GemmKernel kernel(fake.table);
  const int64_t m = 4, n = 5, k = 6, batch = 5;
  const Matrix a(batch * m, k, 0, 3), b(k, n, 0, 4);  // b is the same for all
  std::vector<float> c(batch * m * n, NAN);
  std::vector<int64_t> a_offsets, b_offsets(batch, 0), c_offsets;
  for (int64_t i = 0; i < batch; i++) {
    a_offsets.push_back((batch - 1 - i) * m * a.view.row);
    c_offsets.push_back(i * m * n);
  }
  const GemmProblem p = {m, n, k, a.view, b.view, nullptr, c.data(), n, {}};
  for (const auto& parallel : {runtime::kSerial, kThreeThreads}) {
    drivers::gemm_batch(kernel, p, batch, {a_offsets.data(), b_offsets.data(), c_offsets.data(), nullptr}, Route::kPack,
                        parallel);
    bool right = true;
    for (int64_t i = 0; i < batch * m * n; i++) {
      float exact = 0.0f;
      for (int64_t x = 0; x < k; x++) exact += a.at((batch - 1 - i / (m * n)) * m + i / n % m, x) * b.at(x, i % n);
      right = right && c[i] == exact;
    }
    CHECK(right);
  }
}

TEST(a_kernel_that_lacks_something_is_refused_by_name) {
  FakeKernel no_leaf;
  no_leaf.leaves.erase(no_leaf.leaves.begin() + 2);
  no_leaf.fill();
  CHECK_THROWS(runtime::Error, GemmKernel(no_leaf.table), "tile.3x4");
  FakeKernel no_param;
  no_param.params.erase(no_param.params.begin());
  no_param.fill();
  CHECK_THROWS(runtime::Error, GemmKernel(no_param.table), "'mr'");
  FakeKernel wild;
  wild.params[0].value = 1000;
  CHECK_THROWS(runtime::Error, GemmKernel(wild.table), "1000");
  FakeKernel plan;
  const uint8_t entries[3] = {};
  plan.table.plan = entries, plan.table.n_plan = 3;
  CHECK_THROWS(runtime::Error, GemmKernel(plan.table), "plan");
}

TEST(sizes_beyond_32_bits_do_not_fit) {
  const FakeKernel fake;
  const GemmKernel kernel(fake.table);
  GemmProblem p = {4, 4, 4, {nullptr, 4, 1}, {nullptr, 4, 1}, nullptr, nullptr, 4, {}};
  CHECK(drivers::fits(kernel, p));
  p.b.row = int64_t{1} << 31;
  CHECK(!drivers::fits(kernel, p));
  p.b.row = 4, p.m = int64_t{1} << 40;
  CHECK(!drivers::fits(kernel, p));
}
