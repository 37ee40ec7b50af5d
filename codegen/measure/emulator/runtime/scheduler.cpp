// Who runs: the fibers of a block, and what is done when nobody can go on.
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <numeric>

#include "fiber.h"
#include "internal.h"

namespace emulator {

Options options;
Thread* self = nullptr;
Block block;
Thread threads[kThreads];
WarpState warp_states[kWarps];
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
std::vector<void (*)()>& block_handlers() {
  static std::vector<void (*)()> all;
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
  const int start = options.order == 2 ? static_cast<int>(random_number() % block.warps) : 0;
  for (int i = 0; i < block.warps; ++i) {
    const int w = options.order == 1 ? block.warps - 1 - i : (start + i) % block.warps;
    if (warp_states[w].ready) return &threads[w * kLanes + pick_bit(warp_states[w].ready)];
  }
  return nullptr;
}

bool wake_watchers() {
  bool any = false;
  for (int w = 0; w < block.warps; ++w) {
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
  int used = std::snprintf(failure, sizeof failure, "deadlock in block (%u,%u,%u):", block.index.x, block.index.y,
                           block.index.z);
  const char* at = nullptr;
  int line = 0, shown = 0;
  for (int i = 0; i < kThreads && shown < 4; ++i) {
    const Thread& t = threads[i];
    if (!t.at || !(warp_states[t.warp].alive >> t.lane & 1) || (t.at == at && t.line == line)) continue;
    at = t.at, line = t.line;
    used += std::snprintf(failure + used, sizeof failure - used, "%s thread (%u,%u,%u) waits at %s (line %d)",
                          shown++ ? "," : "", t.index.x, t.index.y, t.index.z, t.at, t.line);
  }
}

void leave() { switch_stack(&self->stack, main_stack); }

void exit_thread() {
  WarpState& w = warp_states[self->warp];
  w.alive &= ~(1u << self->lane);
  --living;
  leave_meetings(w);
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

std::vector<uint32_t> block_order(uint32_t count) {
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
int thread_count() { return block.threads; }
uint32_t alive(int warp) { return warp_states[warp].alive; }
Index block_index() { return block.index; }
Index block_size() { return block.size; }
Index grid_size() { return block.grid; }
Index thread_index() { return self->index; }
unsigned lane_index() { return static_cast<unsigned>(self->lane); }

void fail(const char* format, ...) {
  const Thread& t = *self;
  int used = std::snprintf(failure, sizeof failure, "thread (%u,%u,%u) of block (%u,%u,%u) ", t.index.x, t.index.y,
                           t.index.z, block.index.x, block.index.y, block.index.z);
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
void on_block(void (*handler)()) { block_handlers().push_back(handler); }

namespace {

// One mapping: a process may have only so many, and may load many libraries.
struct Stacks {
  char* memory;
  Stacks() {
    void* at =
        mmap(nullptr, kStack * kThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) std::abort();
    memory = static_cast<char*>(at);
  }
  ~Stacks() { munmap(memory, kStack * kThreads); }
};

constexpr uint64_t kCanary = 0x6b636174735f6f6eull;

}  // namespace

char* stack_of(int number) {
  static Stacks stacks;
  return stacks.memory + kStack * static_cast<size_t>(number);
}

bool run_block(const Kernel& kernel, void** arguments) {
  running = &kernel;
  running_arguments = arguments;
  failed = false;
  block.threads = static_cast<int>(block.size.x * block.size.y * block.size.z);
  block.warps = (block.threads + kLanes - 1) / kLanes;
  living = block.threads;
  current_warp = options.order == 1 ? block.warps - 1 : 0;
  idle_handlers.clear();
  clear_meetings();
  for (int w = 0; w < kWarps; ++w) {
    warp_states[w] = WarpState();
    block.clock[w] = Clock();
    block.time[w] = 1;
  }
  for (int i = 0; i < block.warps * kLanes; ++i) {
    Thread& t = threads[i];
    t.at = nullptr;
    t.until = nullptr;
    t.call_line = 0;
    t.linear = i, t.warp = i / kLanes, t.lane = i % kLanes;
    if (i >= block.threads) continue;
    t.index = {i % block.size.x, i / block.size.x % block.size.y, i / block.size.x / block.size.y};
    t.open.clear();
    t.groups.clear();
    std::memcpy(stack_of(i), &kCanary, sizeof kCanary);
    t.stack = prepare_stack(stack_of(i) + 64, kStack - 64, fiber_main);
    warp_states[t.warp].exists |= 1u << t.lane;
    warp_states[t.warp].alive = warp_states[t.warp].ready = warp_states[t.warp].exists;
  }
  clear_shared();
  for (auto* handler : block_handlers()) handler();
  Thread* first = find_ready();
  warp_states[first->warp].ready &= ~(1u << first->lane);
  current_warp = first->warp;
  self = first;
  switch_stack(&main_stack, first->stack);
  self = nullptr;
  for (int i = 0; i < block.threads && !failed; ++i) {
    if (std::memcmp(stack_of(i), &kCanary, sizeof kCanary) == 0) continue;
    std::snprintf(failure, sizeof failure, "thread %d needs more than %zu bytes of stack", i, kStack);
    failed = true;
  }
  return !failed;
}

}  // namespace emulator
