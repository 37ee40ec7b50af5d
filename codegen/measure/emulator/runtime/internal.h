// What the runtime's own files share.
#pragma once

#include "emulator.h"

#pragma GCC visibility push(hidden)
namespace emulator {

struct Block {
  Index index;
  int living;  // threads that have not returned
};

// What runs together.
struct Cluster {
  Index grid, size, shape;               // blocks of the grid, threads of a block, blocks of the cluster
  int number;                            // in its grid
  int blocks, threads;                   // in it, of a block
  int block_warps, warps;                // of a block, those of the next begin after as many; of all
  int launch;                            // of this kernel, since the buffers were registered
  uint32_t static_bytes, dynamic_bytes;  // of a block
  Block block[kClusterBlocks];
  Clock clock[kClusterWarps];    // what each warp knows of the others
  uint32_t time[kClusterWarps];  // of each warp; it goes on at everything that orders accesses
};
extern Cluster cluster;

// Threads of a warp that wait for each other at an instruction.
struct Meeting {
  const char* name;
  int line;
  uint32_t mask, arrived;
  bool aligned;
  void (*action)(Lanes lanes);
};

struct WarpState {
  uint32_t exists, alive, ready;
  std::vector<Meeting> meetings;
};

extern Thread threads[kClusterThreads];
extern WarpState warp_states[kClusterWarps];
extern int living;  // threads that have not returned

// Lets others run until this thread is ready.
void pause();
void make_ready(Thread& t);
// The line to tell for an instruction on this one: that of the call that the thread is in, if it is in one.
int told_line(int line);

void clear_meetings();
void clear_cluster_barrier();
void leave_cluster_barrier();
// Fails unless the shared memory of the cluster's block of that rank, another's, is there for the thread.
void check_there(const Thread& by, uint32_t rank, bool write, const char* what);
// This thread has returned; others may have waited for it alone.
void leave_meetings(WarpState& w);
bool complete_active_mask();
void move_time(int warp);

// Runs the threads of the cluster to their end. Returns false after a failure; `failure` has the sentence.
bool run_cluster(const Kernel& kernel, void** arguments);
extern char failure[2048];

void clear_shared();
// The end of a block's shared memory, and where what is known of a byte is kept.
inline uint32_t shared_end() { return kSharedBase + cluster.static_bytes + cluster.dynamic_bytes; }
inline size_t byte_index(uint32_t address) {
  return static_cast<size_t>(address >> kRankShift) * kSharedLimit + (address & kOffsetMask);
}
// A load or store of device code.
void plain_access(const void* pointer, size_t bytes, bool write);
bool on_stack(uintptr_t address);
// The stacks of all threads, one after another.
char* stack_of(int thread);
constexpr size_t kStack = 256u << 10;

// The order in which clusters run.
std::vector<uint32_t> cluster_order(uint32_t count);
uint64_t random_number();
void seed_random(uint64_t seed);
// What was registered of device memory.
struct Buffer {
  uintptr_t begin, end;
  uint32_t granule;  // bytes of an element
  bool writable;
  int number;  // in the launch; -1: the workspace
};
void set_buffers(const Buffer* buffers, int count);

}  // namespace emulator
#pragma GCC visibility pop
