"""Made-up records, and limits as a benchmark run writes them."""

from __future__ import annotations

from dataclasses import replace

from codegen import ops
from codegen.records import store
from codegen.target import find
from codegen.workload import Workload

KEY = "linear(float32;M=*,N=24,K=40)"
TARGET = "x86-64-v4"
RECORD = store.Record(
    workload=KEY,
    target=TARGET,
    space="gemm",
    knobs=ops.load("linear").space(Workload.parse(KEY), find(TARGET)).default(),
    status="ok",
    seconds=1.0,
    aten_seconds=1.0,
    points=[
        {"sizes": {"M": m, "N": 24, "K": 40}, "layout": "packed", "threads": t, "seconds": 1e-5, "aten_seconds": 2e-5}
        for m in (1, 16)
        for t in (1, 2)
    ],
    error=2e-7,
    aten_error=3e-7,
    machine={"cpu": "Some CPU", "threads": 2, "torch": "2.13.0", "tvm": "0.27.0"},
    date="2026-01-02T03:04:05Z",
    seed=0,
    strategy="random",
    trial=0,
)
LIMITS = {"machine": {"cpu": "A CPU"}, "threads": {"1": {"limits": {"peak_gflops": 100.0, "copy_gbps": {"L2": 10.0}}}}}


def ok(ratio: float, knobs: dict[str, int] | None = None, **more: object) -> store.Record:
    return replace(RECORD, aten_seconds=ratio, knobs=knobs or RECORD.knobs, **more)


def failed(status: str, reason: str, **more: object) -> store.Record:
    return replace(
        RECORD, status=status, reason=reason, seconds=None, aten_seconds=None, points=[], **{"error": None, **more}
    )
