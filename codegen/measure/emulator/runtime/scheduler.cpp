// Who runs: the fibers of a cluster's blocks, and what is done when nobody can go on.
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <numeric>

#include "fiber.h"
#include "internal.h"

namespace emulator {

Options options;
Thread* self = nullptr;
Cluster cluster;
Thread threads[kClusterThreads];
WarpState warp_states[kClusterWarps];
int living;
char failure[2048];

namespace {

std::vector<std::function<bool()>> idle_handlers;
int current_warp;
void* main_stack = nullptr;
bool failed;
const Kernel* running;
void** running_arguments;
uint64_t random_state = 1;

// Handlers register while the library is loaded, which may be before this file's variables are made.
std::vector<void (*)()>& cluster_handlers() {
  static std::vector<void (*)()> all;
  return all;
}
std::vector<void (*)(int)>& end_handlers() {
  static std::vector<void (*)(int)> all;
  return all;
}

int pick_bit(uint32_t bits) {
  if (options.order == 1) return 31 - __builtin_clz(bits);
  if (options.order == 2) {
    for (int skip = static_cast<int>(random_number() % __builtin_popcount(bits)); skip > 0; --skip) bits &= bits - 1;
  }
  return __builtin_ctz(bits);
}

// A warp goes on as long as any of its lanes can; in random order, any warp may be next.
Thread* find_ready() {
  if (options.order != 2 && warp_states[current_warp].ready) {
    return &threads[current_warp * kLanes + pick_bit(warp_states[current_warp].ready)];
  }
  const int start = options.order == 2 ? static_cast<int>(random_number() % cluster.warps) : 0;
  for (int i = 0; i < cluster.warps; ++i) {
    const int w = options.order == 1 ? cluster.warps - 1 - i : (start + i) % cluster.warps;
    if (warp_states[w].ready) return &threads[w * kLanes + pick_bit(warp_states[w].ready)];
  }
  return nullptr;
}

bool wake_watchers() {
  bool any = false;
  for (int w = 0; w < cluster.warps; ++w) {
    for (int l = 0; l < kLanes; ++l) {
      Thread& t = threads[w * kLanes + l];
      if (!t.until || !t.until()) continue;
      t.until = nullptr;
      make_ready(t);
      any = true;
    }
  }
  return any;
}

// A sentence on who waits where.
void describe_deadlock() {
  const Index& first = cluster.block[0].index;
  int used = std::snprintf(failure, sizeof failure,
                           "deadlock in %s (%u,%u,%u):", cluster.blocks > 1 ? "the cluster of block" : "block", first.x,
                           first.y, first.z);
  const char* at = nullptr;
  int line = 0, shown = 0;
  for (int i = 0; i < cluster.warps * kLanes && shown < 4; ++i) {
    const Thread& t = threads[i];
    if (!t.at || !(warp_states[t.warp].alive >> t.lane & 1) || (t.at == at && t.line == line)) continue;
    at = t.at, line = t.line;
    used += std::snprintf(failure + used, sizeof failure - used, "%s thread (%u,%u,%u)", shown++ ? "," : "", t.index.x,
                          t.index.y, t.index.z);
    const Index& in = cluster.block[t.rank].index;
    if (cluster.blocks > 1) {
      used += std::snprintf(failure + used, sizeof failure - used, " of block (%u,%u,%u)", in.x, in.y, in.z);
    }
    used += std::snprintf(failure + used, sizeof failure - used, " waits at %s (line %d)", t.at, t.line);
  }
}

void leave() { switch_stack(&self->stack, main_stack); }

void exit_thread() {
  WarpState& w = warp_states[self->warp];
  w.alive &= ~(1u << self->lane);
  --living;
  --cluster.block[self->rank].living;
  leave_meetings(w);
  if (!cluster.block[self->rank].living) {
    for (auto* handler : end_handlers()) handler(self->rank);
  }
  if (living == 0) leave();
  self->at = nullptr;
  pause();
}

void fiber_main() {
  running->call(running->function, running_arguments);
  exit_thread();
  __builtin_trap();
}

}  // namespace

// Lets others run until this thread is ready.
void pause() {
  Thread* me = self;
  Thread* next;
  while (!(next = find_ready())) {
    if (wake_watchers() || complete_active_mask()) continue;
    bool happened = false;
    for (auto& handler : idle_handlers) happened = happened || handler();
    if (happened) continue;
    describe_deadlock();
    failed = true;
    leave();
  }
  current_warp = next->warp;
  warp_states[next->warp].ready &= ~(1u << next->lane);
  if (next == me) return;
  self = next;
  switch_stack(&me->stack, next->stack);
}

int told_line(int line) { return self->call_line ? self->call_line : line; }

void make_ready(Thread& t) {
  t.at = nullptr;
  warp_states[t.warp].ready |= 1u << t.lane;
}

uint64_t random_number() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

void seed_random(uint64_t seed) { random_state = seed * 0x9e3779b97f4a7c15ull + 1; }

std::vector<uint32_t> cluster_order(uint32_t count) {
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  if (options.order == 1) {
    for (uint32_t i = 0; i < count; ++i) order[i] = count - 1 - i;
  } else if (options.order == 2) {
    for (uint32_t i = count; i > 1; --i) std::swap(order[i - 1], order[random_number() % i]);
  }
  return order;
}

Thread& thread(int warp, int lane) { return threads[warp * kLanes + lane]; }
int thread_count() { return cluster.threads; }
uint32_t alive(int warp) { return warp_states[warp].alive; }
Index thread_index() { return self->index; }
unsigned lane_index() { return static_cast<unsigned>(self->lane); }

void fail(const char* format, ...) {
  const Thread& t = *self;
  const Index in = block_index();
  int used = std::snprintf(failure, sizeof failure, "thread (%u,%u,%u) of block (%u,%u,%u) ", t.index.x, t.index.y,
                           t.index.z, in.x, in.y, in.z);
  va_list rest;
  va_start(rest, format);
  std::vsnprintf(failure + used, sizeof failure - static_cast<size_t>(used), format, rest);
  va_end(rest);
  if (t.call_line && !std::strstr(failure, "(line")) {
    used = static_cast<int>(std::strlen(failure));
    std::snprintf(failure + used, sizeof failure - static_cast<size_t>(used), " (line %d)", t.call_line);
  }
  failed = true;
  leave();
  __builtin_unreachable();
}

void enter_call(int line) {
  if (self) self->call_line = line;
}

void leave_call() {
  if (self) self->call_line = 0;
}

void wait_until(const char* name, int line, std::function<bool()> condition) {
  if (condition()) return;
  self->at = name;
  self->line = told_line(line);
  self->until = std::move(condition);
  pause();
}

void on_idle(std::function<bool()> handler) { idle_handlers.push_back(std::move(handler)); }
void on_cluster(void (*handler)()) { cluster_handlers().push_back(handler); }
void on_block_end(void (*handler)(int)) { end_handlers().push_back(handler); }

namespace {

// One mapping: a process may have only so many, and may load many libraries.
struct Stacks {
  char* memory;
  Stacks() {
    void* at = mmap(nullptr, kStack * kClusterThreads, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) std::abort();
    memory = static_cast<char*>(at);
  }
  ~Stacks() { munmap(memory, kStack * kClusterThreads); }
};

constexpr uint64_t kCanary = 0x6b636174735f6f6eull;

}  // namespace

char* stack_of(int number) {
  static Stacks stacks;
  return stacks.memory + kStack * static_cast<size_t>(number);
}

namespace {

void begin_thread(int number) {
  Thread& t = threads[number];
  const int within = number - t.rank * cluster.block_warps * kLanes;
  const auto at = static_cast<unsigned>(within);
  t.index = {at % cluster.size.x, at / cluster.size.x % cluster.size.y, at / cluster.size.x / cluster.size.y};
  t.open.clear();
  t.groups.clear();
  t.arrived = false;
  std::memcpy(stack_of(number), &kCanary, sizeof kCanary);
  t.stack = prepare_stack(stack_of(number) + 64, kStack - 64, fiber_main);
  WarpState& w = warp_states[t.warp];
  w.exists |= 1u << t.lane;
  w.alive = w.ready = w.exists;
}

// Makes the state of the cluster's blocks, warps and threads that of a beginning.
void begin_cluster() {
  cluster.threads = static_cast<int>(cluster.size.x * cluster.size.y * cluster.size.z);
  // Warps of a warpgroup are 4, from a multiple of 4 on, in each block.
  cluster.block_warps = (cluster.threads + kLanes - 1) / kLanes;
  if (cluster.blocks > 1) cluster.block_warps = (cluster.block_warps + 3) / 4 * 4;
  cluster.warps = cluster.block_warps * cluster.blocks;
  living = cluster.threads * cluster.blocks;
  current_warp = options.order == 1 ? cluster.warps - 1 : 0;
  idle_handlers.clear();
  clear_meetings();
  for (int w = 0; w < cluster.warps; ++w) {
    warp_states[w] = WarpState();
    cluster.clock[w] = Clock();
    cluster.time[w] = 1;
  }
  for (int i = 0; i < cluster.warps * kLanes; ++i) {
    Thread& t = threads[i];
    t.at = nullptr;
    t.until = nullptr;
    t.call_line = 0;
    t.linear = i, t.warp = i / kLanes, t.lane = i % kLanes, t.rank = t.warp / cluster.block_warps;
    if (i - t.rank * cluster.block_warps * kLanes < cluster.threads) begin_thread(i);
  }
  for (int rank = 0; rank < cluster.blocks; ++rank) cluster.block[rank].living = cluster.threads;
  clear_shared();
}

}  // namespace

bool run_cluster(const Kernel& kernel, void** arguments) {
  running = &kernel;
  running_arguments = arguments;
  failed = false;
  begin_cluster();
  for (auto* handler : cluster_handlers()) handler();
  Thread* first = find_ready();
  warp_states[first->warp].ready &= ~(1u << first->lane);
  current_warp = first->warp;
  self = first;
  switch_stack(&main_stack, first->stack);
  self = nullptr;
  for (int i = 0; i < cluster.warps * kLanes && !failed; ++i) {
    if (!(warp_states[i / kLanes].exists >> i % kLanes & 1)) continue;
    if (std::memcmp(stack_of(i), &kCanary, sizeof kCanary) == 0) continue;
    std::snprintf(failure, sizeof failure, "thread %d needs more than %zu bytes of stack", i, kStack);
    failed = true;
  }
  return !failed;
}

}  // namespace emulator
