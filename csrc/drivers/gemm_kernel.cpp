// Binding a kernel of the registry: leaves and params by name.
#include <iterator>

#include "drivers/binding.h"
#include "drivers/gemm.h"

namespace tvmops::drivers {

const char* route_name(Route route) {
  static const char* const names[] = {"aten", "in place", "pack", "dot", "prepacked"};
  return names[static_cast<int>(route)];
}

GemmKernel::GemmKernel(const tvmops_kernel& kernel) : source(&kernel) {
  m = dim(kernel, "M");
  n = dim(kernel, "N");
  k = dim(kernel, "K");
  const auto get = [&](const char* name, int64_t low, int64_t high) {
    return static_cast<int>(param(kernel, name, low, high));
  };
  mr = get("mr", 1, kMaxRows);
  nr = get("nr", 1, 1024);
  narrow = get("narrow", 1, nr);
  wide = get("wide", nr, 4096);
  kc = get("kc", 8, 1 << 20);
  chain = get("chain", 8, 1 << 20);
  nc = get("nc", nr, 1 << 24);
  mc = get("mc", mr, 1 << 20);
  skinny_rows = get("skinny_rows", 0, 1 << 20);
  wide_rows = get("wide_rows", 0, kMaxRows);
  wide_step = get("wide_step", 1, 1 << 20);
  copy_a = get("copy_a", 0, 2);
  dot_columns = get("dot_columns", 1, 64);
  parallel_work = param(kernel, "parallel_work", 0, INT64_MAX);

  const auto shape = [](const char* kind, int rows, int columns) {
    return std::string(kind) + "." + std::to_string(rows) + "x" + std::to_string(columns);
  };
  for (int r = 1; r <= mr; r++) {
    tile[r] = leaf<TileFn>(kernel, shape("tile", r, nr));
    tile_narrow[r] = leaf<TileFn>(kernel, shape("tile", r, narrow));
  }
  for (int r = 1; r <= wide_rows; r++) tile_wide[r] = leaf<TileFn>(kernel, shape("tile", r, wide));
  for (int r = 1; r <= kMaxDotRows; r++) {
    dot[r] = leaf<DotFn>(kernel, shape("dot", r, dot_columns));
    dot_single[r] = leaf<DotFn>(kernel, shape("dot", r, 1));
  }
  pack_rows = leaf<PackRowsFn>(kernel, "pack_rows." + std::to_string(nr));
  copy = leaf<CopyFn>(kernel, "copy");
  transpose = leaf<CopyFn>(kernel, "transpose");
  for (int a = 0; a < kActivations; a++)
    epilogue[a] = leaf<EpilogueFn>(kernel, std::string("epilogue.") + kActivationNames[a]);

  check_plan(kernel, plan_size(n > 0 && k > 0));
}

namespace {

// Upper bounds of the size buckets; the last bucket has none. codegen/spaces/gemm.py has the same.
constexpr int64_t kRowBounds[] = {1, 2, 4, 8, 16, 32, 64, 128, 512};
constexpr int64_t kSizeBounds[] = {8, 16, 32, 64, 128, 256, 1024};
constexpr int64_t kRowBuckets = std::size(kRowBounds) + 1, kSizeBuckets = std::size(kSizeBounds) + 1;

}  // namespace

int64_t plan_bucket(bool static_nk, int64_t plane, int64_t m, int64_t n, int64_t k) {
  const int64_t row = bucket(kRowBounds, m);
  if (static_nk) return row;
  return ((plane * kRowBuckets + row) * kSizeBuckets + bucket(kSizeBounds, n)) * kSizeBuckets + bucket(kSizeBounds, k);
}

int64_t plan_size(bool static_nk) {
  return static_nk ? kRowBuckets : kPlanes * kRowBuckets * kSizeBuckets * kSizeBuckets;
}

}  // namespace tvmops::drivers
