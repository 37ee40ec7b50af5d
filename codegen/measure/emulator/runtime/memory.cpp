// What an access may do: bounds, alignment, poison, races. Plain loads and stores come here through the calls that the
// compiler puts before each of them for ThreadSanitizer (-fsanitize=thread), whose library is not linked; instructions
// that the emulator carries out call check_read and check_write themselves.
//
// A race is found as FastTrack does (Flanagan, Freund, PLDI 2009) with one clock a warp: each byte of shared memory,
// and each element of a registered buffer, knows who wrote it last and who read it last, and when. Two accesses of
// different warps are in order if a barrier lies between; two of one warp, if a barrier or a __syncwarp does; two of
// blocks that are not of one cluster never are, unless both are atomic.
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

// The shared memory of all blocks of a cluster.
constexpr size_t kArena = static_cast<size_t>(kClusterBlocks) << kRankShift;

struct Arena {
  char* memory;
  Arena() {
    void* at =
        mmap(nullptr, kArena + 2 * kMargin, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) std::abort();
    memory = static_cast<char*>(at) + kMargin;
  }
  ~Arena() { munmap(memory - kMargin, kArena + 2 * kMargin); }
};

char* arena() {
  static Arena shared;
  return shared.memory;
}

// launch (7 bits), cluster (22), warp (7), lane (6; 32: several), time (21). 0: nobody.
using Stamp = uint64_t;
constexpr Stamp kAtomic = 1ull << 63;

struct Cell {
  Stamp write, read, earlier_read;
};

// Of each byte of shared memory, by byte_index.
Cell cells[kClusterBlocks * kSharedLimit];
unsigned char state[kClusterBlocks * kSharedLimit];
// The thread whose copy to this byte is under way, plus one.
uint16_t copying[kClusterBlocks * kSharedLimit];

constexpr int kBuffers = 64;
Buffer buffers[kBuffers];
Cell* buffer_cells[kBuffers];
int buffer_count = 0, last_buffer = 0;

Stamp stamp(const Thread& t) {
  return (static_cast<Stamp>(cluster.launch & 0x7f) << 56) | (static_cast<Stamp>(cluster.number & 0x3fffff) << 34) |
         (static_cast<Stamp>(t.warp) << 27) | (static_cast<Stamp>(t.lane) << 21) | (cluster.time[t.warp] & 0x1fffff);
}
uint32_t warp_of(Stamp s) { return s >> 27 & 127; }
uint32_t lane_of(Stamp s) { return s >> 21 & 63; }
uint32_t time_of(Stamp s) { return s & 0x1fffff; }
uint32_t cluster_of(Stamp s) { return s >> 34 & 0x3fffff; }

bool ordered(Stamp before, Stamp now) {
  if (!before || (before ^ now) >> 56 & 0x7f) return true;
  if (cluster_of(before) != cluster_of(now)) return false;
  const uint32_t w = warp_of(now), v = warp_of(before);
  if (v == w) return time_of(before) != time_of(now) || lane_of(before) == lane_of(now);
  return cluster.clock[w].seen[v] >= time_of(before);
}

void describe(Stamp s, char* text, size_t size) {
  const int warp = static_cast<int>(warp_of(s));
  int used;
  if (cluster_of(s) != static_cast<uint32_t>(cluster.number)) {
    std::snprintf(text, size, "%s number %u", cluster.blocks > 1 ? "cluster" : "block", cluster_of(s));
    return;
  }
  if (lane_of(s) == kManyLanes) {
    used = std::snprintf(text, size, "threads of warp %d", warp % cluster.block_warps);
  } else {
    const Index i = thread(warp, static_cast<int>(lane_of(s))).index;
    used = std::snprintf(text, size, "thread (%u,%u,%u)", i.x, i.y, i.z);
  }
  if (cluster.blocks > 1) {
    const Index i = cluster.block[warp / cluster.block_warps].index;
    std::snprintf(text + used, size - static_cast<size_t>(used), " of block (%u,%u,%u)", i.x, i.y, i.z);
  }
}

[[noreturn]] void race(Stamp other, bool wrote, bool writes, const char* what, const char* where, unsigned long at) {
  char who[96];
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

void shared_access(const Thread& by, uint32_t address, size_t bytes, bool write, bool atomic, const char* what) {
  const uint32_t rank = address >> kRankShift, offset = address & kOffsetMask, end = shared_end();
  if (rank >= static_cast<uint32_t>(cluster.blocks) || offset < kSharedBase || offset + bytes > end) {
    const uint32_t in = rank < static_cast<uint32_t>(cluster.blocks) ? rank : static_cast<uint32_t>(by.rank);
    fail("%s %zu bytes of shared memory at %d (%s); the block has %u", write ? "writes" : "reads", bytes,
         static_cast<int>(address - (in << kRankShift) - kSharedBase), what, end - kSharedBase);
  }
  if (rank != static_cast<uint32_t>(by.rank)) check_there(by, rank, write, what);
  const Stamp now = options.races ? stamp(by) : 0;
  const size_t first = byte_index(address);
  for (size_t i = first; i < first + bytes; ++i) {
    const auto place = static_cast<uint32_t>(i - first) + offset - kSharedBase;
    if (copying[i]) {
      const Index t = thread((copying[i] - 1) / kLanes, (copying[i] - 1) % kLanes).index;
      fail("%s shared address %u (%s) while a copy that thread (%u,%u,%u) started is under way",
           write ? "writes" : "reads", place, what, t.x, t.y, t.z);
    }
    if (write) {
      state[i] |= kWritten;
      note_store(by, i);
    } else if (options.uninitialized && !(state[i] & kWritten)) {
      fail("reads shared address %u (%s), which nothing has written", place, what);
    }
    if (!options.races) continue;
    if (write) {
      note_write(cells[i], now, atomic, what, "shared", place);
    } else {
      note_read(cells[i], now, atomic, what, "shared", place);
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
  if (offset + kMargin < kArena + 2 * kMargin) {
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

// A block that returns: what others of its cluster did to its shared memory must have happened before.
void end(int rank) {
  if (!options.races || cluster.blocks == 1) return;
  Clock known;
  const int first = rank * cluster.block_warps;
  for (int w = first; w < first + cluster.block_warps; ++w) known.join(cluster.clock[w]);
  const size_t begin = byte_index((static_cast<uint32_t>(rank) << kRankShift) + kSharedBase);
  for (size_t i = begin; i < begin + shared_end() - kSharedBase; ++i) {
    for (const Stamp s : {cells[i].write & ~kAtomic, cells[i].read, cells[i].earlier_read}) {
      const int by = static_cast<int>(warp_of(s));
      if (!s || by / cluster.block_warps == rank || known.seen[by] >= time_of(s)) continue;
      char who[96];
      describe(s, who, sizeof who);
      fail("returns, the last of its block, with no barrier after %s accessed its shared address %zu", who, i - begin);
    }
  }
}

const bool noted = (on_block_end(end), true);

}  // namespace

void plain_access(const void* pointer, size_t bytes, bool write) {
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  if (!self || on_stack(at)) return;
  access(*self, at, bytes, write, false, write ? "a store" : "a load");
}

bool on_stack(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(stack_of(0)) < kStack * static_cast<size_t>(kClusterThreads);
}

void clear_shared() {
  const size_t bytes = shared_end() - kSharedBase;
  for (int rank = 0; rank < cluster.blocks; ++rank) {
    const uint32_t begin = (static_cast<uint32_t>(rank) << kRankShift) + kSharedBase;
    std::memset(shared_pointer(begin), kPoison, bytes);
    std::memset(cells + byte_index(begin), 0, bytes * sizeof(Cell));
    std::memset(state + byte_index(begin), 0, bytes);
    std::memset(copying + byte_index(begin), 0, bytes * sizeof copying[0]);
  }
}

// Of all elements; only those that are touched take memory.
size_t cell_bytes(const Buffer& b) { return ((b.end - b.begin) / b.granule + 1) * sizeof(Cell); }

void set_buffers(const Buffer* given, int count) {
  for (int i = 0; i < buffer_count; ++i) munmap(buffer_cells[i], cell_bytes(buffers[i]));
  buffer_count = std::min(count, kBuffers);
  for (int i = 0; i < buffer_count; ++i) {
    buffers[i] = given[i];
    void* const cells =
        mmap(nullptr, cell_bytes(given[i]), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cells == MAP_FAILED) std::abort();
    buffer_cells[i] = static_cast<Cell*>(cells);
  }
  cluster.launch = 0;
}

uint32_t shared_address(const void* pointer) {
  const auto offset = static_cast<const char*>(pointer) - arena();
  if (offset < -static_cast<ptrdiff_t>(kMargin) || offset > static_cast<ptrdiff_t>(kArena + kMargin)) {
    fail("takes the shared address of what is not in shared memory");
  }
  return static_cast<uint32_t>(offset);
}
char* shared_pointer(uint32_t address) { return arena() + static_cast<int32_t>(address); }
char* static_shared(uint32_t offset) {
  return shared_pointer((static_cast<uint32_t>(self->rank) << kRankShift) + kSharedBase + offset);
}
char* dynamic_shared(uint32_t alignment) {
  const uint32_t start = (kSharedBase + cluster.static_bytes + alignment - 1) / alignment * alignment;
  return shared_pointer((static_cast<uint32_t>(self->rank) << kRankShift) + start);
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
  for (size_t i = 0; i < bytes; ++i) copying[byte_index(address) + i] = static_cast<uint16_t>(by.linear + 1);
}

void end_copy(const Thread& by, uint32_t address, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) copying[byte_index(address) + i] = 0;
  shared_access(by, address, bytes, true, false, "a copy that ends");
}

}  // namespace emulator
