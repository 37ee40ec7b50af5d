// What an access may do: bounds, alignment, poison, races. Plain loads and stores come here through the calls that the
// compiler puts before each of them for ThreadSanitizer (-fsanitize=thread), whose library is not linked; instructions
// that the emulator carries out call check_read and check_write themselves.
//
// A race is found as FastTrack does (Flanagan, Freund, PLDI 2009) with one clock a warp: each byte of shared memory,
// and each element of a registered buffer, knows who wrote it last and who read it last, and when. Two accesses of
// different warps are in order if a barrier lies between; two of one warp, if a barrier or a __syncwarp does; two of
// different blocks never are, unless both are atomic.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "internal.h"

extern "C" __attribute__((visibility("hidden"))) char __ehdr_start;
extern "C" __attribute__((visibility("hidden"))) char _end;

namespace emulator {
namespace {

// Room around shared memory, so that an address a little beyond is known for what it is.
constexpr size_t kMargin = 1u << 20;
constexpr unsigned char kPoison = 0xff;  // NaN in every floating-point type

enum : unsigned char { kWritten = 1 };
constexpr uint32_t kManyLanes = 32;

struct Arena {
  char* memory;
  Arena() {
    void* at = mmap(nullptr, kSharedLimit + 2 * kMargin, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) std::abort();
    memory = static_cast<char*>(at) + kMargin;
  }
  ~Arena() { munmap(memory - kMargin, kSharedLimit + 2 * kMargin); }
};

char* arena() {
  static Arena shared;
  return shared.memory;
}

// launch (8 bits), block (24), warp (5), lane (6; 32: several), time (21). 0: nobody.
using Stamp = uint64_t;
constexpr Stamp kAtomic = 1ull << 63;

struct Cell {
  Stamp write, read, earlier_read;
};

Cell cells[kSharedLimit];
unsigned char state[kSharedLimit];
// The thread whose copy to this byte is under way, plus one.
uint16_t copying[kSharedLimit];

constexpr int kBuffers = 64;
Buffer buffers[kBuffers];
Cell* buffer_cells[kBuffers];
int buffer_count = 0, last_buffer = 0;

Stamp stamp(const Thread& t) {
  return (static_cast<Stamp>(block.launch & 0x7f) << 56) | (static_cast<Stamp>(block.number & 0xffffff) << 32) |
         (static_cast<Stamp>(t.warp) << 27) | (static_cast<Stamp>(t.lane) << 21) | (block.time[t.warp] & 0x1fffff);
}
uint32_t warp_of(Stamp s) { return s >> 27 & 31; }
uint32_t lane_of(Stamp s) { return s >> 21 & 63; }
uint32_t time_of(Stamp s) { return s & 0x1fffff; }
uint32_t block_of(Stamp s) { return s >> 32 & 0xffffff; }

bool ordered(Stamp before, Stamp now) {
  if (!before || (before ^ now) >> 56 & 0x7f) return true;
  if (block_of(before) != block_of(now)) return false;
  const uint32_t w = warp_of(now), v = warp_of(before);
  if (v == w) return time_of(before) != time_of(now) || lane_of(before) == lane_of(now);
  return block.clock[w].seen[v] >= time_of(before);
}

void describe(Stamp s, char* text, size_t size) {
  if (block_of(s) != static_cast<uint32_t>(block.number)) {
    std::snprintf(text, size, "block number %u", block_of(s));
  } else if (lane_of(s) == kManyLanes) {
    std::snprintf(text, size, "threads of warp %u", warp_of(s));
  } else {
    const Index i = thread(static_cast<int>(warp_of(s)), static_cast<int>(lane_of(s))).index;
    std::snprintf(text, size, "thread (%u,%u,%u)", i.x, i.y, i.z);
  }
}

[[noreturn]] void race(Stamp other, bool wrote, bool writes, const char* what, const char* where, unsigned long at) {
  char who[64];
  describe(other, who, sizeof who);
  fail("%s %s %s %lu (%s), which %s %s with no barrier between", writes ? "writes" : "reads", where,
       where[0] == 's' ? "address" : "element", at, what, who, wrote ? "wrote" : "read");
}

void note_read(Cell& cell, Stamp now, bool atomic, const char* what, const char* where, unsigned long at) {
  if (!ordered(cell.write & ~kAtomic, now) && !(atomic && cell.write & kAtomic)) {
    race(cell.write & ~kAtomic, true, false, what, where, at);
  }
  if (cell.read == now) return;
  if (cell.read && (cell.read ^ now) >> 27 == 0 && time_of(cell.read) == time_of(now)) {
    cell.read = (cell.read & ~(63ull << 21)) | (static_cast<Stamp>(kManyLanes) << 21);
    return;
  }
  if (cell.read && (cell.read ^ now) >> 27) cell.earlier_read = cell.read;
  cell.read = now;
}

void note_write(Cell& cell, Stamp now, bool atomic, const char* what, const char* where, unsigned long at) {
  if (!ordered(cell.write & ~kAtomic, now) && !(atomic && cell.write & kAtomic)) {
    race(cell.write & ~kAtomic, true, true, what, where, at);
  }
  if (!atomic) {
    if (!ordered(cell.read, now)) race(cell.read, false, true, what, where, at);
    if (!ordered(cell.earlier_read, now)) race(cell.earlier_read, false, true, what, where, at);
  }
  cell.write = now | (atomic ? kAtomic : 0);
}

void shared_access(const Thread& by, uint32_t at, size_t bytes, bool write, bool atomic, const char* what) {
  const uint32_t end = kSharedBase + block.static_bytes + block.dynamic_bytes;
  if (at < kSharedBase || at + bytes > end) {
    fail("%s %zu bytes of shared memory at %d (%s); the block has %u", write ? "writes" : "reads", bytes,
         static_cast<int>(at) - static_cast<int>(kSharedBase), what, end - kSharedBase);
  }
  const Stamp now = options.races ? stamp(by) : 0;
  for (uint32_t i = at; i < at + bytes; ++i) {
    if (copying[i]) {
      const Index t = thread((copying[i] - 1) / kLanes, (copying[i] - 1) % kLanes).index;
      fail("%s shared address %u (%s) while a copy that thread (%u,%u,%u) started is under way",
           write ? "writes" : "reads", i - kSharedBase, what, t.x, t.y, t.z);
    }
    if (write) {
      state[i] |= kWritten;
      note_store(by, i);
    } else if (options.uninitialized && !(state[i] & kWritten)) {
      fail("reads shared address %u (%s), which nothing has written", i - kSharedBase, what);
    }
    if (!options.races) continue;
    if (write) {
      note_write(cells[i], now, atomic, what, "shared", i - kSharedBase);
    } else {
      note_read(cells[i], now, atomic, what, "shared", i - kSharedBase);
    }
  }
}

int find_buffer(uintptr_t at) {
  if (last_buffer < buffer_count && at >= buffers[last_buffer].begin && at < buffers[last_buffer].end) {
    return last_buffer;
  }
  for (int i = 0; i < buffer_count; ++i) {
    if (at >= buffers[i].begin && at < buffers[i].end) return last_buffer = i;
  }
  return -1;
}

void name_buffer(const Buffer& b, char (&text)[16]) {
  if (b.number < 0) {
    std::snprintf(text, sizeof text, "the workspace");
  } else {
    std::snprintf(text, sizeof text, "buffer %d", b.number);
  }
}

[[noreturn]] void outside(uintptr_t at, size_t bytes, bool write, const char* what) {
  const char* verb = write ? "writes" : "reads";
  if (at < 4096) fail("%s %zu bytes at a null pointer (%s)", verb, bytes, what);
  int nearest = 0;
  uintptr_t best = ~uintptr_t(0);
  for (int i = 0; i < buffer_count; ++i) {
    const uintptr_t away = at < buffers[i].begin ? buffers[i].begin - at : at + bytes - buffers[i].end;
    if (away < best) best = away, nearest = i;
  }
  const Buffer& b = buffers[nearest];
  char where[16];
  name_buffer(b, where);
  fail("%s %zu bytes that belong to no buffer (%s); nearest is %s of %zu bytes, at offset %lld", verb, bytes, what,
       where, static_cast<size_t>(b.end - b.begin), static_cast<long long>(at - b.begin));
}

void buffer_access(const Thread& by, uintptr_t at, size_t bytes, bool write, bool atomic, const char* what) {
  const int found = find_buffer(at);
  if (found < 0 || at + bytes > buffers[found].end) outside(at, bytes, write, what);
  const Buffer& b = buffers[found];
  char where[16];
  name_buffer(b, where);
  if (write && !b.writable) fail("writes to %s (%s), which is not an output", where, what);
  if (!options.races) return;
  const Stamp now = stamp(by);
  const size_t first = (at - b.begin) / b.granule, last = (at + bytes - 1 - b.begin) / b.granule;
  for (size_t i = first; i <= last; ++i) {
    Cell& cell = buffer_cells[found][i];
    if (write) {
      note_write(cell, now, atomic, what, where, i);
    } else {
      note_read(cell, now, atomic, what, where, i);
    }
  }
}

void access(const Thread& by, uintptr_t at, size_t bytes, bool write, bool atomic, const char* what) {
  const uintptr_t offset = at - reinterpret_cast<uintptr_t>(arena());
  if (offset + kMargin < kSharedLimit + 2 * kMargin) {
    shared_access(by, static_cast<uint32_t>(offset), bytes, write, atomic, what);
  } else if (buffer_count) {
    // Constants and variables of the library itself.
    if (at >= reinterpret_cast<uintptr_t>(&__ehdr_start) && at < reinterpret_cast<uintptr_t>(&_end)) return;
    buffer_access(by, at, bytes, write, atomic, what);
  } else if (at < 4096) {
    fail("%s %zu bytes at a null pointer (%s)", write ? "writes" : "reads", bytes, what);
  }
}

void check(const Thread& by, const void* pointer, size_t bytes, size_t alignment, bool write, const char* what) {
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  if (at % alignment) {
    fail("%s %zu bytes at an address that is not a multiple of %zu (%s)", write ? "writes" : "reads", bytes, alignment,
         what);
  }
  if (!on_stack(at)) access(by, at, bytes, write, false, what);
}

}  // namespace

void plain_access(const void* pointer, size_t bytes, bool write) {
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  if (!self || on_stack(at)) return;
  access(*self, at, bytes, write, false, write ? "a store" : "a load");
}

bool on_stack(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(stack_of(0)) < kStack * static_cast<size_t>(kThreads);
}

void clear_shared() {
  const uint32_t end = kSharedBase + block.static_bytes + block.dynamic_bytes;
  std::memset(arena() + kSharedBase, kPoison, end - kSharedBase);
  std::memset(cells + kSharedBase, 0, (end - kSharedBase) * sizeof(Cell));
  std::memset(state + kSharedBase, 0, end - kSharedBase);
  std::memset(copying + kSharedBase, 0, (end - kSharedBase) * sizeof copying[0]);
}

void set_buffers(const Buffer* given, int count) {
  for (int i = 0; i < buffer_count; ++i) std::free(buffer_cells[i]);
  buffer_count = std::min(count, kBuffers);
  for (int i = 0; i < buffer_count; ++i) {
    buffers[i] = given[i];
    buffer_cells[i] =
        static_cast<Cell*>(std::calloc((given[i].end - given[i].begin) / given[i].granule + 1, sizeof(Cell)));
  }
  block.launch = 0;
}

uint32_t shared_address(const void* pointer) {
  const auto offset = static_cast<const char*>(pointer) - arena();
  if (offset < -static_cast<ptrdiff_t>(kMargin) || offset > static_cast<ptrdiff_t>(kSharedLimit + kMargin)) {
    fail("takes the shared address of what is not in shared memory");
  }
  return static_cast<uint32_t>(offset);
}
char* shared_pointer(uint32_t address) { return arena() + static_cast<int32_t>(address); }
char* static_shared(uint32_t offset) { return arena() + kSharedBase + offset; }
char* dynamic_shared(uint32_t alignment) {
  const uint32_t start = (kSharedBase + block.static_bytes + alignment - 1) / alignment * alignment;
  return arena() + start;
}

void check_read(const Thread& by, const void* pointer, size_t bytes, size_t alignment, const char* what) {
  check(by, pointer, bytes, alignment, false, what);
}
void check_write(const Thread& by, const void* pointer, size_t bytes, size_t alignment, const char* what) {
  check(by, pointer, bytes, alignment, true, what);
}
void check_atomic(const Thread& by, const void* pointer, size_t bytes, const char* what) {
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  if (at % bytes) fail("has an address for %s that is not a multiple of %zu", what, bytes);
  if (!on_stack(at)) access(by, at, bytes, true, true, what);
}

void begin_copy(const Thread& by, uint32_t address, size_t bytes, const char* what) {
  shared_access(by, address, bytes, true, false, what);
  for (size_t i = 0; i < bytes; ++i) copying[address + i] = static_cast<uint16_t>(by.linear + 1);
}

void end_copy(const Thread& by, uint32_t address, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) copying[address + i] = 0;
  shared_access(by, address, bytes, true, false, "a copy that ends");
}

}  // namespace emulator
