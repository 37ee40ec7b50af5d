#include "drivers/rows.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <iterator>
#include <memory>
#include <string_view>
#include <type_traits>

#include "drivers/binding.h"
#include "runtime/scratch.h"
#include "runtime/stream.h"

namespace tvmops::drivers {

namespace {

constexpr int kMax = RowsKernel::kMaxOperands;
enum ScratchSlot { kScratchPartial, kScratchStream, kScratchRow };

// Upper bounds of the size buckets; the last bucket has none. codegen/spaces/rows.py has the same.
constexpr int64_t kLengthBounds[] = {16, 128, 1024};
constexpr int64_t kElementBounds[] = {1 << 10, 1 << 14, 1 << 18, 1 << 22};
constexpr int64_t kLengthBuckets = std::size(kLengthBounds) + 1, kElementBuckets = std::size(kElementBounds) + 1;

// Rows that add to partial sums are cut into at most so many blocks, of at least so many rows.
constexpr int64_t kPartialBlocks = 64, kPartialRows = 16;
constexpr int64_t kLine = 64;          // elements; flat work is cut at multiples
constexpr int64_t kLongest = 1 << 20;  // elements of one flat call
constexpr int64_t kReach = 1ll << 31;  // of the leaves' indices

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

template <class Body>
void for_ranges(const ParallelFor& parallel, bool threads, int64_t count, Body&& body) {
  if (!threads || count <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  parallel.run(
      count,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<std::remove_reference_t<Body>*>(context))(begin, end);
      },
      &body);
}

// Of a length that the compiler knows, so that it vectorises.
void add_line(float* __restrict to, const float* __restrict from) {
  for (int64_t i = 0; i < kLine; i++) to[i] += from[i];
}

// One problem on its way through the leaves.
class Run {
 public:
  Run(const RowsKernel& kernel, const RowsProblem& problem, const ParallelFor& parallel)
      : k_(kernel), p_(problem), parallel_(parallel) {
    for (int i = 0; i < k_.operands; i++)
      if (k_.operand[i].role == Role::kRow) bytes_ += p_.rows() * p_.n * k_.operand[i].bytes;
    threads_ = bytes_ >= k_.parallel_bytes && parallel_.threads() > 1;
    streams_ = bytes_ >= k_.stream_bytes;
  }

  void operator()() {
    if (p_.inner > 1) return columns();
    if (k_.flat && compact()) return flat();
    if (has_partial()) return with_partials();
    for_ranges(parallel_, threads_, p_.outer, [&](int64_t begin, int64_t end) { rows(begin, end, nullptr); });
  }

 private:
  bool compact() const {
    for (int i = 0; i < k_.operands; i++)
      if (k_.operand[i].role != Role::kRow || (p_.operand[i].stride != p_.n && p_.outer > 1)) return false;
    return true;
  }

  bool has_partial() const {
    for (int i = 0; i < k_.operands; i++)
      if (k_.operand[i].role == Role::kPartial) return true;
    return false;
  }

  char* at(int i, int64_t elements) const {
    auto* data = static_cast<char*>(p_.operand[i].data);
    return data ? data + elements * k_.operand[i].bytes : nullptr;
  }

  // Contiguous memory, cut into ranges of whole cache lines.
  void flat() {
    const int64_t total = p_.outer * p_.n;
    for_ranges(parallel_, threads_, ceil_div(total, kLine), [&](int64_t begin, int64_t end) {
      const int64_t last = std::min(end * kLine, total);
      const int64_t block = streams_ ? std::max<int64_t>(kLine, round_up(k_.block_bytes / 4, kLine)) : kLongest;
      for (int64_t e = begin * kLine; e < last; e += block) {
        const int64_t length = std::min(block, last - e);
        void* p[kMax] = {};
        const int s[kMax] = {};
        for (int i = 0; i < k_.operands; i++) p[i] = at(i, e);
        streamed(p, s, 1, length);
      }
      if (streams_) runtime::stream_fence();
    });
  }

  // Rows [begin, end), each contiguous. `partial`: where those of this range begin, operand after operand.
  void rows(int64_t begin, int64_t end, float* partial) {
    int64_t step = end - begin;
    for (int i = 0; i < k_.operands; i++)
      if (p_.operand[i].stride > 0) step = std::min(step, std::max<int64_t>(1, (kReach - p_.n) / p_.operand[i].stride));
    const bool streams = streams_ && p_.n * 4 <= 8 * k_.block_bytes;
    if (streams) step = std::min(step, std::max<int64_t>(1, k_.block_bytes / (4 * p_.n)));
    for (int64_t r = begin; r < end; r += step) {
      void* p[kMax] = {};
      int s[kMax] = {};
      float* sums = partial;
      for (int i = 0; i < k_.operands; i++) {
        switch (k_.operand[i].role) {
          case Role::kRow:
            p[i] = at(i, r * p_.operand[i].stride);
            s[i] = static_cast<int>(p_.operand[i].stride);
            break;
          case Role::kScalar:
            p[i] = at(i, r);
            break;
          case Role::kVector:
            p[i] = p_.operand[i].data;
            break;
          case Role::kPartial:
            p[i] = sums;
            sums += p_.n;
            break;
          case Role::kScratch:
            s[i] = static_cast<int>(round_up(p_.n, kLine));
            p[i] = runtime::scratch<float>(kScratchRow, static_cast<size_t>(k_.height * s[i]));
            break;
          case Role::kSingle:  // no kernel of a CPU has one
            break;
        }
      }
      const int64_t count = std::min(step, end - r);
      if (streams)
        streamed(p, s, count, p_.n);
      else
        call_rows(k_.row[p_.variant], p, s, count, p_.n, p_.param);
    }
    if (streams) runtime::stream_fence();
  }

  // A call whose results go through a block in L1 and from there past the caches, if this problem streams.
  void streamed(void* const (&p)[kMax], const int (&s)[kMax], int64_t rows, int64_t n) {
    RowsFn* const leaf = k_.row[p_.variant];
    if (!streams_) return call_rows(leaf, p, s, rows, n, p_.param);
    const int64_t stride = round_up(n, kLine);
    void* q[kMax];
    int t[kMax];
    size_t size = 0, offset[kMax] = {};
    for (int i = 0; i < k_.operands; i++) {
      if (!out(i)) continue;
      offset[i] = size;
      size += static_cast<size_t>(rows * stride) * k_.operand[i].bytes;
    }
    char* const block = runtime::scratch<char>(kScratchStream, size);
    for (int i = 0; i < kMax; i++) {
      const bool here = i < k_.operands && out(i) && p[i];
      q[i] = here ? block + offset[i] : p[i];
      t[i] = here ? static_cast<int>(stride) : s[i];
    }
    call_rows(leaf, q, t, rows, n, p_.param);
    for (int i = 0; i < k_.operands; i++) {
      if (!out(i) || !p[i]) continue;
      const int64_t bytes = k_.operand[i].bytes;
      for (int64_t r = 0; r < rows; r++)
        runtime::stream_copy(static_cast<char*>(p[i]) + r * s[i] * bytes, static_cast<char*>(q[i]) + r * stride * bytes,
                             static_cast<size_t>(n * bytes));
    }
  }

  bool out(int i) const { return k_.operand[i].written && k_.operand[i].role == Role::kRow; }

  // Blocks of rows, each with sums of its own, which are then added in order.
  void with_partials() {
    const int64_t count = p_.outer;
    const int64_t blocks = std::max<int64_t>(1, std::min(kPartialBlocks, ceil_div(count, kPartialRows)));
    const int64_t height = ceil_div(count, blocks);
    int64_t sums = 0;
    for (int i = 0; i < k_.operands; i++) sums += k_.operand[i].role == Role::kPartial;
    const int64_t size = round_up(sums * p_.n, kLine);
    float* const all = runtime::scratch<float>(kScratchPartial, static_cast<size_t>(blocks * size));
    for_ranges(parallel_, threads_, blocks, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; b++) {
        float* const mine = all + b * size;
        std::memset(mine, 0, static_cast<size_t>(size) * sizeof(float));
        rows(std::min(b * height, count), std::min((b + 1) * height, count), mine);
      }
    });
    for_ranges(parallel_, threads_ && blocks * size * 4 >= k_.parallel_bytes, size / kLine,
               [&](int64_t begin, int64_t end) {
                 for (int64_t b = 1; b < blocks; b++)
                   for (int64_t line = begin * kLine; line < end * kLine; line += kLine)
                     add_line(all + line, all + b * size + line);
               });
    int64_t index = 0;
    for (int i = 0; i < k_.operands; i++) {
      if (k_.operand[i].role != Role::kPartial) continue;
      const float* const sum = all + index++ * p_.n;
      if (p_.operand[i].data) std::memcpy(p_.operand[i].data, sum, static_cast<size_t>(p_.n) * sizeof(float));
    }
  }

  // Rows that lie across: tiles of neighbouring ones.
  void columns() {
    const int64_t tiles = ceil_div(p_.inner, k_.tile);
    for_ranges(parallel_, threads_, p_.outer * tiles, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t o = begin / tiles, t = begin % tiles;
        const int64_t count = std::min(tiles - t, end - begin);
        const int64_t column = t * k_.tile;
        void* p[kMax] = {};
        int s[kMax] = {};
        for (int i = 0; i < k_.operands; i++) {
          if (k_.operand[i].role == Role::kRow) {
            p[i] = at(i, o * p_.n * p_.inner + column);
            s[i] = static_cast<int>(p_.inner);
          } else if (k_.operand[i].role == Role::kScalar) {
            p[i] = at(i, o * p_.inner + column);
          } else if (k_.operand[i].role == Role::kScratch) {
            p[i] = runtime::scratch<float>(kScratchRow, static_cast<size_t>(p_.n * k_.tile));
            s[i] = static_cast<int>(k_.tile);
          } else {
            p[i] = p_.operand[i].data;
          }
        }
        call_rows(k_.column[p_.variant], p, s, std::min(count * k_.tile, p_.inner - column), p_.n, p_.param);
        begin += count;
      }
    });
  }

  const RowsKernel& k_;
  const RowsProblem& p_;
  const ParallelFor& parallel_;
  int64_t bytes_ = 0;
  bool threads_ = false, streams_ = false;
};

// Compact operands, aligned, none of which is written over another.
bool whole_fits(const RowsKernel& kernel, const RowsProblem& problem) {
  if (problem.inner > 1 || problem.variant != 0) return false;
  for (int i = 0; i < kernel.operands; i++) {
    const RowsProblem::Data& one = problem.operand[i];
    const Role role = kernel.operand[i].role;
    if (role == Role::kScratch) continue;
    if (!one.data || reinterpret_cast<uintptr_t>(one.data) % runtime::kAlignment != 0) return false;
    if (role == Role::kRow && one.stride != problem.n && problem.outer > 1) return false;
    for (int j = 0; j < kernel.operands && kernel.operand[i].written; j++)
      if (j != i && problem.operand[j].data == one.data) return false;
  }
  return true;
}

// In the order of the definition: what is read, params of one element, what is written.
void run_whole(const RowsKernel& kernel, const RowsProblem& problem) {
  alignas(runtime::kAlignment) float params[RowsKernel::kMaxParams][runtime::kAlignment / sizeof(float)];
  void* data[kMax + RowsKernel::kMaxParams];
  int64_t count = 0;
  const int64_t inputs = static_cast<int64_t>(kernel.whole->arguments.size()) - kernel.whole->outputs;
  for (int i = 0; i < kernel.operands; i++)
    if (!kernel.operand[i].written && kernel.operand[i].role != Role::kScratch) data[count++] = problem.operand[i].data;
  for (int i = 0; count < inputs; i++) {
    params[i][0] = problem.param[i];
    data[count++] = params[i];
  }
  for (int i = 0; i < kernel.operands; i++)
    if (kernel.operand[i].written && kernel.operand[i].role != Role::kScratch) data[count++] = problem.operand[i].data;
  kernel.whole->run(data);
}

}  // namespace

RowsKernel::RowsKernel(const tvmops_kernel& kernel) : source(&kernel) {
  n = dim(kernel, "N");
  operands = static_cast<int>(param(kernel, "operands", 1, kMaxOperands));
  for (int i = 0; i < operands; i++) {
    const std::string number = std::to_string(i);
    operand[i].role = static_cast<Role>(param(kernel, "role" + number, 0, 4));
    operand[i].written = param(kernel, "written" + number, 0, 1) != 0;
    operand[i].bytes = static_cast<int>(param(kernel, "bytes" + number, 1, 8));
  }
  flat = param(kernel, "flat", 0, 1) != 0;
  m = dim(kernel, "M");
  if (kernel.driver == std::string_view("whole")) {
    whole = std::make_shared<const WholeKernel>(kernel);
    return;
  }
  tile = param(kernel, "tile", 1, 1 << 20);
  height = param(kernel, "height", 1, 64);
  parallel_bytes = param(kernel, "parallel_bytes", 0, INT64_MAX);
  stream_bytes = param(kernel, "stream_bytes", 0, INT64_MAX);
  block_bytes = param(kernel, "block_bytes", 64, 1 << 24);
  row[0] = optional_leaf<RowsFn>(kernel, "row");
  column[0] = optional_leaf<RowsFn>(kernel, "column");
  if (!row[0]) {
    for (int a = 0; a < kActivations; a++)
      row[a] = optional_leaf<RowsFn>(kernel, std::string("row.") + kActivationNames[a]);
    if (std::all_of(std::begin(row), std::end(row), [](RowsFn* f) { return !f; }))
      throw runtime::Error(describe(kernel) + ": leaf 'row', of any activation, is missing");
  }
  check_plan(kernel, rows_plan_size(flat || n > 0));
}

bool fits(const RowsKernel& kernel, const RowsProblem& problem) {
  if (kernel.whole) return whole_fits(kernel, problem) || (kernel.general && fits(*kernel.general, problem));
  if (problem.inner > 1) return kernel.column[problem.variant] && problem.n * problem.inner < kReach;
  if (!kernel.row[problem.variant] || problem.n >= kReach / 2) return false;
  for (int i = 0; i < kernel.operands; i++)
    if (problem.operand[i].stride < 0 || problem.operand[i].stride >= kReach) return false;
  return true;
}

void rows(const RowsKernel& kernel, const RowsProblem& problem, const ParallelFor& parallel) {
  if (!kernel.whole)
    Run(kernel, problem, parallel)();
  else if (whole_fits(kernel, problem))
    run_whole(kernel, problem);
  else
    Run(*kernel.general, problem, parallel)();
}

int64_t rows_plan_bucket(bool by_size, bool column, int64_t n, int64_t elements) {
  const int64_t size = bucket(kElementBounds, elements);
  return by_size ? size : (column * kLengthBuckets + bucket(kLengthBounds, n)) * kElementBuckets + size;
}

int64_t rows_plan_size(bool by_size) { return by_size ? kElementBuckets : 2 * kLengthBuckets * kElementBuckets; }

}  // namespace tvmops::drivers
