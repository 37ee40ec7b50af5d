// The calls that the compiler makes from device code, in place of the libraries of its sanitizers.
#include "internal.h"

// The compiler's calls before loads and stores.
#define HOOK extern "C" __attribute__((visibility("hidden"))) void
#define HOOKS(bytes)                                                                      \
  HOOK __tsan_read##bytes(void* p) { emulator::plain_access(p, bytes, false); }           \
  HOOK __tsan_write##bytes(void* p) { emulator::plain_access(p, bytes, true); }           \
  HOOK __tsan_unaligned_read##bytes(void* p) { emulator::plain_access(p, bytes, false); } \
  HOOK __tsan_unaligned_write##bytes(void* p) { emulator::plain_access(p, bytes, true); } \
  HOOK __tsan_volatile_read##bytes(void* p) { emulator::plain_access(p, bytes, false); }  \
  HOOK __tsan_volatile_write##bytes(void* p) { emulator::plain_access(p, bytes, true); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
HOOK __tsan_read_range(void* p, size_t bytes) { emulator::plain_access(p, bytes, false); }
HOOK __tsan_write_range(void* p, size_t bytes) { emulator::plain_access(p, bytes, true); }
HOOK __tsan_func_entry(void*) {}
HOOK __tsan_func_exit(void*) {}
HOOK __tsan_init() {}
HOOK __tsan_vptr_update(void*, void*) {}
HOOK __tsan_vptr_read(void*) {}

// UndefinedBehaviorSanitizer's calls. `where` is a place in the source, `type` of what is used or computed.
namespace {
struct Place {
  const char* file;
  uint32_t line, column;
};
struct Type {
  uint16_t kind, info;
  char name[1];
};
struct TypeMismatch {
  Place where;
  const Type* type;
  unsigned char log_alignment, kind;
};
struct Overflow {
  Place where;
  const Type* type;
};

// An operand of at most 64 bits comes in a register, whose other bits say nothing; a wider one is an address.
long long operand(const Type& type, uintptr_t value) {
  const int bits = 1 << (type.info >> 1);
  if (bits > 64) return static_cast<long long>(*reinterpret_cast<__int128*>(value));
  return static_cast<long long>(static_cast<uint64_t>(value) << (64 - bits)) >> (64 - bits);
}

void overflow(const Overflow& about, const char* sign, uintptr_t left, uintptr_t right) {
  if (!emulator::self) return;
  emulator::fail("computes %lld %s %lld, which is beyond %s (line %u)", operand(*about.type, left), sign,
                 operand(*about.type, right), about.type->name, about.where.line);
}
}  // namespace

// Where a pointer is null or misaligned for its type (-fsanitize=alignment).
HOOK __ubsan_handle_type_mismatch_v1(TypeMismatch* about, void* pointer) {
  if (!emulator::self) return;
  const size_t alignment = size_t(1) << about->log_alignment;
  if (reinterpret_cast<uintptr_t>(pointer) % alignment) {
    emulator::fail("uses an address that is not a multiple of %zu for %s (line %u)", alignment, about->type->name,
                   about->where.line);
  }
}

// Where a result does not fit in its signed type (-fsanitize=signed-integer-overflow).
HOOK __ubsan_handle_add_overflow(Overflow* about, uintptr_t a, uintptr_t b) { overflow(*about, "+", a, b); }
HOOK __ubsan_handle_sub_overflow(Overflow* about, uintptr_t a, uintptr_t b) { overflow(*about, "-", a, b); }
HOOK __ubsan_handle_mul_overflow(Overflow* about, uintptr_t a, uintptr_t b) { overflow(*about, "*", a, b); }
HOOK __ubsan_handle_negate_overflow(Overflow* about, uintptr_t a) { overflow(*about, "-", 0, a); }
HOOK __ubsan_handle_divrem_overflow(Overflow* about, uintptr_t a, uintptr_t b) { overflow(*about, "/", a, b); }

// Atomic operations of C++ are those of launchers: on the host, where one thread runs.
#define ATOMICS(bits)                                                                                              \
  extern "C" __attribute__((visibility("hidden"))) uint##bits##_t __tsan_atomic##bits##_load(const void* p, int) { \
    return *static_cast<const uint##bits##_t*>(p);                                                                 \
  }                                                                                                                \
  HOOK __tsan_atomic##bits##_store(void* p, uint##bits##_t v, int) { *static_cast<uint##bits##_t*>(p) = v; }       \
  UPDATE(bits, exchange, v)                                                                                        \
  UPDATE(bits, fetch_add, old + v)                                                                                 \
  UPDATE(bits, fetch_sub, old - v)                                                                                 \
  UPDATE(bits, fetch_and, old& v)                                                                                  \
  UPDATE(bits, fetch_or, old | v)                                                                                  \
  UPDATE(bits, fetch_xor, old ^ v)
#define UPDATE(bits, name, next)                                                                \
  extern "C" __attribute__((visibility("hidden"))) uint##bits##_t __tsan_atomic##bits##_##name( \
      void* p, uint##bits##_t v, int) {                                                         \
    const uint##bits##_t old = *static_cast<uint##bits##_t*>(p);                                \
    *static_cast<uint##bits##_t*>(p) = static_cast<uint##bits##_t>(next);                       \
    return old;                                                                                 \
  }
ATOMICS(8)
ATOMICS(16)
ATOMICS(32)
ATOMICS(64)
