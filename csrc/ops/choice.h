// Which kernel serves a call, or why ATen does.
#ifndef TVMOPS_OPS_CHOICE_H_
#define TVMOPS_OPS_CHOICE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "drivers/gemm.h"

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

// What a call came to: kernel and route, or null; and why.
struct Choice {
  const drivers::GemmKernel* kernel = nullptr;
  drivers::Route route = drivers::Route::kAten;
  const char* reason = "";
  explicit operator bool() const { return kernel != nullptr; }
};

// For C[m, n] = A @ B with B row-major or transposed in memory; batch only counts for what is worth starting threads.
Choice choose_matmul(int64_t m, int64_t n, int64_t k, bool transposed_b);

// The kernel that packs weights [n, k] for `linear`, and whether it wins for m rows of input.
Choice choose_linear(int64_t m, int64_t n, int64_t k);

// Replaces the plan of a kernel, by name, with this machine's own measurements. Throws runtime::Error if no kernel has
// the name or the plan has the wrong size.
void set_plan(const std::string& kernel, std::vector<uint8_t> plan);

// Whether calls can come to this kernel: no other one is preferred for all of its sizes.
bool serves(const tvmops_kernel* kernel);

// The plan in use: the kernel's own, or what set_plan gave. Empty: a rule of thumb.
std::vector<uint8_t> plan_of(const tvmops_kernel* kernel);

// One decision, as tvmops.explain shows it.
struct Decision {
  std::string op, shape, kernel, route, reason;
};
// Starts to remember the decisions that the calling thread takes from here on; the previous ones are dropped.
void start_recording();
std::vector<Decision> stop_recording();
bool recording();
void record(Decision decision);
void record(const char* op, std::string shape, const Choice& choice);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_CHOICE_H_
