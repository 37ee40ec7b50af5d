#include "drivers/gemm.h"

#include <algorithm>
#include <climits>
#include <cstring>

#include "runtime/scratch.h"

namespace tvmops::drivers {

namespace {

enum ScratchSlot { kScratchA, kScratchB, kScratchEdge };

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
int as_int(int64_t value) { return static_cast<int>(value); }

template <class Body>
void for_each(const ParallelFor& parallel, int64_t count, Body&& body) {
  parallel.run(
      count,
      [](void* context, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) (*static_cast<std::remove_reference_t<Body>*>(context))(i);
      },
      &body);
}

// d[k, nr] = the panel of b that starts at its first column, w columns wide, zero beyond.
void pack_panel(const GemmKernel& kernel, MatrixView b, int64_t depth, int64_t w, float* d) {
  const int nr = kernel.nr;
  if (b.column == 1) {
    kernel.pack_rows(b.data, d, as_int(depth), as_int(b.row), as_int(w));
    return;
  }
  if (w < nr) std::fill(d, d + depth * nr, 0.0f);
  if (b.row == 1) {
    kernel.transpose(b.data, d, as_int(w), as_int(depth), as_int(b.column), nr);
    return;
  }
  for (int64_t i = 0; i < depth; i++)
    for (int64_t j = 0; j < w; j++) d[i * nr + j] = b.data[i * b.row + j * b.column];
}

// A region of C, rows [m0, m1) and panels [p0, p1): what one thread computes.
class Region {
 public:
  Region(const GemmKernel& kernel, const GemmProblem& problem, Route route, int64_t m0, int64_t m1, int64_t p0,
         int64_t p1)
      : g_(kernel), p_(problem), route_(route), m0_(m0), m1_(m1), p0_(p0), p1_(p1) {
    // Chains of nearly equal length, and blocks of whole chains. They set the order of summation, so only the sizes of
    // the problem and the kernel may have a say.
    const bool few = p_.m <= GemmKernel::kFewRows || p_.n <= GemmKernel::kFewColumns;
    const int longest = few ? std::min(g_.chain, GemmKernel::kFewChain) : g_.chain;
    chain_ = std::max<int64_t>(8, round_up(ceil_div(p_.k, std::max<int64_t>(1, ceil_div(p_.k, longest))), 8));
    depth_ = std::max<int64_t>(1, g_.kc / chain_) * chain_;
    blocks_ = std::max<int64_t>(1, ceil_div(p_.k, depth_));
  }

  void compute() {
    if (m1_ <= m0_ || p1_ <= p0_) return;
    if (route_ == Route::kDot) return by_dots();
    if (route_ == Route::kInPlace && p_.m <= g_.wide_rows && p_.a.column == 1) return by_wide_rows();
    if (p_.m <= g_.skinny_rows) return by_panels();
    by_tiles();
  }

 private:
  struct Source {
    const float* data;
    int64_t ld;
  };

  int64_t block_depth(int64_t k0) const { return std::min(depth_, p_.k - k0); }
  int64_t width(int64_t panel) const { return std::min<int64_t>(g_.nr, p_.n - panel * g_.nr); }

  // B once from end to end: few rows, all K blocks of a panel in turn.
  void by_panels() {
    const bool packs = route_ == Route::kPack;
    float* packed = packs ? runtime::scratch<float>(kScratchB, depth_ * g_.nr) : nullptr;
    const int64_t rows = m1_ - m0_, ld = odd_lines(p_.k);
    Source whole = {p_.a.data + m0_ * p_.a.row, p_.a.row};
    if (p_.a.column != 1) whole = {pack_a(m0_, rows, 0, p_.k, ld), ld};
    const int64_t tiles = ceil_div(rows, g_.mr);
    for (int64_t panel = p0_; panel < p1_; panel++)
      for (int64_t block = 0; block < blocks_; block++) {
        const int64_t k0 = block * depth_, depth = block_depth(k0);
        if (packs) pack_panel(g_, b_at(k0, panel), depth, width(panel), packed);
        const Source b = packs ? Source{packed, g_.nr} : panel_source(k0, panel, depth);
        for (int64_t t = 0, r0 = 0; t < tiles; t++) {
          const int64_t r = rows / tiles + (t < rows % tiles);
          tile({whole.data + r0 * whole.ld + k0, whole.ld}, b, m0_ + r0, r, panel, block, depth);
          r0 += r;
        }
      }
  }

  // A tile of A stays in L1 while the panels of a block of B pass.
  void by_tiles() {
    const int64_t count = p1_ - p0_;
    const int64_t column_blocks = ceil_div(count, std::max<int64_t>(1, g_.nc / g_.nr));
    const int64_t columns = ceil_div(count, column_blocks);
    const bool packs = route_ == Route::kPack;
    float* packed = packs ? runtime::scratch<float>(kScratchB, columns * g_.nr * depth_) : nullptr;
    const bool row_major = p_.a.column == 1;
    const bool copies = row_major && (g_.copy_a == 2 ? count > 2 : g_.copy_a == 1 && count > 1 && collides(p_.a.row));
    const int64_t group = row_major ? g_.mr : g_.mc / g_.mr * g_.mr;
    const int64_t rows = m1_ - m0_, groups = ceil_div(rows, group), ld = odd_lines(depth_);
    for (int64_t jc = p0_; jc < p1_; jc += columns) {
      const int64_t je = std::min(jc + columns, p1_);
      for (int64_t block = 0; block < blocks_; block++) {
        const int64_t k0 = block * depth_, depth = block_depth(k0);
        if (packs)
          for (int64_t j = jc; j < je; j++)
            pack_panel(g_, b_at(k0, j), depth, width(j), packed + (j - jc) * g_.nr * depth_);
        edge_panel_ = -1;
        for (int64_t q = 0, i = m0_; q < groups; q++) {
          const int64_t height = rows / groups + (q < rows % groups);
          Source a = {p_.a.data + i * p_.a.row + k0, p_.a.row};
          if (!row_major || copies) a = {pack_a(i, height, k0, depth, ld), ld};
          const int64_t tiles = ceil_div(height, g_.mr);
          for (int64_t t = 0, r0 = 0; t < tiles; t++) {
            const int64_t r = height / tiles + (t < height % tiles);
            for (int64_t j = jc; j < je; j++) {
              if (copies) prefetch_rows(i + height, k0, depth, j - jc, je - jc);
              const Source b = packs ? Source{packed + (j - jc) * g_.nr * depth_, g_.nr} : panel_source(k0, j, depth);
              tile({a.data + r0 * a.ld, a.ld}, b, i + r0, r, j, block, depth);
            }
            r0 += r;
          }
          i += height;
        }
      }
    }
  }

  // A row-major B in place, few rows of A: sweeps along whole rows of B, a few at a time, as the prefetcher likes it.
  void by_wide_rows() {
    const int64_t rows = m1_ - m0_, first = p0_ * g_.nr, last = std::min(p1_ * g_.nr, p_.n);
    const float* a = p_.a.data + m0_ * p_.a.row;
    float* c = p_.c + m0_ * p_.ldc;
    const int lda = as_int(p_.a.row), ldb = as_int(p_.b.row), ldc = as_int(p_.ldc), nr = g_.nr;
    for (int64_t k = 0; k < std::max<int64_t>(p_.k, 1); k += g_.wide_step) {
      const int depth = as_int(std::min<int64_t>(g_.wide_step, p_.k - k)), more = k > 0;
      const float* b = p_.b.data + k * p_.b.row;
      int64_t j = first;
      for (; j + g_.wide <= last; j += g_.wide)
        g_.tile_wide[rows](a + k, b + j, c + j, depth, lda, ldb, ldc, g_.wide, more);
      for (; j + nr <= last; j += nr) g_.tile[rows](a + k, b + j, c + j, depth, lda, ldb, ldc, nr, more);
      if (j < last) {
        float* edge = runtime::scratch<float>(kScratchEdge, int64_t{g_.wide_step} * nr);
        g_.pack_rows(b + j, edge, depth, ldb, as_int(last - j));
        g_.tile[rows](a + k, edge, c + j, depth, lda, nr, ldc, as_int(last - j), more);
      }
    }
    for (int64_t panel = p0_; panel < p1_; panel++) finish(m0_, rows, panel);
  }

  // B transposed and in place: dot products along K, a few columns of C at a time.
  void by_dots() {
    const int64_t rows = m1_ - m0_, last = std::min(p1_ * g_.nr, p_.n);
    Source a = {p_.a.data + m0_ * p_.a.row, p_.a.row};
    if (p_.a.column != 1) a = {pack_a(m0_, rows, 0, p_.k, odd_lines(p_.k)), odd_lines(p_.k)};
    const int64_t groups = ceil_div(rows, GemmKernel::kMaxDotRows);
    for (int64_t panel = p0_; panel < p1_; panel++) {
      const int64_t end = std::min((panel + 1) * g_.nr, last);
      for (int64_t j = panel * g_.nr; j < end; j += g_.dot_columns) {
        const int64_t w = std::min<int64_t>(g_.dot_columns, end - j);
        for (int64_t t = 0, r0 = 0; t < groups; t++) {
          const int64_t r = rows / groups + (t < rows % groups);
          dots({a.data + r0 * a.ld, a.ld}, m0_ + r0, r, j, w);
          r0 += r;
        }
      }
      finish(m0_, rows, panel);
    }
  }

  void dots(Source a, int64_t i, int64_t r, int64_t j, int64_t w) {
    float* c = p_.c + i * p_.ldc + j;
    const int k = as_int(p_.k), lda = as_int(a.ld), ldb = as_int(p_.b.column), ldc = as_int(p_.ldc);
    const float* b = p_.b.data + j * p_.b.column;
    if (w == g_.dot_columns) return g_.dot[r](a.data, b, c, k, lda, ldb, ldc);
    for (int64_t x = 0; x < w; x++) g_.dot_single[r](a.data, b + x * p_.b.column, c + x, k, lda, ldb, ldc);
  }

  MatrixView b_at(int64_t k0, int64_t panel) const {
    return {p_.b.data + k0 * p_.b.row + panel * g_.nr * p_.b.column, p_.b.row, p_.b.column};
  }

  // Where the micro-kernel reads a panel of a prepacked B or of a row-major B in place.
  Source panel_source(int64_t k0, int64_t panel, int64_t depth) {
    if (p_.packed_b) return {p_.packed_b + (panel * p_.k + k0) * g_.nr, g_.nr};
    const MatrixView b = b_at(k0, panel);
    const int64_t w = width(panel);
    if (w == g_.nr || w == g_.narrow) return {b.data, b.row};
    if (edge_panel_ != panel || edge_k0_ != k0) {  // the leaf reads whole panels: not beyond the end of a row
      edge_ = runtime::scratch<float>(kScratchEdge, std::max(depth_, int64_t{g_.wide_step}) * g_.nr);
      pack_panel(g_, b, depth, w, edge_);
      edge_panel_ = panel, edge_k0_ = k0;
    }
    return {edge_, g_.nr};
  }

  // A leading dimension of at least `columns` that is an odd number of cache lines.
  static int64_t odd_lines(int64_t columns) { return (ceil_div(columns, 16) | 1) * 16; }

  const float* pack_a(int64_t i, int64_t rows, int64_t k0, int64_t depth, int64_t ld) {
    float* w = runtime::scratch<float>(kScratchA, ld * rows);
    const float* a = p_.a.data + i * p_.a.row + k0 * p_.a.column;
    if (p_.a.column == 1)
      g_.copy(a, w, as_int(rows), as_int(depth), as_int(p_.a.row), as_int(ld));
    else if (p_.a.row == 1)
      g_.transpose(a, w, as_int(depth), as_int(rows), as_int(p_.a.column), as_int(ld));
    else
      for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < depth; k++) w[r * ld + k] = a[r * p_.a.row + k * p_.a.column];
    return w;
  }

  // Whether rows this far apart fall on so few sets of an L1 of 64 sets that a tile of them evicts itself.
  static bool collides(int64_t row) {
    const int64_t rest = row * int64_t{sizeof(float)} % 2048;
    return std::min(rest, 2048 - rest) < 40;
  }

  // The `part`th of `parts` shares of the tile of A that starts at row i, towards L2: copying it will not wait for
  // memory.
  void prefetch_rows(int64_t i, int64_t k0, int64_t depth, int64_t part, int64_t parts) const {
    const int64_t rows = std::min<int64_t>(g_.mr, m1_ - i), lines = ceil_div(depth, 16);
    if (rows <= 0) return;
    int64_t x = rows * lines * part / parts, row = x / lines, line = x % lines;
    const float* a = p_.a.data + (i + row) * p_.a.row + k0;
    for (const int64_t end = rows * lines * (part + 1) / parts; x < end; x++) {
      __builtin_prefetch(a + line * 16, 0, 2);
      if (++line == lines) line = 0, a += p_.a.row;
    }
  }

  void tile(Source a, Source b, int64_t i, int64_t r, int64_t panel, int64_t block, int64_t depth) {
    const int64_t w = width(panel);
    const auto kernel = w <= g_.narrow ? g_.tile_narrow[r] : g_.tile[r];
    float* c = p_.c + i * p_.ldc + panel * g_.nr;
    for (int64_t row = 0; row < r; row++) {  // towards L2: its rows may share sets of L1
      __builtin_prefetch(c + row * p_.ldc, 1, 2);
      __builtin_prefetch(c + row * p_.ldc + w - 1, 1, 2);
    }
    // One call a chain: a loop over chains within the leaf was no faster (its registers spill).
    int64_t k = 0;
    do {  // K may be 0
      kernel(a.data + k, b.data + k * b.ld, c, as_int(std::min(chain_, depth - k)), as_int(a.ld), as_int(b.ld),
             as_int(p_.ldc), as_int(w), block > 0 || k > 0);
      k += chain_;
    } while (k < depth);
    if (block == blocks_ - 1) finish(i, r, panel);
  }

  // The epilogue, on rows [i, i + r) of a panel of C that was just written.
  void finish(int64_t i, int64_t r, int64_t panel) {
    const Epilogue& e = p_.epilogue;
    if (e.trivial()) return;
    const int64_t j = panel * g_.nr;
    g_.epilogue[e.activation](p_.c + i * p_.ldc + j, e.bias ? e.bias + j : nullptr,
                              e.residual ? e.residual + i * e.residual_row + j : nullptr, as_int(r), as_int(p_.ldc),
                              as_int(e.residual_row), as_int(width(panel)), (e.bias ? 1 : 0) | (e.residual ? 2 : 0),
                              e.alpha, e.beta);
  }

  const GemmKernel& g_;
  const GemmProblem& p_;
  const Route route_;
  const int64_t m0_, m1_, p0_, p1_;
  int64_t chain_, depth_, blocks_;
  float* edge_ = nullptr;
  int64_t edge_panel_ = -1, edge_k0_ = -1;
};

// A stride along a dimension of size one says nothing; make such a matrix row-major or else transposed.
MatrixView normalise(MatrixView x, int64_t rows, int64_t columns) {
  if (columns == 1) x.column = 1;
  if (rows == 1 && x.column != 1) x.row = 1;
  return x;
}

struct Split {
  int64_t rows, columns;  // threads along M, along N
};

// The split that leaves the least on one thread: its share of the multiplications, and of the bytes it must read.
Split split(const GemmKernel& kernel, const GemmProblem& p, Route route, int64_t threads) {
  const int64_t panels = kernel.panels(p.n);
  if (route == Route::kDot || p.m <= kernel.wide_rows) return {1, std::min(threads, panels)};
  Split best = {1, 1};
  double least = -1;
  for (int64_t columns = 1; columns <= threads; columns++) {
    const int64_t rows = threads / columns;
    const double m = std::max<int64_t>(ceil_div(p.m, rows), std::min<int64_t>(p.m, kernel.mr / 2 + 1));
    const double n = ceil_div(panels, columns) * kernel.nr;
    const double per_b = route == Route::kPack ? 12.0 : 2.0;
    // Threads that share the rows of C share its pages too, and fault on each of a fresh one together.
    const double shared = columns > 1 ? 8.0 * m * n / p.k : 0.0;
    const double cost = m * n + 2.0 * m + per_b * n + shared;
    if (least < 0 || cost < least) least = cost, best = {rows, columns};
  }
  return best;
}

}  // namespace

bool fits(const GemmKernel& kernel, const GemmProblem& p) {
  const int64_t reach = std::max({kernel.kc + 16, kernel.mc, GemmKernel::kMaxRows, kernel.nr, 64});
  const int64_t longest = INT_MAX / reach;
  for (const int64_t stride : {p.a.row, p.a.column, p.b.row, p.b.column, p.ldc, p.epilogue.residual_row})
    if (stride < 0 || stride > longest) return false;
  return p.m <= INT_MAX && p.n <= INT_MAX - 4096 && p.k <= INT_MAX / 2 / GemmKernel::kMaxRows;
}

void gemm(const GemmKernel& kernel, const GemmProblem& problem, Route route, const ParallelFor& parallel) {
  GemmProblem p = problem;
  p.a = normalise(p.a, p.m, p.k);
  if (!p.packed_b) p.b = normalise(p.b, p.k, p.n);
  // What a route can't read is packed.
  if (p.packed_b) route = Route::kPrepacked;
  if (route == Route::kInPlace && p.b.column != 1) route = Route::kPack;
  if (route == Route::kDot && p.b.row != 1) route = Route::kPack;
  const int64_t panels = kernel.panels(p.n);
  const int64_t threads = p.m * p.n * p.k < kernel.parallel_work ? 1 : parallel.threads();
  if (threads <= 1) return Region(kernel, p, route, 0, p.m, 0, panels).compute();
  const Split s = split(kernel, p, route, threads);
  for_each(parallel, s.rows * s.columns, [&](int64_t t) {
    const int64_t y = t / s.columns, x = t % s.columns;
    Region(kernel, p, route, p.m * y / s.rows, p.m * (y + 1) / s.rows, panels * x / s.columns,
           panels * (x + 1) / s.columns)
        .compute();
  });
}

void gemm_batch(const GemmKernel& kernel, const GemmProblem& problem, int64_t batch, const BatchOffsets& offsets,
                Route route, const ParallelFor& parallel) {
  const auto one = [&](int64_t i, const ParallelFor& inner) {
    GemmProblem p = problem;
    if (offsets.a) p.a.data += offsets.a[i];
    if (offsets.b) p.b.data += offsets.b[i];
    if (offsets.c) p.c += offsets.c[i];
    if (offsets.residual && p.epilogue.residual) p.epilogue.residual += offsets.residual[i];
    gemm(kernel, p, route, inner);
  };
  const int threads = batch * problem.m * problem.n * problem.k < kernel.parallel_work ? 1 : parallel.threads();
  if (threads > 1 && batch >= threads) {
    for_each(parallel, batch, [&](int64_t i) { one(i, runtime::kSerial); });
    return;
  }
  for (int64_t i = 0; i < batch; i++) one(i, threads > 1 ? parallel : runtime::kSerial);
}

void pack_b(const GemmKernel& kernel, MatrixView b, int64_t depth, int64_t columns, float* packed,
            const ParallelFor& parallel) {
  b = normalise(b, depth, columns);
  const bool small = depth * columns < 65536;
  for_each(small ? runtime::kSerial : parallel, kernel.panels(columns), [&](int64_t panel) {
    const int64_t w = std::min<int64_t>(kernel.nr, columns - panel * kernel.nr);
    for (int64_t k0 = 0; k0 < depth; k0 += kernel.kc) {
      const MatrixView part = {b.data + k0 * b.row + panel * kernel.nr * b.column, b.row, b.column};
      pack_panel(kernel, part, std::min<int64_t>(kernel.kc, depth - k0), w, packed + (panel * depth + k0) * kernel.nr);
    }
  });
}

}  // namespace tvmops::drivers
