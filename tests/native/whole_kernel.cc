// What TVM emits for a whole kernel, by hand: the same symbols (three weak null pointers, one undefined function), and
// an entry with the same calling convention that computes C[i] = A[i] + num_task in parallel through a workspace.
#include <cstdint>

#include "runtime/shim.h"

using tvmops::runtime::ffi::Any;
using tvmops::runtime::ffi::kTensorPointer;
using tvmops::runtime::ffi::Tensor;

extern "C" {

struct Env {
  void* sync;
  int32_t num_task;
};
using Task = int (*)(int, Env*, void*);

__attribute__((weak, visibility("default"))) int (*__TVMBackendParallelLaunch)(Task, void*, int) = nullptr;
__attribute__((weak, visibility("default"))) void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int,
                                                                                 int) = nullptr;
__attribute__((weak, visibility("default"))) int (*__TVMBackendFreeWorkspace)(int, int, void*) = nullptr;
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count);

struct Closure {
  const float* a;
  float* c;
  int64_t n;
};

static int task(int id, Env* env, void* closure) {
  const auto& args = *static_cast<Closure*>(closure);
  const int64_t chunk = (args.n + env->num_task - 1) / env->num_task;
  const int64_t begin = id * chunk, end = begin + chunk < args.n ? begin + chunk : args.n;
  auto* local = static_cast<float*>(__TVMBackendAllocWorkspace(1, 0, static_cast<uint64_t>(chunk) * 4, 2, 32));
  if (local == nullptr) return -1;
  for (int64_t i = begin; i < end; ++i) local[i - begin] = args.a[i] + static_cast<float>(env->num_task);
  int code = 0;
  for (int64_t i = begin; i < end; ++i) {
    args.c[i] = local[i - begin];
    if (args.a[i] >= 0.0f) continue;
    const char* parts[] = {"negative input ", nullptr, "in a task"};
    TVMFFIErrorSetRaisedFromCStrParts("ValueError", parts, 3);
    code = -1;
  }
  return __TVMBackendFreeWorkspace(1, 0, local) != 0 ? -1 : code;
}

int __tvm_ffi_test_add(void*, const Any* args, int32_t num_args, Any*) {
  if (num_args != 2 || args[0].type_index != kTensorPointer || args[1].type_index != kTensorPointer) {
    const char* parts[] = {"test_add: ", "expected 2 tensors"};
    TVMFFIErrorSetRaisedFromCStrParts("TypeError", parts, 2);
    return -1;
  }
  const auto& a = *static_cast<const Tensor*>(args[0].v_ptr);
  const auto& c = *static_cast<const Tensor*>(args[1].v_ptr);
  Closure closure{static_cast<const float*>(a.data), static_cast<float*>(c.data), a.shape[0]};
  return __TVMBackendParallelLaunch(task, &closure, 0);
}

int __tvm_ffi_test_silent(void*, const Any*, int32_t, Any*) { return -2; }

}  // extern "C"
