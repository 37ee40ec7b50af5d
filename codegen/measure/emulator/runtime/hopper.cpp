// Barriers in shared memory and TMA. Copies land when no thread can go on without one, the last one issued
// first: as late, and in as odd an order, as the program lets them.
#include "hopper.h"

#include <map>

#include "half.h"
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
  bool tf32;  // float32 in global memory is rounded on its way
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
// By whom (counted from 1; 0: by a bulk copy, or nobody) a byte of shared memory was stored, and after how many of its
// fences.
uint16_t stored_by[kClusterBlocks * kSharedLimit], stored_after[kClusterBlocks * kSharedLimit];
uint16_t fences[kClusterThreads];

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
  if (b.warp != self->warp && cluster.clock[self->warp].seen[b.warp] < b.made) {
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
  cluster.clock[by.warp].seen[by.warp] = cluster.time[by.warp];
  to.join(cluster.clock[by.warp]);
  ++cluster.time[by.warp];
}

void round_to_tf32(char* element) {
  uint32_t bits;
  std::memcpy(&bits, element, 4);
  bits = tf32_bits(bits);
  std::memcpy(element, &bits, 4);
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
        if (m.tf32) round_to_tf32(to);
      } else {
        std::memset(to, 0, m.element);
      }
    }
  }
  end_copy(*load.by, load.to, load.bytes);
  std::memset(stored_by + byte_index(load.to), 0, load.bytes * sizeof stored_by[0]);
  Barrier& b = barriers.at(load.barrier);
  release_for(*load.by, b.arriving);
  b.bytes -= load.bytes;
  if (b.bytes < -kMostBytes) fail("has a barrier at %u that far more bytes arrive at than it expects", load.barrier);
  complete_if_due(b);
}

// The copy to one block. Where the barrier is, and whether it is one, is checked for each.
void start(const Load& load, const char* what, int line) {
  check_atomic(*self, shared_pointer(load.barrier), 8, what);
  if (!find(load.barrier, what, line).fenced) {
    fail("executes %s (line %d) on a barrier that no fence made known to the asynchronous proxy", what, line);
  }
  begin_copy(*self, load.to, load.bytes, what);
  if (options.late) {
    loads.push_back(load);
  } else {
    land(load);
  }
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
  const size_t bytes = shared_end();
  for (int rank = 0; rank < cluster.blocks; ++rank) {
    std::memset(stored_by + static_cast<size_t>(rank) * kSharedLimit, 0, bytes * sizeof stored_by[0]);
  }
  on_idle(land_one);
}

// A block's shared memory is somebody else's once it has returned.
void end(int rank) {
  for (const Load& load : loads) {
    if (load.to >> kRankShift != static_cast<uint32_t>(rank)) continue;
    const Index from = load.by->index, in = cluster.block[load.by->rank].index;
    fail(
        "returns, the last of its block, while a copy to its shared memory is under way, which thread (%u,%u,%u) of "
        "block (%u,%u,%u) started",
        from.x, from.y, from.z, in.x, in.y, in.z);
  }
}

const bool known = (on_cluster(begin), on_block_end(end), true);

// cuTensorMapEncodeTiled, with the limits of the CUDA driver API's documentation.
int encode(void* out, int type, uint32_t rank, void* base, const uint64_t* extents, const uint64_t* strides,
           const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int, int fill) {
  constexpr int kInvalid = 1;
  constexpr uint8_t kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};  // of CUtensorMapDataType, in its order
  constexpr int kTf32 = 11;
  constexpr uint8_t kSpans[] = {16, 32, 64, 128};
  if (!out || (uintptr_t)out % 64 || (uintptr_t)base % 16 || rank < 1 || rank > 5) return kInvalid;
  if (type < 0 || type >= (int)sizeof kBytes || interleave != 0 || swizzle < 0 || swizzle > 3 || fill != 0)
    return kInvalid;
  Map m = {};
  m.mark = kMapMark, m.base = (const char*)base, m.rank = (uint8_t)rank, m.element = kBytes[type],
  m.span = kSpans[swizzle], m.tf32 = type == kTf32;
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

void note_store(const Thread& by, size_t byte) {
  stored_by[byte] = static_cast<uint16_t>(by.linear + 1);
  stored_after[byte] = fences[by.linear];
}

void check_fenced(uint32_t address, size_t bytes, const char* what) {
  for (size_t i = byte_index(address); i < byte_index(address) + bytes; ++i) {
    if (!stored_by[i] || stored_after[i] != fences[stored_by[i] - 1]) continue;
    const Index t = thread((stored_by[i] - 1) / kLanes, (stored_by[i] - 1) % kLanes).index;
    fail("reads shared address %u (%s), which thread (%u,%u,%u) wrote with no fence.proxy.async after it",
         static_cast<uint32_t>(i % kSharedLimit) - kSharedBase, what, t.x, t.y, t.z);
  }
}

void mbarrier_init(uint32_t address, uint32_t count, int line) {
  if (count < 1 || count > kMostArrivals) fail("makes a barrier of %u arrivals (line %d)", count, line);
  check_own(address, "mbarrier.init", line);
  char* memory = shared_pointer(address);
  check_write(*self, memory, 8, 8, "mbarrier.init");
  const uint64_t mark = kMark + address;
  std::memcpy(memory, &mark, 8);
  barriers[address] = Barrier{count, count, 0, 0, false, self->linear, self->warp, cluster.time[self->warp], {}, {}};
}

void mbarrier_arrive(uint32_t address, int64_t expected, bool anywhere, int line) {
  const char* what = expected >= 0 ? "mbarrier.arrive.expect_tx" : "mbarrier.arrive";
  if (!anywhere) check_own(address, what, line);
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
  check_own(address, "mbarrier.try_wait", line);
  check_atomic(*self, shared_pointer(address), 8, "mbarrier.try_wait");
  Barrier& b = find(address, "mbarrier.try_wait", line);
  wait_until("mbarrier.try_wait", line, [&b, parity] { return (b.phases & 1) != (parity & 1); });
  acquire(b.done);
}

void tma_load(uint32_t to, const void* map, const int32_t* at, int rank, uint32_t barrier, int mask, int line) {
  const char* what = "cp.async.bulk.tensor";
  Load load = {};
  std::memcpy(&load.map, map, sizeof load.map);
  const Map& m = load.map;
  if ((uintptr_t)map % 64 || m.mark != kMapMark) fail("executes %s (line %d) with what is no tensor map", what, line);
  if (m.rank != rank) fail("executes %s of %d dimensions (line %d) with a map of %d", what, rank, line, m.rank);
  load.by = self, load.to = to, load.barrier = barrier, load.bytes = m.element;
  for (int d = 0; d < rank; ++d) load.at[d] = at[d], load.bytes *= m.box[d];
  if (to % 128) fail("executes %s (line %d) to shared address %u, which is not a multiple of 128", what, line, to);
  if (to >> kRankShift != barrier >> kRankShift) {
    fail("executes %s (line %d) to a block whose barrier it does not complete on", what, line);
  }
  if (mask >= 0 && mask >> cluster.blocks) {
    fail("executes %s (line %d) to the blocks %x of a cluster of %d", what, line, mask, cluster.blocks);
  }
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
  if (mask < 0) return start(load, what, line);
  for (uint32_t block = 0; mask >> block; ++block) {
    if (!(mask >> block & 1)) continue;
    load.to = (to & kOffsetMask) | block << kRankShift;
    load.barrier = (barrier & kOffsetMask) | block << kRankShift;
    start(load, what, line);
  }
}

void fence_barriers() {
  for (auto& [address, b] : barriers) b.fenced = b.fenced || b.by == self->linear;
}

void fence_async() {
  ++fences[self->linear];
  fence_barriers();
}

}  // namespace emulator
