/* A pack of GPU kernels in plain C: a launch does the work at once, on memory of the CPU. What the extension brings to
 * a launch, and what it makes of what a launch returns, can so be tested where there is no GPU. Tests compile it with
 * the definitions below changed, and look at its variables. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "abi.h"

#ifndef CAPABILITY_MAJOR
#define CAPABILITY_MAJOR 8
#define CAPABILITY_MINOR 6
#endif
#ifndef DEVICE_ERROR
#define DEVICE_ERROR 0
#endif
#ifndef DEVICE_FAILURES /* how often there is that error */
#define DEVICE_FAILURES INT64_MAX
#endif

#if defined(__x86_64__)
#define HOST_ARCH "x86_64"
#else
#define HOST_ARCH "aarch64"
#endif

#define EXPORT __attribute__((visibility("default")))

EXPORT int64_t launches = 0; /* of all kernels */
EXPORT tvmops_launch last;   /* the launch before the end of it */
EXPORT int64_t last_sizes[12];
EXPORT void* last_buffers[10];

enum { F32, BF16, F16 };

static float load(const void* data, int64_t i, int type) {
  if (type == F32) return ((const float*)data)[i];
  if (type == F16) return (float)((const _Float16*)data)[i];
  uint32_t bits = (uint32_t)((const uint16_t*)data)[i] << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static void store(void* data, int64_t i, int type, float value) {
  if (type == F32) {
    ((float*)data)[i] = value;
  } else if (type == F16) {
    ((_Float16*)data)[i] = (_Float16)value;
  } else {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value == value) bits += 0x7fff + (bits >> 16 & 1); /* to nearest even */
    ((uint16_t*)data)[i] = (uint16_t)(bits >> 16 | (value != value ? 0x40 : 0));
  }
}

static void note(const tvmops_launch* l, int buffers, int sizes) {
  __atomic_fetch_add(&launches, 1, __ATOMIC_RELAXED);
  last = *l;
  memcpy(last_sizes, l->sizes, sizeof(int64_t) * (size_t)sizes);
  memcpy(last_buffers, l->buffers, sizeof(void*) * (size_t)buffers);
}

/* csrc/drivers/activation.h has the numbers. */
static float activate(float x, int64_t activation) {
  switch (activation) {
    case 1:
      return x > 0 || x != x ? x : 0;
    case 2:
      return 0.5f * x * (1 + erff(x * 0.70710678f));
    case 3:
      return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case 4:
      return x / (1 + expf(-x));
    case 5:
      return 1 / (1 + expf(-x));
    case 6:
      return tanhf(x);
    default:
      return x;
  }
}

/* --- Driver cuda_gemm. --- */

static float product(const tvmops_launch* l, int type, int ta, int tb, int64_t b, int64_t i, int64_t j, int64_t from,
                     int64_t to) {
  const int64_t m = l->sizes[1], n = l->sizes[2], k = l->sizes[3], lda = l->sizes[4], ldb = l->sizes[5];
  const int64_t a0 = b * (ta ? k : m) * lda, b0 = b * (tb ? n : k) * ldb;
  float sum = 0;
  for (int64_t p = from; p < to; p++)
    sum += load(l->buffers[0], a0 + (ta ? p * lda + i : i * lda + p), type) *
           load(l->buffers[1], b0 + (tb ? j * ldb + p : p * ldb + j), type);
  return sum;
}

static void finish(const tvmops_launch* l, int type, int64_t element, int64_t j, float sum) {
  const int64_t flags = l->sizes[7];
  if (flags & 1) sum += load(l->buffers[3], j, type);
  sum = activate(sum, l->sizes[6]);
  if (flags & 2) sum += load(l->buffers[4], element, type);
  store(l->buffers[2], element, type, sum);
}

static int gemm(const tvmops_launch* l, int type, int ta, int tb) {
  const int64_t batch = l->sizes[0], m = l->sizes[1], n = l->sizes[2], k = l->sizes[3];
  note(l, 5, 8);
  for (int64_t b = 0; b < batch; b++)
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++) finish(l, type, (b * m + i) * n + j, j, product(l, type, ta, tb, b, i, j, 0, k));
  return 0;
}

/* The depth in two parts, whose sums lie in the workspace. */
static int split_gemm(const tvmops_launch* l) {
  const int64_t m = l->sizes[1], n = l->sizes[2], k = l->sizes[3];
  float* const sums = l->workspace;
  note(l, 5, 8);
  for (int64_t part = 0; part < 2; part++)
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++)
        sums[(part * m + i) * n + j] = product(l, F16, 0, 1, 0, i, j, part * k / 2, part ? k : k / 2);
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) finish(l, F16, i * n + j, j, sums[i * n + j] + sums[(m + i) * n + j]);
  return 0;
}
static int64_t split_workspace(const int64_t* sizes) { return 2 * sizes[0] * sizes[1] * sizes[2] * 4; }

#define GEMM(name, type, ta, tb) \
  static int name(const tvmops_launch* l) { return gemm(l, type, ta, tb); }
GEMM(gemm_f16_nn, F16, 0, 0)
GEMM(gemm_f16_nt, F16, 0, 1)
GEMM(gemm_f16_tn, F16, 1, 0)
GEMM(gemm_bf16_nn, BF16, 0, 0)
GEMM(gemm_bf16_nt, BF16, 0, 1)
GEMM(gemm_f32_nn, F32, 0, 0)

/* --- Driver cuda_rows. --- */

static void note_rows(const tvmops_launch* l, int buffers) { note(l, buffers, 2 + buffers); }

/* Where row r of an operand begins, in elements. */
static int64_t row_of(const tvmops_launch* l, int operand, int64_t r) { return r * l->sizes[2 + operand]; }

static int softmax(const tvmops_launch* l, int type) {
  note_rows(l, 2);
  const int64_t rows = l->sizes[0], n = l->sizes[1];
  for (int64_t r = 0; r < rows; r++) {
    float max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) max = fmaxf(max, load(l->buffers[0], row_of(l, 0, r) + i, type));
    for (int64_t i = 0; i < n; i++) sum += expf(load(l->buffers[0], row_of(l, 0, r) + i, type) - max);
    for (int64_t i = 0; i < n; i++)
      store(l->buffers[1], row_of(l, 1, r) + i, type, expf(load(l->buffers[0], row_of(l, 0, r) + i, type) - max) / sum);
  }
  return 0;
}
static int softmax_f16(const tvmops_launch* l) { return softmax(l, F16); }
static int softmax_f32(const tvmops_launch* l) { return softmax(l, F32); }

/* x, weight, bias, y, mean, rstd; eps. */
static int layer_norm_f16(const tvmops_launch* l) {
  note_rows(l, 6);
  const int64_t rows = l->sizes[0], n = l->sizes[1];
  const float *weight = l->buffers[1], *bias = l->buffers[2];
  for (int64_t r = 0; r < rows; r++) {
    float mean = 0, square = 0;
    for (int64_t i = 0; i < n; i++) mean += load(l->buffers[0], row_of(l, 0, r) + i, F16) / (float)n;
    for (int64_t i = 0; i < n; i++) {
      const float d = load(l->buffers[0], row_of(l, 0, r) + i, F16) - mean;
      square += d * d / (float)n;
    }
    const float rstd = 1 / sqrtf(square + l->params[0]);
    for (int64_t i = 0; i < n; i++)
      store(l->buffers[3], row_of(l, 3, r) + i, F16,
            (load(l->buffers[0], row_of(l, 0, r) + i, F16) - mean) * rstd * weight[i] + bias[i]);
    ((float*)l->buffers[4])[r] = mean;
    ((float*)l->buffers[5])[r] = rstd;
  }
  return 0;
}

/* g, x, mean, rstd, weight, dx, dweight, dbias: the last two are sums over all rows, by way of the workspace. */
static int layer_norm_backward_f32(const tvmops_launch* l) {
  note_rows(l, 8);
  const int64_t rows = l->sizes[0], n = l->sizes[1];
  const float *g = l->buffers[0], *x = l->buffers[1], *mean = l->buffers[2], *rstd = l->buffers[3];
  const float* weight = l->buffers[4];
  float* const dx = l->buffers[5];
  float* const sums = l->workspace;
  memset(sums, 0, sizeof(float) * 2 * (size_t)n);
  for (int64_t r = 0; r < rows; r++) {
    float a = 0, b = 0;
    for (int64_t i = 0; i < n; i++) {
      const float h = (x[r * n + i] - mean[r]) * rstd[r], k = g[r * n + i] * weight[i];
      a += k / (float)n, b += k * h / (float)n;
      sums[i] += g[r * n + i] * h, sums[n + i] += g[r * n + i];
    }
    for (int64_t i = 0; i < n; i++) {
      const float h = (x[r * n + i] - mean[r]) * rstd[r];
      dx[r * n + i] = rstd[r] * (g[r * n + i] * weight[i] - a - h * b);
    }
  }
  memcpy(l->buffers[6], sums, sizeof(float) * (size_t)n);
  memcpy(l->buffers[7], sums + n, sizeof(float) * (size_t)n);
  return 0;
}
static int64_t layer_norm_backward_workspace(const int64_t* sizes) { return 2 * sizes[1] * 4; }

static int pointwise(const tvmops_launch* l, int type, int activation) {
  note_rows(l, 2);
  for (int64_t r = 0; r < l->sizes[0]; r++)
    for (int64_t i = 0; i < l->sizes[1]; i++)
      store(l->buffers[1], row_of(l, 1, r) + i, type,
            activate(load(l->buffers[0], row_of(l, 0, r) + i, type), activation));
  return 0;
}
static int gelu_f32(const tvmops_launch* l) { return pointwise(l, F32, 2); }
static int gelu_f16(const tvmops_launch* l) { return pointwise(l, F16, 2); }
static int relu_f32(const tvmops_launch* l) { return pointwise(l, F32, 1); }

/* gate, up, y. */
static int gated_f32(const tvmops_launch* l) {
  note_rows(l, 3);
  for (int64_t r = 0; r < l->sizes[0]; r++)
    for (int64_t i = 0; i < l->sizes[1]; i++)
      store(l->buffers[2], row_of(l, 2, r) + i, F32,
            activate(load(l->buffers[0], row_of(l, 0, r) + i, F32), 4) * load(l->buffers[1], row_of(l, 1, r) + i, F32));
  return 0;
}

/* x, bias, y. */
static int biased(const tvmops_launch* l, int activation) {
  note_rows(l, 3);
  for (int64_t i = 0; i < l->sizes[0] * l->sizes[1]; i++)
    store(l->buffers[2], i, F32,
          activate(load(l->buffers[0], i, F32) + load(l->buffers[1], i % l->sizes[1], F32), activation));
  return 0;
}
static int bias_none(const tvmops_launch* l) { return biased(l, 0); }
static int bias_gelu(const tvmops_launch* l) { return biased(l, 2); }

/* --- Drivers cuda_scan and cuda_rotary. --- */

/* x, y, or g, x, products, y: dL/dx_k is the sum of g_i y_i over all products with the factor x_k, divided by x_k. */
static int scan(const tvmops_launch* l, int gradient) {
  note(l, gradient ? 4 : 2, 4);
  const int64_t n = l->sizes[1], inner = l->sizes[2], exclusive = l->sizes[3] & 1, reverse = l->sizes[3] & 2;
  const float *x = l->buffers[0], *factor = l->buffers[1], *products = l->buffers[2];
  float* const y = l->buffers[gradient ? 3 : 1];
  for (int64_t c = 0; c < l->sizes[0] * inner; c++) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
      const int64_t at = (c / inner * n + (reverse ? n - 1 - i : i)) * inner + c % inner;
      const double before = sum;
      sum += gradient ? (double)x[at] * products[at] : x[at];
      y[at] = (float)((exclusive ? before : sum) / (gradient ? factor[at] : 1.0));
    }
  }
  return 0;
}
static int cumsum_f32(const tvmops_launch* l) { return scan(l, 0); }
static int cumprod_backward_f32(const tvmops_launch* l) { return scan(l, 1); }

/* x, cos, sin, y; pairs are neighbours or lie half of the turned part apart. */
static int rotary_f16(const tvmops_launch* l) {
  note(l, 4, 8);
  const int64_t *s = l->sizes, half = s[3], pairs = s[14] & 1;
  const float *cos = l->buffers[1], *sin = l->buffers[2];
  for (int64_t r = 0; r < s[0] * s[1] * s[2]; r++) {
    const int64_t i = r / s[2] / s[1], j = r / s[2] % s[1], k = r % s[2];
    const int64_t x = i * s[5] + j * s[6] + k * s[7], y = i * s[8] + j * s[9] + k * s[10];
    const int64_t t = i * s[11] + j * s[12] + k * s[13];
    for (int64_t a = 0; a < half; a++) {
      const int64_t left = pairs ? 2 * a : a, right = pairs ? left + 1 : half + a;
      const float one = load(l->buffers[0], x + left, F16), other = load(l->buffers[0], x + right, F16);
      const float turn = s[14] & 2 ? -sin[t + a] : sin[t + a];
      store(l->buffers[3], y + left, F16, one * cos[t + a] - other * turn);
      store(l->buffers[3], y + right, F16, other * cos[t + a] + one * turn);
    }
    for (int64_t e = 2 * half; e < 2 * half + s[4]; e++)
      store(l->buffers[3], y + e, F16, load(l->buffers[0], x + e, F16));
  }
  return 0;
}

/* Failures. No image for this device; one error, and then none; too large a grid. */
static int silu_f32(const tvmops_launch* l) {
  note_rows(l, 2);
  return 209;
}
static int sigmoid_f32(const tvmops_launch* l) {
  static int calls = 0;
  if (__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) == 0) return 719;
  return pointwise(l, F32, 5);
}
static int tanh_f32(const tvmops_launch* l) {
  if (l->sizes[0] * l->sizes[1] > 1000) return 9;
  return pointwise(l, F32, 6);
}

/* --- The tables. --- */

#define LEN(list) (uint32_t)(sizeof(list) / sizeof(list[0]))
#define LEAF(name, function) {name, (tvmops_function)function}
#define FREE {{"M", -1}, {"N", -1}, {"K", -1}}
#define LAYOUT(a, b) \
  {"align", 8}, {"layout_a", a}, { "layout_b", b }

static const tvmops_value mnk[] = FREE;
static const tvmops_value mn[] = {{"M", -1}, {"N", -1}};
static const tvmops_value mni[] = {{"M", -1}, {"N", -1}, {"I", -1}};
static const tvmops_value mhn[] = {{"M", -1}, {"H", -1}, {"N", -1}};
static const tvmops_value few_threads[] = {{"threads", 64}};
static const tvmops_value static_nk[] = {{"M", -1}, {"N", 64}, {"K", 32}};
static const tvmops_value nn[] = {LAYOUT(0, 0), {"rows", 0}};
static const tvmops_value nt[] = {LAYOUT(0, 1), {"rows", 0}};
static const tvmops_value tn[] = {LAYOUT(1, 0), {"rows", 0}};
static const tvmops_value few[] = {LAYOUT(0, 1), {"rows", 16}, {"split_k", 2}};
static const tvmops_value tf32[] = {LAYOUT(0, 0), {"rows", 0}, {"tf32", 1}};
static const tvmops_value greedy[] = {LAYOUT(0, 1), {"rows", 8}, {"shared_bytes", 150 << 10}};

#define ROW(i, w, b) \
  {"role" #i, 0}, {"written" #i, w}, { "bytes" #i, b }
#define VECTOR(i, b) \
  {"role" #i, 1}, {"written" #i, 0}, { "bytes" #i, b }
#define SCALAR(i, w) {"role" #i, 2}, {"written" #i, w}, {"bytes" #i, 4}
#define PARTIAL(i) {"role" #i, 3}, {"written" #i, 1}, {"bytes" #i, 4}
static const tvmops_value map16[] = {{"operands", 2}, {"flat", 0}, ROW(0, 0, 2), ROW(1, 1, 2)};
static const tvmops_value map32[] = {{"operands", 2}, {"flat", 0}, ROW(0, 0, 4), ROW(1, 1, 4)};
static const tvmops_value flat16[] = {{"operands", 2}, {"flat", 1}, ROW(0, 0, 2), ROW(1, 1, 2)};
static const tvmops_value flat32[] = {{"operands", 2}, {"flat", 1}, ROW(0, 0, 4), ROW(1, 1, 4)};
static const tvmops_value norm[] = {{"operands", 6}, {"flat", 0},  ROW(0, 0, 2), VECTOR(1, 4),
                                    VECTOR(2, 4),    ROW(3, 1, 2), SCALAR(4, 1), SCALAR(5, 1)};
static const tvmops_value norm_backward[] = {{"operands", 8}, {"flat", 0},  ROW(0, 0, 4), ROW(1, 0, 4), SCALAR(2, 0),
                                             SCALAR(3, 0),    VECTOR(4, 4), ROW(5, 1, 4), PARTIAL(6),   PARTIAL(7)};
static const tvmops_value gated32[] = {{"operands", 3}, {"flat", 1}, ROW(0, 0, 4), ROW(1, 0, 4), ROW(2, 1, 4)};
static const tvmops_value bias32[] = {{"operands", 3}, {"flat", 0}, ROW(0, 0, 4), VECTOR(1, 4), ROW(2, 1, 4)};

#define LEAVES(f) static const tvmops_leaf f##_leaves[] = {LEAF("launch", f)}
LEAVES(gemm_f16_nn);
LEAVES(gemm_f16_nt);
LEAVES(gemm_f16_tn);
LEAVES(gemm_bf16_nn);
LEAVES(gemm_bf16_nt);
LEAVES(gemm_f32_nn);
LEAVES(softmax_f16);
LEAVES(softmax_f32);
LEAVES(layer_norm_f16);
LEAVES(gelu_f32);
LEAVES(gelu_f16);
LEAVES(relu_f32);
LEAVES(silu_f32);
LEAVES(sigmoid_f32);
LEAVES(tanh_f32);
LEAVES(cumsum_f32);
LEAVES(cumprod_backward_f32);
LEAVES(rotary_f16);
static const tvmops_leaf split_gemm_leaves[] = {LEAF("launch", split_gemm), LEAF("workspace", split_workspace)};
static const tvmops_leaf layer_norm_backward_f32_leaves[] = {LEAF("launch", layer_norm_backward_f32),
                                                             LEAF("workspace", layer_norm_backward_workspace)};
static const tvmops_leaf gated_f32_leaves[] = {LEAF("launch.silu", gated_f32)};
static const tvmops_leaf bias_leaves[] = {LEAF("launch.none", bias_none), LEAF("launch.gelu", bias_gelu)};

#define KERNEL(op, key, target, driver, dims, params, f) \
  {key "@" target, op, key, target, driver, dims, LEN(dims), params, LEN(params), f##_leaves, LEN(f##_leaves), NULL, 0}
#define MATMUL(key, dims, params, f) KERNEL("matmul", "matmul(" key ")", "sm_80", "cuda_gemm", dims, params, f)
#define ROWS(op, type, params, f) KERNEL(op, op "(" type ";M=*,N=*)", "sm_80", "cuda_rows", mn, params, f)

#define SCAN(op, f) KERNEL(op, op "(float32;M=*,N=*,I=*)", "sm_80", "cuda_scan", mni, few_threads, f)

static const tvmops_kernel kernels[] = {
    MATMUL("float16;M=*,N=*,K=*;a=n,b=n", mnk, nn, gemm_f16_nn),
    MATMUL("float16;M=*,N=*,K=*;a=n,b=t", mnk, nt, gemm_f16_nt),
    MATMUL("float16;M=*,N=*,K=*;a=t,b=n", mnk, tn, gemm_f16_tn),
    MATMUL("bfloat16;M=*,N=*,K=*;a=n,b=n", mnk, nn, gemm_bf16_nn),
    MATMUL("bfloat16;M=*,N=*,K=*;a=n,b=t", mnk, nt, gemm_bf16_nt),
    MATMUL("float32;M=*,N=*,K=*;a=n,b=n", mnk, tf32, gemm_f32_nn),
    MATMUL("float16;M=*,N=*,K=*;a=n,b=t,rows=16", mnk, few, split_gemm),
    MATMUL("float16;M=*,N=*,K=*;a=n,b=t,rows=8", mnk, greedy, gemm_f16_nt),
    MATMUL("float16;M=*,N=64,K=32;a=n,b=t", static_nk, nt, gemm_f16_nt),
    KERNEL("matmul", "matmul(float16;M=*,N=*,K=*;a=n,b=t)", "sm_90a", "cuda_gemm", mnk, nt, silu_f32),
    ROWS("softmax", "float16", map16, softmax_f16),
    ROWS("softmax", "float32", map32, softmax_f32),
    ROWS("layer_norm", "float16", norm, layer_norm_f16),
    ROWS("layer_norm_backward", "float32", norm_backward, layer_norm_backward_f32),
    ROWS("gelu", "float32", flat32, gelu_f32),
    ROWS("gelu", "float16", flat16, gelu_f16),
    ROWS("relu", "float32", flat32, relu_f32),
    ROWS("silu", "float32", flat32, silu_f32),
    ROWS("sigmoid", "float32", flat32, sigmoid_f32),
    ROWS("tanh", "float32", flat32, tanh_f32),
    ROWS("bias_activation", "float32", bias32, bias),
    ROWS("gated_activation", "float32", gated32, gated_f32),
    SCAN("cumsum", cumsum_f32),
    SCAN("cumprod_backward", cumprod_backward_f32),
    KERNEL("rotary_embedding", "rotary_embedding(float16;M=*,H=*,N=*)", "sm_80", "cuda_rotary", mhn, few_threads,
           rotary_f16),
};
static const tvmops_pack pack = {TVMOPS_PACK_MAGIC, TVMOPS_ABI_VERSION,  LEN(kernels),
                                 HOST_ARCH,         "{\"kernels\": []}", kernels};

EXPORT const tvmops_pack* TVMOPS_PACK_ENTRY(void) { return &pack; }

#ifndef NO_DEVICE_ENTRY
EXPORT int TVMOPS_PACK_DEVICE(int32_t device, tvmops_device* about) {
  static int64_t asked = 0;
  if (DEVICE_ERROR && __atomic_fetch_add(&asked, 1, __ATOMIC_RELAXED) < DEVICE_FAILURES) return DEVICE_ERROR;
  if (device != 0) return 101;
  memset(about, 0, sizeof *about);
  about->major = CAPABILITY_MAJOR, about->minor = CAPABILITY_MINOR, about->multiprocessors = 1;
  about->driver_version = about->runtime_version = 13000;
  strcpy(about->name, "C");
  return 0;
}
#endif

EXPORT const char* TVMOPS_PACK_ERROR(int error) {
  switch (error) {
    case 2:
      return "out of memory";
    case 9:
      return "invalid configuration argument";
    case 35:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case 209:
      return "no kernel image is available for execution on the device";
    case 719:
      return "unspecified launch failure";
    default:
      return "unknown error";
  }
}
