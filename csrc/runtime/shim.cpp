#include "runtime/shim.h"

#include <array>
#include <atomic>
#include <exception>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/scratch.h"

namespace tvmops::runtime {

namespace {

std::atomic<const ParallelFor*> current_parallel_for{nullptr};

std::string& error_of_this_thread() {
  thread_local std::string error;
  return error;
}

// Called from C frames, which no exception may cross.
void set_error(const char* text) noexcept {
  try {
    error_of_this_thread() = text;
  } catch (const std::exception&) {
    error_of_this_thread().clear();
  }
}

// TVMParallelGroupEnv and FTVMParallelLambda of tvm/runtime/c_backend_api.h.
struct GroupEnv {
  void* sync_handle;
  int32_t num_task;
};
using TaskFunction = int (*)(int task_id, GroupEnv* env, void* closure);

struct Launch {
  TaskFunction task;
  void* closure;
  GroupEnv env;
  std::atomic<int> code{0};
  std::mutex mutex;
  std::string error;  // of the first task that failed; guarded by mutex until run() has returned

  static void body(void* context, int64_t begin, int64_t end) {
    auto& self = *static_cast<Launch*>(context);
    for (int64_t id = begin; id < end; ++id) {
      const int code = self.task(static_cast<int>(id), &self.env, self.closure);
      int none = 0;
      if (code == 0 || !self.code.compare_exchange_strong(none, code)) continue;
      // The task may have run in a thread of the pool; its message belongs to the caller.
      const std::lock_guard<std::mutex> lock(self.mutex);
      self.error.swap(error_of_this_thread());
    }
  }
};

int parallel_launch(TaskFunction task, void* closure, int num_task) {
  try {
    const ParallelFor* chosen = current_parallel_for.load(std::memory_order_acquire);
    const ParallelFor& loop = chosen == nullptr ? kSerial : *chosen;
    const int tasks = num_task > 0 ? num_task : loop.threads();
    Launch launch{task, closure, {nullptr, tasks}, {}, {}, {}};
    loop.run(tasks, Launch::body, &launch);
    const int code = launch.code.load();
    if (code != 0) error_of_this_thread().swap(launch.error);
    return code;
  } catch (const std::exception& error) {
    set_error(error.what());
    return -1;
  }
}

// Blocks that a kernel gave back, kept for its next call. A block's first bytes hold the buffer that owns it, so that
// whichever thread frees it can take it over.
constexpr size_t kOwnerBytes = kAlignment;
static_assert(sizeof(AlignedBuffer) <= kOwnerBytes, "the owner must fit before the workspace");
constexpr size_t kPooledBlocks = 8;

std::vector<AlignedBuffer>& pool_of_this_thread() {
  thread_local std::vector<AlignedBuffer> pool;
  return pool;
}

void* alloc_workspace(int, int, uint64_t bytes, int, int) {
  try {
    if (bytes > kMaxBytes - kOwnerBytes) throw std::bad_alloc();
    const size_t wanted = static_cast<size_t>(bytes) + kOwnerBytes;
    auto& pool = pool_of_this_thread();
    auto best = pool.end();
    for (auto it = pool.begin(); it != pool.end(); ++it) {
      if (it->size() >= wanted && (best == pool.end() || it->size() < best->size())) best = it;
    }
    AlignedBuffer block;
    if (best != pool.end()) {
      block = std::move(*best);
      pool.erase(best);
    } else {
      block = AlignedBuffer(wanted);
    }
    char* memory = block.as<char>();
    new (memory) AlignedBuffer(std::move(block));
    return memory + kOwnerBytes;
  } catch (const std::exception& error) {
    set_error(("workspace of " + std::to_string(bytes) + " bytes: " + error.what()).c_str());
    return nullptr;
  }
}

int free_workspace(int, int, void* workspace) {
  if (workspace == nullptr) return 0;
  auto* owner = reinterpret_cast<AlignedBuffer*>(static_cast<char*>(workspace) - kOwnerBytes);
  AlignedBuffer block(std::move(*owner));
  try {
    auto& pool = pool_of_this_thread();
    if (pool.size() < kPooledBlocks) {
      pool.push_back(std::move(block));
      return 0;
    }
    for (auto& pooled : pool) {  // keep the larger ones: a smaller request can use them too
      if (pooled.size() < block.size()) std::swap(pooled, block);
    }
  } catch (const std::exception&) {
    // Not pooled, then: freed.
  }
  return 0;
}

}  // namespace

ffi::Tensor float32_tensor(void* data, int64_t* shape, int32_t ndim) {
  return {data, {1, 0}, ndim, {2, 32, 1}, shape, nullptr, 0};
}

void call_packed(const std::string& name, PackedFunction function, ffi::Tensor* const* tensors, int32_t count) {
  constexpr int32_t kMost = 16;
  if (count < 0 || count > kMost) {
    throw Error("kernel '" + name + "': " + std::to_string(count) + " arguments, at most " + std::to_string(kMost) +
                " can be passed");
  }
  std::array<ffi::Any, kMost> args{};
  for (int32_t i = 0; i < count; ++i) {
    args[i].type_index = ffi::kTensorPointer;
    args[i].v_ptr = tensors[i];
  }
  ffi::Any result{};
  clear_last_error();
  const int code = function(nullptr, args.data(), count, &result);
  if (code == 0) return;
  throw Error("kernel '" + name +
              "': " + (last_error().empty() ? "it returned " + std::to_string(code) : last_error()));
}

void call_packed(const std::string& name, PackedFunction function, std::initializer_list<ffi::Tensor*> tensors) {
  call_packed(name, function, tensors.begin(), static_cast<int32_t>(tensors.size()));
}

void set_parallel_for(const ParallelFor* parallel_for) {
  current_parallel_for.store(parallel_for, std::memory_order_release);
}

const std::string& last_error() { return error_of_this_thread(); }

void clear_last_error() { error_of_this_thread().clear(); }

namespace {

void raise_parts(const char* kind, const char** parts, int32_t count) noexcept {
  try {
    std::string text = kind == nullptr ? "error" : kind;
    text += ": ";
    for (int32_t i = 0; i < count; ++i) {
      if (parts[i] != nullptr) text += parts[i];
    }
    error_of_this_thread().swap(text);
  } catch (const std::exception&) {
    set_error(kind == nullptr ? "error" : kind);
  }
}

int launch_of_pack(void* task, void* closure, int num_task) {
  return parallel_launch(reinterpret_cast<TaskFunction>(task), closure, num_task);
}

}  // namespace

const tvmops_services& services() {
  static const tvmops_services given = {launch_of_pack, alloc_workspace, free_workspace, raise_parts};
  return given;
}

// Constant-initialised, so that they are right before any constructor runs. The objects define the pointers as weak and
// zero; these, being strong, win, and being hidden, make the linker keep them inside this library.
extern "C" {

#define TVMOPS_HIDDEN __attribute__((visibility("hidden")))

TVMOPS_HIDDEN int (*__TVMBackendParallelLaunch)(TaskFunction, void*, int) = parallel_launch;
TVMOPS_HIDDEN void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = alloc_workspace;
TVMOPS_HIDDEN int (*__TVMBackendFreeWorkspace)(int, int, void*) = free_workspace;

TVMOPS_HIDDEN void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count);
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  raise_parts(kind, parts, count);
}

}  // extern "C"

}  // namespace tvmops::runtime
