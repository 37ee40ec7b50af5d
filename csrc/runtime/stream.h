// Stores that bypass the caches, for results too large to be found there again.
#ifndef TVMOPS_RUNTIME_STREAM_H_
#define TVMOPS_RUNTIME_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace tvmops::runtime {

// memcpy whose whole cache lines do not go through the caches: memory then is not read before it is overwritten. Call
// stream_fence before another thread may look.
inline void stream_copy(void* to, const void* from, size_t bytes) {
#if defined(__x86_64__)
  auto* target = static_cast<char*>(to);
  const auto* source = static_cast<const char*>(from);
  const size_t head = (64 - reinterpret_cast<uintptr_t>(target) % 64) % 64;
  if (bytes >= head + 64) {
    std::memcpy(target, source, head);
    target += head, source += head, bytes -= head;
    for (; bytes >= 64; target += 64, source += 64, bytes -= 64) {
      const auto* s = reinterpret_cast<const __m128i*>(source);
      auto* t = reinterpret_cast<__m128i*>(target);
      const __m128i a = _mm_loadu_si128(s), b = _mm_loadu_si128(s + 1), c = _mm_loadu_si128(s + 2),
                    d = _mm_loadu_si128(s + 3);
      _mm_stream_si128(t, a);
      _mm_stream_si128(t + 1, b);
      _mm_stream_si128(t + 2, c);
      _mm_stream_si128(t + 3, d);
    }
  }
  to = target, from = source;
#endif
  std::memcpy(to, from, bytes);
}

// Orders the streamed stores of this thread before what it does next.
inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace tvmops::runtime

#endif  // TVMOPS_RUNTIME_STREAM_H_
