#include "ops/activation.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "ops/pointwise_table.h"

namespace tvmops::ops {

using at::Tensor;

namespace {

// The row of the table for every activation but none.
const PointwiseOp& row(int activation) {
  static const auto rows = [] {
    std::array<const PointwiseOp*, drivers::kActivations> found = {};
    for (int a = drivers::kNone + 1; a < drivers::kActivations; a++)
      for (const auto& op : kPointwise)
        if (op.name == std::string_view(drivers::kActivationNames[a])) found[a] = &op;
    return found;
  }();
  return *rows[activation];
}

// The operators tvmops.NAME`suffix` of all activations but none.
template <class Signature>
std::vector<c10::TypedOperatorHandle<Signature>> operators(const char* suffix) {
  std::vector<c10::TypedOperatorHandle<Signature>> found;
  for (int a = drivers::kNone + 1; a < drivers::kActivations; a++) {
    const std::string name = std::string("tvmops::") + row(a).name + suffix;
    found.push_back(c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "").typed<Signature>());
  }
  return found;
}

}  // namespace

int activation_index(const char* op, const OptionalName& name) {
  if (!name) return drivers::kNone;
  for (int i = drivers::kNone + 1; i < drivers::kActivations; i++)
    if (*name == drivers::kActivationNames[i]) return i;
  TORCH_CHECK_VALUE(false, op, ": unknown activation '", *name,
                    "'; it can be None, relu, gelu, gelu_tanh, silu, sigmoid or tanh");
}

OptionalName activation_name(int activation) {
  return activation == drivers::kNone ? OptionalName() : OptionalName(drivers::kActivationNames[activation]);
}

bool saves_output(int activation) { return activation != drivers::kNone && row(activation).saves_output; }

Tensor activate(const Tensor& x, int activation) {
  return activation == drivers::kNone ? x : row(activation).aten(x, {});
}

Tensor activate_backward(const Tensor& g, const Tensor& saved, int activation) {
  return activation == drivers::kNone ? g : row(activation).aten_backward(g, saved, {});
}

Tensor call_activation(const Tensor& x, int activation) {
  static const auto all = operators<Tensor(const Tensor&)>("");
  return activation == drivers::kNone ? x : all[activation - 1].call(x);
}

Tensor call_activation_backward(const Tensor& g, const Tensor& saved, int activation) {
  static const auto all = operators<Tensor(const Tensor&, const Tensor&)>("_backward");
  return activation == drivers::kNone ? g : all[activation - 1].call(g, saved);
}

}  // namespace tvmops::ops
