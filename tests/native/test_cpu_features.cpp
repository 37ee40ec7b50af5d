#include <cstdlib>
#include <map>

#include "check.h"
#include "runtime/cpu_features.h"
#include "runtime/error.h"

using namespace tvmops::runtime;

namespace {

const CpuFeatures kV3{{"avx2", "fma", "bmi1", "bmi2", "f16c", "lzcnt", "movbe"}};

CpuFeatures with(CpuFeatures features, std::initializer_list<const char*> more) {
  for (const char* name : more) features.names.insert(name);
  return features;
}

const CpuFeatures kV4 = with(kV3, {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"});
const CpuFeatures kZen4 = with(kV4, {"avx512vnni", "avx512bf16", "avx512ifma", "avx512vbmi", "avx512vbmi2",
                                     "avx512bitalg", "avx512vpopcntdq", "gfni", "vaes", "vpclmulqdq"});
const CpuFeatures kSapphire = with(kZen4, {"avx512fp16", "amx_tile", "amx_int8", "amx_bf16"});
const CpuFeatures kArm{{"asimd", "dotprod"}};

using Names = std::vector<std::string>;

Names usable(const CpuFeatures& features, const char* cap = nullptr) {
  return usable_targets(features, cap ? std::optional<std::string>(cap) : std::nullopt);
}

// A CPU with every bit of the leaves that are decoded.
CpuidRegisters everything(uint32_t leaf, uint32_t) {
  if (leaf == 0) return {7, 0, 0, 0};
  if (leaf == 0x80000000) return {0x80000008, 0, 0, 0};
  return {~0u, ~0u, ~0u, ~0u};
}

}  // namespace

TEST(targets_follow_from_features) {
  CHECK((usable({}) == Names{}));
  CHECK((usable(kV3) == Names{"x86-64-v3"}));
  CHECK((usable(kV4) == Names{"x86-64-v4", "x86-64-v3"}));
  CHECK((usable(kZen4) == Names{"znver4", "x86-64-v4", "x86-64-v3"}));
  CHECK((usable(kSapphire) == Names{"sapphirerapids", "znver4", "x86-64-v4", "x86-64-v3"}));
  CHECK((usable(kArm) == Names{"neoverse-n1"}));
}

TEST(one_missing_feature_is_enough) {
  for (const auto& name : kV4.names) {
    CpuFeatures less = kV4;
    less.names.erase(name);
    CHECK(!supports(less, "x86-64-v4"));
    CHECK(supports(less, "x86-64-v3") == (kV3.names.count(name) == 0));
  }
  CHECK(!supports(with(kV4, {"avx512vnni"}), "znver4"));
  CHECK(!supports(with(kZen4, {"avx512fp16", "amx_tile", "amx_int8"}), "sapphirerapids"));
}

TEST(cap_lowers_the_choice) {
  CHECK((usable(kZen4, "znver4") == Names{"znver4", "x86-64-v4", "x86-64-v3"}));
  CHECK((usable(kZen4, "x86-64-v4") == Names{"x86-64-v4", "x86-64-v3"}));
  CHECK((usable(kZen4, "x86-64-v3") == Names{"x86-64-v3"}));
}

TEST(wrong_cap_is_refused) {
  CHECK_THROWS(Error, usable(kV3, "pentium"), "unknown target 'pentium'", "x86-64-v3", "neoverse-n1");
  CHECK_THROWS(Error, usable(kV3, "x86-64-v4"), "'x86-64-v4' is not supported", "supported: x86-64-v3");
  CHECK_THROWS(Error, usable(kArm, "x86-64-v3"), "'x86-64-v3' is not supported");
  CHECK_THROWS(Error, usable({}, "x86-64-v3"), "supported: none");
}

TEST(unknown_target_is_refused) {
  CHECK_THROWS(Error, supports(kV3, "x86-64-v9"), "unknown target 'x86-64-v9'", "known: x86-64-v3, x86-64-v4");
  CHECK_THROWS(Error, target_rank(""), "unknown target ''");
  CHECK_THROWS(Error, target_arch("X86-64-V3"), "unknown target 'X86-64-V3'");
}

TEST(ranks_rise_with_capability) {
  CHECK(target_rank("x86-64-v3") >= 1);
  CHECK(target_rank("x86-64-v4") > target_rank("x86-64-v3"));
  CHECK(target_rank("znver4") > target_rank("x86-64-v4"));
  CHECK(target_rank("sapphirerapids") > target_rank("znver4"));
  CHECK(target_arch("znver4") == "x86_64");
  CHECK(target_arch("neoverse-n1") == "aarch64");
}

TEST(environment_caps_this_machine) {
  unsetenv("TVMOPS_TARGET");
  const Names all = usable_targets();
  setenv("TVMOPS_TARGET", "", 1);
  CHECK(usable_targets() == all);
  if (!all.empty()) {
    setenv("TVMOPS_TARGET", all.back().c_str(), 1);
    CHECK((usable_targets() == Names{all.back()}));
  }
  setenv("TVMOPS_TARGET", "z80", 1);
  CHECK_THROWS(Error, usable_targets(), "TVMOPS_TARGET: unknown target 'z80'");
  unsetenv("TVMOPS_TARGET");
}

TEST(decoding_needs_the_operating_system) {
  const auto decode = [](uint64_t xcr0) { return decode_x86(everything, [xcr0] { return xcr0; }); };
  CHECK(usable(decode(0x600e7)).front() == "sapphirerapids");
  CHECK(usable(decode(0xe7)).front() == "znver4");
  CHECK((usable(decode(0x7)) == Names{"x86-64-v3"}));
  CHECK((decode(0x3).names == std::set<std::string, std::less<>>{"bmi1", "bmi2", "lzcnt", "movbe"}));
  CHECK(!decode(0x600e5).has("avx2"));  // no ymm
}

TEST(xcr0_is_not_read_without_osxsave) {
  const auto cpuid = [](uint32_t leaf, uint32_t subleaf) {
    CpuidRegisters r = everything(leaf, subleaf);
    if (leaf == 1) r.ecx &= ~(1u << 27);
    return r;
  };
  bool asked = false;
  const CpuFeatures features = decode_x86(cpuid, [&] {
    asked = true;
    return ~uint64_t{0};
  });
  CHECK(!asked);
  CHECK(!features.has("avx2"));
  CHECK(features.has("bmi2"));
}

TEST(leaves_past_the_last_are_not_believed) {
  const auto cpuid = [](uint32_t leaf, uint32_t subleaf) {
    if (leaf == 0) return CpuidRegisters{1, 0, 0, 0};
    if (leaf == 0x80000000) return CpuidRegisters{0x80000000, 0, 0, 0};
    return everything(leaf, subleaf);
  };
  const CpuFeatures features = decode_x86(cpuid, [] { return ~uint64_t{0}; });
  CHECK((features.names == std::set<std::string, std::less<>>{"f16c", "fma", "movbe"}));
  const auto no_subleaf = [](uint32_t leaf, uint32_t subleaf) {
    CpuidRegisters r = everything(leaf, subleaf);
    if (leaf == 7 && subleaf == 0) r.eax = 0;
    return r;
  };
  CHECK(!decode_x86(no_subleaf, [] { return ~uint64_t{0}; }).has("avx512bf16"));
}

TEST(each_feature_has_its_own_bit) {
  // leaf, subleaf, register (0..3: eax..edx), bit: as the kernel's arch/x86/include/asm/cpufeatures.h groups them.
  struct Bit {
    uint32_t leaf, subleaf;
    int reg, bit;
  };
  const std::map<std::string, Bit> bits = {
      {"avx2", {7, 0, 1, 5}},
      {"avx512f", {7, 0, 1, 16}},
      {"avx512vl", {7, 0, 1, 31}},
      {"avx512vnni", {7, 0, 2, 11}},
      {"avx512bf16", {7, 1, 0, 5}},
      {"avx512fp16", {7, 0, 3, 23}},
      {"amx_bf16", {7, 0, 3, 22}},
      {"amx_tile", {7, 0, 3, 24}},
      {"amx_int8", {7, 0, 3, 25}},
      {"avx512ifma", {7, 0, 1, 21}},
      {"avx512vbmi", {7, 0, 2, 1}},
      {"avx512vbmi2", {7, 0, 2, 6}},
      {"gfni", {7, 0, 2, 8}},
      {"vaes", {7, 0, 2, 9}},
      {"vpclmulqdq", {7, 0, 2, 10}},
      {"avx512bitalg", {7, 0, 2, 12}},
      {"avx512vpopcntdq", {7, 0, 2, 14}},
      {"lzcnt", {0x80000001, 0, 2, 5}},
      {"bmi1", {7, 0, 1, 3}},
      {"bmi2", {7, 0, 1, 8}},
  };
  for (const auto& [name, bit] : bits) {
    const Bit wanted = bit;
    const auto cpuid = [wanted](uint32_t leaf, uint32_t subleaf) -> CpuidRegisters {
      if (leaf == 0) return {7, 0, 0, 0};
      if (leaf == 0x80000000) return {0x80000001, 0, 0, 0};
      uint32_t r[4] = {0, 0, 0, 0};
      if (leaf == 7 && subleaf == 0) r[0] = 1;
      if (leaf == 1) r[2] = 1u << 27;
      if (leaf == wanted.leaf && subleaf == wanted.subleaf) r[wanted.reg] |= 1u << wanted.bit;
      return {r[0], r[1], r[2], r[3]};
    };
    const CpuFeatures features = decode_x86(cpuid, [] { return ~uint64_t{0}; });
    CHECK((features.names == std::set<std::string, std::less<>>{name}));
  }
}

TEST(host_agrees_with_the_compiler) {
#if defined(__x86_64__)
  CHECK(host_features().has("avx2") == (__builtin_cpu_supports("avx2") != 0));
  CHECK(host_features().has("fma") == (__builtin_cpu_supports("fma") != 0));
  CHECK(host_features().has("bmi2") == (__builtin_cpu_supports("bmi2") != 0));
  CHECK(host_features().has("avx512f") == (__builtin_cpu_supports("avx512f") != 0));
  CHECK(host_features().has("avx512vnni") == (__builtin_cpu_supports("avx512vnni") != 0));
  CHECK(host_features().has("avx512bf16") == (__builtin_cpu_supports("avx512bf16") != 0));
#else
  CHECK(host_features().has("asimd"));
#endif
  for (const auto& target : usable_targets(host_features(), std::nullopt)) CHECK(target_arch(target) == kHostArch);
}

TEST(machine_is_described) {
  CHECK(!cpu_model_name().empty());
  CHECK(cache_sizes().l1d >= 0 && cache_sizes().l2 >= 0 && cache_sizes().l3 >= 0);
  if (cache_sizes().l1d > 0 && cache_sizes().l2 > 0) CHECK(cache_sizes().l1d < cache_sizes().l2);
  std::printf("%s, L1d %ld, L2 %ld, L3 %ld\n", cpu_model_name().c_str(), static_cast<long>(cache_sizes().l1d),
              static_cast<long>(cache_sizes().l2), static_cast<long>(cache_sizes().l3));
}
