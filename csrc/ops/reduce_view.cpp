#include "ops/reduce_view.h"

#include <algorithm>
#include <array>

namespace tvmops::ops {

namespace {

// Neighbouring dimensions, merged.
struct Group {
  int64_t size, stride;
  bool reduced;
};

struct Groups {
  std::array<Group, kMaxDims> group;
  int count = 0;

  void add(Group g) {
    if (count > 0) {
      Group& before = group[count - 1];
      if (before.reduced == g.reduced && before.stride == g.stride * g.size) {
        before.size *= g.size;
        before.stride = g.stride;
        return;
      }
    }
    group[count++] = g;
  }
  bool is_reduced(int i) const { return group[i].reduced; }
  // Whether the first n groups could be one, but for being reduced or not.
  bool even(int n) const {
    for (int i = 1; i < n; i++)
      if (group[i - 1].stride != group[i].stride * group[i].size) return false;
    return true;
  }
};

}  // namespace

std::optional<DimSet> dim_set(at::OptionalIntArrayRef dim, int64_t rank) {
  if (rank > kMaxDims) return std::nullopt;
  DimSet set;
  if (!dim || dim->empty()) {
    for (int64_t d = 0; d < rank; d++) set.set(d);
    return set;
  }
  for (int64_t d : *dim) {
    if (d < -rank || d >= rank) return std::nullopt;
    if (d < 0) d += rank;
    if (set[d]) return std::nullopt;
    set.set(d);
  }
  return set;
}

std::optional<ReduceView> reduce_view(const at::Tensor& x, const DimSet& reduced, bool twice) {
  const auto sizes = x.sizes(), strides = x.strides();
  if (x.numel() == 0) return std::nullopt;
  at::DimVector order;  // of memory
  for (int64_t d = 0; d < x.dim(); d++)
    if (sizes[d] > 1) order.push_back(d);
  if (!x.is_contiguous())
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });

  ReduceView view;
  Groups g;
  for (const int64_t d : order) {
    if (strides[d] <= 0) return std::nullopt;
    g.add({sizes[d], strides[d], reduced[d]});
    if (reduced[d]) {
      view.count *= sizes[d];
    } else {
      view.ordered = view.ordered && (view.kept.empty() || view.kept.back() < d);
      view.kept.push_back(d);
      view.kept_sizes.push_back(sizes[d]);
    }
  }
  if (g.count == 0 || g.group[g.count - 1].stride != 1) return std::nullopt;

  // From the inside: rows that stay side by side, what is reduced, what is around; and perhaps both once more.
  auto& p = view.problem;
  int i = g.count - 1;
  if (!g.is_reduced(i)) p.inner = g.group[i--].size;
  if (i < 0 || !g.is_reduced(i)) return std::nullopt;
  p.n = g.group[i].size;
  p.n_stride = g.group[i--].stride;
  if (i < 0) return view;
  p.outer = g.group[i].size;
  p.outer_stride = g.group[i].stride;
  if (i == 0 && !g.is_reduced(0)) return view;
  if (!twice || i > 2 || !g.even(i + 1)) return std::nullopt;
  if (g.is_reduced(i)) {  // it could not be merged with n
    if (i > 0) return std::nullopt;
    p.again_outer = 1;
    p.again_n = p.outer;
    p.again_inner = p.inner;
    return view;
  }
  // [a, b, c, n, inner] with b reduced too: to [a, b, c * inner] first, then along b. The other way round where that
  // spares short rows.
  p.again_inner = p.outer * p.inner;
  p.again_n = g.group[i - 1].size;
  p.again_outer = i == 2 ? g.group[0].size : 1;
  p.outer *= p.again_n * p.again_outer;
  if (p.inner == 1 && p.n < 64 && p.again_n > p.n && p.outer_stride == p.n) {
    const int64_t a = p.again_outer, b = p.again_n, c = p.again_inner, n = p.n;
    p.outer = a;
    p.n = b;
    p.inner = c * n;
    p.n_stride = c * n;
    p.outer_stride = b * c * n;
    p.again_outer = a * c;
    p.again_n = n;
    p.again_inner = 1;
  }
  return view;
}

}  // namespace tvmops::ops
