#include "drivers/scan.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <utility>

#include "drivers/binding.h"
#include "runtime/scratch.h"
#include "runtime/stream.h"

namespace tvmops::drivers {

namespace {

enum ScratchSlot { kScratchStream, kScratchCarry, kScratchWork };

// Upper bounds of the size buckets; the last bucket has none. codegen/spaces/scan.py has the same.
constexpr int64_t kSpanBounds[] = {4, 8, 16, 64, 256, 1024};
constexpr int64_t kElementBounds[] = {1 << 10, 1 << 14, 1 << 18, 1 << 22};
constexpr int64_t kSpanBuckets = std::size(kSpanBounds) + 1, kElementBuckets = std::size(kElementBounds) + 1;

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
//
// Places are elements from the beginning of the tensors: `from` of what is read, `to` of what is written there, `d` in
// memory, which is another place where results are streamed.
class Run {
 public:
  Run(const ScanKernel& kernel, const ScanProblem& problem, const ParallelFor& parallel)
      : k_(kernel), p_(problem), parallel_(parallel), length_(problem.n - problem.exclusive) {
    const int64_t bytes = (problem.factor ? 4 : 2) * p_.outer * p_.n * p_.inner * k_.bytes;
    threads_ = bytes >= k_.parallel_bytes ? parallel_.threads() : 1;
    streams_ = bytes >= k_.stream_bytes;
    if (p_.exclusive) (p_.reverse ? from_shift_ : to_shift_) = p_.inner;
  }

  bool operator()() {
    if (p_.inner > 1) {
      columns();
    } else if (p_.n > k_.segment && p_.outer < threads_ && !k_.product) {
      for (int64_t r = 0; r < p_.outer; r++) shared_row(r);
    } else {
      for_ranges(parallel_, threads_ > 1, p_.outer, [&](int64_t begin, int64_t end) {
        if (p_.n > k_.segment)
          for (int64_t i = begin; i < end; i++) long_row(p_.reverse ? begin + end - 1 - i : i);
        else
          short_rows(begin, end);
        if (streams_) runtime::stream_fence();
      });
    }
    return !divided_by_zero_;
  }

 private:
  const char* read(const void* tensor, int64_t element) const {
    return tensor ? static_cast<const char*>(tensor) + element * k_.bytes : nullptr;
  }
  char* target(int64_t element) const { return static_cast<char*>(p_.target) + element * k_.bytes; }

  void call(ScanFn* leaf, int64_t from, int64_t to, char* d, double* carry, int* extreme, int64_t rows, int64_t n,
            int64_t lds, int64_t ldd) const {
    double* const work = runtime::scratch<double>(kScratchWork, ScanKernel::kMaxWork);
    leaf(read(p_.source, from), read(p_.factor, from), read(p_.divisor, to), d, carry, extreme, work, as_int(rows),
         as_int(n), as_int(lds), as_int(ldd));
  }

  char* block() const { return runtime::scratch<char>(kScratchStream, static_cast<size_t>(k_.segment * k_.bytes)); }

  void put_identity(char* to, int64_t count) const {
    for (int64_t i = 0; i < count; i++) std::memcpy(to + i * k_.bytes, &k_.identity_bits, k_.bytes);
  }

  // What is `kAhead` blocks from here in the direction of the scan, on its way while this block is computed: a core
  // that reads and streams out in turns would else wait for memory each time.
  void prefetch(const void* tensor, int64_t element, int64_t count) const {
    constexpr int64_t kAhead = 4;
    const int64_t bytes = count * k_.bytes;
    const char* const ahead = read(tensor, element) + (p_.reverse ? -kAhead : kAhead) * bytes;
    for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(ahead + (p_.reverse ? bytes - kLine - i : i));
  }

  void prefetch(int64_t element, int64_t count) const {
    for (const void* tensor : {p_.source, p_.factor, p_.divisor})
      if (tensor) prefetch(tensor, element, count);
  }

  // [rows, length], strides n.
  void scan_rows(int64_t from, int64_t to, char* d, int64_t rows) {
    double carry[kRows];
    std::fill(carry, carry + rows, k_.identity());
    int extreme = 0;
    call(k_.row[p_.reverse], from, to, d, carry, &extreme, rows, length_, p_.n, p_.n);
    if (!extreme) return;
    for (int64_t r = 0; r < rows; r++) {  // which of them?
      double one = k_.identity();
      scan_part(from + r * p_.n, to + r * p_.n, d + r * p_.n * k_.bytes, length_, &one);
    }
  }

  // Part of a row, behind `carry`.
  void scan_part(int64_t from, int64_t to, char* d, int64_t length, double* carry) {
    const double before = *carry;
    int extreme = 0;
    call(k_.row[p_.reverse], from, to, d, carry, &extreme, 1, length, 0, 0);
    if (!extreme) return;
    if (p_.divisor) {
      divided_by_zero_ = true;
    } else {
      *carry = before;
      scan_serially(from, to, d, length, carry);
    }
  }

  void scan_serially(int64_t from, int64_t to, char* d, int64_t length, double* carry) const {
    const int64_t first = p_.reverse ? length - 1 : 0, step = p_.reverse ? -1 : 1;
    int extreme = 0;
    call(k_.serial, from + first, to + first, d + first * k_.bytes, carry, &extreme, length, 1, step, step);
  }

  void short_rows(int64_t begin, int64_t end) {
    const int64_t fitting = streams_ ? k_.segment / p_.n : INT_MAX / 2 / p_.n;
    const int64_t step = std::clamp<int64_t>(fitting, 1, kRows);
    for (int64_t i = begin; i < end; i += step) {
      const int64_t count = std::min(step, end - i), row = p_.reverse ? begin + end - i - count : i;
      const int64_t from = row * p_.n + from_shift_, to = row * p_.n + to_shift_;
      char* const d = streams_ ? block() : target(row * p_.n);
      if (streams_) prefetch(row * p_.n, count * p_.n);
      if (length_ > 0) scan_rows(from, to, d + to_shift_ * k_.bytes, count);
      if (p_.exclusive)
        for (int64_t r = 0; r < count; r++) put_identity(d + (r * p_.n + (p_.reverse ? p_.n - 1 : 0)) * k_.bytes, 1);
      if (streams_) runtime::stream_copy(target(row * p_.n), d, static_cast<size_t>(count * p_.n * k_.bytes));
    }
  }

  struct Segment {
    int64_t from, to, length;
  };

  // The i-th segment of a row in the order of the scan.
  Segment segment(int64_t row, int64_t i) const {
    const int64_t done = i * k_.segment, length = std::min(k_.segment, length_ - done);
    const int64_t at = row * p_.n + (p_.reverse ? length_ - done - length : done);
    return {at + from_shift_, at + to_shift_, length};
  }

  void scan_segment(const Segment& s, double* carry) {
    char* const d = streams_ ? block() : target(s.to);
    if (streams_) prefetch(s.from, s.length);
    scan_part(s.from, s.to, d, s.length, carry);
    if (streams_) runtime::stream_copy(target(s.to), d, static_cast<size_t>(s.length * k_.bytes));
  }

  void begin_row(int64_t row) const {
    if (p_.exclusive) put_identity(target(row * p_.n + (p_.reverse ? p_.n - 1 : 0)), 1);
  }

  void long_row(int64_t row) {
    begin_row(row);
    double carry = k_.identity();
    for (int64_t i = 0, count = ceil_div(length_, k_.segment); i < count; i++) scan_segment(segment(row, i), &carry);
  }

  // A row for all threads: the totals of some segments, what precedes each of them, then their prefixes.
  void shared_row(int64_t row) {
    begin_row(row);
    const int64_t segments = ceil_div(length_, k_.segment), share = threads_ * kShare;
    double* const carries = runtime::scratch<double>(kScratchCarry, static_cast<size_t>(share));
    double carry = 0.0;
    for (int64_t first = 0; first < segments; first += share) {
      const int64_t count = std::min(share, segments - first);
      for_ranges(parallel_, true, count, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const Segment s = segment(row, first + i);
          int extreme = 0;
          carries[i] = 0.0;
          call(k_.total[p_.reverse], s.from, s.to, nullptr, carries + i, &extreme, 1, s.length, 0, 0);
        }
      });
      for (int64_t i = 0; i < count; i++) carry += std::exchange(carries[i], carry);
      for_ranges(parallel_, true, count, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) scan_segment(segment(row, first + i), carries + i);
        if (streams_) runtime::stream_fence();
      });
    }
  }

  // Panels of columns, independent of each other.
  void columns() {
    const int64_t unit = kLine / k_.bytes;
    const int64_t wanted = ceil_div(threads_, p_.outer);  // so that all threads have some
    const int64_t width = std::min(k_.panel, round_up(ceil_div(p_.inner, wanted), unit));
    const int64_t panels = ceil_div(p_.inner, width);
    for_ranges(parallel_, threads_ > 1, p_.outer * panels, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t column = i % panels * width;
        panel(i / panels * p_.n * p_.inner + column, std::min(width, p_.inner - column));
      }
      if (streams_) runtime::stream_fence();
    });
  }

  void panel(int64_t top, int64_t width) {
    const int64_t step = p_.reverse ? -p_.inner : p_.inner;
    int64_t from = p_.reverse ? top + (p_.n - 1) * p_.inner : top, to = from;
    if (p_.exclusive) {
      put_identity(target(to), width);
      to += step;
    }
    double* const carry = runtime::scratch<double>(kScratchCarry, static_cast<size_t>(width));
    std::fill(carry, carry + width, k_.identity());
    const bool streams = streams_ && width * k_.bytes >= kNarrow;
    const int64_t stride = round_up(width, kLine / k_.bytes), most = streams ? k_.depth : INT_MAX / p_.inner;
    char* const held =
        streams ? runtime::scratch<char>(kScratchStream, static_cast<size_t>(most * stride * k_.bytes)) : nullptr;
    int extreme = 0;
    for (int64_t r = 0; r < length_; r += most) {
      const int64_t rows = std::min(most, length_ - r);
      call(k_.column, from, to, streams ? held : target(to), carry, &extreme, rows, width, step,
           streams ? stride : step);
      for (int64_t i = 0; streams && i < rows; i++)
        runtime::stream_copy(target(to + i * step), held + i * stride * k_.bytes,
                             static_cast<size_t>(width * k_.bytes));
      if (extreme) divided_by_zero_ = true;
      from += rows * step;
      to += rows * step;
    }
  }

  const ScanKernel& k_;
  const ScanProblem& p_;
  const ParallelFor& parallel_;
  const int64_t length_;
  int64_t threads_ = 1;
  bool streams_ = false;
  int64_t from_shift_ = 0, to_shift_ = 0;
  std::atomic<bool> divided_by_zero_{false};
};

}  // namespace

ScanKernel::ScanKernel(const tvmops_kernel& kernel) : source(&kernel) {
  bytes = static_cast<int>(param(kernel, "bytes", 1, 4));
  product = param(kernel, "product", 0, 1) != 0;
  for (int reverse = 0; reverse < 2; reverse++) {
    const char* const suffix = reverse ? ".reverse" : "";
    row[reverse] = leaf<ScanFn>(kernel, std::string("row") + suffix);
    if (!product) total[reverse] = leaf<ScanFn>(kernel, std::string("total") + suffix);
  }
  column = leaf<ScanFn>(kernel, "column");
  if (product) serial = leaf<ScanFn>(kernel, "serial");
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

bool scan(const ScanKernel& kernel, const ScanProblem& problem, const ParallelFor& parallel) {
  return problem.outer <= 0 || problem.n <= 0 || problem.inner <= 0 || Run(kernel, problem, parallel)();
}

int64_t scan_plan_bucket(const ScanProblem& p) {
  const bool column = p.inner > 1;
  const int64_t span = bucket(kSpanBounds, column ? p.inner : p.n);
  return (column * kSpanBuckets + span) * kElementBuckets + bucket(kElementBounds, p.outer * p.n * p.inner);
}

int64_t scan_plan_size() { return 2 * kSpanBuckets * kElementBuckets; }

}  // namespace tvmops::drivers
