// The matmul family: mm, bmm, addmm, mv, matmul.
#ifndef TVMOPS_OPS_MATMUL_H_
#define TVMOPS_OPS_MATMUL_H_

#include <ATen/ATen.h>

namespace tvmops::ops {

// torch.matmul for plain tensors of any rank.
at::Tensor matmul_plain(const at::Tensor& self, const at::Tensor& other);

// Under the CPU key: a kernel, or ATen.
at::Tensor mm_cpu(const at::Tensor& self, const at::Tensor& mat2);
at::Tensor& mm_out_cpu(const at::Tensor& self, const at::Tensor& mat2, at::Tensor& out);
at::Tensor bmm_cpu(const at::Tensor& self, const at::Tensor& mat2);
at::Tensor& bmm_out_cpu(const at::Tensor& self, const at::Tensor& mat2, at::Tensor& out);
at::Tensor addmm_cpu(const at::Tensor& self, const at::Tensor& mat1, const at::Tensor& mat2, const at::Scalar& beta,
                     const at::Scalar& alpha);
at::Tensor& addmm_out_cpu(const at::Tensor& self, const at::Tensor& mat1, const at::Tensor& mat2,
                          const at::Scalar& beta, const at::Scalar& alpha, at::Tensor& out);
at::Tensor mv_cpu(const at::Tensor& self, const at::Tensor& vec);
at::Tensor& mv_out_cpu(const at::Tensor& self, const at::Tensor& vec, at::Tensor& out);

// torch.matmul for any tensors, from mm, bmm and mv.
at::Tensor matmul_composite(const at::Tensor& self, const at::Tensor& other);

// Through the dispatcher, so that autograd, autocast and the rest see the call.
at::Tensor call_mm(const at::Tensor& self, const at::Tensor& mat2);
at::Tensor call_bmm(const at::Tensor& self, const at::Tensor& mat2);
at::Tensor call_addmm(const at::Tensor& self, const at::Tensor& mat1, const at::Tensor& mat2, const at::Scalar& beta,
                      const at::Scalar& alpha);
at::Tensor call_mv(const at::Tensor& self, const at::Tensor& vec);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_MATMUL_H_
