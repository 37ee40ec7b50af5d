// logsumexp over one dimension or several neighbouring ones.
#ifndef TVMOPS_OPS_LOGSUMEXP_H_
#define TVMOPS_OPS_LOGSUMEXP_H_

#include <ATen/ATen.h>

namespace tvmops::ops {

// Under the CPU key, by a kernel or ATen.
at::Tensor logsumexp_cpu(const at::Tensor& x, at::IntArrayRef dims, bool keepdim);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_LOGSUMEXP_H_
