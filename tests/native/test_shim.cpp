#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "runtime/error.h"
#include "runtime/scratch.h"
#include "runtime/shim.h"

using namespace tvmops::runtime;

extern "C" {
int __tvm_ffi_test_add(void*, const ffi::Any*, int32_t, ffi::Any*);
int __tvm_ffi_test_silent(void*, const ffi::Any*, int32_t, ffi::Any*);
extern int foreign_errors;
void foreign_raise();
void* foreign_launch();
// As an object refers to them.
extern void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
extern int (*__TVMBackendFreeWorkspace)(int, int, void*);
}

namespace {

constexpr int kThreads = 3;
std::atomic<int> launches{0};

// One thread an index: a failing task does not run in the caller.
const ParallelFor kThreaded = {
    [](int64_t count, RangeBody body, void* context) {
      ++launches;
      std::vector<std::thread> threads;
      for (int64_t i = 0; i < count; ++i) threads.emplace_back([=] { body(context, i, i + 1); });
      for (auto& thread : threads) thread.join();
    },
    [] { return kThreads; },
};

const ParallelFor kThrowing = {
    [](int64_t, RangeBody, void*) { throw std::runtime_error("no threads today"); },
    [] { return 2; },
};

struct Use {
  explicit Use(const ParallelFor* loop) { set_parallel_for(loop); }
  ~Use() { set_parallel_for(nullptr); }
};

// Calls the kernel on `a`; what it wrote.
std::vector<float> add(std::vector<float> a) {
  int64_t shape[] = {static_cast<int64_t>(a.size())};
  std::vector<float> c(a.size(), -1.0f);
  ffi::Tensor in = float32_tensor(a.data(), shape, 1), out = float32_tensor(c.data(), shape, 1);
  call_packed("test_add", __tvm_ffi_test_add, {&in, &out});
  return c;
}

std::vector<float> counting(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i);
  return values;
}

bool plus(const std::vector<float>& got, float tasks) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] != static_cast<float>(i) + tasks) return false;
  }
  return true;
}

}  // namespace

TEST(a_kernel_runs_serially_by_default) { CHECK(plus(add(counting(1000)), 1)); }

TEST(a_kernel_runs_in_the_pool_that_was_set) {
  Use use(&kThreaded);
  const int before = launches.load();
  CHECK(plus(add(counting(1000)), kThreads));
  CHECK(launches.load() == before + 1);
}

TEST(an_error_names_kernel_and_message) {
  ffi::Tensor tensor = float32_tensor(nullptr, nullptr, 0);
  CHECK_THROWS(Error, call_packed("test_add", __tvm_ffi_test_add, {&tensor}),
               "kernel 'test_add': TypeError: test_add: expected 2 tensors");
  CHECK(last_error() == "TypeError: test_add: expected 2 tensors");
  CHECK(plus(add(counting(10)), 1));
  CHECK(last_error().empty());  // a call that works starts afresh
}

TEST(an_error_in_a_task_reaches_the_caller) {
  auto bad = counting(1000);
  bad[700] = -1.0f;
  CHECK_THROWS(Error, add(bad), "kernel 'test_add': ValueError: negative input in a task");
  Use use(&kThreaded);
  CHECK_THROWS(Error, add(bad), "kernel 'test_add': ValueError: negative input in a task");
  for (float& value : bad) value = -1.0f;  // in all tasks at once
  CHECK_THROWS(Error, add(bad), "ValueError: negative input in a task");
}

TEST(a_failing_pool_is_an_error) {
  Use use(&kThrowing);
  CHECK_THROWS(Error, add(counting(10)), "kernel 'test_add': no threads today");
}

TEST(a_silent_failure_gives_its_code) {
  clear_last_error();
  CHECK_THROWS(Error, call_packed("quiet", __tvm_ffi_test_silent, {}), "kernel 'quiet': it returned -2");
}

TEST(too_many_arguments_are_refused) {
  const std::vector<ffi::Tensor*> many(17, nullptr);
  CHECK_THROWS(Error, call_packed("many", __tvm_ffi_test_silent, many.data(), 17), "kernel 'many': 17 arguments");
}

TEST(errors_are_per_thread) {
  CHECK_THROWS(Error, call_packed("test_add", __tvm_ffi_test_add, {}), "TypeError");
  std::string other = "not asked";
  std::thread([&] { other = last_error(); }).join();
  CHECK(other.empty());
  CHECK(!last_error().empty());
  clear_last_error();
  CHECK(last_error().empty());
}

TEST(another_tvm_in_the_process_is_left_alone) {
  const int before = foreign_errors;
  CHECK_THROWS(Error, call_packed("test_add", __tvm_ffi_test_add, {}), "TypeError");
  CHECK(foreign_errors == before);  // ours did not go there
  clear_last_error();
  foreign_raise();
  CHECK(foreign_errors == before + 1 && last_error().empty());  // nor theirs here
  CHECK(foreign_launch() == nullptr);
}

TEST(workspaces_are_aligned_and_reused) {
  std::thread([] {  // with a pool that is empty
    void* const first = __TVMBackendAllocWorkspace(1, 0, 5000, 2, 32);
    void* const second = __TVMBackendAllocWorkspace(1, 0, 9000, 2, 32);
    CHECK(first != second);
    CHECK(reinterpret_cast<uintptr_t>(first) % kAlignment == 0 &&
          reinterpret_cast<uintptr_t>(second) % kAlignment == 0);
    static_cast<char*>(first)[4999] = static_cast<char*>(second)[8999] = 1;
    CHECK(__TVMBackendFreeWorkspace(1, 0, second) == 0);
    CHECK(__TVMBackendFreeWorkspace(1, 0, first) == 0);
    void* const third = __TVMBackendAllocWorkspace(1, 0, 4000, 2, 32);
    CHECK(third == first);  // the smallest that fits
    void* const fourth = __TVMBackendAllocWorkspace(1, 0, 4000, 2, 32);
    CHECK(fourth == second);
    CHECK(__TVMBackendFreeWorkspace(1, 0, third) == 0);
    CHECK(__TVMBackendFreeWorkspace(1, 0, fourth) == 0);
    CHECK(__TVMBackendFreeWorkspace(1, 0, nullptr) == 0);
  })
      .join();
}

TEST(many_workspaces_and_other_threads) {
  std::vector<void*> all;
  for (uint64_t i = 0; i < 40; ++i) all.push_back(__TVMBackendAllocWorkspace(1, 0, i * 777, 2, 32));
  std::thread([&] {  // frees what another allocated
    for (void* workspace : all) CHECK(__TVMBackendFreeWorkspace(1, 0, workspace) == 0);
    void* const again = __TVMBackendAllocWorkspace(1, 0, 39 * 777, 2, 32);
    CHECK(again == all.back());  // the larger ones were kept
    CHECK(__TVMBackendFreeWorkspace(1, 0, again) == 0);
  })
      .join();
}

TEST(an_impossible_workspace_is_null_with_a_reason) {
  clear_last_error();
  CHECK(__TVMBackendAllocWorkspace(1, 0, ~uint64_t{0}, 2, 32) == nullptr);
  CHECK(last_error().find("workspace of 18446744073709551615 bytes") != std::string::npos);
}
