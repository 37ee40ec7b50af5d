// The driver of row programs, with plain leaves: every form, stride, number of threads, with and without streaming.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "drivers/rows.h"
#include "runtime/error.h"
#include "threads.h"

namespace {

using tvmops::drivers::Role;
using tvmops::drivers::RowsFn;
using tvmops::drivers::RowsKernel;
using tvmops::drivers::RowsProblem;
using tvmops::runtime::Error;
using tvmops::runtime::kSerial;

#define LEAF(name)                                                                                                 \
  void name(void* p0, void* p1, void* p2, void* p3, void*, void*, void*, void*, void*, void*, int s0, int s1, int, \
            int, int, int, int, int, int, int, int rows, int n, float f0, float, float, float)

// y = f0 x
LEAF(scale) {
  (void)p2, (void)p3;
  for (int r = 0; r < rows; r++)
    for (int j = 0; j < n; j++)
      static_cast<float*>(p1)[int64_t{r} * s1 + j] = f0 * static_cast<float*>(p0)[int64_t{r} * s0 + j];
}

// y = x - sum(x), m = sum(x), t += x
LEAF(centre) {
  (void)f0;
  for (int r = 0; r < rows; r++) {
    const float* x = static_cast<float*>(p0) + int64_t{r} * s0;
    float sum = 0;
    for (int j = 0; j < n; j++) sum += x[j];
    for (int j = 0; j < n; j++) static_cast<float*>(p1)[int64_t{r} * s1 + j] = x[j] - sum;
    static_cast<float*>(p2)[r] = sum;
    for (int j = 0; p3 && j < n; j++) static_cast<float*>(p3)[j] += x[j];
  }
}

LEAF(centre_column) {
  (void)p3, (void)f0;
  for (int c = 0; c < rows; c++) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += static_cast<float*>(p0)[int64_t{i} * s0 + c];
    for (int i = 0; i < n; i++)
      static_cast<float*>(p1)[int64_t{i} * s1 + c] = static_cast<float*>(p0)[int64_t{i} * s0 + c] - sum;
    static_cast<float*>(p2)[c] = sum;
  }
}

struct Made {
  std::vector<std::string> names;
  std::vector<tvmops_value> params;
  std::vector<tvmops_leaf> leaves;
  tvmops_value dims[1] = {{"N", -1}};
  std::vector<uint8_t> plan;
  tvmops_kernel table = {};

  Made(bool flat, int64_t stream, std::vector<Role> roles, std::vector<tvmops_leaf> with) : leaves(std::move(with)) {
    names.reserve(64);
    const auto add = [&](std::string name, int64_t value) {
      names.push_back(std::move(name));
      params.push_back({names.back().c_str(), value});
    };
    add("operands", static_cast<int64_t>(roles.size()));
    for (size_t i = 0; i < roles.size(); i++) {
      add("role" + std::to_string(i), static_cast<int64_t>(roles[i]));
      add("written" + std::to_string(i), i > 0);
      add("bytes" + std::to_string(i), 4);
    }
    add("flat", flat);
    add("tile", 4);
    add("height", 1);
    add("parallel_bytes", 0);
    add("stream_bytes", stream);
    add("block_bytes", 1024);
    fill();
  }

  void fill() {
    table = {"k",
             "op",
             "op(float32;N=*)",
             "x86-64-v3",
             "rows",
             dims,
             1,
             params.data(),
             static_cast<uint32_t>(params.size()),
             leaves.data(),
             static_cast<uint32_t>(leaves.size()),
             plan.data(),
             static_cast<uint32_t>(plan.size())};
    if (plan.empty()) table.plan = nullptr;
  }
};

tvmops_function any(RowsFn* leaf) { return reinterpret_cast<tvmops_function>(leaf); }

constexpr int64_t kNever = INT64_MAX;

Made flat_kernel(int64_t stream) { return {true, stream, {Role::kRow, Role::kRow}, {{"row", any(scale)}}}; }

Made row_kernel(int64_t stream) {
  return {false,
          stream,
          {Role::kRow, Role::kRow, Role::kScalar, Role::kPartial},
          {{"row", any(centre)}, {"column", any(centre_column)}}};
}

std::vector<float> numbers(int64_t count) {
  std::vector<float> x(static_cast<size_t>(count));
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>((i * 37) % 23) - 11;
  return x;
}

TEST(flat_work_is_cut_anywhere) {
  for (const int64_t stream : {int64_t{0}, kNever}) {
    const Made made = flat_kernel(stream);
    const RowsKernel kernel(made.table);
    for (const int64_t n : {1, 63, 64, 65, 1000, 5000}) {
      for (const int64_t offset : {0, 1, 5}) {
        const auto x = numbers(n + offset);
        std::vector<float> y(x.size() + 1, 7);
        RowsProblem problem;
        problem.n = n;
        problem.param[0] = 3;
        problem.operand[0].data = const_cast<float*>(x.data()) + offset;
        problem.operand[1].data = y.data() + offset;
        CHECK(fits(kernel, problem));
        tvmops::drivers::rows(kernel, problem, kThreads);
        for (int64_t i = 0; i < n; i++) CHECK(y[i + offset] == 3 * x[i + offset]);
        for (int64_t i = 0; i < offset; i++) CHECK(y[i] == 7);
        CHECK(y.back() == 7);
      }
    }
  }
}

TEST(strided_rows_of_a_flat_kernel) {
  const Made made = flat_kernel(0);
  const RowsKernel kernel(made.table);
  const auto x = numbers(20 * 30);
  std::vector<float> y(20 * 41, 7);
  RowsProblem problem;
  problem.outer = 20, problem.n = 17;
  problem.param[0] = 2;
  problem.operand[0] = {const_cast<float*>(x.data()), 30};
  problem.operand[1] = {y.data(), 41};
  tvmops::drivers::rows(kernel, problem, kThreads);
  for (int r = 0; r < 20; r++)
    for (int j = 0; j < 41; j++) CHECK(y[r * 41 + j] == (j < 17 ? 2 * x[r * 30 + j] : 7));
}

TEST(rows_with_sums_over_all_of_them) {
  for (const int64_t stream : {int64_t{0}, kNever}) {
    const Made made = row_kernel(stream);
    const RowsKernel kernel(made.table);
    for (const int64_t m : {1, 2, 15, 16, 17, 100, 3000}) {
      const int64_t n = 37, stride = 40;
      const auto x = numbers(m * stride);
      std::vector<float> reference;
      for (thread_count = 1; thread_count <= 4; thread_count++) {
        std::vector<float> y(static_cast<size_t>(m * n), 7), sums(static_cast<size_t>(m)), total(n, 9);
        RowsProblem problem;
        problem.outer = m, problem.n = n;
        problem.operand[0] = {const_cast<float*>(x.data()), stride};
        problem.operand[1] = {y.data(), n};
        problem.operand[2].data = sums.data();
        problem.operand[3].data = total.data();
        tvmops::drivers::rows(kernel, problem, thread_count == 1 ? kSerial : kThreads);
        std::vector<float> exact(n);
        for (int64_t r = 0; r < m; r++) {
          float sum = 0;
          for (int64_t j = 0; j < n; j++) sum += x[r * stride + j], exact[j] += x[r * stride + j];
          CHECK(sums[r] == sum);
          for (int64_t j = 0; j < n; j++) CHECK(y[r * n + j] == x[r * stride + j] - sum);
        }
        CHECK(total == exact);  // small integers: exact in any order
        if (thread_count == 1) reference = total;
        CHECK(total == reference);
        problem.operand[3].data = nullptr;  // not wanted
        tvmops::drivers::rows(kernel, problem, kThreads);
      }
      thread_count = 3;
    }
  }
}

TEST(rows_that_lie_across) {
  const Made made = row_kernel(0);
  const RowsKernel kernel(made.table);
  for (const int64_t outer : {1, 3}) {
    for (const int64_t inner : {2, 3, 4, 5, 31}) {
      const int64_t n = 6;
      const auto x = numbers(outer * n * inner);
      std::vector<float> y(x.size()), sums(static_cast<size_t>(outer * inner));
      RowsProblem problem;
      problem.outer = outer, problem.n = n, problem.inner = inner;
      problem.operand[0].data = const_cast<float*>(x.data());
      problem.operand[1].data = y.data();
      problem.operand[2].data = sums.data();
      CHECK(fits(kernel, problem));
      tvmops::drivers::rows(kernel, problem, kThreads);
      for (int64_t o = 0; o < outer; o++) {
        for (int64_t c = 0; c < inner; c++) {
          float sum = 0;
          for (int64_t i = 0; i < n; i++) sum += x[(o * n + i) * inner + c];
          CHECK(sums[o * inner + c] == sum);
          for (int64_t i = 0; i < n; i++) CHECK(y[(o * n + i) * inner + c] == x[(o * n + i) * inner + c] - sum);
        }
      }
    }
  }
}

TEST(what_does_not_fit) {
  const Made made = flat_kernel(0);
  const RowsKernel kernel(made.table);
  RowsProblem problem;
  problem.n = 8, problem.inner = 2;
  CHECK(!fits(kernel, problem));  // there is no column leaf
  problem.inner = 1;
  CHECK(fits(kernel, problem));
  problem.operand[1].stride = -8;
  CHECK(!fits(kernel, problem));
  problem.operand[1].stride = int64_t{1} << 31;
  CHECK(!fits(kernel, problem));
}

TEST(a_kernel_that_lacks_something_is_named) {
  Made made = flat_kernel(0);
  made.leaves[0].name = "other";
  CHECK_THROWS(Error, RowsKernel(made.table), "kernel k", "leaf 'row', of any activation, is missing");
  made.leaves[0].name = "row";
  made.params.pop_back();
  made.fill();
  CHECK_THROWS(Error, RowsKernel(made.table), "param 'block_bytes' is missing");
  Made wrong = flat_kernel(0);
  wrong.plan = {1, 1, 1};
  wrong.fill();
  CHECK_THROWS(Error, RowsKernel(wrong.table), "plan has 3 entries, not 5");
}

TEST(size_buckets) {
  using tvmops::drivers::rows_plan_bucket;
  using tvmops::drivers::rows_plan_size;
  CHECK(rows_plan_bucket(true, false, 5, 1) == 0);
  CHECK(rows_plan_bucket(true, false, 5, int64_t{1} << 40) == rows_plan_size(true) - 1);
  CHECK(rows_plan_bucket(false, true, int64_t{1} << 40, int64_t{1} << 40) == rows_plan_size(false) - 1);
  std::vector<bool> seen(static_cast<size_t>(rows_plan_size(false)));
  for (const bool column : {false, true})
    for (const int64_t n : {16, 17, 129, 1025})
      for (const int64_t elements : {1 << 10, 1 << 14, 1 << 18, 1 << 22, 1 << 23})
        seen[static_cast<size_t>(rows_plan_bucket(false, column, n, elements))] = true;
  CHECK(std::find(seen.begin(), seen.end(), false) == seen.end());
}

}  // namespace
