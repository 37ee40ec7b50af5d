#include "runtime/pack.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/shim.h"

namespace tvmops::runtime {

namespace {

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#else
constexpr Elf64_Half kMachine = EM_AARCH64;
#endif

std::string machine_name(Elf64_Half machine) {
  switch (machine) {
    case EM_X86_64:
      return "x86_64";
    case EM_AARCH64:
      return "aarch64";
    case EM_386:
      return "i386";
    default:
      return "ELF machine " + std::to_string(machine);
  }
}

// An open file that knows its name; all its failures read "pack PATH: ...".
class PackFile {
 public:
  explicit PackFile(const std::string& path) : path_(path) {
    // Without O_NONBLOCK, a FIFO would be waited for.
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) fail(std::strerror(errno));
    struct stat info;
    if (fstat(fd_, &info) != 0) fail(std::strerror(errno));
    if (S_ISDIR(info.st_mode)) fail("it is a directory, not a shared library");
    if (!S_ISREG(info.st_mode)) fail("it is not a regular file");
    size_ = static_cast<uint64_t>(info.st_size);
  }
  PackFile(const PackFile&) = delete;
  PackFile& operator=(const PackFile&) = delete;
  ~PackFile() {
    if (fd_ >= 0) close(fd_);
  }

  // The dynamic loader maps what the headers say and dies of SIGBUS if the file is shorter, so look first.
  void check_elf() const {
    Elf64_Ehdr header;
    unsigned char magic[SELFMAG];
    if (size_ < sizeof(magic)) fail("it is not a shared library (" + std::to_string(size_) + " bytes)");
    read(magic, sizeof(magic), 0);
    if (std::memcmp(magic, ELFMAG, SELFMAG) != 0) fail("it is not a shared library (no ELF header)");
    if (size_ < sizeof(header)) truncated(sizeof(header));
    read(&header, sizeof(header), 0);
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) {
      fail("it is not a 64-bit little-endian library");
    }
    if (header.e_machine != kMachine) {
      fail("built for " + machine_name(header.e_machine) + ", this machine is " + kHostArch);
    }
    if (header.e_type != ET_DYN) fail("it is an ELF file but not a shared library");
    if (header.e_phnum == 0 || header.e_phentsize != sizeof(Elf64_Phdr)) fail("it has no program headers");
    need(header.e_phoff, uint64_t{header.e_phnum} * header.e_phentsize);
    if (header.e_shoff != 0) need(header.e_shoff, uint64_t{header.e_shnum} * header.e_shentsize);
    std::vector<Elf64_Phdr> segments(header.e_phnum);
    read(segments.data(), segments.size() * sizeof(Elf64_Phdr), header.e_phoff);
    for (const auto& segment : segments) {
      if (segment.p_type == PT_LOAD || segment.p_type == PT_DYNAMIC) need(segment.p_offset, segment.p_filesz);
    }
  }

 private:
  [[noreturn]] void fail(const std::string& cause) const {
    // A throwing constructor runs no destructor, hence not left to that.
    if (fd_ >= 0) close(std::exchange(fd_, -1));
    throw Error("pack " + path_ + ": " + cause);
  }

  [[noreturn]] void truncated(uint64_t wanted) const {
    fail("it is truncated (" + std::to_string(size_) + " bytes, its headers name " + std::to_string(wanted) + ")");
  }

  void need(uint64_t offset, uint64_t length) const {
    uint64_t end;
    if (__builtin_add_overflow(offset, length, &end)) fail("its ELF headers are broken");
    if (end > size_) truncated(end);
  }

  void read(void* data, size_t length, uint64_t offset) const {
    auto* to = static_cast<char*>(data);
    while (length > 0) {
      const ssize_t got = pread(fd_, to, length, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(std::strerror(errno));
      if (got == 0) truncated(offset + length);
      to += got;
      offset += static_cast<uint64_t>(got);
      length -= static_cast<size_t>(got);
    }
  }

  std::string path_;
  mutable int fd_ = -1;
  uint64_t size_ = 0;
};

// dlopen searches the library path for a name without a slash, and takes two spellings of a path for two files.
std::string absolute(const std::string& path) {
  char* resolved = realpath(path.c_str(), nullptr);
  if (resolved == nullptr) throw Error("pack " + path + ": " + std::strerror(errno));
  std::string result = resolved;
  std::free(resolved);
  return result;
}

std::string loader_error() {
  const char* text = dlerror();
  return text == nullptr ? "no reason given" : text;
}

}  // namespace

bool load_pack(const std::string& path, Registry& registry) {
  if (path.empty()) throw Error("pack path is empty");
  const std::string file = absolute(path);
  PackFile(file).check_elf();
  dlerror();
  void* raw = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (raw == nullptr) throw Error("pack " + file + ": the dynamic loader refuses it: " + loader_error());
  std::shared_ptr<void> handle(raw, [](void* library) { dlclose(library); });
  using Entry = decltype(&TVMOPS_PACK_ENTRY);
  const auto entry = reinterpret_cast<Entry>(dlsym(raw, TVMOPS_PACK_ENTRY_NAME));
  if (entry == nullptr) {
    throw Error("pack " + file + ": it has no entry point " + TVMOPS_PACK_ENTRY_NAME + ", so it is not a kernel pack");
  }
  using Serve = decltype(&TVMOPS_PACK_SERVE);
  const auto serve = reinterpret_cast<Serve>(dlsym(raw, TVMOPS_PACK_SERVE_NAME));
  if (serve != nullptr) serve(&services());
  GpuEntries gpu;
  gpu.device = reinterpret_cast<decltype(gpu.device)>(dlsym(raw, TVMOPS_PACK_DEVICE_NAME));
  gpu.error = reinterpret_cast<decltype(gpu.error)>(dlsym(raw, TVMOPS_PACK_ERROR_NAME));
  return registry.add(entry(), file, std::move(handle), gpu);
}

int load_pack_path(const std::string& value, Registry& registry) {
  int added = 0;
  for (size_t begin = 0; begin <= value.size();) {
    const size_t end = std::min(value.find(':', begin), value.size());
    if (end > begin && load_pack(value.substr(begin, end - begin), registry)) ++added;
    begin = end + 1;
  }
  return added;
}

int load_pack_path(Registry& registry) {
  const char* value = std::getenv("TVMOPS_PACK_PATH");
  if (value == nullptr) return 0;
  try {
    return load_pack_path(value, registry);
  } catch (const Error& error) {
    throw Error(std::string("TVMOPS_PACK_PATH: ") + error.what());
  }
}

}  // namespace tvmops::runtime
