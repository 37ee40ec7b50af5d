// Switching between stacks.
#pragma once

#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

#if defined(__x86_64__)
// Only what a call must keep is saved; kernels do not change the rounding mode.
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void** save, void* load);
asm(R"(
.text
.hidden emulator_switch
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");

// A stack on which `entry`, which must not return, begins when it is switched to.
inline void* prepare_stack(char* bottom, size_t bytes, void (*entry)()) {
  auto top = (reinterpret_cast<uintptr_t>(bottom) + bytes) & ~uintptr_t(63);
  auto* slots = reinterpret_cast<uint64_t*>(top) - 8;  // six registers, the return address, one to align
  for (int i = 0; i < 8; ++i) slots[i] = 0;
  slots[6] = reinterpret_cast<uint64_t>(entry);
  return slots;
}
inline void switch_stack(void** save, void* load) { emulator_switch(save, load); }
#else
inline void* prepare_stack(char* bottom, size_t bytes, void (*entry)()) {
  auto* context = reinterpret_cast<ucontext_t*>(bottom);
  getcontext(context);
  const size_t head = (sizeof(ucontext_t) + 63) / 64 * 64;
  context->uc_stack.ss_sp = bottom + head;
  context->uc_stack.ss_size = bytes - head;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
inline void switch_stack(void** save, void* load) {
  static ucontext_t main;
  if (!*save) *save = &main;
  swapcontext(static_cast<ucontext_t*>(*save), static_cast<ucontext_t*>(load));
}
#endif

}  // namespace emulator
