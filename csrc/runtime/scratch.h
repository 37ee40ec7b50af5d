// Aligned memory: buffers that are owned, and scratch that belongs to a thread and is reused from call to call.
#ifndef TVMOPS_RUNTIME_SCRATCH_H_
#define TVMOPS_RUNTIME_SCRATCH_H_

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace tvmops::runtime {

constexpr size_t kAlignment = 64;                       // a cache line, and the widest vector
constexpr size_t kHugePage = size_t{2} << 20;           // of x86-64 and (with 4 KiB pages) aarch64
constexpr size_t kMaxBytes = SIZE_MAX / 2 - kHugePage;  // PTRDIFF_MAX, less room to align

// `count` items in bytes; throws std::bad_alloc if that does not fit.
inline size_t checked_bytes(size_t count, size_t item) {
  size_t bytes;
  if (__builtin_mul_overflow(count, item, &bytes) || bytes > kMaxBytes) throw std::bad_alloc();
  return bytes;
}

// Uninitialised memory, aligned to 64 bytes; from 2 MiB up aligned to 2 MiB and advised to use huge pages (a packed
// matrix is walked by many panels at once, more than the TLB holds of 4 KiB). Movable. 0 bytes: data() is null.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;

  // Throws std::bad_alloc.
  explicit AlignedBuffer(size_t bytes) : size_(bytes) {
    if (bytes == 0) return;
    if (bytes > kMaxBytes) throw std::bad_alloc();
    const bool huge = bytes >= kHugePage;
    if (posix_memalign(&data_, huge ? kHugePage : kAlignment, bytes) != 0) throw std::bad_alloc();
    if (huge) {
      const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
      // Advice: where the kernel has no huge pages, nothing is lost.
      (void)madvise(data_, bytes / page * page, MADV_HUGEPAGE);
    }
    held().fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  }

  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    AlignedBuffer taken(std::move(other));
    std::swap(data_, taken.data_);
    std::swap(size_, taken.size_);
    return *this;
  }
  ~AlignedBuffer() {
    if (data_ == nullptr) return;
    held().fetch_sub(static_cast<int64_t>(size_), std::memory_order_relaxed);
    std::free(data_);
  }

  // Bytes in all buffers of the process.
  static std::atomic<int64_t>& held() {
    static std::atomic<int64_t> bytes{0};
    return bytes;
  }

  void* data() const { return data_; }
  size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// How many scratch buffers a thread has. What a slot is for is the caller's to say; one slot is one buffer, so two
// buffers in use at the same time need two slots.
constexpr int kScratchSlots = 8;

// The scratch of one thread: each slot grows to the most that was ever asked of it.
class Scratch {
 public:
  // At least `bytes` bytes, aligned as AlignedBuffer. Uninitialised: growing does not keep what was there. Valid until
  // the same slot is asked for more. Throws std::bad_alloc; the slot then is empty.
  void* get(int slot, size_t bytes) {
    AlignedBuffer& buffer = buffers_.at(static_cast<size_t>(slot));
    if (buffer.size() < bytes) {
      const size_t half_more = buffer.size() + buffer.size() / 2;
      buffer = AlignedBuffer();  // before the larger one exists: the two need not fit together
      buffer = AlignedBuffer(bytes > half_more ? bytes : half_more);
    }
    return buffer.data();
  }

  // Gives the memory back.
  void release() { buffers_ = {}; }

  // This thread's; freed when the thread ends.
  static Scratch& of_this_thread() {
    thread_local Scratch scratch;
    return scratch;
  }

 private:
  std::array<AlignedBuffer, kScratchSlots> buffers_;
};

// `count` items of this thread's scratch, see Scratch::get.
template <class T>
T* scratch(int slot, size_t count) {
  return static_cast<T*>(Scratch::of_this_thread().get(slot, checked_bytes(count, sizeof(T))));
}

}  // namespace tvmops::runtime

#endif  // TVMOPS_RUNTIME_SCRATCH_H_
