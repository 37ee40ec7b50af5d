#include "ops/cross_entropy_rows.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "ops/common.h"

namespace tvmops::ops {

namespace {

constexpr int64_t kBlock = 2048;  // rows of one partial sum
constexpr int64_t kAhead = 16;    // rows: the elements at the classes lie far apart in memory

// `body(block, begin, end)` for blocks of rows.
template <class Body>
void for_blocks(int64_t rows, Body&& body) {
  const int64_t blocks = (rows + kBlock - 1) / kBlock;
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) body(b, b * kBlock, std::min(rows, (b + 1) * kBlock));
  };
  if (blocks == 1) return run(0, 1);
  kAtenParallel.run(
      blocks, [](void* context, int64_t begin, int64_t end) { (*static_cast<decltype(run)*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&run)));
}

// `f` with a null pointer to the C++ type of a dtype.
template <class F>
auto with_type(at::ScalarType dtype, F&& f) {
  if (dtype == at::kBFloat16) return f(static_cast<at::BFloat16*>(nullptr));
  if (dtype == at::kHalf) return f(static_cast<at::Half*>(nullptr));
  return f(static_cast<float*>(nullptr));
}

template <class T>
float weight_of(const ClassRows& r, int64_t c) {
  return r.weight ? static_cast<float>(static_cast<const T*>(r.weight)[c]) : 1.0f;
}

}  // namespace

bool in_range(const ClassRows& r) {
  std::atomic<bool> all{true};
  for_blocks(r.rows(), [&](int64_t, int64_t begin, int64_t end) {
    bool good = true;
    for (int64_t i = begin; i < end; i++)
      good &= static_cast<uint64_t>(r.classes[i]) < static_cast<uint64_t>(r.n) || r.classes[i] == r.ignored;
    if (!good) all.store(false, std::memory_order_relaxed);
  });
  return all;
}

LossSum losses(const ClassRows& r, at::ScalarType dtype, const void* logits, const float* stats, void* losses) {
  return with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto* x = static_cast<const T*>(logits);
    auto* out = static_cast<T*>(losses);
    const float *maximum = stats, *log_sum = stats + r.rows(), *total = stats + 2 * r.rows();
    const double rest = 1 - r.smoothing, share = r.smoothing / static_cast<double>(r.n);
    std::vector<LossSum> sums((r.rows() + kBlock - 1) / kBlock);
    for_blocks(r.rows(), [&](int64_t block, int64_t begin, int64_t end) {
      LossSum sum;
      for (int64_t i = begin; i < end; i++) {
        if (i + kAhead < end && r.classes[i + kAhead] != r.ignored)
          __builtin_prefetch(x + r.at(i + kAhead, r.classes[i + kAhead]));
        const int64_t c = r.classes[i];
        if (c == r.ignored) {
          if (out) out[i] = 0;
          continue;
        }
        const float weight = weight_of<T>(r, c);
        double loss = weight * (log_sum[i] - (static_cast<float>(x[r.at(i, c)]) - maximum[i]));
        if (r.smoothing > 0) loss = rest * loss + share * (static_cast<double>(r.n) * log_sum[i] - total[i]);
        if (out) out[i] = static_cast<float>(loss);
        sum.loss += loss;
        sum.weight += weight;
      }
      sums[block] = sum;
    });
    LossSum all;
    for (const LossSum& s : sums) all.loss += s.loss, all.weight += s.weight;
    return all;
  });
}

void row_factors(const ClassRows& r, at::ScalarType dtype, const void* g, bool each, double scale, float* factors) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto* gradients = static_cast<const T*>(g);
    for_blocks(r.rows(), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t c = r.classes[i];
        factors[i] = c == r.ignored ? 0.0f
                                    : static_cast<float>(static_cast<double>(weight_of<T>(r, c)) *
                                                         static_cast<float>(gradients[each ? i : 0]) * scale);
      }
    });
  });
}

void gradients_at_classes(const ClassRows& r, at::ScalarType dtype, const void* logits, const float* stats,
                          const float* factors, void* gradient, int64_t stride) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto* x = static_cast<const T*>(logits);
    auto* out = static_cast<T*>(gradient);
    const float *maximum = stats, *log_sum = stats + r.rows();
    ClassRows to = r;
    to.stride = stride;
    const auto one = static_cast<float>(1 - r.smoothing + r.smoothing / static_cast<double>(r.n));
    for_blocks(r.rows(), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        if (i + kAhead < end && r.classes[i + kAhead] != r.ignored) {
          __builtin_prefetch(x + r.at(i + kAhead, r.classes[i + kAhead]));
          __builtin_prefetch(out + to.at(i + kAhead, r.classes[i + kAhead]), 1);
        }
        const int64_t c = r.classes[i];
        if (c == r.ignored) continue;
        const float e = std::exp((static_cast<float>(x[r.at(i, c)]) - maximum[i]) - log_sum[i]);
        out[to.at(i, c)] = factors[i] * (e - one);
      }
    });
  });
}

}  // namespace tvmops::ops
