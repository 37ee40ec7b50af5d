#include "ops/pointwise.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/native/Resize.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ops/common.h"
#include "ops/rows_choice.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RowsProblem;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// The kernels' names, forward and backward, by row of the table.
struct Keys {
  std::vector<std::string> names;
  std::vector<OpKey> forward, backward;
  Keys() {
    names.reserve(kPointwiseOps);
    for (const auto& op : kPointwise) {
      names.push_back(std::string(op.name) + "_backward");
      forward.emplace_back(op.name);
      backward.emplace_back(names.back().c_str());
    }
  }
};
const Keys keys;

// Tensors of one shape and dtype, each element in the same place of all of them: what a flat kernel walks through.
bool alike(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.strides() == b.strides() && is_readable(b);
}

bool is_walkable(const Tensor& x) { return is_readable(x) && x.numel() > 0 && x.is_non_overlapping_and_dense(); }

RowsProblem flat_problem(const Tensor& x, const Params& p) {
  RowsProblem problem;
  problem.n = x.numel();
  for (size_t i = 0; i < p.size(); i++) problem.param[i] = static_cast<float>(p[i]);
  return problem;
}

Tensor empty_alike(const Tensor& x) {
  if (x.is_contiguous()) return new_result(x.sizes(), x.scalar_type());
  return new_strided_result(x);
}

// Whether f(x) was computed into `out`, which is walkable like x or x itself.
bool computed(size_t op, const Tensor& x, const Tensor& out, const Params& p) {
  RowsProblem problem = flat_problem(x, p);
  problem.operand[0].data = const_cast<void*>(x.const_data_ptr());
  problem.operand[1].data = out.mutable_data_ptr();
  return run_rows(keys.forward[op], x, problem);
}

Tensor backward_cpu(size_t op, const Tensor& g, const Tensor& saved, const Params& p) {
  const auto& row = kPointwise[op];
  if (is_walkable(saved) && is_readable(g) && g.sizes() == saved.sizes() && g.scalar_type() == saved.scalar_type()) {
    const RowsChoice choice = choose_rows(keys.backward[op], storage_of(g.scalar_type()), 1, saved.numel(), 1);
    if (!choice) {
      record(keys.backward[op], saved, choice);
      return row.aten_backward(g, saved, p);
    }
    Tensor same = g;  // laid out as what was saved: an expanded gradient (of a sum) is not
    if (!alike(saved, g)) same = at::empty_strided(saved.sizes(), saved.strides(), saved.options()).copy_(g);
    Tensor out = empty_alike(saved);
    RowsProblem problem = flat_problem(saved, p);
    problem.operand[0].data = const_cast<void*>(same.const_data_ptr());
    problem.operand[1].data = const_cast<void*>(saved.const_data_ptr());
    problem.operand[2].data = out.mutable_data_ptr();
    if (run_rows(keys.backward[op], saved, problem)) return out;
  } else {
    record_aten(keys.backward[op].name(), {g, saved}, kUnsupported);
  }
  return row.aten_backward(g, saved, p);
}

// --- One set of functions for every row of the table and its number of parameters. ---

template <size_t>
using Double = double;

template <size_t op, class Indices = std::make_index_sequence<kPointwise[op].n_params>>
struct Functions;

template <size_t op, size_t... i>
struct Functions<op, std::index_sequence<i...>> {
  static constexpr const PointwiseOp& row = kPointwise[op];
  static Params pack(Double<i>... p) { return {p...}; }

  static Tensor cpu(const Tensor& x, Double<i>... p) { return pointwise_cpu(op, x, pack(p...)); }

  static Tensor& out_cpu(const Tensor& x, Double<i>... p, Tensor& out) {
    const bool same = out.is_same(x);
    if (is_walkable(x) && alike(x, out) && (same || at::get_overlap_status(x, out) == at::MemOverlapStatus::No) &&
        computed(op, x, out, pack(p...)))
      return out;
    if (!is_walkable(x)) record_aten(row.name, {x}, kUnsupported);
    return aten_out(x, p..., out);
  }

  static Tensor& inplace_cpu(Tensor& x, Double<i>... p) {
    if (is_walkable(x) && computed(op, x, x, pack(p...))) return x;
    if (!is_walkable(x)) record_aten(row.name, {x}, kUnsupported);
    return row.aten_inplace(x, pack(p...));
  }

  static Tensor backward(const Tensor& g, const Tensor& saved, Double<i>... p) {
    return backward_cpu(op, g, saved, pack(p...));
  }

  static Tensor aten(const Tensor& x, Double<i>... p) { return row.aten(x, pack(p...)); }
  static Tensor& aten_inplace(Tensor& x, Double<i>... p) { return row.aten_inplace(x, pack(p...)); }
  static Tensor& aten_out(const Tensor& x, Double<i>... p, Tensor& out) {
    const Tensor y = row.aten(x, pack(p...));
    TORCH_CHECK(at::can_cast(y.scalar_type(), out.scalar_type()), "result type ", y.scalar_type(),
                " can't be cast to the desired output type ", out.scalar_type());
    at::native::resize_output(out, y.sizes());
    at::assert_no_partial_overlap(x, out);
    return out.copy_(y);
  }
  static Tensor aten_backward(const Tensor& g, const Tensor& saved, Double<i>... p) {
    return row.aten_backward(g, saved, pack(p...));
  }

  static Tensor meta(const Tensor& x, Double<i>... p) {
    if (!all_meta({x}) || !at::isFloatingType(x.scalar_type())) return row.aten(x, pack(p...));
    return at::empty_like(x);
  }
  static Tensor& meta_inplace(Tensor& x, Double<i>...) { return x; }
  static Tensor meta_backward(const Tensor& g, const Tensor& saved, Double<i>... p) {
    if (!all_meta({g, saved})) return row.aten_backward(g, saved, pack(p...));
    return at::empty_like(saved);
  }

  static Tensor call(const Tensor& x, Double<i>... p) {
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow((std::string("tvmops::") + row.name).c_str(), "")
                                   .template typed<Tensor(const Tensor&, Double<i>...)>();
    return handle.call(x, p...);
  }
  static Tensor call_backward(const Tensor& g, const Tensor& saved, Double<i>... p) {
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow((std::string("tvmops::") + row.name + "_backward").c_str(), "")
                                   .template typed<Tensor(const Tensor&, const Tensor&, Double<i>...)>();
    return handle.call(g, saved, p...);
  }

  struct Gradient : torch::autograd::Function<Gradient> {
    static Tensor forward(AutogradContext* context, const Tensor& x, const Params& p) {
      const at::AutoDispatchBelowADInplaceOrView guard;
      const Tensor y = call(x, p[i]...);
      context->save_for_backward({row.saves_output ? y : x});
      for (int k = 0; k < row.n_params; k++) context->saved_data[std::string(1, static_cast<char>('a' + k))] = p[k];
      return y;
    }
    static variable_list backward(AutogradContext* context, const variable_list& gradients) {
      const Tensor saved = context->get_saved_variables()[0];
      Params p = {};
      for (int k = 0; k < row.n_params; k++)
        p[k] = context->saved_data[std::string(1, static_cast<char>('a' + k))].toDouble();
      // To be differentiated again: by ATen's own formulas.
      if (c10::GradMode::is_enabled()) return {row.aten_backward(gradients[0], saved, p), Tensor()};
      return {call_backward(gradients[0], saved, p[i]...), Tensor()};
    }
  };

  static Tensor autograd(const Tensor& x, Double<i>... p) {
    if (needs_aten_autograd(row.name, {x})) return row.aten(x, pack(p...));
    if (wants_gradient({x})) return Gradient::apply(x, pack(p...));
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call(x, p...);
  }

  static Tensor autograd_backward(const Tensor& g, const Tensor& saved, Double<i>... p) {
    if (needs_aten_autograd(keys.backward[op].name(), {g, saved}) || wants_gradient({g, saved}))
      return row.aten_backward(g, saved, pack(p...));
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(g, saved, p...);
  }

  // A kernel does not tell autograd that it wrote; the version does.
  static Tensor& autograd_inplace(Tensor& x, Double<i>... p) {
    const bool frozen = x.is_inference() && !c10::InferenceMode::is_enabled();
    if (frozen || wants_gradient({x}) || needs_aten_autograd(row.name, {x})) return aten_inplace(x, p...);
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow((std::string("tvmops::") + row.name + "_").c_str(), "")
                                   .template typed<Tensor&(Tensor&, Double<i>...)>();
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      handle.call(x, p...);
    }
    if (!x.is_inference()) x.unsafeGetTensorImpl()->bump_version();
    return x;
  }

  static Tensor& autograd_out(const Tensor& x, Double<i>... p, Tensor& out) {
    const bool frozen = out.is_inference() && !c10::InferenceMode::is_enabled();
    TORCH_CHECK(!wants_gradient({x, out}), row.name,
                "(): functions with out=... arguments don't support automatic differentiation, but one of the "
                "arguments requires grad.");
    if (frozen || needs_aten_autograd(row.name, {x, out})) return aten_out(x, p..., out);
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow((std::string("tvmops::") + row.name).c_str(), "out")
                                   .template typed<Tensor&(const Tensor&, Double<i>..., Tensor&)>();
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      handle.call(x, p..., out);
    }
    if (!out.is_inference()) out.unsafeGetTensorImpl()->bump_version();
    return out;
  }
};

template <class Register, size_t... op>
void for_all(Register each, std::index_sequence<op...>) {
  (each(std::integral_constant<size_t, op>{}), ...);
}

template <class Register>
void for_all(Register each) {
  for_all(each, std::make_index_sequence<kPointwiseOps>{});
}

}  // namespace

Tensor pointwise_cpu(size_t op, const Tensor& x, const Params& p) {
  if (is_walkable(x)) {
    const RowsChoice choice = choose_rows(keys.forward[op], storage_of(x.scalar_type()), 1, x.numel(), 1);
    if (recording()) record(keys.forward[op], x, choice);
    if (choice) {
      Tensor out = empty_alike(x);
      RowsProblem problem = flat_problem(x, p);
      problem.operand[0].data = const_cast<void*>(x.const_data_ptr());
      problem.operand[1].data = out.mutable_data_ptr();
      if (run_chosen(choice, problem)) return out;
    }
  } else {
    record_aten(kPointwise[op].name, {x}, kUnsupported);
  }
  return kPointwise[op].aten(x, p);
}

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  for (const auto& op : kPointwise) {
    const std::string name = op.name, params = op.params;
    m.def((name + "(Tensor self" + params + ") -> Tensor").c_str(), {at::Tag::pt2_compliant_tag});
    m.def((name + ".out(Tensor self" + params + ", *, Tensor(a!) out) -> Tensor(a!)").c_str());
    m.def((name + "_(Tensor(a!) self" + params + ") -> Tensor(a!)").c_str());
    m.def((name + "_backward(Tensor grad_output, Tensor saved" + params + ") -> Tensor").c_str(),
          {at::Tag::pt2_compliant_tag});
  }
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  for_all([&](auto op) {
    using F = Functions<decltype(op)::value>;
    const std::string name = F::row.name;
    m.impl(name.c_str(), &F::cpu);
    m.impl((name + ".out").c_str(), &F::out_cpu);
    m.impl((name + "_").c_str(), &F::inplace_cpu);
    m.impl((name + "_backward").c_str(), &F::backward);
  });
}

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  for_all([&](auto op) {
    using F = Functions<decltype(op)::value>;
    const std::string name = F::row.name;
    m.impl(name.c_str(), on_gpu<&F::cpu>);
    m.impl((name + ".out").c_str(), on_gpu<&F::out_cpu>);
    m.impl((name + "_").c_str(), on_gpu<&F::inplace_cpu>);
    m.impl((name + "_backward").c_str(), on_gpu<&F::backward>);
  });
}

TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  for_all([&](auto op) {
    using F = Functions<decltype(op)::value>;
    const std::string name = F::row.name;
    m.impl(name.c_str(), &F::aten);
    m.impl((name + ".out").c_str(), &F::aten_out);
    m.impl((name + "_").c_str(), &F::aten_inplace);
    m.impl((name + "_backward").c_str(), &F::aten_backward);
  });
}

TORCH_LIBRARY_IMPL(tvmops, Meta, m) {
  for_all([&](auto op) {
    using F = Functions<decltype(op)::value>;
    const std::string name = F::row.name;
    m.impl(name.c_str(), &F::meta);
    m.impl((name + "_").c_str(), &F::meta_inplace);
    m.impl((name + "_backward").c_str(), &F::meta_backward);
  });
}

TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  for_all([&](auto op) {
    using F = Functions<decltype(op)::value>;
    const std::string name = F::row.name;
    m.impl(name.c_str(), &F::autograd);
    m.impl((name + ".out").c_str(), &F::autograd_out);
    m.impl((name + "_").c_str(), &F::autograd_inplace);
    m.impl((name + "_backward").c_str(), &F::autograd_backward);
  });
}

}  // namespace tvmops::ops
