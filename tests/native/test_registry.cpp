#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "check.h"
#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/registry.h"

using namespace tvmops::runtime;

namespace {

#if defined(__x86_64__)
constexpr const char* kLow = "x86-64-v3";
constexpr const char* kHigh = "x86-64-v4";
constexpr const char* kForeign = "neoverse-n1";
#else
constexpr const char* kLow = "neoverse-n1";
constexpr const char* kHigh = "neoverse-n1";
constexpr const char* kForeign = "x86-64-v3";
#endif

void leaf() {}

// A pack that owns what it points to; tests spoil it by hand.
struct TestPack {
  tvmops_leaf leaves[1] = {{"micro", leaf}};
  tvmops_value dims[2] = {{"M", -1}, {"K", 768}};
  tvmops_value params[1] = {{"mr", 8}};
  uint8_t plan[2] = {0, 1};
  std::vector<tvmops_kernel> kernels;
  tvmops_pack pack{};

  TestPack() {
    add("general", "matmul(*)", kLow);
    add("special", "matmul(K=768)", kLow);
  }
  void add(const char* name, const char* workload, const char* target) {
    kernels.push_back({name, "matmul", workload, target, "gemm", dims, 2, params, 1, leaves, 1, plan, 2});
    pack = {TVMOPS_PACK_MAGIC, TVMOPS_ABI_VERSION, static_cast<uint32_t>(kernels.size()), kHostArch, "{}",
            kernels.data()};
  }
};

// What adding the spoilt pack says.
template <class Spoil>
std::string refusal(Spoil&& spoil) {
  TestPack test;
  spoil(test);
  Registry registry({kLow});
  try {
    registry.add(&test.pack, "/x/y.so");
  } catch (const Error& error) {
    CHECK(registry.generation() == 0);
    CHECK(registry.snapshot()->kernels().empty());
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST(empty_registry) {
  Registry registry({});
  CHECK(registry.generation() == 0);
  CHECK(registry.snapshot()->kernels().empty());
  CHECK(registry.snapshot()->find("general") == nullptr);
  CHECK(registry.snapshot()->callable("matmul").empty());
}

TEST(a_pack_is_listed_and_found) {
  TestPack test;
  Registry registry({kLow});
  CHECK(registry.add(&test.pack, "/x/y.so"));
  CHECK(registry.generation() == 1);
  const auto snapshot = registry.snapshot();
  CHECK(snapshot->generation() == 1);
  CHECK(snapshot->packs().size() == 1 && snapshot->packs()[0]->origin == "/x/y.so");
  CHECK(snapshot->kernels().size() == 2);
  CHECK(snapshot->callable("matmul").size() == 2);
  CHECK(snapshot->callable("softmax").empty());
  const Kernel* found = snapshot->find("special");
  CHECK(found != nullptr && found->table == &test.kernels[1] && found->usable && !found->shadowed);
  CHECK(found->pack->origin == "/x/y.so" && found->rank == target_rank(kLow));
}

TEST(parts_of_a_kernel_by_name) {
  TestPack test;
  CHECK(*find_dim(test.kernels[0], "K") == 768);
  CHECK(*find_dim(test.kernels[0], "M") == -1);
  CHECK(find_dim(test.kernels[0], "mr") == nullptr);
  CHECK(*find_param(test.kernels[0], "mr") == 8);
  CHECK(find_param(test.kernels[0], "nr") == nullptr);
  CHECK(find_leaf(test.kernels[0], "micro") == leaf);
  CHECK(find_leaf(test.kernels[0], "") == nullptr);
}

TEST(adding_twice_is_harmless) {
  TestPack test;
  Registry registry({kLow});
  CHECK(registry.add(&test.pack, "a"));
  CHECK(!registry.add(&test.pack, "a"));
  CHECK(registry.generation() == 1 && registry.snapshot()->kernels().size() == 2);
}

TEST(an_empty_pack_is_accepted) {
  TestPack test;
  test.pack.n_kernels = 0;
  test.pack.kernels = nullptr;
  Registry registry({kLow});
  CHECK(registry.add(&test.pack, "empty"));
  CHECK(registry.snapshot()->kernels().empty());
}

TEST(unusable_targets_are_kept_for_listing) {
  TestPack test;
  Registry registry({});
  registry.add(&test.pack, "a");
  const auto snapshot = registry.snapshot();
  CHECK(snapshot->kernels().size() == 2 && !snapshot->kernels()[0].usable);
  CHECK(snapshot->callable("matmul").empty());
  CHECK(snapshot->find("general") != nullptr);
}

TEST(capable_targets_come_first) {
  TestPack test;
  test.add("wide", "matmul(*)", kHigh);
  Registry both({kHigh, kLow});
  both.add(&test.pack, "a");
  if (target_rank(kHigh) > target_rank(kLow)) {
    CHECK(std::string(both.snapshot()->callable("matmul")[0]->table->name) == "wide");
    Registry low({kLow});
    low.add(&test.pack, "a");
    CHECK(low.snapshot()->callable("matmul").size() == 2);
    CHECK(!low.snapshot()->find("wide")->usable);
  }
  CHECK(both.snapshot()->callable("matmul").size() == 3);
}

TEST(later_packs_shadow_earlier_ones) {
  TestPack first, second;
  second.kernels.pop_back();  // keeps "general"
  second.pack.n_kernels = 1;
  Registry registry({kLow});
  registry.add(&first.pack, "first");
  const auto before = registry.snapshot();
  registry.add(&second.pack, "second");
  const auto after = registry.snapshot();
  CHECK(after->kernels().size() == 3);
  CHECK(after->find("general")->pack->origin == "second");
  CHECK(after->find("special")->pack->origin == "first");
  const auto& callable = after->callable("matmul");
  CHECK(callable.size() == 2 && callable[0]->pack->origin == "second");
  for (const Kernel& kernel : after->kernels()) CHECK(kernel.shadowed == (kernel.table == &first.kernels[0]));
  CHECK(before->find("general")->pack->origin == "first");  // a snapshot never changes
}

TEST(an_unusable_later_kernel_shadows_nothing_else) {
  TestPack first, second;
  second.kernels[0].target = kHigh;
  Registry registry({kLow});
  registry.add(&first.pack, "first");
  registry.add(&second.pack, "second");
  if (std::string(kHigh) != kLow) {
    const Kernel* found = registry.snapshot()->find("general");
    CHECK(found->usable && found->pack->origin == "first");
  }
}

TEST(the_handle_lives_as_long_as_its_readers) {
  TestPack test;
  auto handle = std::make_shared<int>(1);
  const std::weak_ptr<int> watch = handle;
  std::shared_ptr<const Snapshot> snapshot;
  {
    Registry registry({kLow});
    registry.add(&test.pack, "a", std::move(handle));
    snapshot = registry.snapshot();
  }
  CHECK(!watch.expired());
  snapshot.reset();
  CHECK(watch.expired());
}

TEST(refusals_name_the_pack_and_the_value) {
  Registry registry({kLow});
  CHECK_THROWS(Error, registry.add(nullptr, "/x/y.so"), "pack /x/y.so: its entry point returned no table");
  CHECK(refusal([](TestPack&) {}) == "accepted");
  CHECK(refusal([](TestPack& t) { t.pack.magic = 0xabc; }) ==
        "pack /x/y.so: magic 0x0000000000000abc, a kernel pack has 0x6b636170736d7674");
  CHECK(refusal([](TestPack& t) { t.pack.abi_version = 7; }) == "pack /x/y.so: ABI version 7, this tvmops needs 1");
  CHECK(refusal([](TestPack& t) { t.pack.arch = "riscv64"; }) ==
        std::string("pack /x/y.so: built for architecture 'riscv64', this machine is ") + kHostArch);
  CHECK(refusal([](TestPack& t) { t.pack.arch = nullptr; }) == "pack /x/y.so: it names no architecture");
  CHECK(refusal([](TestPack& t) { t.pack.manifest = nullptr; }) == "pack /x/y.so: it has no manifest");
  CHECK(refusal([](TestPack& t) { t.pack.kernels = nullptr; }) ==
        "pack /x/y.so: it counts 2 kernels but points to none");
}

TEST(refusals_name_the_kernel) {
  const std::string first = "pack /x/y.so: kernel 'general' ";
  CHECK(refusal([](TestPack& t) { t.kernels[1].name = nullptr; }) == "pack /x/y.so: kernel 1 has no name");
  CHECK(refusal([](TestPack& t) { t.kernels[1].name = ""; }) == "pack /x/y.so: kernel 1 has no name");
  CHECK(refusal([](TestPack& t) { t.kernels[1].name = "general"; }) == "pack /x/y.so: two kernels are named 'general'");
  CHECK(refusal([](TestPack& t) { t.kernels[0].op = nullptr; }) == first + "has no op");
  CHECK(refusal([](TestPack& t) { t.kernels[0].workload = nullptr; }) == first + "has no workload");
  CHECK(refusal([](TestPack& t) { t.kernels[0].target = nullptr; }) == first + "has no target");
  CHECK(refusal([](TestPack& t) { t.kernels[0].driver = nullptr; }) == first + "has no driver");
  CHECK(refusal([](TestPack& t) {
          t.kernels[0].target = "z80";
        }).rfind(first + "has an unknown target 'z80' (known: ", 0) == 0);
  CHECK(refusal([](TestPack& t) {
          t.kernels[0].target = kForeign;
        }).rfind(first + "is for target '" + kForeign + "'", 0) == 0);
}

TEST(refusals_name_the_part) {
  const std::string first = "pack /x/y.so: kernel 'general' ";
  CHECK(refusal([](TestPack& t) { t.kernels[0].dims = nullptr; }) == first + "counts 2 dims but points to none");
  CHECK(refusal([](TestPack& t) { t.kernels[0].params = nullptr; }) == first + "counts 1 params but points to none");
  CHECK(refusal([](TestPack& t) { t.kernels[0].leaves = nullptr; }) == first + "counts 1 leaves but points to none");
  CHECK(refusal([](TestPack& t) { t.kernels[0].plan = nullptr; }) == first + "counts 2 plan but points to none");
  CHECK(refusal([](TestPack& t) { t.dims[1].name = nullptr; }) == first + "has no name for dim 1");
  CHECK(refusal([](TestPack& t) { t.params[0].name = nullptr; }) == first + "has no name for param 0");
  CHECK(refusal([](TestPack& t) { t.leaves[0].name = nullptr; }) == first + "has no name for leaf 0");
  CHECK(refusal([](TestPack& t) { t.leaves[0].function = nullptr; }) == first + "has no function for leaf 'micro'");
}

TEST(the_global_registry_is_one) {
  CHECK(&Registry::global() == &Registry::global());
  CHECK(Registry::global().usable_targets() == usable_targets());
}

TEST(readers_see_whole_snapshots_while_packs_are_added) {
  constexpr size_t kPacks = 100;
  std::vector<TestPack> packs(kPacks);
  // The vectors of kernels moved with their packs, the tables must follow.
  for (auto& test : packs) {
    for (auto& kernel : test.kernels) {
      kernel.dims = test.dims;
      kernel.params = test.params;
      kernel.leaves = test.leaves;
      kernel.plan = test.plan;
    }
    test.pack.kernels = test.kernels.data();
  }
  Registry registry({kLow});
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0}, changes{0}, started{0};
  const auto read = [&] {
    auto mine = registry.snapshot();
    ++started;
    while (true) {
      const bool last = done.load();
      const uint64_t generation = registry.generation();
      if (generation != mine->generation()) {
        const auto newer = registry.snapshot();
        if (newer->generation() < generation || newer->generation() <= mine->generation()) ++wrong;
        mine = newer;
        ++changes;
      }
      const uint64_t count = mine->generation();
      if (mine->packs().size() != count || mine->kernels().size() != 2 * count) ++wrong;
      if (count > 0) {
        const Kernel* found = mine->find("general");
        if (found == nullptr || found->pack != mine->packs().back() || find_leaf(*found->table, "micro") != leaf) {
          ++wrong;
        }
        if (mine->callable("matmul").size() != 2) ++wrong;
      }
      if (last) return;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(read);
  while (started.load() < 4) std::this_thread::yield();
  std::thread other([&] {
    for (size_t i = 0; i < kPacks; i += 2) registry.add(&packs[i].pack, "even");
  });
  for (size_t i = 1; i < kPacks; i += 2) registry.add(&packs[i].pack, "odd");
  other.join();
  done = true;
  for (auto& thread : threads) thread.join();
  CHECK(wrong.load() == 0);
  CHECK(changes.load() >= 4);  // each reader saw the end at least
  CHECK(registry.generation() == kPacks);
}
