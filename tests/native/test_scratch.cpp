#include <atomic>
#include <cstring>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "runtime/scratch.h"

using namespace tvmops::runtime;

namespace {

bool aligned(const void* pointer, size_t to) { return reinterpret_cast<uintptr_t>(pointer) % to == 0; }

}  // namespace

TEST(buffers_are_aligned_and_writable) {
  for (size_t bytes :
       {size_t{1}, size_t{63}, size_t{64}, size_t{100000}, kHugePage - 1, kHugePage, 3 * kHugePage + 5}) {
    const AlignedBuffer buffer(bytes);
    CHECK(buffer.size() == bytes);
    CHECK(aligned(buffer.data(), bytes >= kHugePage ? kHugePage : kAlignment));
    std::memset(buffer.data(), 0x5a, bytes);
    CHECK(buffer.as<unsigned char>()[bytes - 1] == 0x5a);
  }
}

TEST(an_empty_buffer_holds_nothing) {
  CHECK(AlignedBuffer().data() == nullptr);
  CHECK(AlignedBuffer(0).data() == nullptr && AlignedBuffer(0).size() == 0);
}

TEST(buffers_move) {
  AlignedBuffer first(100);
  void* const memory = first.data();
  AlignedBuffer second(std::move(first));
  CHECK(first.data() == nullptr && first.size() == 0);  // NOLINT: that is the point
  CHECK(second.data() == memory && second.size() == 100);
  AlignedBuffer third(5);
  third = std::move(second);
  CHECK(third.data() == memory && second.data() == nullptr);
  AlignedBuffer& same = third;
  third = std::move(same);
  CHECK(third.data() == memory && third.size() == 100);
}

TEST(sizes_do_not_overflow) {
  CHECK(checked_bytes(3, 4) == 12);
  CHECK_THROWS(std::bad_alloc, checked_bytes(SIZE_MAX / 2, 4));
  CHECK_THROWS(std::bad_alloc, checked_bytes(SIZE_MAX, 1));
  CHECK_THROWS(std::bad_alloc, AlignedBuffer(SIZE_MAX));
  CHECK_THROWS(std::bad_alloc, AlignedBuffer(SIZE_MAX - 63));
  CHECK_THROWS(std::bad_alloc, scratch<double>(0, SIZE_MAX / 4));
  CHECK_THROWS(std::bad_alloc, scratch<double>(0, size_t{1} << 61));
  CHECK(scratch<double>(0, 10) != nullptr);  // usable again after a refusal
}

TEST(scratch_is_reused_and_grows) {
  Scratch scratch;
  void* const first = scratch.get(0, 1000);
  CHECK(aligned(first, kAlignment));
  CHECK(scratch.get(0, 10) == first);
  CHECK(scratch.get(0, 1000) == first);
  void* const grown = scratch.get(0, 3 * kHugePage);
  CHECK(aligned(grown, kHugePage));
  std::memset(grown, 1, 3 * kHugePage);
  CHECK(scratch.get(0, 1000) == grown);
  scratch.release();
  CHECK(scratch.get(0, 0) == nullptr);
}

TEST(slots_do_not_overlap) {
  std::set<float*> seen;
  for (int slot = 0; slot < kScratchSlots; ++slot) {
    float* memory = scratch<float>(slot, 100);
    for (int i = 0; i < 100; ++i) memory[i] = static_cast<float>(slot);
    seen.insert(memory);
  }
  CHECK(seen.size() == static_cast<size_t>(kScratchSlots));
  for (int slot = 0; slot < kScratchSlots; ++slot) {
    const float* memory = scratch<float>(slot, 100);
    for (int i = 0; i < 100; ++i) CHECK(memory[i] == static_cast<float>(slot));
  }
  CHECK_THROWS(std::out_of_range, scratch<float>(kScratchSlots, 1));
  CHECK_THROWS(std::out_of_range, scratch<float>(-1, 1));
}

TEST(threads_have_their_own) {
  // All alive at once, or the memory of a finished thread could come back in the next.
  constexpr int kThreads = 4;
  int* memory[kThreads] = {};
  std::atomic<int> filled{0};
  std::atomic<bool> right{true};
  std::vector<std::thread> threads;
  for (int id = 0; id < kThreads; ++id) {
    threads.emplace_back([&, id] {
      memory[id] = scratch<int>(0, 5000);
      for (int i = 0; i < 5000; ++i) memory[id][i] = id;
      ++filled;
      while (filled.load() < kThreads) std::this_thread::yield();
      for (int i = 0; i < 5000; ++i) {
        if (scratch<int>(0, 5000)[i] != id) right = false;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(right.load());
  CHECK(std::set<int*>(memory, memory + kThreads).size() == kThreads);
}
