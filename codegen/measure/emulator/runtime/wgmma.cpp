// wgmma: a multiplication runs when a wait for its group asks for it, and not before. Until then its accumulators are
// NaN for the program, and shared memory is not read.
#include <cmath>
#include <memory>

#include "half.h"
#include "hopper.h"
#include "hopper_layout.h"
#include "internal.h"

namespace emulator {

namespace {

constexpr int kRows = 16;   // of the 64 that a warp computes
constexpr int kBytes = 32;  // of a row along K: 16 elements of 16 bits, 8 of TF32

// The accumulators of a warp that multiplications under way have: where they are, and what is in them.
struct Sums {
  std::vector<float*> places;  // lane by lane
  std::vector<float> values;
  int pending = 0;
};

struct Operation {
  Multiply what;  // of lane 0; `sums` are those of all lanes
  std::shared_ptr<Sums> sums;
  int line;
};

struct Warp {
  std::vector<std::shared_ptr<Sums>> busy;
  std::vector<Operation> open;
  std::deque<std::vector<Operation>> groups;
  bool fenced;                   // since accumulators were last given back
  std::vector<uint64_t> issued;  // what the four warps of a group must agree on
};
Warp warps[kClusterWarps];

void begin() {
  for (Warp& w : warps) w = Warp();
}
const bool known = (on_cluster(begin), true);

float to_float(const char* memory, Type type) {
  if (type == Type::tf32) {
    uint32_t bits;
    std::memcpy(&bits, memory, 4);
    return bits_float(bits & 0xffffe000);  // the tensor core reads 19 bits
  }
  static const std::vector<float> halves = [] {
    std::vector<float> all(1 << 16);
    for (uint32_t i = 0; i < all.size(); ++i) all[i] = half_value((uint16_t)i);
    return all;
  }();
  uint16_t bits;
  std::memcpy(&bits, memory, 2);
  return type == Type::f16 ? halves[bits] : bfloat16_value(bits);
}

// One operand's rows from `first` on, [rows][16 or 8], read as the descriptor says.
void gather(const Thread& by, uint64_t bits, bool transposed, Type type, int first, int rows, int line, float* out) {
  const Descriptor d = decoded(bits);
  if (d.base_offset) fail("gives wgmma (line %d) a descriptor with a base offset, which is not emulated", line);
  const int size = type == Type::tf32 ? 4 : 2, depth = kBytes / size, unit = 16 / size;
  for (int i = 0; i < rows; ++i) {
    for (int k = 0; k < depth; ++k) {
      uint32_t address = element_address(d, transposed, (uint32_t)(first + i), (uint32_t)k, (uint32_t)size);
      if (address < kSharedBase || address + (uint32_t)size > kSharedLimit) {
        fail("gives wgmma (line %d) a descriptor that leads to shared address %u, which is out of bounds", line,
             address);
      }
      address |= (uint32_t)by.rank << kRankShift;  // in the block, whose rank a descriptor has no room for
      const char* memory = shared_pointer(address);
      // Units of 16 bytes hold neighbours along the contiguous extent.
      if ((transposed ? i : k) % unit == 0) {
        check_read(by, memory, 16, 16, "wgmma");
        check_fenced(address, 16, "wgmma");
      }
      out[i * depth + k] = to_float(memory, type);
    }
  }
}

void run(int number, Operation& operation) {
  const Multiply& m = operation.what;
  static float a[kRows * kBytes / 2], b[256 * kBytes / 2];
  const int depth = m.type == Type::tf32 ? kBytes / 4 : kBytes / 2;
  const Thread& by = thread(number, 0);
  gather(by, m.a, m.transposed_a, m.type, number % 4 * kRows, kRows, operation.line, a);
  gather(by, m.b, m.transposed_b, m.type, 0, m.n, operation.line, b);
  const float sign = (float)(m.scale_a * m.scale_b);
  const int each = m.n / 2;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int j = 0; j < each; ++j) {
      uint32_t row, column;
      accumulator_place((uint32_t)lane, (uint32_t)j, &row, &column);
      float total = 0;
      for (int k = 0; k < depth; ++k) total += a[row * (uint32_t)depth + k] * b[column * (uint32_t)depth + k];
      float& sum = operation.sums->values[(size_t)(lane * each + j)];
      sum = (m.keep ? sum : 0.0f) + sign * total;
    }
  }
}

void finish(int number, Operation& operation) {
  run(number, operation);
  Warp& w = warps[number];
  Sums& sums = *operation.sums;
  if (--sums.pending) return;
  for (size_t i = 0; i < sums.places.size(); ++i) *sums.places[i] = sums.values[i];
  for (size_t i = 0; i < w.busy.size(); ++i) {
    if (w.busy[i].get() == &sums) w.busy.erase(w.busy.begin() + (std::ptrdiff_t)i--);
  }
  w.fenced = false;
}

void wait(int number, size_t left) {
  Warp& w = warps[number];
  while (w.groups.size() > left) {
    for (Operation& operation : w.groups.front()) finish(number, operation);
    w.groups.pop_front();
  }
}

// The accumulators of the operation: those of one under way, or others, whose values are taken over.
std::shared_ptr<Sums> take(int number, std::vector<float*> places, int line) {
  Warp& w = warps[number];
  for (const auto& sums : w.busy) {
    if (sums->places == places) return sums;
  }
  for (const auto& sums : w.busy) {
    for (const float* place : sums->places) {
      for (size_t j = 0; j < places.size() / kLanes; ++j) {
        if (place == places[j]) fail("executes wgmma (line %d) on part of the accumulators of one under way", line);
      }
    }
  }
  if (!w.fenced) fail("executes wgmma (line %d) on accumulators that no wgmma.fence gave to it", line);
  auto sums = std::make_shared<Sums>();
  sums->places = std::move(places);
  for (float* place : sums->places) {
    sums->values.push_back(*place);
    *place = NAN;
  }
  w.busy.push_back(sums);
  return sums;
}

void issue(Lanes lanes) {
  const int number = lanes[0]->warp, line = lanes[0]->line;
  Warp& w = warps[number];
  const Multiply& m = *static_cast<Multiply*>(lanes[0]->argument);
  std::vector<float*> places;
  for (Thread* lane : lanes) {
    const Multiply& other = *static_cast<Multiply*>(lane->argument);
    if (other.a != m.a || other.b != m.b || other.keep != m.keep) {
      fail("executes wgmma (line %d) with other descriptors than lane %d", line, lane->lane);
    }
    places.insert(places.end(), other.sums, other.sums + m.n / 2);
  }
  const std::vector<uint64_t>* others = &w.issued;
  for (int i = number / 4 * 4; i < number / 4 * 4 + 4; ++i) {
    if (warps[i].issued.size() > others->size()) others = &warps[i].issued;
  }
  const size_t at = w.issued.size();
  if (others->size() > at && ((*others)[at] != m.a || (*others)[at + 1] != m.b)) {
    fail("executes wgmma (line %d) with other descriptors than another warp of its warpgroup", line);
  }
  w.issued.push_back(m.a);
  w.issued.push_back(m.b);
  Operation operation = {m, take(number, std::move(places), line), line};
  ++operation.sums->pending;
  w.open.push_back(operation);
}

}  // namespace

void wgmma(Multiply& operation, int line) {
  if (operation.n < 8 || operation.n > 256 || operation.n % 8)
    fail("executes wgmma (line %d) of %d columns", line, operation.n);
  meet("wgmma.mma_async", line, kAll, true, issue, &operation);
}

void wgmma_fence(int line) {
  meet("wgmma.fence", line, kAll, true, [](Lanes lanes) { warps[lanes[0]->warp].fenced = true; }, nullptr);
}

void wgmma_commit(int line) {
  meet(
      "wgmma.commit_group", line, kAll, true,
      [](Lanes lanes) {
        Warp& w = warps[lanes[0]->warp];
        w.groups.push_back(std::move(w.open));
        w.open.clear();
        if (!options.late) wait(lanes[0]->warp, 0);
      },
      nullptr);
}

void wgmma_wait(int left, int line) {
  meet(
      "wgmma.wait_group", line, kAll, true,
      [](Lanes lanes) { wait(lanes[0]->warp, (size_t)*static_cast<int*>(lanes[0]->argument)); }, &left);
}

}  // namespace emulator
