// A CUDA block run on the CPU: every thread is a fiber, and what a warp or a block does together is a meeting of
// fibers. The blocks of a cluster run together, clusters one after another; a launch without clusters has clusters of
// one block. See scheduler.cpp (who runs), memory.cpp (what an access may do) and launch.cpp
// (the CUDA runtime's functions).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#pragma GCC visibility push(hidden)
namespace emulator {

constexpr int kLanes = 32;
constexpr int kWarps = 32;
constexpr int kThreads = kLanes * kWarps;
constexpr int kBarriers = 16;
// Of a cluster: as many blocks as any device with clusters runs, and threads as there is room for here.
constexpr int kClusterBlocks = 8;
constexpr int kClusterWarps = 128;
constexpr int kClusterThreads = kLanes * kClusterWarps;
constexpr uint32_t kAll = 0xffffffffu;
// Shared memory begins here in its own address space, so that address 0 is nobody's.
constexpr uint32_t kSharedBase = 1024;
constexpr uint32_t kSharedLimit = kSharedBase + (228u << 10);
// The shared memory of the cluster's blocks lies this far apart: a shared address has its block's rank in the upper
// bits, also the address of a block's own memory.
constexpr uint32_t kRankShift = 24;
constexpr uint32_t kOffsetMask = (1u << kRankShift) - 1;

struct Index {
  unsigned x, y, z;
};

// What of each warp of the cluster happened before: an access of warp w at time t did if clock[w] >= t.
struct Clock {
  uint32_t seen[kClusterWarps] = {};
  void join(const Clock& other) {
    for (int w = 0; w < kClusterWarps; ++w) seen[w] = seen[w] > other.seen[w] ? seen[w] : other.seen[w];
  }
};

// An asynchronous copy to shared memory. The bytes beyond `from` of `to` become zero.
struct Copy {
  uint32_t to;
  const char* source;
  uint32_t bytes, from;
};

struct Thread {
  Index index;             // in its block
  int rank;                // of its block in the cluster
  int linear, warp, lane;  // in the cluster
  void* stack;             // where it goes on
  void* argument;          // of the meeting it waits at
  const char* at;          // what it waits at; null: it can run
  int line;
  int call_line;                // of the helper that it is in; 0: none
  std::function<bool()> until;  // goes on once this holds
  std::vector<Copy> open;       // copies that no group has yet
  std::deque<std::vector<Copy>> groups;
  bool arrived;           // at the cluster's barrier, for which it has yet to wait
  uint32_t cluster_turn;  // of that barrier when it did
};

// The lanes that met, by number; null: not one of them.
using Lanes = Thread* const (&)[kLanes];

struct Options {
  int order = 0;  // of warps and blocks; 0: forward, 1: backward, 2: random
  uint64_t seed = 0;
  int late = 1;           // asynchronous copies land as late as the program lets them, else at once
  int races = 1;          // report accesses that nothing orders
  int uninitialized = 1;  // report reads of shared memory that nothing wrote
};
extern Options options;

// The thread that runs. Null outside of kernels.
extern Thread* self;
Thread& thread(int warp, int lane);
int thread_count();        // of a block
uint32_t alive(int warp);  // lanes that have not returned
Index block_index() __attribute__((const));
Index block_size() __attribute__((const));
Index grid_size() __attribute__((const));
// The blocks of a cluster, the place of the thread's in it, and the same of clusters in the grid.
Index cluster_size() __attribute__((const));
Index cluster_block_index() __attribute__((const));
unsigned cluster_rank() __attribute__((const));
Index cluster_index() __attribute__((const));
Index cluster_grid_size() __attribute__((const));
Index thread_index() __attribute__((const));
unsigned lane_index() __attribute__((const));

// Ends the launch with a message; the thread and block are added to it. Never returns.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// While it lives, the thread is in a call that stands on this line.
void enter_call(int line);
void leave_call();
struct At {
  explicit At(int line) { enter_call(line); }
  ~At() { leave_call(); }
};

// In what follows, `line` is where the instruction stands; a call that this thread is in counts more.

// Waits for all lanes of `mask` that have not returned (`aligned`: for a whole warp, none of which may have), then runs
// `action` once for all of them: `argument` of each lane is at lanes[i]->argument.
void meet(const char* name, int line, uint32_t mask, bool aligned, void (*action)(Lanes lanes), void* argument);
// As `meet` with lanes of several warps: those from `first` on, `warps` of them, all lanes of each.
void meet_warps(const char* name, int line, int first, int warps, void (*action)(), void* argument);
// Waits until the condition holds. Others run meanwhile; it is a deadlock if none can.
void wait_until(const char* name, int line, std::function<bool()> condition);
// Called when no thread can run, before that is called a deadlock: something asynchronous may now happen. Returns
// whether it did. Handlers stay until the block ends.
void on_idle(std::function<bool()> handler);
// Called when a cluster begins, before its threads run, and when the last thread of a block has returned.
void on_cluster(void (*handler)());
void on_block_end(void (*handler)(int rank));

void barrier(int id, int threads, bool wait, int line, bool everyone);
// barrier.cluster; `ordered`: with .release or .acquire.
void cluster_arrive(bool ordered, bool aligned, int line);
void cluster_wait(bool ordered, bool aligned, int line);
void sync_warp(uint32_t mask, int line);
uint32_t active_mask(int line);

// Order between warps for what is not a barrier: what a thread did before `release` has happened for whoever calls
// `acquire` later.
void release(Clock& to);
void acquire(const Clock& from);

// Memory. A shared address is what __cvta_generic_to_shared returns, or mapa for another block of the cluster.
uint32_t map_shared(uint32_t address, uint32_t rank, int line);
// Fails if the address is in another block's shared memory.
void check_own(uint32_t address, const char* what, int line);
uint32_t shared_address(const void* pointer);
char* shared_pointer(uint32_t address);
char* dynamic_shared(uint32_t alignment);
char* static_shared(uint32_t offset);
// Checks an access of a thread, and remembers it. `what` names the instruction. Alignment is in bytes.
void check_read(const Thread& by, const void* pointer, size_t bytes, size_t alignment, const char* what);
void check_write(const Thread& by, const void* pointer, size_t bytes, size_t alignment, const char* what);
void check_atomic(const Thread& by, const void* pointer, size_t bytes, const char* what);
// From `begin_copy` to `end_copy` nobody may touch these shared bytes. A copy that ends is a write of `by` then.
void begin_copy(const Thread& by, uint32_t address, size_t bytes, const char* what);
void end_copy(const Thread& by, uint32_t address, size_t bytes);
// The asynchronous proxy sees what a thread stored in shared memory once that thread executed a fence; hopper.cpp.
void note_store(const Thread& by, size_t byte);  // by byte_index
void check_fenced(uint32_t address, size_t bytes, const char* what);

// cp.async: starts a copy, closes a group, waits until at most `left` groups are under way.
void copy_start(uint32_t to, const void* source, uint32_t bytes, uint32_t from);
void copy_commit();
void copy_wait(int left);
void copy_wait_all();

// Kernels make themselves known when the library is loaded.
struct Kernel {
  const char* name;
  const void* function;
  void (*call)(const void* function, void** arguments);
  std::vector<size_t> sizes;  // of the arguments
  int most_threads;           // 0: not said
  uint32_t shared_bytes;      // that it declares
  Index cluster;              // that it declares; {0, 0, 0}: none
};
void add_kernel(Kernel kernel);
uint32_t reserve_shared(const char* kernel, uint32_t bytes, uint32_t alignment);
// What the device is. A pack has one of these; what Python says later wins.
struct DeviceFacts {
  DeviceFacts(int major, int minor, int multiprocessors, uint32_t shared_bytes);
};
// For cudaGetDriverEntryPoint.
struct DriverFunction {
  DriverFunction(const char* name, void* function);
};

}  // namespace emulator
#pragma GCC visibility pop
