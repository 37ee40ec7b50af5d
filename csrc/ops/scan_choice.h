// Which scan kernel serves a call, or why ATen does.
#ifndef TVMOPS_OPS_SCAN_CHOICE_H_
#define TVMOPS_OPS_SCAN_CHOICE_H_

#include <ATen/ATen.h>

#include "drivers/scan.h"
#include "ops/kernel_table.h"

namespace tvmops::ops {

struct ScanChoice {
  const drivers::ScanKernel* kernel = nullptr;
  const char* reason = "";
  explicit operator bool() const { return kernel != nullptr; }
};

ScanChoice choose_scan(const OpKey& op, Storage storage, const drivers::ScanProblem& problem);

bool scan_serves(const tvmops_kernel* kernel);

// What a call came to, for tvmops.explain.
void record(const OpKey& op, const at::Tensor& shape_of, const ScanChoice& choice);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_SCAN_CHOICE_H_
