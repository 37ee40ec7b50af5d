// Where threads wait for each other: a warp's meetings, barriers, and the order of accesses that follows from them.
#include "internal.h"

namespace emulator {
namespace {

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

WideMeeting wide_meetings[kClusterWarps];
Barrier barriers[kClusterBlocks][kBarriers];

void complete(int warp, size_t number) {
  WarpState& w = warp_states[warp];
  const Meeting meeting = w.meetings[number];
  w.meetings.erase(w.meetings.begin() + static_cast<std::ptrdiff_t>(number));
  Thread* lanes[kLanes];
  for (int l = 0; l < kLanes; ++l) lanes[l] = meeting.arrived >> l & 1 ? &threads[warp * kLanes + l] : nullptr;
  if (meeting.action) meeting.action(lanes);
  for (Thread* t : lanes) {
    if (t) make_ready(*t);
  }
}

void complete_barrier(Barrier& b, int rank) {
  for (Thread* t : b.waiting) {
    cluster.clock[t->warp].join(b.clock);
    make_ready(*t);
  }
  for (int w = 0; w < cluster.block_warps; ++w) move_time(rank * cluster.block_warps + w);
  b = Barrier();
}

}  // namespace

void clear_meetings() {
  for (auto& of_block : barriers) {
    for (Barrier& b : of_block) b = Barrier();
  }
  clear_cluster_barrier();
  for (WideMeeting& m : wide_meetings) m = WideMeeting();
}

void leave_meetings(WarpState& w) {
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
  for (Barrier& b : barriers[self->rank]) {
    if (b.everyone && b.arrived && b.arrived == cluster.block[self->rank].living) complete_barrier(b, self->rank);
  }
  leave_cluster_barrier();
}

bool complete_active_mask() {
  for (int w = 0; w < cluster.warps; ++w) {
    uint32_t here = 0;
    for (int l = 0; l < kLanes; ++l) {
      const Thread& t = threads[w * kLanes + l];
      if ((warp_states[w].alive >> l & 1) && t.at && !std::strcmp(t.at, "__activemask")) here |= 1u << l;
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

void meet(const char* name, int line, uint32_t mask, bool aligned, void (*action)(Lanes lanes), void* argument) {
  Thread& t = *self;
  WarpState& w = warp_states[t.warp];
  line = told_line(line);
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
  line = told_line(line);
  WideMeeting& m = wide_meetings[first];
  if (m.arrived && (m.action != action || m.line != line)) {
    fail("is at %s (line %d) while others of its warps wait for it at line %d", name, line, m.line);
  }
  for (int w = first; w < first + count; ++w) {
    if (warp_states[w].alive != kAll)
      fail("executes %s (line %d) after threads that it needs have returned", name, line);
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

void move_time(int warp) {
  cluster.clock[warp].seen[warp] = cluster.time[warp];
  ++cluster.time[warp];
}

void release(Clock& to) {
  cluster.clock[self->warp].seen[self->warp] = cluster.time[self->warp];
  to.join(cluster.clock[self->warp]);
  ++cluster.time[self->warp];
}

void acquire(const Clock& from) { cluster.clock[self->warp].join(from); }

void barrier(int id, int count, bool wait, int line, bool everyone) {
  Thread& t = *self;
  line = told_line(line);
  if (id < 0 || id >= kBarriers) fail("uses barrier %d (line %d); there are %d", id, line, kBarriers);
  if (!everyone && (count <= 0 || count % kLanes != 0 || count > kThreads)) {
    fail("waits for %d threads at barrier %d (line %d), which is not a number of warps", count, id, line);
  }
  Barrier& b = barriers[t.rank][id];
  const int expected = everyone ? cluster.block[t.rank].living : count;
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
  Clock now = cluster.clock[t.warp];
  now.seen[t.warp] = cluster.time[t.warp];
  b.clock.join(now);
  if (!wait) move_time(t.warp);
  ++b.arrived;
  if (wait) {
    t.at = everyone ? "__syncthreads" : "bar.sync";
    t.line = line;
    b.waiting.push_back(&t);
  }
  if (b.arrived == expected) complete_barrier(b, t.rank);
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
  self->line = told_line(line);
  pause();
  return mask;
}

}  // namespace emulator
