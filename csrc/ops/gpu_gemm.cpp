#include "ops/gpu_gemm.h"

#include <ATen/Context.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "cuda/gemm.h"
#include "cuda/plan.h"
#include "ops/common.h"
#include "ops/gpu.h"
#include "ops/gpu_table.h"
#include "ops/rows_choice.h"

namespace tvmops::ops {

using at::Tensor;
using cuda::GemmKernel;
using cuda::GemmProblem;

namespace {

// By storage dtype and layouts.
size_t slot(int storage, bool transposed_a, bool transposed_b) {
  return (storage * 2 + transposed_a) * 2 + transposed_b;
}

int64_t slot_of(const tvmops_kernel& kernel) {
  const int64_t *a = runtime::find_param(kernel, "layout_a"), *b = runtime::find_param(kernel, "layout_b");
  for (int storage = 0; storage < kStorages; storage++) {
    const std::string prefix = std::string("matmul(") + kStorageNames[storage] + ";";
    if (std::strncmp(kernel.workload, prefix.c_str(), prefix.size()) == 0)
      return static_cast<int64_t>(slot(storage, a && *a, b && *b));
  }
  return -1;
}

const GpuTable<GemmKernel>& table() {
  static const GpuTable<GemmKernel> gemm(&slot_of);
  return gemm;
}

// The last two dimensions of a tensor as rows in memory, `ld` elements apart, or as columns.
struct Layout {
  bool transposed;
  int64_t ld;
};

// Nothing where neither is contiguous, or the matrices of a batch do not follow each other.
std::optional<Layout> layout_of(const Tensor& t) {
  const int64_t rows = t.size(-2), columns = t.size(-1), down = t.stride(-2), right = t.stride(-1);
  const int64_t batch = t.dim() == 3 ? t.size(0) : 1;
  // Of the one row of each matrix, the next begins where the next matrix does.
  const auto ld = [&](int64_t count, int64_t length, int64_t stride) {
    return count > 1 ? stride : batch > 1 ? t.stride(0) : length;
  };
  Layout layout;
  int64_t count, length;
  if (right == 1 || columns == 1)
    layout = {false, ld(rows, columns, down)}, count = rows, length = columns;
  else if (down == 1 || rows == 1)
    layout = {true, ld(columns, rows, right)}, count = columns, length = rows;
  else
    return std::nullopt;
  if (layout.ld < length || (batch > 1 && t.stride(0) != count * layout.ld)) return std::nullopt;
  return layout;
}

// Of a matrix that is transposed in memory: how much of its last row there is.
int64_t last_row(const Tensor& t, const Layout& layout) {
  const int64_t there = static_cast<int64_t>(t.storage().nbytes()) / t.element_size() - t.storage_offset();
  const int64_t rows = t.size(-1) * (t.dim() == 3 ? t.size(0) : 1);
  return std::min(layout.ld, there - (rows - 1) * layout.ld);
}

bool readable(const GpuProduct& p) {
  const auto good = [&](const Tensor& t) { return is_readable(t) && t.scalar_type() == p.a.scalar_type(); };
  return good(p.a) && good(p.b) && (!p.bias || good(*p.bias)) && (!p.residual || good(*p.residual));
}

// The problem, with room for the result; `why` there is none.
std::optional<GemmProblem> problem_of(const GpuProduct& p, const char*& why) {
  why = kUnsupported;
  if (!readable(p)) return std::nullopt;
  GemmProblem out = {};
  out.batch = p.a.dim() == 3 ? p.a.size(0) : 1;
  out.m = p.a.size(-2), out.n = p.b.size(-1), out.k = p.a.size(-1);
  why = "nothing to multiply";
  if (out.batch == 0 || out.m == 0 || out.n == 0 || out.k == 0) return std::nullopt;
  const auto a = layout_of(p.a), b = layout_of(p.b);
  why = cuda::kScattered;
  if (!a || !b || (p.bias && !p.bias->is_contiguous()) || (p.residual && !p.residual->is_contiguous()))
    return std::nullopt;
  out.lda = a->ld, out.ldb = b->ld;
  out.transposed_a = a->transposed, out.transposed_b = b->transposed;
  if (a->transposed) out.last_a = last_row(p.a, *a);
  out.a = p.a.const_data_ptr(), out.b = p.b.const_data_ptr();
  if (p.bias) out.bias = p.bias->const_data_ptr();
  if (p.residual) out.residual = p.residual->const_data_ptr();
  out.activation = p.activation;
  return out;
}

// As ATen asks before it calls cuBLAS: set by allow_tf32, set_float32_matmul_precision or fp32_precision.
bool may_round_to_tf32() {
  return at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
         at::Float32Precision::TF32;
}

GpuChoice<GemmKernel> choose(const GemmProblem& p, Storage storage) {
  const auto refusal = [&](const GemmKernel& kernel) -> const char* {
    if (kernel.tf32 && !may_round_to_tf32()) return "float32 is not to be rounded to TF32";
    return cuda::refusal(kernel, p);
  };
  const auto bucket = [&](const GemmKernel& kernel) {
    return cuda::gemm_plan_bucket(kernel.static_nk(), p.batch, p.m, p.n, p.k);
  };
  return choose_on_gpu<GemmKernel>(table(), slot(storage, p.transposed_a, p.transposed_b), gpu_index(), refusal,
                                   bucket);
}

// Into `out`, which is allocated once a kernel is chosen if it is undefined.
bool multiply(const GpuProduct& product, Tensor& out) {
  GpuChoice<GemmKernel> choice;
  auto problem = problem_of(product, choice.reason);
  if (problem) {
    if (out.defined()) problem->c = out.mutable_data_ptr();
    choice = choose(*problem, storage_of(product.a.scalar_type()));
  }
  if (choice) {
    if (!out.defined()) out = new_gpu_tensor(product.sizes, product.a.scalar_type());
    problem->c = out.mutable_data_ptr();
    const cuda::GemmSizes sizes(*problem);
    const GpuPlace place(choice.kernel->launcher.workspace_bytes(sizes.list));
    const cuda::Outcome outcome = cuda::gemm(*choice.kernel, *problem, sizes, *place);
    if (!outcome) choice = {nullptr, outcome.refusal};
  }
  if (recording())
    record(Decision{product.op, shape_text({product.left, product.right}), choice ? choice.kernel->source->name : "",
                    choice ? GemmKernel::kDriver : "aten", choice.reason});
  return bool(choice);
}

}  // namespace

std::optional<Tensor> multiply_on_gpu(const GpuProduct& product) {
  Tensor out;
  return multiply(product, out) ? std::optional<Tensor>(std::move(out)) : std::nullopt;
}

bool multiply_on_gpu(const GpuProduct& product, Tensor& out) { return multiply(product, out); }

bool gpu_gemm_serves(const tvmops_kernel* kernel) { return table().serves(kernel); }

}  // namespace tvmops::ops
