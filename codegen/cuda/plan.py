"""The plans of GPU kernels: which sizes are one bucket, and in which order the buckets come.

A plan has a byte for each bucket: 0 leaves the call to ATen, 1 lets the kernel serve it. csrc/cuda/plan.cpp has the
same bounds; ``tvmops._C.cuda_plan_bounds()`` tells them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

# Upper bounds; the last bucket has none.
GEMM_ROWS = (16, 64, 256, 1024, 4096)
GEMM_COLUMNS = (1024, 4096)
GEMM_DEPTHS = (1024, 4096)
GEMM_PLANES = 2  # a single product, a batch of them
LENGTHS = (256, 1024, 4096, 16384)
ELEMENTS = (1 << 16, 1 << 20, 1 << 23, 1 << 26)


def _index(bounds: Sequence[int], value: int) -> int:
    return bisect_left(bounds, value)


def gemm_plan_size(static_nk: bool) -> int:
    """How many buckets the plan of a ``cuda_gemm`` kernel has."""
    rows = GEMM_PLANES * (len(GEMM_ROWS) + 1)
    return rows if static_nk else rows * (len(GEMM_COLUMNS) + 1) * (len(GEMM_DEPTHS) + 1)


def gemm_plan_bucket(static_nk: bool, batch: int, m: int, n: int, k: int) -> int:
    """The bucket of ``batch`` products of [m, k] and [k, n]: ``plan[plane][m][n][k]``, ``plan[plane][m]`` if static."""
    rows = int(batch > 1) * (len(GEMM_ROWS) + 1) + _index(GEMM_ROWS, m)
    if static_nk:
        return rows
    columns = rows * (len(GEMM_COLUMNS) + 1) + _index(GEMM_COLUMNS, n)
    return columns * (len(GEMM_DEPTHS) + 1) + _index(GEMM_DEPTHS, k)


def rows_plan_size(by_size: bool) -> int:
    """How many buckets the plan of a ``cuda_rows`` kernel has.

    Args:
        by_size: the kernel is flat, or its N is static.
    """
    return (1 if by_size else len(LENGTHS) + 1) * (len(ELEMENTS) + 1)


def rows_plan_bucket(by_size: bool, rows: int, n: int) -> int:
    """The bucket of [rows, n]: ``plan[n][rows * n]``, or ``plan[rows * n]`` by size alone."""
    size = _index(ELEMENTS, rows * n)
    return size if by_size else _index(LENGTHS, n) * (len(ELEMENTS) + 1) + size


def reduce_plan_size() -> int:
    """How many buckets the plan of a ``cuda_reduce`` kernel has."""
    return 2 * rows_plan_size(False)


def reduce_plan_bucket(outer: int, n: int, inner: int) -> int:
    """The bucket of [outer, n, inner]: ``plan[across][n][outer * n * inner]``."""
    return int(inner > 1) * rows_plan_size(False) + rows_plan_bucket(False, outer * inner, n)


def scan_plan_size() -> int:
    """How many buckets the plan of a ``cuda_scan`` kernel has."""
    return 2 * (len(LENGTHS) + 1) * (len(ELEMENTS) + 1)


def scan_plan_bucket(outer: int, n: int, inner: int) -> int:
    """The bucket of a scan along n of [outer, n, inner]: ``plan[across][n or inner][outer * n * inner]``."""
    across = int(inner > 1)
    span = across * (len(LENGTHS) + 1) + _index(LENGTHS, inner if across else n)
    return span * (len(ELEMENTS) + 1) + _index(ELEMENTS, outer * n * inner)
