// The activations that fused kernels know, by index and by name.
#ifndef TVMOPS_DRIVERS_ACTIVATION_H_
#define TVMOPS_DRIVERS_ACTIVATION_H_

namespace tvmops::drivers {

enum Activation : int { kNone, kRelu, kGelu, kGeluTanh, kSilu, kSigmoid, kTanh, kActivations };
inline constexpr const char* kActivationNames[kActivations] = {"none", "relu",    "gelu", "gelu_tanh",
                                                               "silu", "sigmoid", "tanh"};

}  // namespace tvmops::drivers

#endif  // TVMOPS_DRIVERS_ACTIVATION_H_
