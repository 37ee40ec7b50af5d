// Kernels on a GPU without one: targets, what a pack must bring, launches and what becomes of their errors.
#include <climits>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cuda/device.h"
#include "cuda/gemm.h"
#include "cuda/plan.h"
#include "cuda/reduce.h"
#include "cuda/rotary.h"
#include "cuda/rows.h"
#include "cuda/scan.h"
#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/gpu_target.h"
#include "runtime/registry.h"

using namespace tvmops;
using runtime::Error;
using runtime::gpu_target;

namespace {

int asked = 0, device_error = 0, launch_error = 0, launched = 0;
std::vector<int64_t> sizes_seen;
std::vector<void*> buffers_seen;
float divisor_seen = 0;

int about_device(int32_t device, tvmops_device* about) {
  asked++;
  if (device_error) return device_error;
  *about = {8, 6, 10, 13000, 13000, "test"};
  about->minor = device == 1 ? 0 : 6;
  return 0;
}
const char* about_error(int error) { return error == 209 ? "no kernel image" : nullptr; }

int launch(const tvmops_launch* l) {
  launched++;
  sizes_seen.assign(l->sizes, l->sizes + 8);
  buffers_seen.assign(l->buffers, l->buffers + 5);
  return launch_error;
}
int launch_rows(const tvmops_launch* l) {
  launched++;
  sizes_seen.assign(l->sizes, l->sizes + 4);
  buffers_seen.assign(l->buffers, l->buffers + 2);
  return launch_error;
}
int launch_reduce(const tvmops_launch* l) {
  sizes_seen.assign(l->sizes, l->sizes + 8);
  buffers_seen.assign(l->buffers, l->buffers + 2);
  divisor_seen = l->params[0];
  return launch_error;
}
int64_t workspace(const int64_t* sizes) { return 8 * sizes[0]; }

// A pack of one kernel, in a registry of its own.
struct OneKernel {
  std::vector<tvmops_leaf> leaves;
  std::vector<tvmops_value> dims, params;
  std::vector<uint8_t> plan;
  tvmops_kernel kernel{};
  tvmops_pack pack{};
  runtime::Registry registry{{}};

  OneKernel(const char* driver, std::vector<tvmops_value> dims, std::vector<tvmops_value> params)
      : dims(std::move(dims)), params(std::move(params)) {
    const bool rows = driver == std::string("cuda_rows"), reduce = driver == std::string("cuda_reduce");
    leaves = {{"launch", reinterpret_cast<tvmops_function>(rows     ? launch_rows
                                                           : reduce ? launch_reduce
                                                                    : launch)},
              {"workspace", reinterpret_cast<tvmops_function>(workspace)}};
    kernel = {"one", "matmul", "matmul(float16)", "sm_80", driver, nullptr, 0, nullptr, 0, nullptr, 0, nullptr, 0};
  }
  const runtime::Kernel& add(runtime::GpuEntries gpu = {about_device, about_error}) {
    kernel.dims = dims.data(), kernel.n_dims = static_cast<uint32_t>(dims.size());
    kernel.params = params.data(), kernel.n_params = static_cast<uint32_t>(params.size());
    kernel.leaves = leaves.data(), kernel.n_leaves = static_cast<uint32_t>(leaves.size());
    if (!plan.empty()) kernel.plan = plan.data(), kernel.n_plan = static_cast<uint32_t>(plan.size());
    pack = {TVMOPS_PACK_MAGIC, TVMOPS_ABI_VERSION, 1, runtime::kHostArch, "{}", &kernel};
    registry.add(&pack, "/x/y.so", nullptr, gpu);
    snapshot = registry.snapshot();
    return snapshot->kernels()[0];
  }
  std::shared_ptr<const runtime::Snapshot> snapshot;
};

OneKernel gemm_kernel() { return {"cuda_gemm", {}, {{"align", 8}, {"layout_a", 0}, {"layout_b", 1}, {"rows", 64}}}; }

std::vector<tvmops_value> map_params(int flat) {
  return {{"operands", 2}, {"flat", flat}, {"role0", 0},    {"written0", 0},
          {"bytes0", 4},   {"role1", 0},   {"written1", 1}, {"bytes1", 4}};
}

alignas(64) char memory[4096];

cuda::GemmProblem product(int64_t m, int64_t n, int64_t k) {
  return {1, m, n, k, k, k, false, true, memory, memory + 1024, nullptr, nullptr, memory + 2048, 0};
}

bool says(const char* why, const char* part) { return why && std::strstr(why, part); }

}  // namespace

TEST(names_of_targets) {
  CHECK(gpu_target("sm_80")->major == 8 && gpu_target("sm_80")->minor == 0 && !gpu_target("sm_80")->exact);
  CHECK(gpu_target("sm_90a")->exact && gpu_target("sm_120")->major == 12);
  for (const char* name : {"", "sm_", "sm_8", "sm_a", "sm_80b", "sm_8x", "sm_0123", "sm_1234", "SM_80", "x86-64-v3"})
    CHECK(!gpu_target(name));
  CHECK(gpu_target("sm_80")->runs_on(8, 0) && gpu_target("sm_80")->runs_on(8, 9));
  CHECK(!gpu_target("sm_86")->runs_on(8, 0) && !gpu_target("sm_80")->runs_on(9, 0));
  CHECK(gpu_target("sm_90a")->runs_on(9, 0) && !gpu_target("sm_90a")->runs_on(9, 1));
  CHECK(gpu_target("sm_90a")->rank() > gpu_target("sm_90")->rank());
  CHECK(gpu_target("sm_89")->rank() > gpu_target("sm_86")->rank());
}

TEST(a_pack_needs_the_entries) {
  CHECK_THROWS(Error, gemm_kernel().add({nullptr, about_error}), "pack /x/y.so: kernel 'one'", "sm_80",
               "no entry point tvmops_pack_device");
  CHECK_THROWS(Error, gemm_kernel().add({about_device, nullptr}), "no entry point tvmops_pack_error");
}

TEST(the_registry_lists_them_apart) {
  OneKernel one = gemm_kernel();
  const runtime::Kernel& kernel = one.add();
  CHECK(kernel.gpu && !kernel.usable && !kernel.shadowed);
  CHECK(one.snapshot->callable("matmul").size() == 1);
}

TEST(a_device_is_asked_for_once) {
  OneKernel one = gemm_kernel();
  const runtime::Kernel& kernel = one.add();
  int error = -1;
  asked = 0;
  const tvmops_device* device = cuda::find_device(*kernel.pack, 5, &error);
  CHECK(device && device->major == 8 && error == 0 && asked == 1);
  CHECK(cuda::find_device(*kernel.pack, 5, &error) == device && asked == 1);
  device_error = 100;
  CHECK(!cuda::find_device(*kernel.pack, 6, &error) && error == 100);
  device_error = 0;
  CHECK(cuda::find_device(*kernel.pack, 6, &error) && error == 0);
  CHECK(cuda::runs(*kernel.table, *device) && cuda::runs_on_known_device(kernel));
  CHECK(cuda::error_text(*kernel.pack, 209) == "no kernel image (CUDA error 209)");
  CHECK(cuda::error_text(*kernel.pack, 7) == "unknown error (CUDA error 7)");
}

TEST(shared_memory_has_a_limit) {
  OneKernel one = gemm_kernel();
  one.params.push_back({"shared_bytes", 120 << 10});
  const runtime::Kernel& kernel = one.add();
  int error;
  CHECK(!cuda::runs(*kernel.table, *cuda::find_device(*kernel.pack, 0, &error)));  // 8.6: 99 KiB
  CHECK(cuda::runs(*kernel.table, *cuda::find_device(*kernel.pack, 1, &error)));   // 8.0: 163 KiB
}

TEST(what_a_gemm_refuses) {
  OneKernel one = gemm_kernel();
  const cuda::GemmKernel kernel(one.add());
  CHECK(kernel.rows == 64 && kernel.transposed_b && !kernel.transposed_a);
  CHECK(!cuda::refusal(kernel, product(64, 16, 24)));
  CHECK(says(cuda::refusal(kernel, product(65, 16, 24)), "no kernel for these sizes"));
  CHECK(says(cuda::refusal(kernel, product(64, 12, 24)), "multiple"));
  CHECK(says(cuda::refusal(kernel, product(64, 16, 20)), "multiple"));
  cuda::GemmProblem p = product(64, 16, 24);
  p.lda = 25;
  CHECK(says(cuda::refusal(kernel, p), "multiple"));
  p = product(64, 16, 24);
  p.a = memory + 8;
  CHECK(says(cuda::refusal(kernel, p), "16 bytes"));
  p = product(64, 16, 24);
  p.bias = memory + 4;
  CHECK(says(cuda::refusal(kernel, p), "16 bytes"));
  CHECK(says(cuda::refusal(kernel, product(8, int64_t{1} << 28, 8)), "32 bits"));
  p = product(64, 1 << 12, 1 << 12);
  p.batch = 1 << 20;
  CHECK(says(cuda::refusal(kernel, p), "32 bits"));
  p.batch = int64_t{1} << 60;
  CHECK(says(cuda::refusal(kernel, p), "32 bits"));
}

TEST(the_largest_sizes) {
  for (const bool tiled : {false, true}) {
    OneKernel one = gemm_kernel();
    // Rows of A up to 64 + 128, rows of B up to 16 + 128: the indices of those beyond the matrix must fit too.
    if (tiled) {
      for (const auto& [name, value] : {std::pair{"block_m", 128}, {"block_n", 64}, {"block_k", 16}, {"stages", 4}})
        one.params.push_back({name, value});
    }
    const cuda::GemmKernel kernel(one.add());
    CHECK(kernel.reach == (tiled ? 128 : 0));
    const int64_t most_a = (INT_MAX - kernel.reach) / (64 + kernel.reach) / 8 * 8;
    const int64_t most_b = (INT_MAX - kernel.reach) / (16 + kernel.reach) / 8 * 8;
    cuda::GemmProblem p = product(64, 16, 24);
    p.lda = most_a, p.ldb = most_b;
    CHECK(!cuda::refusal(kernel, p));
    p.lda += 8;
    CHECK(says(cuda::refusal(kernel, p), "32 bits"));
    p.lda = most_a, p.ldb += 8;
    CHECK(says(cuda::refusal(kernel, p), "32 bits"));
  }
}

TEST(a_transposed_operand_with_part_of_a_vector) {
  OneKernel one = gemm_kernel();
  for (auto& param : one.params) {
    if (!std::strcmp(param.name, "layout_a")) param.value = 1;
    if (!std::strcmp(param.name, "layout_b")) param.value = 0;
  }
  const cuda::GemmKernel kernel(one.add());
  cuda::GemmProblem p = product(37, 16, 21);
  p.transposed_a = true, p.transposed_b = false;
  p.lda = 40, p.ldb = 16, p.last_a = 40;
  CHECK(!cuda::refusal(kernel, p));
  p.last_a = 37;  // the memory ends with the matrix
  CHECK(says(cuda::refusal(kernel, p), "multiple"));
}

TEST(what_a_launch_of_a_gemm_gets) {
  OneKernel one = gemm_kernel();
  const cuda::GemmKernel kernel(one.add());
  cuda::GemmProblem p = product(64, 16, 24);
  p.residual = memory + 512;
  p.activation = 3;
  const cuda::GemmSizes sizes(p);
  CHECK(kernel.launcher.workspace_bytes(sizes.list) == 8);
  launch_error = 0;
  CHECK(bool(cuda::gemm(kernel, p, sizes, {0, nullptr, nullptr})));
  CHECK((sizes_seen == std::vector<int64_t>{1, 64, 16, 24, 24, 24, 3, 2}));
  CHECK((buffers_seen == std::vector<void*>{memory, memory + 1024, memory + 2048, memory + 2048, memory + 512}));
}

TEST(what_becomes_of_errors) {
  OneKernel one = gemm_kernel();
  const cuda::GemmKernel kernel(one.add());
  const cuda::GemmProblem p = product(64, 16, 24);
  const auto call = [&](int device) { return cuda::gemm(kernel, p, cuda::GemmSizes(p), {device, nullptr, nullptr}); };
  launch_error = 719;
  CHECK_THROWS(Error, call(0), "kernel one could not be launched on CUDA device 0", "CUDA error 719");
  launch_error = 9;
  CHECK(says(call(0).refusal, "the launch was refused"));
  CHECK(!kernel.Kernel::refusal(0));
  launch_error = 209;
  CHECK(says(call(0).refusal, "no kernel image"));
  CHECK(says(kernel.Kernel::refusal(0), "does not run on this device") && !kernel.Kernel::refusal(1));
  const cuda::GemmKernel again(one.snapshot->kernels()[0]);  // bound anew, as after a pack was loaded
  CHECK(says(again.Kernel::refusal(0), "does not run on this device"));
  launch_error = 0;
  CHECK(bool(call(1)));
}

TEST(refusals_from_many_threads) {
  OneKernel one = gemm_kernel();
  const cuda::GemmKernel kernel(one.add());
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; i++)
    threads.emplace_back([&, i] {
      tvmops_launch_function fails = [](const tvmops_launch*) { return 98; };
      const tvmops_launch l = {nullptr, nullptr, nullptr, nullptr, nullptr, i};
      CHECK(!cuda::run(kernel, {fails, nullptr}, l));
    });
  for (auto& thread : threads) thread.join();
  for (int i = 0; i < 8; i++) CHECK(says(kernel.Kernel::refusal(i), "CUDA error 98"));
}

TEST(rows_of_a_flat_kernel_are_one) {
  for (int flat = 0; flat < 2; flat++) {
    OneKernel one("cuda_rows", {}, map_params(flat));
    const cuda::RowsKernel kernel(one.add());
    drivers::RowsProblem p;
    p.outer = 6, p.n = 35;
    p.operand[0] = {memory, 35};
    p.operand[1] = {memory + 2048, 35};
    CHECK(!cuda::refusal(kernel, p));
    launch_error = 0;
    CHECK(bool(cuda::rows(kernel, p, cuda::RowsSizes(kernel, p), {0, nullptr, nullptr})));

    CHECK((sizes_seen == (flat ? std::vector<int64_t>{1, 210, 210, 210} : std::vector<int64_t>{6, 35, 35, 35})));
    p.operand[0].stride = 40;  // rows that are apart: aligned, and of a flat kernel in whole vectors
    CHECK(flat ? says(cuda::refusal(kernel, p), "rows do not begin") : !cuda::refusal(kernel, p));
    p.n = 32, p.operand[1].stride = 32;
    CHECK(!cuda::refusal(kernel, p));
    CHECK(bool(cuda::rows(kernel, p, cuda::RowsSizes(kernel, p), {0, nullptr, nullptr})));
    CHECK((sizes_seen == std::vector<int64_t>{6, 32, 40, 32}));
    p.operand[0].stride = 39;
    CHECK(says(cuda::refusal(kernel, p), "rows do not begin"));
    p.operand[0].stride = -1;
    CHECK(says(cuda::refusal(kernel, p), "contiguous"));
    p.operand[0].stride = int64_t{1} << 29;
    CHECK(says(cuda::refusal(kernel, p), "32 bits"));
    p.operand[0].stride = int64_t{1} << 62;
    CHECK(says(cuda::refusal(kernel, p), "32 bits"));
    p.n = 35, p.operand[0].stride = p.operand[1].stride = 35;
    p.operand[1].data = memory + 2052;
    CHECK(says(cuda::refusal(kernel, p), "16 bytes"));
    p.inner = 2;
    CHECK(says(cuda::refusal(kernel, p), "across"));
    p.inner = 1, p.variant = drivers::kGelu;
    CHECK(says(cuda::refusal(kernel, p), "activation"));
    p.variant = drivers::kNone;
    const int64_t most = INT_MAX - (1 << 19);
    CHECK(!cuda::refusal(kernel, most / 8, 8, 1, drivers::kNone));
    CHECK(!cuda::refusal(kernel, 1, most, 1, drivers::kNone));
    CHECK(says(cuda::refusal(kernel, 1, most + 1, 1, drivers::kNone), "32 bits"));
    CHECK(says(cuda::refusal(kernel, int64_t{1} << 40, int64_t{1} << 40, 1, drivers::kNone), "32 bits"));
  }
}

std::vector<tvmops_value> reduce_params() {
  return {{"threads", 256}, {"vector", 4}, {"loads", 4}, {"kept", 8}, {"depth", 128}, {"blocks", 864}};
}

TEST(what_a_reduction_refuses) {
  OneKernel one("cuda_reduce", {}, reduce_params());
  const cuda::ReduceKernel kernel(one.add());
  drivers::ReduceProblem p;
  p.x = memory, p.outer = 6, p.n = 35, p.n_stride = 1, p.outer_stride = 35;
  CHECK(!cuda::refusal(kernel, p));
  p.outer_stride = 40;
  CHECK(says(cuda::refusal(kernel, p), "contiguous"));
  p.outer = 1;
  CHECK(!cuda::refusal(kernel, p));
  p.n_stride = 2;
  CHECK(says(cuda::refusal(kernel, p), "contiguous"));
  p.inner = 2;
  CHECK(!cuda::refusal(kernel, p));
  p.x = memory + 4;
  CHECK(says(cuda::refusal(kernel, p), "16 bytes"));
  p.n = int64_t{1} << 31;
  CHECK(says(cuda::refusal(kernel, p), "32 bits"));
  p.outer = p.n = p.inner = int64_t{1} << 40;
  CHECK(says(cuda::refusal(kernel, p), "32 bits"));
  p.again_n = 2;
  CHECK(says(cuda::refusal(kernel, p), "apart"));
}

TEST(what_a_launch_of_a_reduction_gets) {
  OneKernel one("cuda_reduce", {}, reduce_params());
  const cuda::ReduceKernel kernel(one.add());
  drivers::ReduceProblem p;
  p.x = memory, p.y = memory + 1024, p.outer = 3, p.n = 20000, p.divisor = 7;
  const cuda::ReduceSizes sizes(kernel.shape, p.outer, p.n, p.inner);
  launch_error = 0;
  CHECK(bool(cuda::reduce(kernel, p, sizes, {0, nullptr, nullptr})));
  // Pieces of at most 256 * 8 * 4 elements: blocks of all threads, and as many threads to join as there are pieces.
  CHECK((sizes_seen == std::vector<int64_t>{3, 20000, 1, 4, 5000, 8, 0, 2}));
  CHECK((buffers_seen == std::vector<void*>{memory, memory + 1024}));
  CHECK(divisor_seen == 7);
  launch_error = 9;
  CHECK(says(cuda::reduce(kernel, p, sizes, {0, nullptr, nullptr}).refusal, "the launch was refused"));
  launch_error = 0;
}

TEST(what_a_kernel_lacks) {
  auto few = reduce_params();
  few.pop_back();
  OneKernel no_blocks("cuda_reduce", {}, few);
  CHECK_THROWS(Error, cuda::ReduceKernel(no_blocks.add()), "kernel one", "param 'blocks' is missing");
  OneKernel no_launch("cuda_rows", {}, map_params(1));
  no_launch.leaves.resize(1);
  no_launch.leaves[0].name = "something";
  CHECK_THROWS(Error, cuda::RowsKernel(no_launch.add()), "kernel one", "leaf 'launch', of any activation, is missing");
  OneKernel no_layout("cuda_gemm", {}, {{"align", 8}});
  CHECK_THROWS(Error, cuda::GemmKernel(no_layout.add()), "param 'layout_a' is missing");
  OneKernel wrong_plan = gemm_kernel();
  wrong_plan.plan = {1, 0};
  CHECK_THROWS(Error, cuda::GemmKernel(wrong_plan.add()), "its plan has 2 entries, not 108");
  auto params = map_params(1);
  params[2].value = 1;  // a vector
  OneKernel vector("cuda_rows", {}, params);
  CHECK_THROWS(Error, cuda::RowsKernel(vector.add()), "it is flat, but not all of its operands are rows");
}

TEST(what_scans_and_rotary_embeddings_refuse) {
  OneKernel one("cuda_scan", {}, {});
  const cuda::ScanKernel scan(one.add());
  drivers::ScanProblem s = {2, 3, 5, memory, memory + 1024, true, true};
  CHECK(!cuda::refusal(scan, s));
  const cuda::ScanSizes sizes(s);
  CHECK((std::vector<int64_t>(sizes.list, sizes.list + 4) == std::vector<int64_t>{2, 3, 5, 3}));
  s.target = memory + 4;
  CHECK(says(cuda::refusal(scan, s), "16 bytes"));
  for (const int64_t n : {int64_t{INT32_MAX}, int64_t{1} << 62}) {
    drivers::ScanProblem large = {2, n, 1, memory, nullptr, false, false};
    CHECK(says(cuda::refusal(scan, large), "32 bits"));
    large.outer = 1;
    CHECK(says(cuda::refusal(scan, large), "32 bits"));
  }
  OneKernel other("cuda_rotary", {}, {});
  const cuda::RotaryKernel rotary(other.add());
  drivers::RotaryProblem p;
  p.dim[0] = {4, 32, 32, 8};
  p.half = 8, p.rest = 16, p.pairs = true;
  p.x = memory, p.y = memory + 1024;
  CHECK(!cuda::refusal(rotary, p));
  CHECK(cuda::RotarySizes(p).list[14] == 1);
  p.dim[0].x = int64_t{1} << 30;
  CHECK(says(cuda::refusal(rotary, p), "32 bits"));
  p.dim[0].x = 32;
  p.x = memory + 2;
  CHECK(says(cuda::refusal(rotary, p), "16 bytes"));
}

TEST(plans) {
  CHECK(cuda::gemm_plan_bucket(true, 1, 16, 0, 0) == 0 && cuda::gemm_plan_bucket(true, 1, 17, 0, 0) == 1);
  CHECK(cuda::gemm_plan_bucket(true, 2, 1 << 20, 0, 0) == cuda::gemm_plan_size(true) - 1);
  CHECK(cuda::gemm_plan_bucket(false, 2, 1 << 20, 1 << 20, 1 << 20) == cuda::gemm_plan_size(false) - 1);
  CHECK(cuda::rows_plan_bucket(false, 1 << 20, 1 << 20) == cuda::rows_plan_size(false) - 1);
  CHECK(cuda::rows_plan_bucket(true, 1, 1) == 0);
  CHECK(cuda::reduce_plan_bucket(1, 1, 1) == 0);
  CHECK(cuda::reduce_plan_bucket(1 << 20, 1 << 20, 2) == cuda::reduce_plan_size() - 1);
}
