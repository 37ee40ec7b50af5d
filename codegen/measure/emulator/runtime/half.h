// half and bfloat16, their pairs, and CUDA's functions of them. A result is rounded once, to nearest, as CUDA's is;
// functions that CUDA approximates are exact to the last bit or two here.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "vector_types.h"

namespace emulator {

inline uint32_t float_bits(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}
inline float bits_float(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

inline uint16_t half_bits(double value) {
  const auto h = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &h, 2);
  return bits;
}
inline float half_value(uint16_t bits) {
  _Float16 h;
  std::memcpy(&h, &bits, 2);
  return static_cast<float>(h);
}

inline uint16_t bfloat16_bits(float value) {
  const uint32_t u = float_bits(value);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
// To odd first, so that the second rounding is the only one that counts.
inline uint16_t bfloat16_bits(double value) {
  auto f = static_cast<float>(value);
  if (static_cast<double>(f) != value && f == f && !std::isinf(f)) {
    uint32_t u = float_bits(f);
    const bool above = std::fabs(static_cast<double>(f)) > std::fabs(value);
    if (above) --u;
    f = bits_float(u | 1);
  }
  return bfloat16_bits(f);
}
// To TF32: to nearest, ties away from zero; infinity and NaN stay.
inline uint32_t tf32_bits(uint32_t u) { return (u & 0x7f800000) == 0x7f800000 ? u : (u + 0x1000) & 0xffffe000; }

inline float bfloat16_value(uint16_t bits) { return bits_float(static_cast<uint32_t>(bits) << 16); }

}  // namespace emulator

#define EMULATOR_TYPE(name, to_bits, to_value)                                                                        \
  struct alignas(2) name {                                                                                            \
    uint16_t bits;                                                                                                    \
    name() = default;                                                                                                 \
    name(float v) : bits(to_bits(v)) {}                                                                               \
    name(double v) : bits(to_bits(v)) {}                                                                              \
    name(int v) : bits(to_bits(static_cast<double>(v))) {}                                                            \
    name(unsigned v) : bits(to_bits(static_cast<double>(v))) {}                                                       \
    name(long v) : bits(to_bits(static_cast<double>(v))) {}                                                           \
    name(unsigned long v) : bits(to_bits(static_cast<double>(v))) {}                                                  \
    name(long long v) : bits(to_bits(static_cast<double>(v))) {}                                                      \
    name(unsigned long long v) : bits(to_bits(static_cast<double>(v))) {}                                             \
    name(short v) : bits(to_bits(static_cast<float>(v))) {}                                                           \
    name(unsigned short v) : bits(to_bits(static_cast<float>(v))) {}                                                  \
    name(signed char v) : bits(to_bits(static_cast<float>(v))) {}                                                     \
    name(unsigned char v) : bits(to_bits(static_cast<float>(v))) {}                                                   \
    name(bool v) : bits(to_bits(static_cast<float>(v))) {}                                                            \
    operator float() const { return to_value(bits); }                                                                 \
    name& operator+=(name o) { return *this = name(float(*this) + float(o)); }                                        \
    name& operator-=(name o) { return *this = name(float(*this) - float(o)); }                                        \
    name& operator*=(name o) { return *this = name(float(*this) * float(o)); }                                        \
    name& operator/=(name o) { return *this = name(float(*this) / float(o)); }                                        \
  };                                                                                                                  \
  inline name operator+(name a, name b) { return name(float(a) + float(b)); }                                         \
  inline name operator-(name a, name b) { return name(float(a) - float(b)); }                                         \
  inline name operator*(name a, name b) { return name(float(a) * float(b)); }                                         \
  inline name operator/(name a, name b) { return name(float(a) / float(b)); }                                         \
  inline name operator-(name a) {                                                                                     \
    a.bits ^= 0x8000;                                                                                                 \
    return a;                                                                                                         \
  }                                                                                                                   \
  inline name operator+(name a) { return a; }                                                                         \
  inline bool operator==(name a, name b) { return float(a) == float(b); }                                             \
  inline bool operator!=(name a, name b) { return float(a) != float(b); }                                             \
  inline bool operator<(name a, name b) { return float(a) < float(b); }                                               \
  inline bool operator>(name a, name b) { return float(a) > float(b); }                                               \
  inline bool operator<=(name a, name b) { return float(a) <= float(b); }                                             \
  inline bool operator>=(name a, name b) { return float(a) >= float(b); }                                             \
  struct alignas(4) name##2 {                                                                                         \
    name x, y;                                                                                                        \
    name##2() = default;                                                                                              \
    name##2(name x, name y) : x(x), y(y) {}                                                                           \
  };                                                                                                                  \
  inline name __hadd(name a, name b) { return a + b; }                                                                \
  inline name __hsub(name a, name b) { return a - b; }                                                                \
  inline name __hmul(name a, name b) { return a * b; }                                                                \
  inline name __hdiv(name a, name b) { return a / b; }                                                                \
  inline name __hfma(name a, name b, name c) { return name(double(float(a)) * double(float(b)) + double(float(c))); } \
  inline name __hneg(name a) { return -a; }                                                                           \
  inline name __habs(name a) {                                                                                        \
    a.bits &= 0x7fff;                                                                                                 \
    return a;                                                                                                         \
  }                                                                                                                   \
  inline bool __heq(name a, name b) { return a == b; }                                                                \
  inline bool __hne(name a, name b) { return a != b; }                                                                \
  inline bool __hlt(name a, name b) { return a < b; }                                                                 \
  inline bool __hle(name a, name b) { return a <= b; }                                                                \
  inline bool __hgt(name a, name b) { return a > b; }                                                                 \
  inline bool __hge(name a, name b) { return a >= b; }                                                                \
  inline bool __hisnan(name a) { return float(a) != float(a); }                                                       \
  inline int __hisinf(name a) { return std::isinf(float(a)) ? (a.bits >> 15 ? -1 : 1) : 0; }                          \
  inline name __hmax(name a, name b) { return name(std::fmax(float(a), float(b))); }                                  \
  inline name __hmin(name a, name b) { return name(std::fmin(float(a), float(b))); }                                  \
  inline name hexp(name a) { return name(std::exp(float(a))); }                                                       \
  inline name hexp2(name a) { return name(std::exp2(float(a))); }                                                     \
  inline name hexp10(name a) { return name(std::pow(10.0, double(float(a)))); }                                       \
  inline name hlog(name a) { return name(std::log(float(a))); }                                                       \
  inline name hlog2(name a) { return name(std::log2(float(a))); }                                                     \
  inline name hlog10(name a) { return name(std::log10(float(a))); }                                                   \
  inline name hsqrt(name a) { return name(std::sqrt(float(a))); }                                                     \
  inline name hrsqrt(name a) { return name(1.0 / std::sqrt(double(float(a)))); }                                      \
  inline name hrcp(name a) { return name(1.0f / float(a)); }                                                          \
  inline name hsin(name a) { return name(std::sin(float(a))); }                                                       \
  inline name hcos(name a) { return name(std::cos(float(a))); }                                                       \
  inline name htanh(name a) { return name(std::tanh(float(a))); }                                                     \
  inline name hceil(name a) { return name(std::ceil(float(a))); }                                                     \
  inline name hfloor(name a) { return name(std::floor(float(a))); }                                                   \
  inline name hrint(name a) { return name(std::nearbyint(float(a))); }                                                \
  inline name htrunc(name a) { return name(std::trunc(float(a))); }                                                   \
  inline name##2 __halves2##name##2(name x, name y) { return {x, y}; }                                                \
  inline name##2 __hadd2(name##2 a, name##2 b) { return {a.x + b.x, a.y + b.y}; }                                     \
  inline name##2 __hsub2(name##2 a, name##2 b) { return {a.x - b.x, a.y - b.y}; }                                     \
  inline name##2 __hmul2(name##2 a, name##2 b) { return {a.x * b.x, a.y * b.y}; }                                     \
  inline name##2 __h2div(name##2 a, name##2 b) { return {a.x / b.x, a.y / b.y}; }                                     \
  inline name##2 __hfma2(name##2 a, name##2 b, name##2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }  \
  inline name##2 __hmax2(name##2 a, name##2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }                       \
  inline name##2 __hmin2(name##2 a, name##2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }                       \
  inline name##2 __hneg2(name##2 a) { return {-a.x, -a.y}; }                                                          \
  inline name##2 operator+(name##2 a, name##2 b) { return __hadd2(a, b); }                                            \
  inline name##2 operator-(name##2 a, name##2 b) { return __hsub2(a, b); }                                            \
  inline name##2 operator*(name##2 a, name##2 b) { return __hmul2(a, b); }                                            \
  inline name##2 operator/(name##2 a, name##2 b) { return __h2div(a, b); }                                            \
  inline name __low2half(name##2 a) { return a.x; }                                                                   \
  inline name __high2half(name##2 a) { return a.y; }                                                                  \
  inline float __low2float(name##2 a) { return a.x; }                                                                 \
  inline float __high2float(name##2 a) { return a.y; }

EMULATOR_TYPE(__half, emulator::half_bits, emulator::half_value)
EMULATOR_TYPE(__nv_bfloat16, emulator::bfloat16_bits, emulator::bfloat16_value)
#undef EMULATOR_TYPE

typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

inline float __half2float(__half a) { return a; }
inline __half __float2half(float a) { return a; }
inline __half __float2half_rn(float a) { return a; }
inline __half __double2half(double a) { return a; }
inline __half __int2half_rn(int a) { return a; }
inline __half2 __floats2half2_rn(float a, float b) { return {a, b}; }
inline __half2 __float22half2_rn(float2 a) { return {a.x, a.y}; }
inline __half2 __float2half2_rn(float a) { return {a, a}; }
inline float2 __half22float2(__half2 a) { return {a.x, a.y}; }
inline __half2 __half2half2(__half a) { return {a, a}; }
inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 make___half2(__half x, __half y) { return {x, y}; }
inline unsigned short __half_as_ushort(__half a) { return a.bits; }
inline __half __ushort_as_half(unsigned short bits) {
  __half a;
  a.bits = bits;
  return a;
}
inline float __bfloat162float(__nv_bfloat16 a) { return a; }
inline __nv_bfloat16 __float2bfloat16(float a) { return a; }
inline __nv_bfloat16 __float2bfloat16_rn(float a) { return a; }
inline __nv_bfloat16 __double2bfloat16(double a) { return a; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {a, b}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 a) { return {a.x, a.y}; }
inline __nv_bfloat162 __float2bfloat162_rn(float a) { return {a, a}; }
inline float2 __bfloat1622float2(__nv_bfloat162 a) { return {a.x, a.y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return {a, a}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return {a, b}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return a.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 a;
  a.bits = bits;
  return a;
}
