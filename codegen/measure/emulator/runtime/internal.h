// What the runtime's own files share.
#pragma once

#include "emulator.h"

#pragma GCC visibility push(hidden)
namespace emulator {

struct Block {
  Index index, grid, size;
  int number;  // of the block in its grid
  int threads, warps;
  int launch;  // of this kernel, since the buffers were registered
  uint32_t static_bytes, dynamic_bytes;
  Clock clock[kWarps];    // what each warp knows of the others
  uint32_t time[kWarps];  // of each warp; it goes on at everything that orders accesses
};
extern Block block;

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

extern Thread threads[kThreads];
extern WarpState warp_states[kWarps];
extern int living;  // threads that have not returned

// Lets others run until this thread is ready.
void pause();
void make_ready(Thread& t);
// The line to tell for an instruction on this one: that of the call that the thread is in, if it is in one.
int told_line(int line);

void clear_meetings();
// This thread has returned; others may have waited for it alone.
void leave_meetings(WarpState& w);
bool complete_active_mask();
void move_time(int warp);

// Runs the block's threads to their end. Returns false after a failure; `failure` has the sentence.
bool run_block(const Kernel& kernel, void** arguments);
extern char failure[2048];

void clear_shared();
// A load or store of device code.
void plain_access(const void* pointer, size_t bytes, bool write);
bool on_stack(uintptr_t address);
// The stacks of all threads, one after another.
char* stack_of(int thread);
constexpr size_t kStack = 256u << 10;

// The order in which blocks run.
std::vector<uint32_t> block_order(uint32_t count);
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
