#include "ops/matmul.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/MemoryOverlap.h>

#include <array>

#include "ops/common.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::Epilogue;
using drivers::GemmProblem;
using drivers::MatrixView;

namespace {

Tensor empty_like_input(at::IntArrayRef sizes) {
  return Tensor(at::detail::empty_cpu(sizes, at::kFloat, std::nullopt, std::nullopt, std::nullopt, std::nullopt));
}

constexpr const char* kNoProduct = "a dot product of two vectors, or no product at all";

// A column of products is a row of them with the operands swapped: y = A x as y^T = x^T A^T.
bool swap_if_column(GemmProblem& p) {
  if (p.n != 1 || p.m == 1 || p.ldc != 1 || !p.epilogue.trivial()) return false;
  const MatrixView a = p.a, b = p.b;
  p.a = {b.data, b.column, b.row};
  p.b = {a.data, a.column, a.row};
  p.n = p.m;
  p.m = 1;
  p.ldc = p.n;
  return true;
}

Choice choose(const char* op, std::initializer_list<at::IntArrayRef> shapes, const GemmProblem& p) {
  const bool transposed_b = p.b.column != 1 && p.b.row == 1 && p.n != 1;
  Choice choice = choose_matmul(p.m, p.n, p.k, transposed_b);
  if (choice && !drivers::fits(*choice.kernel, p)) choice = {nullptr, drivers::Route::kAten, "sizes beyond 32 bits"};
  if (recording()) record(op, shape_text(shapes), choice);
  return choice;
}

// Computes the problem by a kernel if one applies and wins. `c` returns where to, and is not asked otherwise.
template <class C>
bool try_gemm(const char* op, std::initializer_list<at::IntArrayRef> shapes, GemmProblem p, C&& c) {
  swap_if_column(p);
  const Choice choice = choose(op, shapes, p);
  if (!choice) return false;
  p.c = c();
  drivers::gemm(*choice.kernel, p, choice.route, kAtenParallel);
  return true;
}

// The same for a batch; `fill(a, b, c)` writes the offsets of the operands, `batch` each.
template <class C, class Fill>
bool try_gemm_batch(const char* op, std::initializer_list<at::IntArrayRef> shapes, GemmProblem p, int64_t batch, C&& c,
                    Fill&& fill) {
  const bool swapped = swap_if_column(p);
  const Choice choice = choose(op, shapes, p);
  if (!choice) return false;
  p.c = c();
  c10::SmallVector<int64_t, 3 * 64> offsets(3 * batch);
  int64_t *a = offsets.data(), *b = a + batch, *out = b + batch;
  fill(a, b, out);
  if (swapped) std::swap(a, b);
  drivers::gemm_batch(*choice.kernel, p, batch, {a, b, out, nullptr}, choice.route, kAtenParallel);
  return true;
}

bool row_major(const Tensor& out) {
  return out.dim() == 2 && (out.stride(1) == 1 || out.size(1) == 1) &&
         (out.stride(0) >= out.size(1) || out.size(0) <= 1);
}

int64_t leading_dimension(const Tensor& out) {
  return out.size(-2) == 1 ? std::max<int64_t>(out.size(-1), 1) : out.stride(-2);
}

// The product of the last two dimensions of a and b; where to is still open.
GemmProblem problem(const Tensor& a, const Tensor& b, int64_t ldc, const Epilogue& epilogue = {}) {
  return {a.size(-2),
          b.size(-1),
          a.size(-1),
          {a.const_data_ptr<float>(), a.stride(-2), a.stride(-1)},
          {b.const_data_ptr<float>(), b.stride(-2), b.stride(-1)},
          nullptr,
          nullptr,
          ldc,
          epilogue};
}

// Allocates c of the given sizes when it is asked where the result goes.
auto allocated(Tensor& c, at::IntArrayRef sizes) {
  return [&c, sizes] {
    c = empty_like_input(sizes);
    return c.mutable_data_ptr<float>();
  };
}

auto existing(Tensor& out) {
  return [&out] { return out.mutable_data_ptr<float>(); };
}

bool mm_shapes(const Tensor& a, const Tensor& b) {
  return a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) && is_float32(a) && is_float32(b);
}

}  // namespace

Tensor mm_cpu(const Tensor& self, const Tensor& mat2) {
  if (mm_shapes(self, mat2)) {
    Tensor c;
    const std::array<int64_t, 2> sizes = {self.size(0), mat2.size(1)};
    if (try_gemm("mm", {self.sizes(), mat2.sizes()}, problem(self, mat2, sizes[1]), allocated(c, sizes))) return c;
  } else {
    record_aten("mm", {self, mat2}, kUnsupported);
  }
  return at::mm(self, mat2);
}

namespace {

// Whether a kernel may write to `out`: the right shape and layout, and none of the memory of what it reads.
bool writable(const Tensor& out, at::IntArrayRef sizes, at::TensorList read) {
  if (!is_float32(out) || out.sizes() != sizes || at::has_internal_overlap(out) != at::MemOverlap::No) return false;
  for (const auto& t : read)
    if (at::get_overlap_status(out, t) != at::MemOverlapStatus::No) return false;
  return true;
}

// Whether `out` holds some of what is read. BLAS, and so ATen, would then read what it has already overwritten.
bool overlaps(const Tensor& out, at::IntArrayRef sizes, at::TensorList read) {
  if (!is_float32(out) || out.sizes() != sizes || at::has_internal_overlap(out) == at::MemOverlap::Yes) return false;
  for (const auto& t : read)
    if (at::get_overlap_status(out, t) != at::MemOverlapStatus::No) return true;
  return false;
}

}  // namespace

Tensor& mm_out_cpu(const Tensor& self, const Tensor& mat2, Tensor& out) {
  if (mm_shapes(self, mat2) && overlaps(out, {self.size(0), mat2.size(1)}, {self, mat2}))
    return out.copy_(mm_cpu(self, mat2));
  if (mm_shapes(self, mat2) && writable(out, {self.size(0), mat2.size(1)}, {self, mat2}) && row_major(out)) {
    const GemmProblem p = problem(self, mat2, leading_dimension(out));
    if (try_gemm("mm", {self.sizes(), mat2.sizes()}, p, existing(out))) return out;
  } else {
    record_aten("mm", {self, mat2}, kUnsupported);
  }
  return at::mm_out(out, self, mat2);
}

namespace {

bool bmm_shapes(const Tensor& a, const Tensor& b) {
  return a.dim() == 3 && b.dim() == 3 && a.size(0) == b.size(0) && a.size(2) == b.size(1) && a.size(0) > 0 &&
         is_float32(a) && is_float32(b);
}

template <class C>
bool try_bmm(const Tensor& a, const Tensor& b, int64_t ldc, int64_t c_stride, C&& c) {
  const int64_t batch = a.size(0);
  return try_gemm_batch("bmm", {a.sizes(), b.sizes()}, problem(a, b, ldc), batch, c,
                        [&](int64_t* a_offsets, int64_t* b_offsets, int64_t* c_offsets) {
                          for (int64_t i = 0; i < batch; i++) {
                            a_offsets[i] = i * a.stride(0);
                            b_offsets[i] = i * b.stride(0);
                            c_offsets[i] = i * c_stride;
                          }
                        });
}

}  // namespace

Tensor bmm_cpu(const Tensor& self, const Tensor& mat2) {
  if (bmm_shapes(self, mat2)) {
    Tensor c;
    const std::array<int64_t, 3> sizes = {self.size(0), self.size(1), mat2.size(2)};
    if (try_bmm(self, mat2, sizes[2], sizes[1] * sizes[2], allocated(c, sizes))) return c;
  } else {
    record_aten("bmm", {self, mat2}, kUnsupported);
  }
  return at::bmm(self, mat2);
}

Tensor& bmm_out_cpu(const Tensor& self, const Tensor& mat2, Tensor& out) {
  if (bmm_shapes(self, mat2) && overlaps(out, {self.size(0), self.size(1), mat2.size(2)}, {self, mat2}))
    return out.copy_(bmm_cpu(self, mat2));
  if (bmm_shapes(self, mat2) && writable(out, {self.size(0), self.size(1), mat2.size(2)}, {self, mat2}) &&
      row_major(out.select(0, 0))) {
    if (try_bmm(self, mat2, leading_dimension(out), out.stride(0), existing(out))) return out;
  } else {
    record_aten("bmm", {self, mat2}, kUnsupported);
  }
  return at::bmm_out(out, self, mat2);
}

namespace {

// beta * self as the epilogue's residual: self must broadcast to [m, n] with unit column stride.
bool addmm_epilogue(const Tensor& self, int64_t m, int64_t n, const at::Scalar& beta, const at::Scalar& alpha,
                    Epilogue& e) {
  if (beta.isComplex() || alpha.isComplex()) return false;
  if (alpha.equal(0)) return false;  // BLAS then reads neither matrix, not even their NaN
  e.alpha = alpha.to<float>();
  e.beta = beta.to<float>();
  if (e.beta == 0.0f) return true;  // torch: self is then not even read
  if (!is_float32(self) || self.dim() < 1 || self.dim() > 2 || self.size(-1) != n) return false;
  if (n > 1 && self.stride(-1) != 1) return false;
  const bool one_row = self.dim() == 1 || self.size(0) == 1;
  if (!one_row && self.size(0) != m) return false;
  e.residual = self.const_data_ptr<float>();
  e.residual_row = one_row ? 0 : self.stride(0);
  return true;
}

template <class C>
bool try_addmm(const Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta, const at::Scalar& alpha,
               int64_t ldc, C&& c) {
  Epilogue e;
  if (addmm_epilogue(self, a.size(0), b.size(1), beta, alpha, e))
    return try_gemm("addmm", {a.sizes(), b.sizes()}, problem(a, b, ldc, e), c);
  record_aten("addmm", {a, b}, kUnsupported);
  return false;
}

}  // namespace

Tensor addmm_cpu(const Tensor& self, const Tensor& mat1, const Tensor& mat2, const at::Scalar& beta,
                 const at::Scalar& alpha) {
  if (mm_shapes(mat1, mat2)) {
    Tensor c;
    const std::array<int64_t, 2> sizes = {mat1.size(0), mat2.size(1)};
    if (try_addmm(self, mat1, mat2, beta, alpha, sizes[1], allocated(c, sizes))) return c;
  } else {
    record_aten("addmm", {mat1, mat2}, kUnsupported);
  }
  return at::addmm(self, mat1, mat2, beta, alpha);
}

Tensor& addmm_out_cpu(const Tensor& self, const Tensor& mat1, const Tensor& mat2, const at::Scalar& beta,
                      const at::Scalar& alpha, Tensor& out) {
  if (mm_shapes(mat1, mat2) && overlaps(out, {mat1.size(0), mat2.size(1)}, {self, mat1, mat2}))
    return out.copy_(addmm_cpu(self, mat1, mat2, beta, alpha));
  if (mm_shapes(mat1, mat2) && writable(out, {mat1.size(0), mat2.size(1)}, {self, mat1, mat2}) && row_major(out)) {
    if (try_addmm(self, mat1, mat2, beta, alpha, leading_dimension(out), existing(out))) return out;
  } else {
    record_aten("addmm", {mat1, mat2}, kUnsupported);
  }
  return at::addmm_out(out, self, mat1, mat2, beta, alpha);
}

namespace {

bool mv_shapes(const Tensor& a, const Tensor& v) {
  return a.dim() == 2 && v.dim() == 1 && a.size(1) == v.size(0) && is_float32(a) && is_float32(v);
}

// out = a @ v as one row: v^T @ a^T.
template <class C>
bool try_mv(const Tensor& a, const Tensor& v, C&& c) {
  const GemmProblem p = {1,
                         a.size(0),
                         a.size(1),
                         {v.const_data_ptr<float>(), 1, v.stride(0)},
                         {a.const_data_ptr<float>(), a.stride(1), a.stride(0)},
                         nullptr,
                         nullptr,
                         std::max<int64_t>(a.size(0), 1),
                         {}};
  return try_gemm("mv", {a.sizes(), v.sizes()}, p, c);
}

}  // namespace

Tensor mv_cpu(const Tensor& self, const Tensor& vec) {
  if (mv_shapes(self, vec)) {
    Tensor out;
    const std::array<int64_t, 1> sizes = {self.size(0)};
    if (try_mv(self, vec, allocated(out, sizes))) return out;
  } else {
    record_aten("mv", {self, vec}, kUnsupported);
  }
  return at::mv(self, vec);
}

Tensor& mv_out_cpu(const Tensor& self, const Tensor& vec, Tensor& out) {
  if (mv_shapes(self, vec) && overlaps(out, {self.size(0)}, {self, vec})) return out.copy_(mv_cpu(self, vec));
  if (mv_shapes(self, vec) && writable(out, {self.size(0)}, {self, vec}) && (out.stride(0) == 1 || out.size(0) == 1)) {
    if (try_mv(self, vec, existing(out))) return out;
  } else {
    record_aten("mv", {self, vec}, kUnsupported);
  }
  return at::mv_out(out, self, vec);
}

namespace {

// The leading dimensions of [..., rows, columns] as one list of offsets, broadcast to `batch_shape`.
void batch_offsets(const Tensor& t, at::IntArrayRef batch_shape, int64_t* offsets, int64_t count) {
  std::fill(offsets, offsets + count, 0);
  const int64_t dims = static_cast<int64_t>(batch_shape.size()), own = t.dim() - 2;
  int64_t repeat = 1;
  for (int64_t d = dims - 1; d >= 0; d--) {
    const int64_t mine = d - (dims - own);
    const int64_t stride = mine >= 0 && t.size(mine) != 1 ? t.stride(mine) : 0;
    if (stride != 0)
      for (int64_t i = 0; i < count; i++) offsets[i] += i / repeat % batch_shape[d] * stride;
    repeat *= batch_shape[d];
  }
}

// Whether the leading dimensions of t [..., rows, columns] walk memory like one: then its rows are those of a matrix.
bool folds(const Tensor& t) {
  int64_t step = t.size(-2) * t.stride(-2);  // the stride of a dimension of size one says nothing: leave it out
  for (int64_t d = t.dim() - 3; d >= 0; d--) {
    if (t.size(d) == 1) continue;
    if (t.stride(d) != step) return false;
    step *= t.size(d);
  }
  return true;
}

Tensor matmul_batched(const Tensor& self, const Tensor& other) {
  const Tensor a = self.dim() == 1 ? self.unsqueeze(0) : self, b = other.dim() == 1 ? other.unsqueeze(1) : other;
  const int64_t m = a.size(-2), k = a.size(-1), n = b.size(-1);
  if (b.size(-2) != k) return at::matmul(self, other);
  const auto batch_shape = at::infer_size_dimvector(a.sizes().slice(0, a.dim() - 2), b.sizes().slice(0, b.dim() - 2));
  c10::SmallVector<int64_t, 8> shape(batch_shape.begin(), batch_shape.end());
  const int64_t batch = c10::multiply_integers(batch_shape);
  shape.push_back(m);
  shape.push_back(n);
  if (batch == 0 || m == 0 || n == 0 || k == 0) {
    record_aten("matmul", {self, other}, "nothing to multiply");
    return at::matmul(self, other);
  }
  Tensor c;
  GemmProblem p = problem(a, b, n);
  bool done;
  if (b.dim() == 2 && folds(a)) {
    p.m = batch * m;
    done = try_gemm("matmul", {self.sizes(), other.sizes()}, p, allocated(c, shape));
  } else {
    done = try_gemm_batch("matmul", {self.sizes(), other.sizes()}, p, batch, allocated(c, shape),
                          [&](int64_t* a_offsets, int64_t* b_offsets, int64_t* c_offsets) {
                            batch_offsets(a, batch_shape, a_offsets, batch);
                            batch_offsets(b, batch_shape, b_offsets, batch);
                            for (int64_t i = 0; i < batch; i++) c_offsets[i] = i * m * n;
                          });
  }
  if (!done) return at::matmul(self, other);
  if (self.dim() == 1) return c.squeeze(-2);
  if (other.dim() == 1) return c.squeeze(-1);
  return c;
}

}  // namespace

Tensor matmul_plain(const Tensor& self, const Tensor& other) {
  const int64_t da = self.dim(), db = other.dim();
  if (da == 2 && db == 2) return mm_cpu(self, other);
  if (da == 2 && db == 1) return mv_cpu(self, other);
  if (da == 1 && db == 2) return matmul_batched(self, other);
  if (da >= 1 && db >= 1 && (da > 2 || db > 2)) return matmul_batched(self, other);
  record_aten("matmul", {self, other}, kNoProduct);
  return at::matmul(self, other);
}

// As ATen does it: from mm, mv and bmm, which know autograd, vmap and the rest.
Tensor matmul_composite(const Tensor& self, const Tensor& other) {
  if (is_plain(self) && is_plain(other) && !in_dispatch_mode()) return matmul_plain(self, other);
  const int64_t da = self.dim(), db = other.dim();
  if (da == 0 || db == 0 || (da == 1 && db == 1)) {
    record_aten("matmul", {self, other}, kNoProduct);
    return at::matmul(self, other);
  }
  if (self.sym_size(-1) != other.sym_size(db == 1 ? 0 : -2)) return at::matmul(self, other);  // raises
  if (da == 2 && db == 2) return call_mm(self, other);
  if (da == 2 && db == 1) return call_mv(self, other);
  if (da == 1 && db == 2) return call_mm(self.unsqueeze(0), other).squeeze(0);
  if (db <= 2) {  // [..., m, k] @ [k, n]: the rows of all matrices are those of one
    auto shape = self.sym_sizes().slice(0, da - 1).vec();
    const Tensor rows = self.reshape_symint({c10::multiply_integers(shape), self.sym_size(da - 1)});
    if (db == 1) return call_mv(rows, other).view_symint(shape);
    shape.push_back(other.sym_size(1));
    return call_mm(rows, other).view_symint(shape);
  }
  const Tensor a = da == 1 ? self.unsqueeze(0) : self;
  const Tensor b = other;
  const auto a_sizes = a.sym_sizes(), b_sizes = b.sym_sizes();
  auto shape = at::infer_size_symdimvector(a_sizes.slice(0, a.dim() - 2), b_sizes.slice(0, b.dim() - 2));
  const auto as_batch = [&](const Tensor& t) {
    c10::SymDimVector full(shape);
    full.push_back(t.sym_size(-2));
    full.push_back(t.sym_size(-1));
    return t.expand_symint(full).reshape_symint({c10::multiply_integers(shape), t.sym_size(-2), t.sym_size(-1)});
  };
  if (db == 1) return call_bmm(as_batch(a), as_batch(other.unsqueeze(1))).view_symint(shape);
  const Tensor c = call_bmm(as_batch(a), as_batch(b));
  shape.push_back(a.sym_size(-2));
  shape.push_back(b.sym_size(-1));
  const Tensor product = c.view_symint(shape);
  return da == 1 ? product.squeeze(-2) : product;
}

}  // namespace tvmops::ops
