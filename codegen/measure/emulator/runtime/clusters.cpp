// Blocks of a cluster together: where each is, their shared memory, their barrier.
#include "internal.h"

namespace emulator {
namespace {

struct ClusterBarrier {
  int arrived;
  uint32_t turn;
  Clock arriving, done;  // of the turn under way, of the one before
};

ClusterBarrier cluster_barrier;

void complete_cluster_barrier() {
  ClusterBarrier& b = cluster_barrier;
  if (!b.arrived || b.arrived < living) return;
  b.arrived = 0;
  ++b.turn;
  b.done = b.arriving;
  b.arriving = Clock();
}

}  // namespace

Index block_index() { return cluster.block[self->rank].index; }
Index block_size() { return cluster.size; }
Index grid_size() { return cluster.grid; }
Index cluster_size() { return cluster.shape; }
unsigned cluster_rank() { return static_cast<unsigned>(self->rank); }
Index cluster_block_index() {
  const Index at = block_index(), shape = cluster.shape;
  return {at.x % shape.x, at.y % shape.y, at.z % shape.z};
}
Index cluster_index() {
  const Index at = block_index(), shape = cluster.shape;
  return {at.x / shape.x, at.y / shape.y, at.z / shape.z};
}
Index cluster_grid_size() {
  const Index grid = cluster.grid, shape = cluster.shape;
  return {grid.x / shape.x, grid.y / shape.y, grid.z / shape.z};
}

// Shared memory of another block is there once something says that the block has begun, and until it returns.
void check_there(const Thread& by, uint32_t rank, bool write, const char* what) {
  const Block& other = cluster.block[rank];
  const Index at = other.index;
  if (!other.living) {
    fail("%s shared memory of block (%u,%u,%u) (%s), which has returned", write ? "writes" : "reads", at.x, at.y, at.z,
         what);
  }
  const int first = static_cast<int>(rank) * cluster.block_warps;
  for (int w = first; w < first + cluster.block_warps; ++w) {
    if (cluster.clock[by.warp].seen[w]) return;
  }
  fail("%s shared memory of block (%u,%u,%u) (%s), which nothing says has begun", write ? "writes" : "reads", at.x,
       at.y, at.z, what);
}

uint32_t map_shared(uint32_t address, uint32_t rank, int line) {
  check_own(address, "mapa", line);
  if (rank >= static_cast<uint32_t>(cluster.blocks)) {
    fail("executes mapa (line %d) of rank %u in a cluster of %d blocks", line, rank, cluster.blocks);
  }
  return (address & kOffsetMask) | rank << kRankShift;
}
void check_own(uint32_t address, const char* what, int line) {
  if (address >> kRankShift == static_cast<uint32_t>(self->rank)) return;
  fail("executes %s (line %d) on shared address %u, which is not its own block's", what, line, address);
}

void clear_cluster_barrier() { cluster_barrier = ClusterBarrier(); }

// A thread that has returned counts no more.
void leave_cluster_barrier() {
  if (self->arrived) --cluster_barrier.arrived;
  complete_cluster_barrier();
}

void cluster_arrive(bool ordered, bool aligned, int line) {
  const char* name = "barrier.cluster.arrive";
  if (aligned) meet(name, line, kAll, true, nullptr, nullptr);
  Thread& t = *self;
  if (t.arrived) fail("executes %s (line %d) again before it waited", name, told_line(line));
  t.arrived = true;
  t.cluster_turn = cluster_barrier.turn;
  if (ordered) release(cluster_barrier.arriving);
  ++cluster_barrier.arrived;
  complete_cluster_barrier();
}

void cluster_wait(bool ordered, bool aligned, int line) {
  const char* name = "barrier.cluster.wait";
  if (aligned) meet(name, line, kAll, true, nullptr, nullptr);
  Thread& t = *self;
  if (!t.arrived) fail("executes %s (line %d) without having arrived", name, told_line(line));
  const uint32_t turn = t.cluster_turn;
  wait_until(name, line, [turn] { return cluster_barrier.turn != turn; });
  t.arrived = false;
  if (ordered) acquire(cluster_barrier.done);
}

}  // namespace emulator
