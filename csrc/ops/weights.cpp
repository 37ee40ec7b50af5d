#include "ops/weights.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "ops/gpu.h"

namespace tvmops::ops {

namespace {

void widen(const at::BFloat16* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const uint32_t bits = static_cast<uint32_t>(from[i].x) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

void widen_each(const at::Half* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = static_cast<float>(from[i]);
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) void widen_f16c(const at::Half* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  widen_each(from + i, to + i, n - i);
}

void widen(const at::Half* from, float* to, int64_t n) {
  static const bool f16c = __builtin_cpu_supports("f16c");
  f16c ? widen_f16c(from, to, n) : widen_each(from, to, n);
}
#else
void widen(const at::Half* from, float* to, int64_t n) { widen_each(from, to, n); }
#endif

}  // namespace

float* as_float32(const std::optional<at::Tensor>& weight, int64_t n, float missing, float* room, at::Tensor& kept) {
  const bool missing_weight = !weight || !weight->defined();
  if (gpu()) {
    if (missing_weight)
      kept = new_gpu_tensor({n}, at::kFloat).fill_(missing);
    else
      kept = weight->to(at::kFloat).contiguous();
    return const_cast<float*>(kept.const_data_ptr<float>());
  }
  if (missing_weight) {
    std::fill_n(room, n, missing);
    return room;
  }
  kept = weight->contiguous();
  if (kept.scalar_type() == at::kFloat) return const_cast<float*>(kept.const_data_ptr<float>());
  if (kept.scalar_type() == at::kHalf)
    widen(kept.const_data_ptr<at::Half>(), room, n);
  else
    widen(kept.const_data_ptr<at::BFloat16>(), room, n);
  return room;
}

}  // namespace tvmops::ops
