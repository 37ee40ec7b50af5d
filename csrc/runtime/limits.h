// What this machine can do at most, measured: the yardstick of the benchmarks.
#ifndef TVMOPS_RUNTIME_LIMITS_H_
#define TVMOPS_RUNTIME_LIMITS_H_

namespace tvmops::runtime {

// Float32 fused multiply-adds per second, in GFLOP/s (2 a lane), with the widest vectors that this CPU has: independent
// chains in registers, no memory. The best of several rounds that together last about `seconds`.
double fma_peak_gflops(double seconds);

// The same with so many threads at once, summed. Throws Error if threads < 1.
double fma_peak_gflops(double seconds, int threads);

}  // namespace tvmops::runtime

#endif  // TVMOPS_RUNTIME_LIMITS_H_
