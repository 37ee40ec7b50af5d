#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "check.h"
#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/pack.h"

using namespace tvmops::runtime;
namespace fs = std::filesystem;

namespace {

// A folder that goes away.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (fs::temp_directory_path() / "tvmops-XXXXXX").string();
    path_ = fs::canonical(mkdtemp(pattern.data()));
  }
  ~TempFolder() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

std::string pack(const std::string& name) { return fs::canonical(PACK_FOLDER + name + ".so").string(); }

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string write(const std::string& path, const std::string& data) {
  std::ofstream(path, std::ios::binary) << data;
  return path;
}

// The valid pack's bytes with one field of its ELF header replaced.
template <class Field>
std::string patched(Field Elf64_Ehdr::* field, Field value) {
  std::string data = read(pack("valid"));
  reinterpret_cast<Elf64_Ehdr*>(data.data())->*field = value;
  return data;
}

std::vector<std::string> all_targets() { return known_targets(); }

int call_value(const Kernel& kernel) { return reinterpret_cast<int (*)()>(find_leaf(*kernel.table, "value"))(); }

}  // namespace

TEST(a_valid_pack_is_loaded_and_called) {
  Registry registry(all_targets());
  CHECK(load_pack(pack("valid"), registry));
  const auto snapshot = registry.snapshot();
  CHECK(snapshot->packs().size() == 1 && snapshot->packs()[0]->origin == pack("valid"));
  CHECK(snapshot->kernels().size() == 2);
  CHECK(call_value(*snapshot->find("first")) == 1);
}

TEST(the_same_path_twice_is_harmless) {
  TempFolder folder;
  const std::string link = folder / "link.so";
  fs::create_symlink(pack("valid"), link);
  Registry registry(all_targets());
  CHECK(load_pack(pack("valid"), registry));
  CHECK(!load_pack(pack("valid"), registry));
  CHECK(!load_pack(std::string(PACK_FOLDER) + "/./valid.so", registry));
  CHECK(!load_pack(link, registry));
  CHECK(registry.generation() == 1);
}

TEST(a_later_pack_takes_precedence) {
  Registry registry(all_targets());
  load_pack(pack("valid"), registry);
  load_pack(pack("newer"), registry);
  CHECK(call_value(*registry.snapshot()->find("first")) == 2);
  CHECK(registry.snapshot()->callable("matmul").size() == 2);
  CHECK(registry.snapshot()->kernels().size() == 4);
}

TEST(a_kernel_outlives_its_registry_with_its_snapshot) {
  std::shared_ptr<const Snapshot> snapshot;
  {
    Registry registry(all_targets());
    load_pack(pack("valid"), registry);
    snapshot = registry.snapshot();
  }
  CHECK(call_value(*snapshot->find("second")) == 1);
}

TEST(what_is_not_a_file_is_refused) {
  TempFolder folder;
  Registry registry({});
  CHECK_THROWS(Error, load_pack("", registry), "pack path is empty");
  CHECK_THROWS(Error, load_pack(folder / "missing.so", registry), "pack " + (folder / "missing.so") + ": No such file");
  CHECK_THROWS(Error, load_pack(folder / "", registry), "it is a directory");
  const std::string fifo = folder / "fifo";
  CHECK(mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THROWS(Error, load_pack(fifo, registry), "pack " + fifo + ": it is not a regular file");
  const std::string secret = write(folder / "secret.so", read(pack("valid")));
  CHECK(chmod(secret.c_str(), 0) == 0);
  if (geteuid() != 0) CHECK_THROWS(Error, load_pack(secret, registry), "pack " + secret + ": Permission denied");
  CHECK(registry.generation() == 0);
}

TEST(what_is_not_a_library_is_refused) {
  TempFolder folder;
  Registry registry({});
  const std::string text = write(folder / "text.so", "#include <stdio.h>\nint main() { return 0; }\n");
  CHECK_THROWS(Error, load_pack(text, registry), "pack " + text + ": it is not a shared library (no ELF header)");
  CHECK_THROWS(Error, load_pack(write(folder / "empty.so", ""), registry), "not a shared library (0 bytes)");
  CHECK_THROWS(Error, load_pack(write(folder / "script.so", "/* linker script */ INPUT(libm.so.6)"), registry),
               "not a shared library");
  CHECK_THROWS(Error, load_pack(write(folder / "rel.so", patched<Elf64_Half>(&Elf64_Ehdr::e_type, ET_REL)), registry),
               "it is an ELF file but not a shared library");
  CHECK_THROWS(Error, load_pack(write(folder / "no.so", patched<Elf64_Half>(&Elf64_Ehdr::e_phnum, 0)), registry),
               "it has no program headers");
  CHECK(registry.generation() == 0);
}

TEST(other_machines_are_refused) {
  TempFolder folder;
  Registry registry({});
  const std::string here = std::string("this machine is ") + kHostArch;
  const Elf64_Half other = std::string(kHostArch) == "x86_64" ? EM_AARCH64 : EM_X86_64;
  const std::string name = other == EM_AARCH64 ? "aarch64" : "x86_64";
  CHECK_THROWS(Error, load_pack(write(folder / "a.so", patched(&Elf64_Ehdr::e_machine, other)), registry),
               "a.so: built for " + name, here);
  CHECK_THROWS(Error,
               load_pack(write(folder / "b.so", patched<Elf64_Half>(&Elf64_Ehdr::e_machine, EM_RISCV)), registry),
               "b.so: built for ELF machine 243", here);
  std::string small = read(pack("valid"));
  small[EI_CLASS] = ELFCLASS32;
  CHECK_THROWS(Error, load_pack(write(folder / "c.so", small), registry), "it is not a 64-bit little-endian library");
}

TEST(half_a_library_is_refused) {
  TempFolder folder;
  Registry registry({});
  const std::string whole = read(pack("valid"));
  const std::string half = write(folder / "half.so", whole.substr(0, whole.size() / 2));
  CHECK_THROWS(Error, load_pack(half, registry), "pack " + half + ": it is truncated",
               std::to_string(whole.size() / 2));
  CHECK(registry.generation() == 0);
}

TEST(every_truncation_is_refused) {
  TempFolder folder;
  Registry registry({});
  const std::string whole = read(pack("valid"));
  for (size_t part = 1; part < 64; ++part) {
    const std::string path = write(folder / std::to_string(part), whole.substr(0, whole.size() * part / 64));
    CHECK_THROWS(Error, load_pack(path, registry), "it is truncated");
  }
  for (size_t bytes : {size_t{3}, size_t{5}, sizeof(Elf64_Ehdr) - 1, sizeof(Elf64_Ehdr), whole.size() - 1}) {
    const std::string path = write(folder / ("b" + std::to_string(bytes)), whole.substr(0, bytes));
    CHECK_THROWS(Error, load_pack(path, registry), "pack " + path + ": it is ");
  }
  CHECK(registry.generation() == 0);
}

TEST(a_stripped_library_cut_in_its_segments_is_refused) {
  // Without section headers, only the segments tell that something is missing.
  TempFolder folder;
  Registry registry({});
  std::string data = patched<Elf64_Off>(&Elf64_Ehdr::e_shoff, 0);
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(data.data());
  const auto* segments = reinterpret_cast<const Elf64_Phdr*>(data.data() + header->e_phoff);
  size_t end = 0;
  for (int i = 0; i < header->e_phnum; ++i) {
    if (segments[i].p_type == PT_LOAD) end = std::max<size_t>(end, segments[i].p_offset + segments[i].p_filesz);
  }
  CHECK_THROWS(Error, load_pack(write(folder / "cut.so", data.substr(0, end - 1)), registry), "it is truncated",
               "name " + std::to_string(end));
}

TEST(absurd_header_offsets_are_refused) {
  TempFolder folder;
  Registry registry({});
  const std::string far = patched<Elf64_Off>(&Elf64_Ehdr::e_phoff, ~uint64_t{0} - 8);
  CHECK_THROWS(Error, load_pack(write(folder / "far.so", far), registry), "its ELF headers are broken");
  std::string segment = read(pack("valid"));
  const auto offset = reinterpret_cast<const Elf64_Ehdr*>(segment.data())->e_phoff;
  auto* first = reinterpret_cast<Elf64_Phdr*>(segment.data() + offset);
  while (first->p_type != PT_LOAD) ++first;
  first->p_filesz = ~uint64_t{0};
  first->p_offset = 4096;
  CHECK_THROWS(Error, load_pack(write(folder / "long.so", segment), registry), "its ELF headers are broken");
}

TEST(libraries_that_are_no_packs_are_refused) {
  Registry registry({});
  const auto name = [](const char* kind) { return "pack " + pack(kind) + ": "; };
  CHECK_THROWS(Error, load_pack(pack("wrong_version"), registry),
               name("wrong_version") + "ABI version 7, this tvmops needs 1");
  CHECK_THROWS(Error, load_pack(pack("wrong_magic"), registry), name("wrong_magic") + "magic 0x0000000000001234");
  CHECK_THROWS(Error, load_pack(pack("wrong_arch"), registry), name("wrong_arch") + "built for architecture 'riscv64'");
  CHECK_THROWS(Error, load_pack(pack("no_entry"), registry),
               name("no_entry") + "it has no entry point tvmops_pack_entry");
  CHECK_THROWS(Error, load_pack(pack("null_table"), registry),
               name("null_table") + "its entry point returned no table");
  CHECK_THROWS(Error, load_pack(pack("unresolved"), registry), name("unresolved") + "the dynamic loader refuses it",
               "tvmops_nobody_defines_this");
  CHECK(registry.generation() == 0);
}

TEST(a_list_of_packs_is_loaded) {
  Registry registry(all_targets());
  CHECK(load_pack_path("", registry) == 0);
  CHECK(load_pack_path("::", registry) == 0);
  CHECK(load_pack_path(pack("valid") + "::" + pack("newer") + ":" + pack("valid") + ":", registry) == 2);
  CHECK(registry.snapshot()->packs().size() == 2);
}

TEST(a_list_stops_at_a_bad_one_and_names_it) {
  Registry registry(all_targets());
  const std::string list = pack("valid") + ":/nowhere/p.so:" + pack("newer");
  CHECK_THROWS(Error, load_pack_path(list, registry), "pack /nowhere/p.so: No such file");
  CHECK(registry.snapshot()->packs().size() == 1);
}

TEST(the_environment_names_packs) {
  Registry registry(all_targets());
  unsetenv("TVMOPS_PACK_PATH");
  CHECK(load_pack_path(registry) == 0);
  setenv("TVMOPS_PACK_PATH", pack("valid").c_str(), 1);
  CHECK(load_pack_path(registry) == 1);
  setenv("TVMOPS_PACK_PATH", "/nowhere/p.so", 1);
  CHECK_THROWS(Error, load_pack_path(registry), "TVMOPS_PACK_PATH: pack /nowhere/p.so");
  unsetenv("TVMOPS_PACK_PATH");
}
