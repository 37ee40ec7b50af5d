// What a translated source includes before anything else: the language of device code.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "half.h"
#include "hopper.h"
#include "instructions.h"
#include "wmma.h"

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __CUDACC__ 1
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif
#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())
constexpr int warpSize = 32;

namespace emulator {

// Registers a kernel, and calls it with the arguments of a launch.
template <class... P, size_t... I>
__attribute__((no_sanitize("thread", "undefined"))) inline void call_with(void (*function)(P...), void** arguments,
                                                                          std::index_sequence<I...>) {
  function(*static_cast<std::remove_reference_t<P>*>(arguments[I])...);
}
template <class... P>
__attribute__((no_sanitize("thread", "undefined"))) inline void call_kernel(const void* function, void** arguments) {
  call_with(reinterpret_cast<void (*)(P...)>(const_cast<void*>(function)), arguments, std::index_sequence_for<P...>());
}
struct Registered {
  template <class... P>
  Registered(const char* name, void (*function)(P...), int most_threads, Index cluster = {}) {
    add_kernel(
        {name, reinterpret_cast<const void*>(function), call_kernel<P...>, {sizeof(P)...}, most_threads, 0, cluster});
  }
};

template <class T, class Change>
T atomic_update(T* address, const char* what, Change change) {
  T old;
  atomic_load(&old, address, sizeof old, what);
  const T next = change(old);
  atomic_store(address, &next, sizeof next);
  return old;
}

template <class T>
uint64_t widen(T value) {
  uint64_t bits = 0;
  static_assert(sizeof(T) <= 8);
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T shuffled(Shuffle how, unsigned mask, T value, int lane, int width, int line) {
  const uint64_t bits = shuffle(how, mask, widen(value), lane, width, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulator

inline void __syncthreads(int line = __builtin_LINE()) { emulator::barrier(0, 0, true, line, true); }
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) { emulator::sync_warp(mask, line); }
inline unsigned __activemask(int line = __builtin_LINE()) { return emulator::active_mask(line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { emulator::fail("traps"); }
inline size_t __cvta_generic_to_shared(const void* p) { return emulator::shared_address(p); }
inline size_t __cvta_generic_to_global(const void* p) { return reinterpret_cast<size_t>(p); }
inline void* __cvta_shared_to_generic(size_t address) {
  return emulator::shared_pointer(static_cast<uint32_t>(address));
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, int line = __builtin_LINE()) {
  return emulator::shuffled(emulator::Shuffle::index, mask, value, lane, width, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
  return emulator::shuffled(emulator::Shuffle::up, mask, value, static_cast<int>(delta), width, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
  return emulator::shuffled(emulator::Shuffle::down, mask, value, static_cast<int>(delta), width, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, int line = __builtin_LINE()) {
  return emulator::shuffled(emulator::Shuffle::exclusive_or, mask, value, lanes, width, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return emulator::ballot(mask, predicate != 0, line);
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return emulator::ballot(mask, predicate != 0, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return emulator::ballot(mask, predicate == 0, line) == 0;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, int line = __builtin_LINE()) {
  return emulator::match_any(mask, emulator::widen(value), line);
}
#define EMULATOR_REDUCE(name, type, how)                                                                         \
  inline type name(unsigned mask, type value, int line = __builtin_LINE()) {                                     \
    return static_cast<type>(emulator::reduce(emulator::Reduce::how, mask, static_cast<uint32_t>(value), line)); \
  }
EMULATOR_REDUCE(__reduce_add_sync, unsigned, add)
EMULATOR_REDUCE(__reduce_add_sync, int, add)
EMULATOR_REDUCE(__reduce_min_sync, unsigned, minimum)
EMULATOR_REDUCE(__reduce_min_sync, int, minimum_signed)
EMULATOR_REDUCE(__reduce_max_sync, unsigned, maximum)
EMULATOR_REDUCE(__reduce_max_sync, int, maximum_signed)
EMULATOR_REDUCE(__reduce_and_sync, unsigned, bit_and)
EMULATOR_REDUCE(__reduce_or_sync, unsigned, bit_or)
EMULATOR_REDUCE(__reduce_xor_sync, unsigned, bit_xor)
#undef EMULATOR_REDUCE

template <class T, class V>
T atomicAdd(T* p, V v) {
  return emulator::atomic_update(p, "atomicAdd", [v](T old) { return static_cast<T>(old + static_cast<T>(v)); });
}
template <class T, class V>
T atomicMax(T* p, V v) {
  return emulator::atomic_update(p, "atomicMax",
                                 [v](T old) { return old > static_cast<T>(v) ? old : static_cast<T>(v); });
}
template <class T, class V>
T atomicMin(T* p, V v) {
  return emulator::atomic_update(p, "atomicMin",
                                 [v](T old) { return old < static_cast<T>(v) ? old : static_cast<T>(v); });
}
template <class T, class V>
T atomicExch(T* p, V v) {
  return emulator::atomic_update(p, "atomicExch", [v](T) { return static_cast<T>(v); });
}
template <class T, class U, class V>
T atomicCAS(T* p, U expected, V v) {
  return emulator::atomic_update(
      p, "atomicCAS", [expected, v](T old) { return old == static_cast<T>(expected) ? static_cast<T>(v) : old; });
}

#define EMULATOR_MIN_MAX(type)                              \
  inline type max(type a, type b) { return a > b ? a : b; } \
  inline type min(type a, type b) { return a < b ? a : b; }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
#undef EMULATOR_MIN_MAX
// A NaN loses, as in fmax and fmin.
inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(double a, double b) { return fmin(a, b); }

inline float rsqrtf(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return static_cast<float>(pow(10.0, x)); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __saturatef(float x) { return x >= 1 ? 1 : x > 0 ? x : 0; }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline int __float_as_int(float x) { return emulator::as<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator::as<unsigned>(x); }
inline float __int_as_float(int x) { return emulator::as<float>(x); }
inline float __uint_as_float(unsigned x) { return emulator::as<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t(a) * b >> 32); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  const uint64_t both = (uint64_t(b) << 32) | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) r |= static_cast<unsigned>(both >> (s >> 4 * i & 7) * 8 & 255) << 8 * i;
  return r;
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}
template <class T>
void __stcg(T* p, T v) {
  *p = v;
}
inline long long clock64() { return 0; }
