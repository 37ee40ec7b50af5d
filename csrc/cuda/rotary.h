// Rotary position embedding on a GPU: what drivers/rotary.h is on a CPU.
//
// A launch gets the buffers x, cos, sin, y and the sizes of the three dimensions that say which row, the pairs of a row
// and its elements that are not turned, the strides of x, y and the tables in each of these dimensions, in elements,
// and flags (bit 0: the elements of a pair are neighbours, else half of the turned part apart; bit 1: turn back).
#ifndef TVMOPS_CUDA_ROTARY_H_
#define TVMOPS_CUDA_ROTARY_H_

#include <cstdint>

#include "cuda/gemm.h"
#include "cuda/kernel.h"
#include "drivers/rotary.h"

namespace tvmops::cuda {

struct RotaryKernel : Kernel {
  static constexpr const char* kDriver = "cuda_rotary";

  explicit RotaryKernel(const runtime::Kernel& kernel);  // throws runtime::Error naming a leaf that is missing

  Launcher launcher;

  int specificity() const { return 0; }
};

// Null if the kernel can take the problem, whose result may still lack its memory; else why not.
const char* refusal(const RotaryKernel& kernel, const drivers::RotaryProblem& problem);

struct RotarySizes {
  int64_t list[15];
  explicit RotarySizes(const drivers::RotaryProblem& problem);
};

Outcome rotary(const RotaryKernel& kernel, const drivers::RotaryProblem& problem, const Place& place);

}  // namespace tvmops::cuda

#endif  // TVMOPS_CUDA_ROTARY_H_
