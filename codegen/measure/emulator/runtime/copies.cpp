// cp.async: copies that each thread starts, and waits for in groups.
#include "emulator.h"

namespace emulator {
namespace {

void land(const Copy& copy) {
  if (options.late) end_copy(*self, copy.to, copy.bytes);
  char* to = shared_pointer(copy.to);
  std::memcpy(to, copy.source, copy.from);
  std::memset(to + copy.from, 0, copy.bytes - copy.from);
}

}  // namespace

void copy_start(uint32_t to, const void* source, uint32_t bytes, uint32_t from) {
  if (to % bytes) fail("copies %u bytes (cp.async) to a shared address that is not a multiple of it", bytes);
  if (from > bytes) fail("copies %u bytes (cp.async) from %u", bytes, from);
  const auto at = reinterpret_cast<uintptr_t>(source);
  if (at % bytes) fail("copies %u bytes (cp.async) from an address that is not a multiple of it", bytes);
  if (from) check_read(*self, source, from, 1, "cp.async");
  const Copy copy{to, static_cast<const char*>(source), bytes, from};
  if (!options.late) {
    check_write(*self, shared_pointer(to), bytes, bytes, "cp.async");
    return land(copy);
  }
  begin_copy(*self, to, bytes, "cp.async");
  self->open.push_back(copy);
}

void copy_commit() {
  self->groups.push_back(std::move(self->open));
  self->open.clear();
}

void copy_wait(int left) {
  while (static_cast<int>(self->groups.size()) > left) {
    for (const Copy& copy : self->groups.front()) land(copy);
    self->groups.pop_front();
  }
}

void copy_wait_all() {
  copy_commit();
  copy_wait(0);
}

}  // namespace emulator
