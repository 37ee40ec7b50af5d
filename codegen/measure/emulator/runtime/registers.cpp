// setmaxnreg: the registers of a block, dealt out anew between its warps.
#include "hopper.h"
#include "internal.h"

namespace emulator {

namespace {

uint32_t registers[kClusterWarps];        // of a thread
uint32_t free_registers[kClusterBlocks];  // of a block

void begin() {
  // What a thread has at launch, with __launch_bounds__(threads, 1): an equal part of the 65,536, in steps of 8.
  const uint32_t each = 65536u / (uint32_t)thread_count() / 8 * 8;
  for (uint32_t& count : registers) count = each < 256 ? each : 256;
  for (uint32_t& count : free_registers) count = 0;
}

const bool known = (on_cluster(begin), true);

}  // namespace

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
          free_registers[lanes[0]->rank] += (had - c.count) * kLanes;
        }
      },
      &call);
  const int warp = self->warp;
  uint32_t& free = free_registers[self->rank];
  if (!more) {
    if (registers[warp] != count)
      fail("executes %s %u (line %d) with %u registers", what, count, line, registers[warp]);
    return;
  }
  if (registers[warp] > count) fail("executes %s %u (line %d) with %u registers", what, count, line, registers[warp]);
  wait_until(what, line, [warp, count, &free] {
    if (registers[warp] == count) return true;
    const uint32_t wanted = (count - registers[warp]) * kLanes;
    if (free < wanted) return false;
    free -= wanted;
    registers[warp] = count;
    return true;
  });
}

}  // namespace emulator
