// Barriers in shared memory, TMA and setmaxnreg. Copies land when no thread can go on without one, the last one issued
// first: as late, and in as odd an order, as the program lets them.
#include "hopper.h"

#include <map>

#include "hopper_layout.h"
#include "internal.h"

namespace emulator {

namespace {

constexpr uint64_t kMark = 0x6d62617272696572;  // what the memory of a barrier holds, with its address
constexpr int64_t kMostBytes = (1 << 20) - 1;
constexpr uint32_t kMostArrivals = (1 << 20) - 1;

struct Barrier {
  uint32_t count, pending;  // arrivals of a phase, and those still to come
  int64_t bytes;            // expected less arrived
  uint64_t phases;          // that are complete
  bool fenced;              // the asynchronous proxy sees it
  int by, warp;             // the thread that made it
  uint32_t made;            // when, by its warp's time
  Clock arriving, done;     // of the phase under way, of those complete
};

// What a CUtensorMap holds here.
struct Map {
  uint64_t mark;
  const char* base;
  uint64_t extents[5], strides[4];
  uint16_t box[5];
  uint8_t rank, element, span;
};
static_assert(sizeof(Map) <= 128, "CUtensorMap has 128 bytes");
constexpr uint64_t kMapMark = 0x70616d726f736e74;

struct Load {
  Thread* by;
  Map map;
  uint32_t to, bytes, barrier;
  int32_t at[5];
};

std::map<uint32_t, Barrier> barriers;
std::vector<Load> loads;
uint32_t registers[kWarps];  // of a thread
uint32_t free_registers;     // of the block
// By whom (counted from 1; 0: by a bulk copy, or nobody) a byte of shared memory was stored, and after how many of its
// fences.
uint16_t stored_by[kSharedLimit], stored_after[kSharedLimit], fences[kThreads];

Barrier& find(uint32_t address, const char* what, int line) {
  const auto found = barriers.find(address);
  if (found == barriers.end()) {
    fail("executes %s (line %d) on shared address %u, where there is no barrier", what, line, address);
  }
  uint64_t mark;
  std::memcpy(&mark, shared_pointer(address), 8);
  if (mark != kMark + address) {
    fail("executes %s (line %d) on a barrier, shared address %u, that was overwritten", what, line, address);
  }
  Barrier& b = found->second;
  if (b.warp != self->warp && block.clock[self->warp].seen[b.warp] < b.made) {
    fail("executes %s (line %d) on a barrier that another warp made, which nothing orders before this", what, line);
  }
  return b;
}

void complete_if_due(Barrier& b) {
  if (b.pending || b.bytes) return;
  ++b.phases;
  b.pending = b.count;
  b.done.join(b.arriving);
  b.arriving = Clock();
}

void expect(Barrier& b, int64_t bytes, int line) {
  if (bytes < 0 || bytes > kMostBytes || b.bytes + bytes > kMostBytes) {
    fail("expects %lld bytes at a barrier (line %d), which counts to %lld", (long long)bytes, line,
         (long long)kMostBytes);
  }
  b.bytes += bytes;
}

// As `release`, for a copy of another thread.
void release_for(const Thread& by, Clock& to) {
  block.clock[by.warp].seen[by.warp] = block.time[by.warp];
  to.join(block.clock[by.warp]);
  ++block.time[by.warp];
}

// The box goes to shared memory row by row, each unit of 16 bytes where the swizzle puts it; zeros out of bounds.
void land(const Load& load) {
  const Map& m = load.map;
  const uint32_t row = m.box[0] * m.element;
  uint32_t rows = 1;
  for (int d = 1; d < m.rank; ++d) rows *= m.box[d];
  for (uint32_t r = 0; r < rows; ++r) {
    const char* source = m.base;
    bool inside = true;
    for (uint32_t d = 1, rest = r; d < m.rank; rest /= m.box[d], ++d) {
      const int64_t at = (int64_t)load.at[d] + rest % m.box[d];
      inside = inside && at >= 0 && at < (int64_t)m.extents[d];
      source += at * (int64_t)m.strides[d - 1];
    }
    for (uint32_t i = 0; i < m.box[0]; ++i) {
      const int64_t at = (int64_t)load.at[0] + i;
      char* to = shared_pointer(swizzled(load.to + r * row + i * m.element, m.span));
      if (inside && at >= 0 && at < (int64_t)m.extents[0]) {
        std::memcpy(to, source + at * m.element, m.element);
      } else {
        std::memset(to, 0, m.element);
      }
    }
  }
  end_copy(*load.by, load.to, load.bytes);
  std::memset(stored_by + load.to, 0, load.bytes * sizeof stored_by[0]);
  Barrier& b = barriers.at(load.barrier);
  release_for(*load.by, b.arriving);
  b.bytes -= load.bytes;
  if (b.bytes < -kMostBytes) fail("has a barrier at %u that far more bytes arrive at than it expects", load.barrier);
  complete_if_due(b);
}

bool land_one() {
  if (loads.empty()) return false;
  const size_t which = options.order == 2 ? random_number() % loads.size() : loads.size() - 1;
  const Load load = loads[which];
  loads.erase(loads.begin() + (std::ptrdiff_t)which);
  land(load);
  return true;
}

void begin() {
  barriers.clear();
  loads.clear();
  // What a thread has at launch, with __launch_bounds__(threads, 1): an equal part of the 65,536, in steps of 8.
  const uint32_t each = 65536u / (uint32_t)thread_count() / 8 * 8;
  for (uint32_t& count : registers) count = each < 256 ? each : 256;
  free_registers = 0;
  std::memset(stored_by, 0, sizeof stored_by);
  on_idle(land_one);
}

const bool known = (on_block(begin), true);

// cuTensorMapEncodeTiled, with the limits of the CUDA driver API's documentation.
int encode(void* out, int type, uint32_t rank, void* base, const uint64_t* extents, const uint64_t* strides,
           const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int, int fill) {
  constexpr int kInvalid = 1;
  constexpr uint8_t kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};  // of CUtensorMapDataType, in its order
  constexpr uint8_t kSpans[] = {16, 32, 64, 128};
  if (!out || (uintptr_t)out % 64 || (uintptr_t)base % 16 || rank < 1 || rank > 5) return kInvalid;
  if (type < 0 || type >= (int)sizeof kBytes || interleave != 0 || swizzle < 0 || swizzle > 3 || fill != 0)
    return kInvalid;
  Map m = {};
  m.mark = kMapMark, m.base = (const char*)base, m.rank = (uint8_t)rank, m.element = kBytes[type],
  m.span = kSpans[swizzle];
  for (uint32_t d = 0; d < rank; ++d) {
    if (extents[d] < 1 || extents[d] > 1ull << 32 || box[d] < 1 || box[d] > 256 || steps[d] != 1) return kInvalid;
    m.extents[d] = extents[d], m.box[d] = (uint16_t)box[d];
    if (d == 0) continue;
    if (strides[d - 1] % 16 || strides[d - 1] >= 1ull << 40) return kInvalid;
    m.strides[d - 1] = strides[d - 1];
  }
  const uint32_t row = box[0] * m.element;
  // A row that is shorter than the swizzle is legal; where it goes is not emulated.
  if (row % 16 || (m.span > 16 && row != m.span)) return kInvalid;
  std::memcpy(out, &m, sizeof m);
  return 0;
}

const DriverFunction encode_tiled("cuTensorMapEncodeTiled", (void*)encode);

}  // namespace

void note_store(const Thread& by, uint32_t address) {
  stored_by[address] = static_cast<uint16_t>(by.linear + 1);
  stored_after[address] = fences[by.linear];
}

void check_fenced(uint32_t address, size_t bytes, const char* what) {
  for (uint32_t i = address; i < address + bytes; ++i) {
    if (!stored_by[i] || stored_after[i] != fences[stored_by[i] - 1]) continue;
    const Index t = thread((stored_by[i] - 1) / kLanes, (stored_by[i] - 1) % kLanes).index;
    fail("reads shared address %u (%s), which thread (%u,%u,%u) wrote with no fence.proxy.async after it",
         i - kSharedBase, what, t.x, t.y, t.z);
  }
}

void mbarrier_init(uint32_t address, uint32_t count, int line) {
  if (count < 1 || count > kMostArrivals) fail("makes a barrier of %u arrivals (line %d)", count, line);
  char* memory = shared_pointer(address);
  check_write(*self, memory, 8, 8, "mbarrier.init");
  const uint64_t mark = kMark + address;
  std::memcpy(memory, &mark, 8);
  barriers[address] = Barrier{count, count, 0, 0, false, self->linear, self->warp, block.time[self->warp], {}, {}};
}

void mbarrier_arrive(uint32_t address, int64_t expected, int line) {
  const char* what = expected >= 0 ? "mbarrier.arrive.expect_tx" : "mbarrier.arrive";
  check_atomic(*self, shared_pointer(address), 8, what);
  Barrier& b = find(address, what, line);
  if (expected >= 0) expect(b, expected, line);
  if (!b.pending) fail("arrives (line %d) at a barrier that all %u arrivals of the phase have come to", line, b.count);
  release(b.arriving);
  --b.pending;
  complete_if_due(b);
}

void mbarrier_expect(uint32_t address, uint32_t bytes, int line) {
  check_atomic(*self, shared_pointer(address), 8, "mbarrier.expect_tx");
  expect(find(address, "mbarrier.expect_tx", line), bytes, line);
}

void mbarrier_wait(uint32_t address, uint32_t parity, int line) {
  check_atomic(*self, shared_pointer(address), 8, "mbarrier.try_wait");
  Barrier& b = find(address, "mbarrier.try_wait", line);
  wait_until("mbarrier.try_wait", line, [&b, parity] { return (b.phases & 1) != (parity & 1); });
  acquire(b.done);
}

void tma_load(uint32_t to, const void* map, const int32_t* at, int rank, uint32_t barrier, int line) {
  const char* what = "cp.async.bulk.tensor";
  Load load = {};
  std::memcpy(&load.map, map, sizeof load.map);
  const Map& m = load.map;
  if ((uintptr_t)map % 64 || m.mark != kMapMark) fail("executes %s (line %d) with what is no tensor map", what, line);
  if (m.rank != rank) fail("executes %s of %d dimensions (line %d) with a map of %d", what, rank, line, m.rank);
  load.by = self, load.to = to, load.barrier = barrier, load.bytes = m.element;
  for (int d = 0; d < rank; ++d) load.at[d] = at[d], load.bytes *= m.box[d];
  if (to % 128) fail("executes %s (line %d) to shared address %u, which is not a multiple of 128", what, line, to);
  Barrier& b = find(barrier, what, line);
  if (!b.fenced)
    fail("executes %s (line %d) on a barrier that no fence made known to the asynchronous proxy", what, line);
  // The source is read where it is in bounds: checked by rows of the box.
  uint32_t rows = load.bytes / (m.box[0] * m.element);
  const int64_t from = at[0] < 0 ? 0 : at[0];
  const int64_t end =
      (int64_t)at[0] + m.box[0] < (int64_t)m.extents[0] ? (int64_t)at[0] + m.box[0] : (int64_t)m.extents[0];
  for (uint32_t r = 0; r < rows && from < end; ++r) {
    const char* source = m.base;
    bool inside = true;
    for (uint32_t d = 1, rest = r; d < m.rank; rest /= m.box[d], ++d) {
      const int64_t index = (int64_t)at[d] + rest % m.box[d];
      inside = inside && index >= 0 && index < (int64_t)m.extents[d];
      source += index * (int64_t)m.strides[d - 1];
    }
    if (inside) check_read(*self, source + from * m.element, (size_t)(end - from) * m.element, m.element, what);
  }
  begin_copy(*self, to, load.bytes, what);
  if (options.late) {
    loads.push_back(load);
  } else {
    land(load);
  }
}

void fence_barriers() {
  for (auto& [address, b] : barriers) b.fenced = b.fenced || b.by == self->linear;
}

void fence_async() {
  ++fences[self->linear];
  fence_barriers();
}

void set_registers(bool more, uint32_t count, int line) {
  struct Call {
    bool more;
    uint32_t count;
  } call = {more, count};
  const char* what = more ? "setmaxnreg.inc" : "setmaxnreg.dec";
  if (count < 24 || count > 256 || count % 8)
    fail("executes %s %u (line %d): not a multiple of 8 in 24..256", what, count, line);
  meet(
      what, line, kAll, true,
      [](Lanes lanes) {
        const Call& c = *static_cast<Call*>(lanes[0]->argument);
        const uint32_t had = registers[lanes[0]->warp];
        if (!c.more && c.count <= had) {
          registers[lanes[0]->warp] = c.count;
          free_registers += (had - c.count) * kLanes;
        }
      },
      &call);
  const int warp = self->warp;
  if (!more) {
    if (registers[warp] != count)
      fail("executes %s %u (line %d) with %u registers", what, count, line, registers[warp]);
    return;
  }
  if (registers[warp] > count) fail("executes %s %u (line %d) with %u registers", what, count, line, registers[warp]);
  wait_until(what, line, [warp, count] {
    if (registers[warp] == count) return true;
    const uint32_t wanted = (count - registers[warp]) * kLanes;
    if (free_registers < wanted) return false;
    free_registers -= wanted;
    registers[warp] = count;
    return true;
  });
}

}  // namespace emulator
