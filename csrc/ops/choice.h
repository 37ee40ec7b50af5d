// Whether a kernel may serve a call, and the record of what was decided. Which kernel: gemm_choice.h, kernel_table.h.
#ifndef TVMOPS_OPS_CHOICE_H_
#define TVMOPS_OPS_CHOICE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/abi.h"

namespace tvmops::ops {

// auto: a kernel where it is known to win. force: wherever one applies. off: ATen always.
enum class Mode : int { kAuto = 0, kForce = 1, kOff = 2 };
Mode current_mode();
Mode global_mode();
void set_global_mode(Mode mode);
// For the calling thread; returns what was set before (-1: nothing). -1 goes back to the global mode.
int set_thread_mode(int mode);

// For the calling thread: takes this route instead of the plan's, to time it; -1: the plan's again.
void set_thread_route(int route);
int thread_route();

// Replaces the plan of a kernel, by name, with this machine's own measurements. Throws runtime::Error if no kernel has
// the name or the plan has the wrong size.
void set_plan(const std::string& kernel, std::vector<uint8_t> plan);

// The plan in use: the kernel's own, or what set_plan gave. Empty: a rule of thumb.
std::vector<uint8_t> plan_of(const tvmops_kernel* kernel);

// Grows with every pack loaded and every plan set: tables of bound kernels made at this generation are up to date.
uint64_t choice_generation();

// Whether calls can come to this kernel: no other one is preferred for all of its sizes.
bool serves(const tvmops_kernel* kernel);

// Why a kernel or ATen serves a call, in the words of tvmops.explain.
namespace reason {
inline constexpr const char* kOff = "mode is off";
inline constexpr const char* kNoKernel = "no loaded kernel runs on this CPU";
inline constexpr const char* kNotThese = "no kernel for these sizes and strides";
inline constexpr const char* kSlower = "ATen is faster at this size by the plan";
inline constexpr const char* kForced = "a kernel applies; mode is force";
inline constexpr const char* kThumb = "a kernel applies; never timed, so by a rule of thumb";
inline constexpr const char* kNoGpuKernel = "no loaded kernel runs on this GPU";
inline constexpr const char* kNoneSuch = "no kernel for this GPU has this operator, dtype and layout";
inline constexpr const char* kNeverTimed = "never timed on a GPU";
inline constexpr const char* kWins = "a kernel applies and wins at this size by the plan";
}  // namespace reason

// One decision, as tvmops.explain shows it.
struct Decision {
  std::string op, shape, kernel, route, reason;
};
// Starts to remember the decisions that the calling thread takes from here on; the previous ones are dropped.
void start_recording();
std::vector<Decision> stop_recording();
bool recording();
void record(Decision decision);
// ATen serves the call that was recorded last after all.
void record_refusal(const char* reason);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_CHOICE_H_
