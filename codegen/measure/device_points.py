"""Where GPU kernels are timed: the sizes that make a score, and those that decide each bucket of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod

from ..cuda import plan
from ..cuda.intrinsics import item_bytes
from ..workload import Workload
from .device_files import Point

Sizes = Mapping[str, int]
Decisive = list[list[Sizes]]  # of a plan: by bucket, the sizes that decide; none where the kernel serves none of them

# batch, M, N, K, epilogue. By layout: squares, BERT's and Heron's shapes, the products of attention.
GEMM = {
    "nn": ((1, 4096, 4096, 4096, ""), (1, 1024, 1024, 1024, ""), (16, 512, 64, 512, "")),
    "nt": (
        (1, 4096, 4096, 4096, ""),
        (1, 8192, 8192, 8192, ""),
        (1, 1024, 1024, 1024, ""),
        (1, 2048, 3072, 768, "gelu"),
        (16, 512, 512, 64, ""),
    ),
    "tn": ((1, 4096, 4096, 4096, ""), (1, 768, 3072, 2048, "")),
    "tt": ((1, 4096, 4096, 4096, ""),),
}
GEMM_FEW_ROWS = ((1, 32, 1000, 2048, ""), (1, 32, 4096, 4096, ""), (1, 32, 1000, 4096, ""), (1, 1, 4096, 4096, "gelu"))
# Rows and their length; of what has no rows, their product.
ROWS = ((8192, 1024), (4096, 4096), (512, 32768), (128, 1024))
# outer, n, inner of a reduction: rows along memory, few long ones, rows across, few of them.
REDUCE = ((8192, 1024, 1), (4096, 4096, 1), (1, 1 << 26, 1), (16, 4096, 1024), (1, 1 << 20, 64), (128, 1024, 1))
# Positions, heads, elements of a head.
ROTARY = ((4096, 32, 128), (8192, 8, 128), (2048, 12, 64), (1, 32, 128))
# Scanned along the second: rows, of which some are cut, and columns.
SCANS = ((8192, 1024, 1), (4096, 4096, 1), (2, 1 << 22, 1), (16, 512, 128), (64, 4096, 64), (4096, 64, 64))
# A product with more data than this is left out of plans: it would not fit into every card's memory twice.
LARGEST = 2 << 30
ACROSS = 256  # rows that lie across, side by side
BATCHES = (16, 2)  # of small and of large products
_SHAPES = {"cuda_rotary": ROTARY, "cuda_scan": SCANS}


def points(workload: Workload, driver: str) -> list[Point]:
    """What the score of a kernel is made from."""
    if driver == "cuda_reduce":
        return [Point({"M": outer, "N": n, "inner": inner}) for outer, n, inner in REDUCE]
    if driver in _SHAPES:
        sizes = (dict(zip(workload.dims, shape, strict=True)) for shape in _SHAPES[driver])
        found: Iterator[Point] = (Point(_fixed(workload, one)) for one in sizes)
    else:
        found = _gemm(workload) if driver == "cuda_gemm" else _rows(workload)
    return list({p.text: p for p in found}.values())


def _gemm(workload: Workload) -> Iterator[Point]:
    layout = workload.attrs.get("a", "n") + workload.attrs.get("b", "n")
    most = int(workload.attrs.get("rows", 0))
    for batch, m, n, k, epilogue in GEMM_FEW_ROWS if most else GEMM[layout]:
        yield Point({"batch": batch, **_fixed(workload, {"M": m, "N": n, "K": k})}, epilogue)


def _rows(workload: Workload) -> Iterator[Point]:
    for m, n in ROWS:
        yield Point(_fixed(workload, {"M": m, "N": n}) if "M" in workload.dims else {"N": m * n})


def _fixed(workload: Workload, sizes: Sizes) -> dict[str, int]:
    return {name: workload.dims[name] or size for name, size in sizes.items()}


def decisive(workload: Workload, driver: str, *, flat: bool = False) -> Decisive:
    """For every bucket of the plan a small and a large problem; the kernel must win at both."""
    if driver == "cuda_gemm":
        return _gemm_buckets(workload)
    if driver == "cuda_reduce":
        return _reduce_buckets()
    if driver == "cuda_rotary":
        return _rotary_buckets()
    if driver == "cuda_scan":
        return _scan_buckets()
    by_size = flat or workload.dims["N"] is not None
    found: Decisive = [[] for _ in range(plan.rows_plan_size(by_size))]
    lengths = (workload.dims["N"] or 1024,) if by_size else _samples(plan.LENGTHS, 64)
    for n, elements in product(lengths, _samples(plan.ELEMENTS, 1 << 12)):
        m = max(1, elements // n)
        bucket = plan.rows_plan_bucket(by_size, 1 if flat else m, m * n if flat else n)
        if len(found[bucket]) < 2 and m * n * 4 * 4 <= LARGEST:
            found[bucket].append({"N": m * n} if flat else {"M": m, "N": n})
    return found


def _reduce_buckets() -> Decisive:
    found: Decisive = [[] for _ in range(plan.reduce_plan_size())]
    for n, elements in product(_samples(plan.LENGTHS, 64), _samples(plan.ELEMENTS, 1 << 12)):
        rows = max(1, elements // n)
        for inner in {1, max(2, min(rows, ACROSS))}:
            outer = max(1, rows // inner)
            bucket = plan.reduce_plan_bucket(outer, n, inner)
            if len(found[bucket]) < 2 and outer * n * inner * 4 * 2 <= LARGEST:
                found[bucket].append({"M": outer, "N": n, "inner": inner})
    return found


def _gemm_buckets(workload: Workload) -> Decisive:
    n, k = workload.dims["N"], workload.dims["K"]
    static, most = bool(n and k), int(workload.attrs.get("rows", 0))
    found: Decisive = [[] for _ in range(plan.gemm_plan_size(static))]
    rows = [m for m in _samples(plan.GEMM_ROWS, 8) if not most or m <= most]
    columns = (n,) if n else _samples(plan.GEMM_COLUMNS, 256)
    depths = (k,) if k else _samples(plan.GEMM_DEPTHS, 256)
    for m, n_, k_ in product(rows, columns, depths):
        for batch in (1, BATCHES[m * n_ * k_ > 1 << 30]):
            bucket = plan.gemm_plan_bucket(static, batch, m, n_, k_)
            data = item_bytes(workload.dtype) * batch * (m * k_ + n_ * k_ + m * n_)
            if data <= LARGEST:
                found[bucket].append({"batch": batch, "M": m, "N": n_, "K": k_})
    # The products of 2**3 corners decide much the same: the smallest and the largest do.
    return [[min(b, key=_volume), max(b, key=_volume)] if len(b) > 1 else b for b in found]


def _rotary_buckets() -> Decisive:
    found: Decisive = [[] for _ in range(plan.rows_plan_size(True))]
    for elements in _samples(plan.ELEMENTS, 1 << 12):
        bucket = found[plan.rows_plan_bucket(True, 1, elements)]
        if len(bucket) < 2:
            bucket.append({"M": elements // (8 * 64), "H": 8, "N": 64})
    return found


def _scan_buckets() -> Decisive:
    """Rows, then columns, of which each has 64 elements, or as many as there are room for."""
    found: Decisive = [[] for _ in range(plan.scan_plan_size())]
    for across, span, elements in product((False, True), _samples(plan.LENGTHS, 64), _samples(plan.ELEMENTS, 1 << 12)):
        n, inner = (min(64, max(1, elements // span)), span) if across else (span, 1)
        m = max(1, elements // (n * inner))
        bucket = found[plan.scan_plan_bucket(m, n, inner)]
        if len(bucket) < 2:
            bucket.append({"M": m, "N": n, "I": inner})
    return found


def _volume(sizes: Sizes) -> int:
    return prod(sizes.values())


def _samples(bounds: tuple[int, ...], least: int) -> list[int]:
    """Two values of each bucket that these upper bounds make: near its lower end, and the upper one; multiples of 8."""
    found: list[int] = []
    low = least
    for bound in (*bounds, 2 * bounds[-1]):
        found += [low, bound]
        low = bound * 5 // 4 // 8 * 8
    return found
