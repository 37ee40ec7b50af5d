// Who runs: the fibers of a block, the meetings of warps, barriers, and what is done when nobody can go on.
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
char failure[2048];

namespace {

struct Meeting {
  const char* name;
  int line;
  uint32_t mask, arrived;
  bool aligned;
  void (*action)(Lanes lanes);
};

struct Warp {
  uint32_t exists, alive, ready;
  std::vector<Meeting> meetings;
};

struct Barrier {
  int arrived = 0, expected = 0, line = 0;
  bool everyone = false;
  Clock clock;
  std::vector<Thread*> waiting;
};

struct WideMeeting {
  void (*action)() = nullptr;
  int line = 0, arrived = 0;
  uint32_t turn = 0;
};

Thread threads[kThreads];
WideMeeting wide_meetings[kWarps];
Warp warps[kWarps];
Barrier barriers[kBarriers];
std::vector<std::function<bool()>> idle_handlers;
int living, current_warp;
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

int told(int line) { return self->call_line ? self->call_line : line; }

void make_ready(Thread& t) {
  t.at = nullptr;
  warps[t.warp].ready |= 1u << t.lane;
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
  if (options.order != 2 && warps[current_warp].ready) {
    return &threads[current_warp * kLanes + pick_bit(warps[current_warp].ready)];
  }
  const int start = options.order == 2 ? static_cast<int>(random_number() % block.warps) : 0;
  for (int i = 0; i < block.warps; ++i) {
    const int w = options.order == 1 ? block.warps - 1 - i : (start + i) % block.warps;
    if (warps[w].ready) return &threads[w * kLanes + pick_bit(warps[w].ready)];
  }
  return nullptr;
}

bool complete_active_mask() {
  for (int w = 0; w < block.warps; ++w) {
    uint32_t here = 0;
    for (int l = 0; l < kLanes; ++l) {
      const Thread& t = threads[w * kLanes + l];
      if ((warps[w].alive >> l & 1) && t.at && !std::strcmp(t.at, "__activemask")) here |= 1u << l;
    }
    for (int l = 0; l < kLanes; ++l) {
      if (!(here >> l & 1)) continue;
      *static_cast<uint32_t*>(threads[w * kLanes + l].argument) = here;
      make_ready(threads[w * kLanes + l]);
    }
    if (here) return true;
  }
  return false;
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
    if (!t.at || !(warps[t.warp].alive >> t.lane & 1) || (t.at == at && t.line == line)) continue;
    at = t.at, line = t.line;
    used += std::snprintf(failure + used, sizeof failure - used, "%s thread (%u,%u,%u) waits at %s (line %d)",
                          shown++ ? "," : "", t.index.x, t.index.y, t.index.z, t.at, t.line);
  }
}

void leave() { switch_stack(&self->stack, main_stack); }

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
  warps[next->warp].ready &= ~(1u << next->lane);
  if (next == me) return;
  self = next;
  switch_stack(&me->stack, next->stack);
}

void complete(int warp, size_t number) {
  Warp& w = warps[warp];
  const Meeting meeting = w.meetings[number];
  w.meetings.erase(w.meetings.begin() + static_cast<std::ptrdiff_t>(number));
  Thread* lanes[kLanes];
  for (int l = 0; l < kLanes; ++l) lanes[l] = meeting.arrived >> l & 1 ? &threads[warp * kLanes + l] : nullptr;
  if (meeting.action) meeting.action(lanes);
  for (Thread* t : lanes) {
    if (t) make_ready(*t);
  }
}

void complete_barrier(Barrier& b) {
  for (Thread* t : b.waiting) {
    block.clock[t->warp].join(b.clock);
    make_ready(*t);
  }
  for (int w = 0; w < block.warps; ++w) move_time(w);
  b = Barrier();
}

void exit_thread() {
  Warp& w = warps[self->warp];
  w.alive &= ~(1u << self->lane);
  --living;
  for (size_t i = 0; i < w.meetings.size();) {
    const Meeting& m = w.meetings[i];
    if (m.aligned) {
      fail("returns while other threads of its warp wait for it at %s (line %d)", m.name, m.line);
    }
    if ((m.mask & w.alive) == m.arrived) {
      complete(self->warp, i);
    } else {
      ++i;
    }
  }
  for (Barrier& b : barriers) {
    if (b.everyone && b.arrived && b.arrived == living) complete_barrier(b);
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
uint32_t alive(int warp) { return warps[warp].alive; }
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

void meet(const char* name, int line, uint32_t mask, bool aligned, void (*action)(Lanes lanes), void* argument) {
  Thread& t = *self;
  Warp& w = warps[t.warp];
  line = told(line);
  if (!(mask >> t.lane & 1)) fail("is not in the mask %08x that it gives %s (line %d)", mask, name, line);
  if (aligned && w.alive != kAll) {
    fail("executes %s (line %d), which needs a whole warp, in a warp of which only the lanes %08x are there", name,
         line, w.alive);
  }
  size_t found = w.meetings.size();
  for (size_t i = 0; i < w.meetings.size(); ++i) {
    Meeting& m = w.meetings[i];
    if (m.action == action && m.mask == mask && m.line == line) {
      found = i;
    } else if (m.arrived & mask) {
      const Thread& other = threads[t.warp * kLanes + __builtin_ctz(m.arrived & mask)];
      fail("is at %s (line %d, mask %08x) while thread (%u,%u,%u) of its warp waits for it at %s (line %d, mask %08x)",
           name, line, mask, other.index.x, other.index.y, other.index.z, m.name, m.line, m.mask);
    }
  }
  if (found == w.meetings.size()) w.meetings.push_back({name, line, mask, 0, aligned, action});
  w.meetings[found].arrived |= 1u << t.lane;
  t.argument = argument;
  t.at = name;
  t.line = line;
  if (w.meetings[found].arrived == (mask & w.alive)) complete(t.warp, found);
  pause();
}

void meet_warps(const char* name, int line, int first, int count, void (*action)(), void* argument) {
  Thread& t = *self;
  line = told(line);
  WideMeeting& m = wide_meetings[first];
  if (m.arrived && (m.action != action || m.line != line)) {
    fail("is at %s (line %d) while others of its warps wait for it at line %d", name, line, m.line);
  }
  for (int w = first; w < first + count; ++w) {
    if (warps[w].alive != kAll) fail("executes %s (line %d) after threads that it needs have returned", name, line);
  }
  m.action = action;
  m.line = line;
  t.argument = argument;
  if (++m.arrived < count * kLanes) {
    const uint32_t turn = m.turn;
    wait_until(name, line, [&m, turn] { return m.turn != turn; });
    return;
  }
  m.arrived = 0;
  ++m.turn;
  action();
}

void wait_until(const char* name, int line, std::function<bool()> condition) {
  if (condition()) return;
  self->at = name;
  self->line = told(line);
  self->until = std::move(condition);
  pause();
}

void on_idle(std::function<bool()> handler) { idle_handlers.push_back(std::move(handler)); }
void on_block(void (*handler)()) { block_handlers().push_back(handler); }

void move_time(int warp) {
  block.clock[warp].seen[warp] = block.time[warp];
  ++block.time[warp];
}

void release(Clock& to) {
  block.clock[self->warp].seen[self->warp] = block.time[self->warp];
  to.join(block.clock[self->warp]);
  ++block.time[self->warp];
}

void acquire(const Clock& from) { block.clock[self->warp].join(from); }

void barrier(int id, int count, bool wait, int line, bool everyone) {
  Thread& t = *self;
  line = told(line);
  if (id < 0 || id >= kBarriers) fail("uses barrier %d (line %d); there are %d", id, line, kBarriers);
  if (!everyone && (count <= 0 || count % kLanes != 0 || count > kThreads)) {
    fail("waits for %d threads at barrier %d (line %d), which is not a number of warps", count, id, line);
  }
  Barrier& b = barriers[id];
  const int expected = everyone ? living : count;
  if (b.arrived && everyone != b.everyone) fail("uses barrier %d (line %d) otherwise than line %d", id, line, b.line);
  if (b.arrived && everyone && b.line != line) {
    fail("is at __syncthreads (line %d) while thread (%u,%u,%u) waits at another one (line %d)", line,
         b.waiting.front()->index.x, b.waiting.front()->index.y, b.waiting.front()->index.z, b.line);
  }
  if (b.arrived && !everyone && b.expected != expected) {
    fail("waits for %d threads at barrier %d (line %d), others for %d (line %d)", expected, id, line, b.expected,
         b.line);
  }
  b.everyone = everyone;
  b.line = line;
  b.expected = expected;
  Clock now = block.clock[t.warp];
  now.seen[t.warp] = block.time[t.warp];
  b.clock.join(now);
  if (!wait) move_time(t.warp);
  ++b.arrived;
  if (wait) {
    t.at = everyone ? "__syncthreads" : "bar.sync";
    t.line = line;
    b.waiting.push_back(&t);
  }
  if (b.arrived == expected) complete_barrier(b);
  if (wait) pause();
}

void sync_warp(uint32_t mask, int line) {
  meet(
      "__syncwarp", line, mask, false,
      [](Lanes lanes) {
        for (Thread* t : lanes) {
          if (t) return move_time(t->warp);
        }
      },
      nullptr);
}

uint32_t active_mask(int line) {
  uint32_t mask = 0;
  self->argument = &mask;
  self->at = "__activemask";
  self->line = told(line);
  pause();
  return mask;
}

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
  for (Barrier& b : barriers) b = Barrier();
  for (int w = 0; w < kWarps; ++w) {
    warps[w] = Warp();
    wide_meetings[w] = WideMeeting();
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
    warps[t.warp].exists |= 1u << t.lane;
    warps[t.warp].alive = warps[t.warp].ready = warps[t.warp].exists;
  }
  clear_shared();
  for (auto* handler : block_handlers()) handler();
  Thread* first = find_ready();
  warps[first->warp].ready &= ~(1u << first->lane);
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
