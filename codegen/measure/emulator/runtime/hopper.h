// What Hopper adds: barriers in shared memory, bulk copies by TMA, wgmma, setmaxnreg. The translated sources call
// these; addresses of shared memory are those of __cvta_generic_to_shared. The semantics are the PTX ISA's.
#pragma once

#include "emulator.h"
#include "instructions.h"

#pragma GCC visibility push(hidden)
namespace emulator {

// mbarrier.init, .arrive (`expected`: with .expect_tx of so many bytes), .expect_tx alone, and a wait for the phase of
// a parity, whichever way it is spelled. `anywhere`: with .shared::cluster, else the barrier is the block's own.
void mbarrier_init(uint32_t address, uint32_t count, int line);
void mbarrier_arrive(uint32_t address, int64_t expected, bool anywhere, int line);
void mbarrier_expect(uint32_t address, uint32_t bytes, int line);
void mbarrier_wait(uint32_t address, uint32_t parity, int line);

// cp.async.bulk.tensor from global to shared memory, which completes on a barrier. `mask`: with .multicast::cluster,
// to the same place of each of these blocks, and on its barrier; -1: without.
void tma_load(uint32_t to, const void* map, const int32_t* coordinates, int rank, uint32_t barrier, int mask, int line);

// fence.mbarrier_init: the barriers that this thread made are there for the asynchronous proxy; fence.proxy.async: so
// is all that it did to shared memory.
void fence_barriers();
void fence_async();

void set_registers(bool more, uint32_t count, int line);

// wgmma.mma_async of 64 x n x 16 (tf32: 8): `sums` are the addresses of this thread's n / 2 accumulators.
struct Multiply {
  float* sums[128];
  uint64_t a, b;
  int n;
  Type type;
  bool keep;  // add to the sums
  int scale_a, scale_b;
  bool transposed_a, transposed_b;
};
void wgmma(Multiply& operation, int line);
void wgmma_fence(int line);
void wgmma_commit(int line);
void wgmma_wait(int left, int line);

}  // namespace emulator
#pragma GCC visibility pop
