#include "drivers/reduce.h"

#include <algorithm>
#include <type_traits>

#include "drivers/binding.h"
#include "runtime/scratch.h"

namespace tvmops::drivers {

namespace {

enum ScratchSlot { kScratchParts, kScratchCounts };

constexpr int64_t kFewRows = 32;        // fewer are cut, so that threads have something to do
constexpr int64_t kFoldFrom = 8 << 10;  // elements that are worth a join
constexpr int64_t kLeastFolded = 16;    // elements of a folded row
constexpr int64_t kReach = 1ll << 31;   // of the leaves' indices

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the n elements of each row are cut: by fold, what is left of that being one more piece; then by length.
struct Cut {
  int64_t fold = 1, length = 0, segments = 1;
  int64_t rows = 0;  // n / fold
  int64_t rest = 0;  // n % fold
  int64_t pieces() const { return segments * fold + (rest > 0); }
  int64_t last() const { return rows - (segments - 1) * length; }  // elements of a piece of the last segment
};

Cut cut(const ReduceKernel& k, const ReduceProblem& p) {
  Cut c;
  const bool column = p.inner > 1;
  if (column && p.n_stride == p.inner && 2 * p.inner <= k.tile && p.n * p.inner >= kFoldFrom)
    c.fold = std::max<int64_t>(1, std::min(k.tile / p.inner, p.n / kLeastFolded));
  c.rows = p.n / c.fold;
  c.rest = p.n % c.fold;
  c.length = column ? k.depth : k.segment;
  const int64_t independent = p.outer * (column ? ceil_div(p.inner * c.fold, k.tile) : 1);
  if (c.rows >= 2 * c.length && (k.twice || independent < kFewRows))
    c.segments = ceil_div(c.rows, c.length);
  else
    c.length = c.rows;
  return c;
}

// One problem on its way through the leaves.
class Run {
 public:
  Run(const ReduceKernel& kernel, const ReduceProblem& problem, const ParallelFor& parallel)
      : k_(kernel), p_(problem), parallel_(parallel) {}

  void operator()() {
    x_ = static_cast<const char*>(p_.x);
    threads_ = p_.outer * p_.n * p_.inner * k_.bytes >= k_.parallel_bytes && parallel_.threads() > 1;
    if (p_.again_n > 0) {
      const int64_t results = p_.outer * p_.inner;
      to_parts(results);
      all(k_.part);
      std::fill_n(counts(p_.again_n), p_.again_n, static_cast<float>(p_.n));
      return join(p_.again_outer, p_.again_n, p_.again_inner);
    }
    const Cut c = cut(k_, p_);
    if (c.pieces() == 1) {
      out_[0] = static_cast<char*>(p_.y);
      out_bytes_ = k_.result_bytes;
      ReduceKernel::Leaf leaf = k_.whole;
      if (k_.whole_short && p_.n <= k_.short_n) leaf.row = k_.whole_short;
      if (k_.whole_few && p_.n <= k_.few_n) leaf.column = k_.whole_few;
      return all(leaf);
    }
    to_parts(p_.outer * c.pieces() * p_.inner);
    if (p_.inner > 1)
      column_pieces(c);
    else
      row_pieces(c);
    float* const count = counts(c.pieces());
    std::fill_n(count, c.pieces() - (c.rest > 0), static_cast<float>(c.length));
    std::fill_n(count + (c.segments - 1) * c.fold, c.fold, static_cast<float>(c.last()));
    if (c.rest) count[c.pieces() - 1] = static_cast<float>(c.rest);
    join(p_.outer, c.pieces(), p_.inner);
  }

 private:
  template <class Body>
  void for_ranges(bool threads, int64_t count, Body&& body) {
    if (!threads || count <= 1) {
      if (count > 0) body(int64_t{0}, count);
      return;
    }
    parallel_.run(
        count,
        [](void* context, int64_t begin, int64_t end) {
          (*static_cast<std::remove_reference_t<Body>*>(context))(begin, end);
        },
        &body);
  }

  // Results are partial ones, `count` of each.
  void to_parts(int64_t count) {
    parts_ = runtime::scratch<float>(kScratchParts, static_cast<size_t>(count * k_.parts));
    for (int i = 0; i < k_.parts; i++) out_[i] = reinterpret_cast<char*>(parts_ + i * count);
    out_bytes_ = sizeof(float);
    count_ = count;
  }

  float* counts(int64_t pieces) {
    return counts_ = runtime::scratch<float>(kScratchCounts, static_cast<size_t>(pieces));
  }

  // A leaf on `rows` rows of n elements, the first at element x of the data; its results from element `at` on.
  void call(RowsFn* leaf, int64_t x, int64_t stride, int64_t at, int64_t rows, int64_t n) const {
    void* p[1 + ReduceKernel::kMaxParts] = {const_cast<char*>(x_) + x * k_.bytes};
    for (int i = 0; i < ReduceKernel::kMaxParts && out_[i]; i++) p[1 + i] = out_[i] + at * out_bytes_;
    leaf(p[0], p[1], p[2], p[3], nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, static_cast<int>(stride), 0, 0,
         0, 0, 0, 0, 0, 0, 0, static_cast<int>(rows), static_cast<int>(n), 1 / static_cast<float>(n), p_.divisor,
         1 / p_.divisor, 0);
  }

  // Every row as one piece.
  void all(const ReduceKernel::Leaf& leaf) {
    if (p_.inner == 1) {
      const int64_t step = std::max<int64_t>(1, (kReach - p_.n) / std::max<int64_t>(1, p_.outer_stride));
      return for_ranges(threads_, p_.outer, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r += step)
          call(leaf.row, r * p_.outer_stride, p_.outer_stride, r, std::min(step, end - r), p_.n);
      });
    }
    for_tiles(threads_, p_.outer, p_.inner, [&](int64_t o, int64_t column, int64_t count) {
      call(leaf.column, o * p_.outer_stride + column, p_.n_stride, o * p_.inner + column, count, p_.n);
    });
  }

  // body(o, first row, rows) for all of [outer, inner], `inner` in runs of whole tiles.
  template <class Body>
  void for_tiles(bool threads, int64_t outer, int64_t inner, Body&& body) {
    const int64_t tiles = ceil_div(inner, k_.tile);
    for_ranges(threads, outer * tiles, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t o = begin / tiles, t = begin % tiles, count = std::min(tiles - t, end - begin);
        body(o, t * k_.tile, std::min(count * k_.tile, inner - t * k_.tile));
        begin += count;
      }
    });
  }

  int32_t* places() const { return reinterpret_cast<int32_t*>(out_[1]); }

  void row_pieces(const Cut& c) {
    for_ranges(threads_, p_.outer * c.segments, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t o = begin / c.segments, s = begin % c.segments, count = std::min(c.segments - s, end - begin);
        const bool ragged = s + count == c.segments && c.last() < c.length;
        const int64_t x = o * p_.outer_stride + s * c.length, whole = count - ragged;
        if (whole) call(k_.part.row, x, c.length, begin, whole, c.length);
        if (ragged) call(k_.part.row, x + whole * c.length, c.length, begin + whole, 1, c.last());
        for (int64_t i = 0; k_.indexed && i < count; i++)
          places()[begin + i] += static_cast<int32_t>((s + i) * c.length);
        begin += count;
      }
    });
  }

  void column_pieces(const Cut& c) {
    const int64_t inner = p_.inner * c.fold, stride = c.fold > 1 ? inner : p_.n_stride;
    for_tiles(threads_, p_.outer * c.segments, inner, [&](int64_t block, int64_t column, int64_t count) {
      const int64_t o = block / c.segments, s = block % c.segments;
      const int64_t at = (o * c.pieces() + s * c.fold) * p_.inner + column;
      call(k_.part.column, o * p_.outer_stride + s * c.length * stride + column, stride, at, count,
           s + 1 < c.segments ? c.length : c.last());
      for (int64_t i = 0; k_.indexed && i < count; i++)
        places()[at + i] = static_cast<int32_t>((places()[at + i] + s * c.length) * c.fold + (column + i) / p_.inner);
    });
    for (int64_t o = 0; c.rest && o < p_.outer; o++) {
      const int64_t at = (o * c.pieces() + c.segments * c.fold) * p_.inner, first = c.rows * c.fold;
      call(k_.part.column, o * p_.outer_stride + first * p_.inner, p_.inner, at, p_.inner, c.rest);
      for (int64_t i = 0; k_.indexed && i < p_.inner; i++) places()[at + i] += static_cast<int32_t>(first);
    }
  }

  // Results from the partial ones of n pieces.
  void join(int64_t outer, int64_t n, int64_t inner) {
    const bool threads = count_ * k_.parts * static_cast<int64_t>(sizeof(float)) >= k_.parallel_bytes && threads_;
    const auto call = [&](RowsFn* leaf, int64_t at, int64_t result, int64_t stride, int64_t rows) {
      void* p[2 + ReduceKernel::kMaxParts] = {};
      int s[ReduceKernel::kMaxParts] = {};
      for (int i = 0; i < k_.parts; i++) {
        p[i] = parts_ + i * count_ + at;
        s[i] = static_cast<int>(stride);
      }
      p[k_.parts] = static_cast<char*>(p_.y) + result * k_.result_bytes;
      p[k_.parts + 1] = counts_;
      leaf(p[0], p[1], p[2], p[3], p[4], nullptr, nullptr, nullptr, nullptr, nullptr, s[0], s[1], s[2], 0, 0, 0, 0, 0,
           0, 0, static_cast<int>(rows), static_cast<int>(n), 0, p_.divisor, 1 / p_.divisor, 0);
    };
    if (inner == 1) {
      const int64_t step = std::max<int64_t>(1, kReach / n - 1);
      return for_ranges(threads, outer, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r += step) call(k_.join.row, r * n, r, n, std::min(step, end - r));
      });
    }
    for_tiles(threads, outer, inner, [&](int64_t o, int64_t column, int64_t count) {
      call(k_.join.column, o * n * inner + column, o * inner + column, inner, count);
    });
  }

  const ReduceKernel& k_;
  const ReduceProblem& p_;
  const ParallelFor& parallel_;
  const char* x_ = nullptr;
  bool threads_ = false;
  char* out_[ReduceKernel::kMaxParts] = {};
  int out_bytes_ = 0;
  float *parts_ = nullptr, *counts_ = nullptr;
  int64_t count_ = 0;
};

ReduceKernel::Leaf leaves(const tvmops_kernel& kernel, const std::string& variant) {
  return {leaf<RowsFn>(kernel, "row" + variant), leaf<RowsFn>(kernel, "column" + variant)};
}

}  // namespace

ReduceKernel::ReduceKernel(const tvmops_kernel& kernel) : source(&kernel) {
  whole = leaves(kernel, "");
  part = leaves(kernel, ".part");
  join = leaves(kernel, ".join");
  whole_short = optional_leaf<RowsFn>(kernel, "short");
  short_n = param(kernel, "short", 0, 1 << 10);
  whole_few = optional_leaf<RowsFn>(kernel, "few");
  few_n = param(kernel, "few", 0, 1 << 10);
  bytes = static_cast<int>(param(kernel, "bytes", 1, 8));
  result_bytes = static_cast<int>(param(kernel, "result_bytes", 1, 8));
  parts = static_cast<int>(param(kernel, "parts", 1, kMaxParts));
  indexed = param(kernel, "indexed", 0, parts > 1) != 0;
  twice = param(kernel, "twice", 0, 1) != 0;
  tile = param(kernel, "tile", 1, 1 << 20);
  segment = param(kernel, "segment", 1, 1 << 24);
  depth = param(kernel, "depth", 1, 1 << 24);
  parallel_bytes = param(kernel, "parallel_bytes", 0, INT64_MAX);
  check_plan(kernel, rows_plan_size(false));
}

bool fits(const ReduceKernel& kernel, const ReduceProblem& p) {
  if (p.outer_stride < 0 || p.n_stride < 0 || p.n >= kReach) return false;
  Cut c = cut(kernel, p);
  if (p.again_n > 0) c = {1, p.n, 1, p.n, 0};
  if (p.inner == 1) return c.segments > 1 || (p.outer_stride < kReach && p.n < kReach / 2);
  const int64_t stride = c.fold > 1 ? p.inner * c.fold : p.n_stride;
  return c.length * stride < kReach / 2 && p.inner < kReach / 2 && c.pieces() * p.inner < kReach / 2;
}

void reduce(const ReduceKernel& kernel, const ReduceProblem& problem, const ParallelFor& parallel) {
  Run(kernel, problem, parallel)();
}

}  // namespace tvmops::drivers
