#include "drivers/scan.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <iterator>
#include <type_traits>

#include "drivers/binding.h"
#include "runtime/scratch.h"
#include "runtime/stream.h"

namespace tvmops::drivers {

namespace {

enum ScratchSlot { kScratchStream, kScratchCarry, kScratchWork };

// Upper bounds of the size buckets; the last bucket has none. codegen/spaces/scan.py has the same.
constexpr int64_t kLengthBounds[] = {16, 128, 1024};
constexpr int64_t kElementBounds[] = {1 << 10, 1 << 14, 1 << 18, 1 << 22};
constexpr int64_t kLengthBuckets = std::size(kLengthBounds) + 1, kElementBuckets = std::size(kElementBounds) + 1;

constexpr int64_t kRows = 128;    // of one call
constexpr int64_t kShare = 32;    // segments of a row that a thread sums up, and then scans while they are in its cache
constexpr int64_t kNarrow = 256;  // bytes of a row in a panel; less is not worth streaming
constexpr int64_t kLine = 64;     // bytes

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
int as_int(int64_t value) { return static_cast<int>(value); }

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

// One problem on its way through the leaves. An exclusive scan of n elements is an inclusive one of n - 1 whose results
// lie one element further, behind the identity.
class Run {
 public:
  Run(const ScanKernel& kernel, const ScanProblem& problem, const ParallelFor& parallel)
      : k_(kernel), p_(problem), parallel_(parallel), length_(problem.n - problem.exclusive) {
    const int64_t bytes = 2 * p_.outer * p_.n * p_.inner * k_.bytes;
    threads_ = bytes >= k_.parallel_bytes ? parallel_.threads() : 1;
    streams_ = bytes >= k_.stream_bytes;
    source_ = static_cast<const char*>(p_.source);
    target_ = static_cast<char*>(p_.target);
  }

  void operator()() {
    if (p_.inner > 1) return columns();
    if (p_.n > k_.segment && p_.outer < threads_) {
      for (int64_t r = 0; r < p_.outer; r++) shared_row(r);
      return;
    }
    for_ranges(parallel_, threads_ > 1, p_.outer, [&](int64_t begin, int64_t end) {
      if (p_.n > k_.segment)
        for (int64_t i = begin; i < end; i++) long_row(p_.reverse ? begin + end - 1 - i : i);
      else
        short_rows(begin, end);
      if (streams_) runtime::stream_fence();
    });
  }

 private:
  int64_t source_shift() const { return p_.exclusive && p_.reverse ? p_.inner : 0; }
  int64_t target_shift() const { return p_.exclusive && !p_.reverse ? p_.inner : 0; }
  const char* source(int64_t element) const { return source_ + element * k_.bytes; }
  char* target(int64_t element) const { return target_ + element * k_.bytes; }

  double* work() const { return runtime::scratch<double>(kScratchWork, ScanKernel::kMaxWork); }
  char* block() const { return runtime::scratch<char>(kScratchStream, static_cast<size_t>(k_.segment * k_.bytes)); }

  void put_identity(char* to, int64_t count) const {
    for (int64_t i = 0; i < count; i++) std::memcpy(to + i * k_.bytes, &k_.identity_bits, k_.bytes);
  }

  // [rows, length], strides n. Every row begins with the identity.
  void call_rows(const char* s, char* d, int64_t rows) const {
    double carry[kRows];
    std::fill(carry, carry + rows, k_.identity());
    int extreme = 0;
    const int n = as_int(p_.n);
    k_.row[p_.reverse](s, d, carry, &extreme, work(), as_int(rows), as_int(length_), n, n);
    if (!extreme) return;
    for (int64_t r = 0; r < rows; r++) {  // which of them?
      double one = k_.identity();
      call_segment(s + r * p_.n * k_.bytes, d + r * p_.n * k_.bytes, length_, &one);
    }
  }

  // Part of a row, behind `carry`.
  void call_segment(const char* s, char* d, int64_t length, double* carry) const {
    const double before = *carry;
    int extreme = 0;
    k_.row[p_.reverse](s, d, carry, &extreme, work(), 1, as_int(length), 0, 0);
    if (extreme) call_serial(s, d, length, &(*carry = before));
  }

  void call_serial(const char* s, char* d, int64_t length, double* carry) const {
    const int64_t first = p_.reverse ? (length - 1) * k_.bytes : 0;
    const int step = p_.reverse ? -1 : 1;
    int extreme = 0;
    k_.serial(s + first, d + first, carry, &extreme, work(), as_int(length), 1, step, step);
  }

  void short_rows(int64_t begin, int64_t end) const {
    const int64_t fitting = streams_ ? k_.segment / p_.n : INT_MAX / 2 / p_.n;
    const int64_t step = std::clamp<int64_t>(fitting, 1, kRows);
    for (int64_t i = begin; i < end; i += step) {
      const int64_t count = std::min(step, end - i), r = p_.reverse ? begin + end - i - count : i;
      char* const to = target(r * p_.n);
      char* const d = streams_ ? block() : to;
      if (streams_) prefetch(source(r * p_.n), count * p_.n * k_.bytes);
      if (length_ > 0) call_rows(source(r * p_.n + source_shift()), d + target_shift() * k_.bytes, count);
      if (p_.exclusive)
        for (int64_t x = 0; x < count; x++) put_identity(d + (x * p_.n + (p_.reverse ? p_.n - 1 : 0)) * k_.bytes, 1);
      if (streams_) runtime::stream_copy(to, d, static_cast<size_t>(count * p_.n * k_.bytes));
    }
  }

  struct Segment {
    const char* source;
    char* target;
    int64_t length;
  };

  // The i-th segment of row r in the order of the scan.
  Segment segment(int64_t r, int64_t i) const {
    const int64_t done = i * k_.segment, length = std::min(k_.segment, length_ - done);
    const int64_t at = r * p_.n + (p_.reverse ? length_ - done - length : done);
    return {source(at + source_shift()), target(at + target_shift()), length};
  }

  // What is `kAhead` blocks from here in the direction of the scan, on its way while this block is computed: a core
  // that only streams out what it has just computed would else wait for memory in turns.
  void prefetch(const char* block, int64_t bytes) const {
    constexpr int64_t kAhead = 4;
    const int64_t away = (p_.reverse ? -kAhead : kAhead) * bytes;
    for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(block + away + (p_.reverse ? bytes - kLine - i : i));
  }

  void scan_segment(const Segment& s, double* carry) const {
    char* const d = streams_ ? block() : s.target;
    if (streams_) prefetch(s.source, s.length * k_.bytes);
    call_segment(s.source, d, s.length, carry);
    if (streams_) runtime::stream_copy(s.target, d, static_cast<size_t>(s.length * k_.bytes));
  }

  void begin_row(int64_t r) const {
    if (p_.exclusive) put_identity(target(r * p_.n + (p_.reverse ? p_.n - 1 : 0)), 1);
  }

  void long_row(int64_t r) const {
    begin_row(r);
    double carry = k_.identity();
    for (int64_t i = 0, count = ceil_div(length_, k_.segment); i < count; i++) scan_segment(segment(r, i), &carry);
  }

  // A row for all threads: the totals of some segments, what precedes each of them, then their prefixes.
  void shared_row(int64_t r) const {
    begin_row(r);
    const int64_t segments = ceil_div(length_, k_.segment), share = threads_ * kShare;
    double* const carries = runtime::scratch<double>(kScratchCarry, static_cast<size_t>(2 * share));
    auto* const extremes = reinterpret_cast<int*>(carries + share);
    double carry = k_.identity();
    for (int64_t first = 0; first < segments; first += share) {
      const int64_t count = std::min(share, segments - first);
      for_ranges(parallel_, true, count, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const Segment s = segment(r, first + i);
          carries[i] = k_.identity(), extremes[i] = 0;
          k_.total[p_.reverse](s.source, nullptr, carries + i, extremes + i, work(), 1, as_int(s.length), 0, 0);
        }
      });
      for (int64_t i = 0; i < count; i++) {
        const double total = carries[i];
        carries[i] = carry;
        if (extremes[i]) {
          const Segment s = segment(r, first + i);
          call_serial(s.source, s.target, s.length, &carry);
        } else {
          carry = k_.product ? carry * total : carry + total;
        }
      }
      for_ranges(parallel_, true, count, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
          if (!extremes[i]) scan_segment(segment(r, first + i), carries + i);
        if (streams_) runtime::stream_fence();
      });
    }
  }

  // Panels of columns, independent of each other.
  void columns() const {
    const int64_t unit = kLine / k_.bytes;
    const int64_t wanted = ceil_div(threads_, p_.outer);  // so that all threads have some
    const int64_t width = std::min(k_.panel, round_up(ceil_div(p_.inner, wanted), unit));
    const int64_t panels = ceil_div(p_.inner, width);
    for_ranges(parallel_, threads_ > 1, p_.outer * panels, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t column = i % panels * width;
        panel(i / panels, column, std::min(width, p_.inner - column));
      }
      if (streams_) runtime::stream_fence();
    });
  }

  void panel(int64_t o, int64_t column, int64_t width) const {
    const int64_t first = o * p_.n * p_.inner + column, last = first + (p_.n - 1) * p_.inner;
    const int64_t step = p_.reverse ? -p_.inner : p_.inner;
    const char* s = source(p_.reverse ? last : first);
    char* d = target(p_.reverse ? last : first);
    if (p_.exclusive) {
      put_identity(d, width);
      d += step * k_.bytes;
    }
    double* const carry = runtime::scratch<double>(kScratchCarry, static_cast<size_t>(width));
    std::fill(carry, carry + width, k_.identity());
    const int64_t stride = round_up(width, kLine / k_.bytes);
    const bool streams = streams_ && width * k_.bytes >= kNarrow;
    char* const held =
        streams ? runtime::scratch<char>(kScratchStream, static_cast<size_t>(k_.depth * stride * k_.bytes)) : nullptr;
    int extreme = 0;
    const int64_t most = streams ? k_.depth : INT_MAX / p_.inner;
    for (int64_t r = 0; r < length_; r += most) {
      const int64_t rows = std::min(most, length_ - r);
      k_.column(s, streams ? held : d, carry, &extreme, nullptr, as_int(rows), as_int(width), as_int(step),
                as_int(streams ? stride : step));
      for (int64_t i = 0; streams && i < rows; i++)
        runtime::stream_copy(d + i * step * k_.bytes, held + i * stride * k_.bytes,
                             static_cast<size_t>(width * k_.bytes));
      s += rows * step * k_.bytes;
      d += rows * step * k_.bytes;
    }
  }

  const ScanKernel& k_;
  const ScanProblem& p_;
  const ParallelFor& parallel_;
  const int64_t length_;
  int64_t threads_ = 1;
  bool streams_ = false;
  const char* source_;
  char* target_;
};

}  // namespace

ScanKernel::ScanKernel(const tvmops_kernel& kernel) : source(&kernel) {
  for (int reverse = 0; reverse < 2; reverse++) {
    const char* const suffix = reverse ? ".reverse" : "";
    row[reverse] = leaf<ScanFn>(kernel, std::string("row") + suffix);
    total[reverse] = leaf<ScanFn>(kernel, std::string("total") + suffix);
  }
  column = leaf<ScanFn>(kernel, "column");
  serial = leaf<ScanFn>(kernel, "serial");
  bytes = static_cast<int>(param(kernel, "bytes", 1, 4));
  product = param(kernel, "product", 0, 1) != 0;
  identity_bits = static_cast<int>(param(kernel, "identity_bits", 0, INT_MAX));
  (void)param(kernel, "work", 0, kMaxWork);
  segment = param(kernel, "segment", 64, 1 << 20);
  panel = param(kernel, "panel", 1, 1 << 16);
  depth = param(kernel, "depth", 1, 1 << 20);
  parallel_bytes = param(kernel, "parallel_bytes", 0, INT64_MAX);
  stream_bytes = param(kernel, "stream_bytes", 0, INT64_MAX);
  check_plan(kernel, scan_plan_size());
}

bool fits(const ScanKernel& kernel, const ScanProblem& problem) {
  return problem.inner == 1 || problem.inner <= INT_MAX / (kernel.depth + 1);
}

void scan(const ScanKernel& kernel, const ScanProblem& problem, const ParallelFor& parallel) {
  if (problem.outer > 0 && problem.n > 0 && problem.inner > 0) Run(kernel, problem, parallel)();
}

int64_t scan_plan_bucket(bool column, int64_t n, int64_t elements) {
  return (column * kLengthBuckets + bucket(kLengthBounds, n)) * kElementBuckets + bucket(kElementBounds, elements);
}

int64_t scan_plan_size() { return 2 * kLengthBuckets * kElementBuckets; }

}  // namespace tvmops::drivers
