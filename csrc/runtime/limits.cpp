#include "runtime/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "runtime/cpu_features.h"
#include "runtime/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

namespace tvmops::runtime {

namespace {

// x = x * factor + term tends to 1 from anywhere: neither overflow nor subnormals. Volatile, so that nothing is known
// at compile time.
volatile float factor = 0.875f;
volatile float term = 0.125f;
std::atomic<float> sink;

// Latency times throughput asks for at least 10 chains on known cores (16 on wide aarch64 ones). They are named
// variables, not an array, to stay in registers: AVX2 has 16, the others 32.
#define TVMOPS_EACH_OF_12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define TVMOPS_EACH_OF_24(X) \
  TVMOPS_EACH_OF_12(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)

// Defines a function that does `steps` steps of every chain. EACH: which chains.
#define TVMOPS_CHAINS(FUNCTION, ATTRIBUTE, VECTOR, SPLAT, FMA, ADD, FIRST, EACH) \
  ATTRIBUTE void FUNCTION(int64_t steps) {                                       \
    const VECTOR a = SPLAT(factor), b = SPLAT(term);                             \
    EACH(TVMOPS_CHAIN_DECLARE_##VECTOR)                                          \
    for (int64_t i = 0; i < steps; ++i) {                                        \
      EACH(FMA)                                                                  \
    }                                                                            \
    VECTOR sum = SPLAT(0.0f);                                                    \
    EACH(ADD)                                                                    \
    sink.store(FIRST(sum), std::memory_order_relaxed);                           \
  }

#if defined(__x86_64__)

#define TVMOPS_CHAIN_DECLARE___m512(i) __m512 c##i = _mm512_set1_ps(factor);
#define TVMOPS_CHAIN_DECLARE___m256(i) __m256 c##i = _mm256_set1_ps(factor);
#define TVMOPS_CHAIN_DECLARE___m128(i) __m128 c##i = _mm_set1_ps(factor);
#define TVMOPS_FMA512(i) c##i = _mm512_fmadd_ps(c##i, a, b);
#define TVMOPS_FMA256(i) c##i = _mm256_fmadd_ps(c##i, a, b);
#define TVMOPS_FMA128(i) c##i = _mm_add_ps(_mm_mul_ps(c##i, a), b);
#define TVMOPS_ADD512(i) sum = _mm512_add_ps(sum, c##i);
#define TVMOPS_ADD256(i) sum = _mm256_add_ps(sum, c##i);
#define TVMOPS_ADD128(i) sum = _mm_add_ps(sum, c##i);

TVMOPS_CHAINS(chains_avx512, __attribute__((target("avx512f"))), __m512, _mm512_set1_ps, TVMOPS_FMA512, TVMOPS_ADD512,
              _mm512_cvtss_f32, TVMOPS_EACH_OF_24)
TVMOPS_CHAINS(chains_avx2, __attribute__((target("avx2,fma"))), __m256, _mm256_set1_ps, TVMOPS_FMA256, TVMOPS_ADD256,
              _mm256_cvtss_f32, TVMOPS_EACH_OF_12)
TVMOPS_CHAINS(chains_sse2, , __m128, _mm_set1_ps, TVMOPS_FMA128, TVMOPS_ADD128, _mm_cvtss_f32, TVMOPS_EACH_OF_12)

#else

#define TVMOPS_CHAIN_DECLARE_float32x4_t(i) float32x4_t c##i = vdupq_n_f32(factor);
#define TVMOPS_FMA_NEON(i) c##i = vfmaq_f32(b, c##i, a);
#define TVMOPS_ADD_NEON(i) sum = vaddq_f32(sum, c##i);
#define TVMOPS_FIRST_NEON(v) vgetq_lane_f32(v, 0)

TVMOPS_CHAINS(chains_neon, , float32x4_t, vdupq_n_f32, TVMOPS_FMA_NEON, TVMOPS_ADD_NEON, TVMOPS_FIRST_NEON,
              TVMOPS_EACH_OF_24)

#endif

struct Loop {
  void (*run)(int64_t steps);
  int chains, lanes;
};

Loop best_loop() {
#if defined(__x86_64__)
  const CpuFeatures& host = host_features();
  if (host.has("avx512f")) return {chains_avx512, 24, 16};
  if (host.has("avx2") && host.has("fma")) return {chains_avx2, 12, 8};
  return {chains_sse2, 12, 4};
#else
  return {chains_neon, 24, 4};
#endif
}

// GFLOP/s of the calling thread for as long as told.
double measure(const Loop& loop, std::chrono::duration<double> length) {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kSteps = 4096;  // some 30 us: the clock costs nothing
  int64_t steps = 0;
  std::chrono::duration<double> elapsed{};
  const auto start = Clock::now();
  do {
    loop.run(kSteps);
    steps += kSteps;
    elapsed = Clock::now() - start;
  } while (elapsed < length);
  return 2e-9 * static_cast<double>(steps) * loop.chains * loop.lanes / elapsed.count();
}

constexpr int kRounds = 8;

}  // namespace

double fma_peak_gflops(double seconds) { return fma_peak_gflops(seconds, 1); }

double fma_peak_gflops(double seconds, int threads) {
  if (threads < 1) throw Error("FMA peak of " + std::to_string(threads) + " threads: at least 1 is needed");
  const Loop loop = best_loop();
  const std::chrono::duration<double> slice(seconds / kRounds);
  std::vector<std::vector<double>> rates(kRounds, std::vector<double>(static_cast<size_t>(threads)));
  std::atomic<int> arrived{0};
  std::atomic<bool> abandoned{false};
  const auto work = [&](size_t thread) {
    for (int round = 0; round < kRounds; ++round) {
      // All start together, or one could have a shared core for itself.
      ++arrived;
      while (arrived.load() < (round + 1) * threads) {
        if (abandoned.load()) return;
        std::this_thread::yield();
      }
      rates[static_cast<size_t>(round)][thread] = measure(loop, slice);
    }
  };
  std::vector<std::thread> others;
  const auto join = [&] {
    for (auto& other : others) other.join();
  };
  try {
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(work, static_cast<size_t>(thread));
  } catch (const std::system_error&) {
    abandoned = true;
    join();
    throw Error("FMA peak of " + std::to_string(threads) + " threads: the system gave only " +
                std::to_string(others.size() + 1));
  }
  work(0);
  join();
  double best = 0;
  for (const auto& round : rates) {
    double sum = 0;
    for (const double rate : round) sum += rate;
    best = std::max(best, sum);
  }
  return best;
}

}  // namespace tvmops::runtime
