"""Where GPU kernels are timed: every bucket of a plan by sizes that fall into it."""

from __future__ import annotations

import pytest

from codegen.cuda import plan
from codegen.measure import device_points
from codegen.workload import Workload

GEMM = [
    "matmul(float16;M=*,N=*,K=*;a=n,b=t)",
    "matmul(float16;M=*,N=*,K=*;a=t,b=n)",
    "matmul(bfloat16;M=*,N=4096,K=1024;a=n,b=t)",
    "matmul(float16;M=*,N=*,K=*;a=n,b=t,rows=64)",
]
ROWS = [("softmax(float16;M=*,N=*)", False), ("softmax(float16;M=*,N=768)", False), ("gelu(bfloat16;N=*)", True)]


@pytest.mark.parametrize("key", GEMM)
def test_gemm_buckets_are_decided_by_sizes_of_their_own(key):
    workload = Workload.parse(key)
    static = workload.dims["N"] is not None
    buckets = device_points.decisive(workload, "cuda_gemm")
    assert len(buckets) == plan.gemm_plan_size(static)
    for i, bucket in enumerate(buckets):
        assert len(bucket) <= 2
        for s in bucket:
            assert plan.gemm_plan_bucket(static, s["batch"], s["M"], s["N"], s["K"]) == i
            assert all(s[name] % 8 == 0 for name in "MNK")
    most = int(workload.attrs.get("rows", 0))
    if most:
        assert max(s["M"] for bucket in buckets for s in bucket) == most
        assert any(not bucket for bucket in buckets)
    else:
        assert all(buckets)


@pytest.mark.parametrize(("key", "flat"), ROWS)
def test_row_buckets_are_decided_by_sizes_of_their_own(key, flat):
    workload = Workload.parse(key)
    by_size = flat or workload.dims["N"] is not None
    buckets = device_points.decisive(workload, "cuda_rows", flat=flat)
    assert len(buckets) == plan.rows_plan_size(by_size)
    for i, bucket in enumerate(buckets):
        assert bucket
        assert all(plan.rows_plan_bucket(by_size, s.get("M", 1), s["N"]) == i for s in bucket)


def test_reduction_buckets_are_decided_by_sizes_of_their_own():
    buckets = device_points.decisive(Workload.parse("sum(float32;M=*,N=*)"), "cuda_reduce")
    assert len(buckets) == plan.reduce_plan_size()
    for i, bucket in enumerate(buckets):
        assert all(plan.reduce_plan_bucket(s["M"], s["N"], s["inner"]) == i for s in bucket)
    assert sum(map(bool, buckets)) > len(buckets) * 3 // 4


def test_buckets_of_scans_and_rotary_embeddings():
    buckets = device_points.decisive(Workload.parse("cumsum(float16;M=*,N=*,I=*)"), "cuda_scan")
    assert len(buckets) == plan.scan_plan_size()
    assert sum(map(bool, buckets)) > len(buckets) * 3 // 4
    for i, bucket in enumerate(buckets):
        assert all(plan.scan_plan_bucket(s["M"], s["N"], s["I"]) == i for s in bucket)
    buckets = device_points.decisive(Workload.parse("rotary_embedding(float16;M=*,H=*,N=*)"), "cuda_rotary")
    assert len(buckets) == plan.rows_plan_size(True)
    for i, bucket in enumerate(buckets):
        assert bucket
        assert all(plan.rows_plan_bucket(True, 1, s["M"] * s["H"] * s["N"]) == i for s in bucket)


DRIVERS = {"matmul": "cuda_gemm", "cumsum": "cuda_scan", "rotary_embedding": "cuda_rotary"}
OTHERS = ["cumsum(float16;M=*,N=*,I=*)", "rotary_embedding(float16;M=*,H=*,N=*)"]


@pytest.mark.parametrize("key", [*GEMM, *(key for key, _ in ROWS), *OTHERS])
def test_points_are_of_the_workload_and_each_there_once(key):
    workload = Workload.parse(key)
    driver = DRIVERS.get(workload.op, "cuda_rows")
    points = device_points.points(workload, driver)
    assert len({p.text for p in points}) == len(points) >= 1
    for point in points:
        for name, size in workload.dims.items():
            assert point.sizes[name] > 0
            assert size in (None, point.sizes[name])
