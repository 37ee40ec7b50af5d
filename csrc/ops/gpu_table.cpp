#include "ops/gpu_table.h"

#include <cstring>

namespace tvmops::ops {

int64_t slot_by_operator(const tvmops_kernel& kernel) {
  for (size_t op = 0; op < OpKey::all().size(); op++) {
    if (std::strcmp(OpKey::all()[op], kernel.op) != 0) continue;
    for (int storage = 0; storage < kStorages; storage++) {
      const std::string prefix = std::string(kernel.op) + "(" + kStorageNames[storage] + ";";
      if (std::strncmp(kernel.workload, prefix.c_str(), prefix.size()) == 0)
        return static_cast<int64_t>(op) * kStorages + storage;
    }
  }
  return -1;
}

}  // namespace tvmops::ops
