#include "ops/softmax.h"

#include <ATen/WrapDimUtils.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>

#include "ops/common.h"
#include "ops/rows_choice.h"
#include "ops/rows_view.h"

namespace tvmops::ops {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Dtype = std::optional<at::ScalarType>;

namespace {

// By whether the logarithm is taken.
const OpKey kForward[] = {OpKey("softmax"), OpKey("log_softmax")};
const OpKey kBackward[] = {OpKey("softmax_backward"), OpKey("log_softmax_backward")};

bool has_rows(const Tensor& x) { return is_readable(x) && x.dim() > 0 && x.numel() > 0; }

template <bool log>
struct Softmax {
  static const char* name() { return kForward[log].name(); }

  static Tensor aten(const Tensor& x, int64_t dim, Dtype dtype) {
    return log ? at::log_softmax(x, dim, dtype) : at::softmax(x, dim, dtype);
  }

  static Tensor aten_backward(const Tensor& g, const Tensor& y, int64_t dim) {
    return log ? at::_log_softmax_backward_data(g, y, dim, y.scalar_type())
               : at::_softmax_backward_data(g, y, dim, y.scalar_type());
  }

  static Tensor cpu(const Tensor& x, int64_t dim, Dtype dtype) {
    if (has_rows(x) && dtype.value_or(x.scalar_type()) == x.scalar_type()) {
      if (auto y = map_rows(kForward[log], {x}, at::maybe_wrap_dim(dim, x.dim()))) return *std::move(y);
    } else {
      record_aten(name(), {x}, kUnsupported);
    }
    return aten(x, dim, dtype);
  }

  static Tensor backward_cpu(const Tensor& g, const Tensor& y, int64_t dim) {
    if (has_rows(y) && is_readable(g) && g.scalar_type() == y.scalar_type() && g.sizes() == y.sizes()) {
      if (auto dx = map_rows(kBackward[log], {g, y}, at::maybe_wrap_dim(dim, y.dim()))) return *std::move(dx);
    } else {
      record_aten(kBackward[log].name(), {g, y}, kUnsupported);
    }
    return aten_backward(g, y, dim);
  }

  static Tensor meta(const Tensor& x, int64_t dim, Dtype dtype) {
    if (!all_meta({x}) || !at::isFloatingType(x.scalar_type())) return aten(x, dim, dtype);
    (void)at::maybe_wrap_dim(dim, x.dim());
    return at::empty_symint(x.sym_sizes(), x.options().dtype(dtype.value_or(x.scalar_type())));
  }

  static Tensor meta_backward(const Tensor& g, const Tensor& y, int64_t dim) {
    if (!all_meta({g, y})) return aten_backward(g, y, dim);
    return at::empty_symint(y.sym_sizes(), y.options());
  }

  static Tensor call(const Tensor& x, int64_t dim, Dtype dtype) {
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow((std::string("tvmops::") + name()).c_str(), "")
                                   .template typed<Tensor(const Tensor&, int64_t, Dtype)>();
    return handle.call(x, dim, dtype);
  }

  static Tensor call_backward(const Tensor& g, const Tensor& y, int64_t dim) {
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow((std::string("tvmops::") + kBackward[log].name()).c_str(), "")
                                   .template typed<Tensor(const Tensor&, const Tensor&, int64_t)>();
    return handle.call(g, y, dim);
  }

  struct Gradient : torch::autograd::Function<Gradient> {
    static Tensor forward(AutogradContext* context, const Tensor& x, int64_t dim) {
      const at::AutoDispatchBelowADInplaceOrView guard;
      const Tensor y = call(x, dim, std::nullopt);
      context->save_for_backward({y});
      context->saved_data["dim"] = dim;
      return y;
    }
    static variable_list backward(AutogradContext* context, const variable_list& gradients) {
      const Tensor y = context->get_saved_variables()[0];
      const int64_t dim = context->saved_data["dim"].toInt();
      // To be differentiated again: by ATen's own formulas.
      if (c10::GradMode::is_enabled()) return {aten_backward(gradients[0], y, dim), Tensor()};
      return {call_backward(gradients[0], y, dim), Tensor()};
    }
  };

  static Tensor autograd(const Tensor& x, int64_t dim, Dtype dtype) {
    if (needs_aten_autograd(name(), {x})) return aten(x, dim, dtype);
    if (wants_gradient({x})) {
      if (dtype.value_or(x.scalar_type()) == x.scalar_type()) return Gradient::apply(x, dim);
      record_aten(name(), {x}, kUnsupported);
      return aten(x, dim, dtype);
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call(x, dim, dtype);
  }

  static Tensor autograd_backward(const Tensor& g, const Tensor& y, int64_t dim) {
    if (needs_aten_autograd(kBackward[log].name(), {g, y}) || wants_gradient({g, y})) return aten_backward(g, y, dim);
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(g, y, dim);
  }
};

template <class Register>
void for_both(Register each) {
  each(Softmax<false>{}, std::string("softmax"));
  each(Softmax<true>{}, std::string("log_softmax"));
}

}  // namespace

Tensor softmax_cpu(const Tensor& x, int64_t dim, Dtype dtype) { return Softmax<false>::cpu(x, dim, dtype); }
Tensor log_softmax_cpu(const Tensor& x, int64_t dim, Dtype dtype) { return Softmax<true>::cpu(x, dim, dtype); }

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  for_both([&](auto, const std::string& name) {
    m.def((name + "(Tensor self, int dim, ScalarType? dtype=None) -> Tensor").c_str(), {at::Tag::pt2_compliant_tag});
    m.def((name + "_backward(Tensor grad_output, Tensor output, int dim) -> Tensor").c_str(),
          {at::Tag::pt2_compliant_tag});
  });
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  for_both([&](auto op, const std::string& name) {
    m.impl(name.c_str(), &decltype(op)::cpu);
    m.impl((name + "_backward").c_str(), &decltype(op)::backward_cpu);
  });
}

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  for_both([&](auto op, const std::string& name) {
    m.impl(name.c_str(), on_gpu<&decltype(op)::cpu>);
    m.impl((name + "_backward").c_str(), on_gpu<&decltype(op)::backward_cpu>);
  });
}

TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  for_both([&](auto op, const std::string& name) {
    m.impl(name.c_str(), &decltype(op)::aten);
    m.impl((name + "_backward").c_str(), &decltype(op)::aten_backward);
  });
}

TORCH_LIBRARY_IMPL(tvmops, Meta, m) {
  for_both([&](auto op, const std::string& name) {
    m.impl(name.c_str(), &decltype(op)::meta);
    m.impl((name + "_backward").c_str(), &decltype(op)::meta_backward);
  });
}

TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  for_both([&](auto op, const std::string& name) {
    m.impl(name.c_str(), &decltype(op)::autograd);
    m.impl((name + "_backward").c_str(), &decltype(op)::autograd_backward);
  });
}

}  // namespace tvmops::ops
