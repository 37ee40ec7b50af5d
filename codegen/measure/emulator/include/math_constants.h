// Stands in for CUDA's header of this name: what of it generated code uses.
#ifndef TVMOPS_EMULATOR_MATH_CONSTANTS_H_
#define TVMOPS_EMULATOR_MATH_CONSTANTS_H_

#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")
#define CUDART_INF __builtin_inf()
#define CUDART_NAN __builtin_nan("")

#endif  // TVMOPS_EMULATOR_MATH_CONSTANTS_H_
