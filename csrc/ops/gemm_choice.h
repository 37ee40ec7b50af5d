// Which kernel of the GEMM family serves a call, and by which route, or why ATen does.
#ifndef TVMOPS_OPS_GEMM_CHOICE_H_
#define TVMOPS_OPS_GEMM_CHOICE_H_

#include "drivers/gemm.h"
#include "ops/choice.h"

namespace tvmops::ops {

// What a call came to: kernel and route, or null; and why.
struct Choice {
  const drivers::GemmKernel* kernel = nullptr;
  drivers::Route route = drivers::Route::kAten;
  const char* reason = "";
  explicit operator bool() const { return kernel != nullptr; }
};

// For C[m, n] = A @ B with B row-major or transposed in memory.
Choice choose_matmul(int64_t m, int64_t n, int64_t k, bool transposed_b);

// The kernel that packs weights [n, k] for `linear`, and whether it wins for m rows of input.
Choice choose_linear(int64_t m, int64_t n, int64_t k);

bool gemm_serves(const tvmops_kernel* kernel);

void record(const char* op, std::string shape, const Choice& choice);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_GEMM_CHOICE_H_
