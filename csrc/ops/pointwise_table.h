// The pointwise functions of one tensor, and what ATen calls them. One line each; codegen/ops/pointwise.py has the same
// names.
#ifndef TVMOPS_OPS_POINTWISE_TABLE_H_
#define TVMOPS_OPS_POINTWISE_TABLE_H_

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <array>
#include <iterator>

namespace tvmops::ops {

// Parameters of a call, in the order of the schema.
using Params = std::array<double, 2>;

struct PointwiseOp {
  const char* name;
  const char* params;  // of the schema, after the tensors
  int n_params;
  bool saves_output;                                         // backward reads it, not the input
  at::Tensor (*aten)(const at::Tensor& x, const Params& p);  // y
  at::Tensor (*aten_backward)(const at::Tensor& g, const at::Tensor& saved, const Params& p);  // differentiable
  at::Tensor& (*aten_inplace)(at::Tensor& x, const Params& p);
};

// ATen's own gradients of these two can't be differentiated again.
inline at::Tensor silu_gradient(const at::Tensor& g, const at::Tensor& x) {
  if (!c10::GradMode::is_enabled()) return at::silu_backward(g, x);
  const at::Tensor s = at::sigmoid(x);
  return g * s * (1 + x * (1 - s));
}

inline at::Tensor mish_gradient(const at::Tensor& g, const at::Tensor& x) {
  if (!c10::GradMode::is_enabled()) return at::mish_backward(g, x);
  const at::Tensor t = at::tanh(at::softplus(x));
  return g * (t + x * at::sigmoid(x) * (1 - t * t));
}

#define TVMOPS_P const Params& p [[maybe_unused]]
#define TVMOPS_F [](const at::Tensor& x, TVMOPS_P)->at::Tensor
#define TVMOPS_B [](const at::Tensor& g, const at::Tensor& s, TVMOPS_P)->at::Tensor
#define TVMOPS_I [](at::Tensor& x, TVMOPS_P)->at::Tensor&

// clang-format off
inline constexpr PointwiseOp kPointwise[] = {
    {"relu", "", 0, true, TVMOPS_F { return at::relu(x); },
     TVMOPS_B { return at::threshold_backward(g, s, 0); }, TVMOPS_I { return at::relu_(x); }},
    {"leaky_relu", ", float negative_slope=0.01", 1, false, TVMOPS_F { return at::leaky_relu(x, p[0]); },
     TVMOPS_B { return at::leaky_relu_backward(g, s, p[0], false); }, TVMOPS_I { return at::leaky_relu_(x, p[0]); }},
    {"elu", ", float alpha=1.0", 1, false, TVMOPS_F { return at::elu(x, p[0]); },
     TVMOPS_B { return at::elu_backward(g, p[0], 1, 1, false, s); }, TVMOPS_I { return at::elu_(x, p[0]); }},
    {"sigmoid", "", 0, true, TVMOPS_F { return at::sigmoid(x); },
     TVMOPS_B { return at::sigmoid_backward(g, s); }, TVMOPS_I { return at::sigmoid_(x); }},
    {"tanh", "", 0, true, TVMOPS_F { return at::tanh(x); },
     TVMOPS_B { return at::tanh_backward(g, s); }, TVMOPS_I { return at::tanh_(x); }},
    {"gelu", "", 0, false, TVMOPS_F { return at::gelu(x); },
     TVMOPS_B { return at::gelu_backward(g, s); }, TVMOPS_I { return at::gelu_(x); }},
    {"gelu_tanh", "", 0, false, TVMOPS_F { return at::gelu(x, "tanh"); },
     TVMOPS_B { return at::gelu_backward(g, s, "tanh"); }, TVMOPS_I { return at::gelu_(x, "tanh"); }},
    {"silu", "", 0, false, TVMOPS_F { return at::silu(x); },
     TVMOPS_B { return silu_gradient(g, s); }, TVMOPS_I { return at::silu_(x); }},
    {"mish", "", 0, false, TVMOPS_F { return at::mish(x); },
     TVMOPS_B { return mish_gradient(g, s); }, TVMOPS_I { return at::mish_(x); }},
    {"softplus", ", float beta=1.0, float threshold=20.0", 2, false,
     TVMOPS_F { return at::softplus(x, p[0], p[1]); },
     TVMOPS_B { return at::softplus_backward(g, s, p[0], p[1]); }, TVMOPS_I { return x.copy_(at::softplus(x, p[0], p[1])); }},
    {"hardswish", "", 0, false, TVMOPS_F { return at::hardswish(x); },
     TVMOPS_B { return at::hardswish_backward(g, s); }, TVMOPS_I { return at::hardswish_(x); }},
    {"squared_relu", "", 0, false, TVMOPS_F { return at::relu(x).square(); },
     TVMOPS_B { return at::threshold_backward(2 * g * at::relu(s), s, 0); },
     TVMOPS_I { return x.copy_(at::relu(x).square()); }},
    {"exp", "", 0, true, TVMOPS_F { return at::exp(x); },
     TVMOPS_B { return g * s; }, TVMOPS_I { return at::exp_(x); }},
    {"expm1", "", 0, true, TVMOPS_F { return at::expm1(x); },
     TVMOPS_B { return g * (s + 1); }, TVMOPS_I { return at::expm1_(x); }},
    {"log", "", 0, false, TVMOPS_F { return at::log(x); },
     TVMOPS_B { return g / s; }, TVMOPS_I { return at::log_(x); }},
    {"log1p", "", 0, false, TVMOPS_F { return at::log1p(x); },
     TVMOPS_B { return g / (s + 1); }, TVMOPS_I { return at::log1p_(x); }},
    {"sqrt", "", 0, true, TVMOPS_F { return at::sqrt(x); },
     TVMOPS_B { return g / (2 * s); }, TVMOPS_I { return at::sqrt_(x); }},
    {"rsqrt", "", 0, true, TVMOPS_F { return at::rsqrt(x); },
     TVMOPS_B { return -0.5 * g * s.pow(3); }, TVMOPS_I { return at::rsqrt_(x); }},
    {"erf", "", 0, false, TVMOPS_F { return at::erf(x); },
     TVMOPS_B { return 1.1283791670955126 * at::exp(-(s * s)) * g; }, TVMOPS_I { return at::erf_(x); }},
};
// clang-format on

#undef TVMOPS_F
#undef TVMOPS_B
#undef TVMOPS_I
#undef TVMOPS_P

inline constexpr size_t kPointwiseOps = std::size(kPointwise);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_POINTWISE_TABLE_H_
