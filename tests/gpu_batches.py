"""Batches of kernels written by hand in C++: they run on the CPU in place of a GPU, as the emulated device does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from codegen.measure import device_files
from codegen.measure.device_files import DeviceRequest

ROOT = Path(__file__).resolve().parent.parent

HEAD = """
#include <cmath>
#include <vector>
#include "abi.h"
static float act(float x, int64_t which) {
  switch (which) {
    case 1: return x > 0 ? x : 0;
    case 2: return 0.5f * x * (1 + std::erf(x * 0.70710678f));
    case 3: return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    case 4: return x / (1 + std::exp(-x));
    case 5: return 1 / (1 + std::exp(-x));
    case 6: return std::tanh(x);
    default: return x;
  }
}
"""
GEMM = (
    HEAD
    + """
extern "C" int64_t tvmops_workspace_gemm_x(const int64_t* s) { return 4 * s[2]; }
extern "C" int tvmops_launch_gemm_x(const tvmops_launch* call) {
  const float *a = (const float*)call->buffers[0], *b = (const float*)call->buffers[1];
  const float *bias = (const float*)call->buffers[3], *residual = (const float*)call->buffers[4];
  float *c = (float*)call->buffers[2], *sums = (float*)call->workspace;
  const int64_t *s = call->sizes, batch = s[0], m = s[1], n = s[2], k = s[3], lda = s[4], ldb = s[5];
  for (int64_t z = 0; z < batch; ++z)
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) sums[j] = 0;
      for (int64_t j = 0; j < n; ++j)
        for (int64_t r = 0; r < k; ++r) sums[j] += a[(z * m + i) * lda + r] * b[(z * n + j) * ldb + r];
      for (int64_t j = 0; j < n; ++j) {
        float x = act(sums[j] + (s[7] & 1 ? bias[j] : 0), s[6]);
        c[(z * m + i) * n + j] = x + (s[7] & 2 ? residual[(z * m + i) * n + j] : 0);
      }
    }
  return FINAL;
}
"""
)
SOFTMAX = (
    HEAD
    + """
extern "C" int tvmops_launch_softmax_x(const tvmops_launch* call) {
  const float* x = (const float*)call->buffers[0];
  float* y = (float*)call->buffers[1];
  const int64_t rows = call->sizes[0], n = call->sizes[1];
  for (int64_t i = 0; i < rows; ++i) {
    float most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; ++j) most = std::fmax(most, x[i * n + j]);
    for (int64_t j = 0; j < n; ++j) sum += y[i * n + j] = std::exp(x[i * n + j] - most);
    for (int64_t j = 0; j < n; ++j) y[i * n + j] /= sum;
  }
  return 0;
}
"""
)


def request(text: str, **changes: Any) -> tuple[DeviceRequest, str]:
    """That of a GEMM, with changes, for this source."""
    made = DeviceRequest(
        workload="matmul(float32;M=*,N=*,K=*;a=n,b=t)",
        target="sm_80",
        space="mma_sync",
        knobs={"block_m": 16},
        driver="cuda_gemm",
        symbol="gemm_x",
        params={"block_m": 16, "block_n": 16, "block_k": 16, "stages": 2, "split_k": 1},
        source="",
        points=[
            {"sizes": {"batch": 1, "M": 33, "N": 24, "K": 40}},
            {"sizes": {"batch": 2, "M": 8, "N": 16, "K": 8}, "epilogue": "gelu"},
        ],
        predicted=[2e-6, None],
        seed=0,
        strategy="shipped",
        trial=0,
        tvm="0.27.0",
        workspace=True,
        shipped=True,
        plan=[
            [{"sizes": {"batch": 1, "M": 8, "N": 8, "K": 8}}],
            [],
            [{"sizes": {"batch": 1, "M": 64, "N": 8, "K": 8}}],
        ],
    )
    return replace(made, source=hashlib.sha256(text.encode()).hexdigest(), **changes), text


def softmax(text: str = SOFTMAX, **changes: Any) -> tuple[DeviceRequest, str]:
    """That of a softmax, with changes."""
    mine: dict[str, Any] = {
        "workload": "softmax(float32;M=*,N=*)",
        "space": "device_rows",
        "driver": "cuda_rows",
        "symbol": "softmax_x",
        "params": {},
        "points": [{"sizes": {"M": 16, "N": 32}}],
        "predicted": [1e-6],
        "operands": [["x", "row", False, "data"], ["y", "row", True, "data"]],
        "plan": [],
    }
    return request(text, **{**mine, **changes})


def write(directory: Path, requests: list[tuple[DeviceRequest, str]]) -> Path:
    """A batch of them, with the sources of this repository beside it."""
    (directory / device_files.SOURCES).mkdir(parents=True)
    for name in ("benchmarks", "codegen", "csrc", "tvmops", "tests"):
        (directory / name).symlink_to(ROOT / name)
    about = {"sm_80": {"capability": [8, 0]}}
    (directory / device_files.TARGETS).write_text(json.dumps(about))
    for one, text in requests:
        one.file(directory).write_text(text)
    (directory / "requests.jsonl").write_text("".join(one.to_json() + "\n" for one, _ in requests))
    return directory
