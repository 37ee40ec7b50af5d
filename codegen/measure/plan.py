"""The plan of a kernel: by size bucket, which route wins here, or that ATen does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvmops import _calibrate

from . import rotary, rows, scan, whole

# A shipped plan is for everyone: it takes more time than a user's own calibration, and looks at both ends of a bucket.
SECONDS = 0.008


def measure_plan(kernel: dict[str, Any], threads: Sequence[int]) -> dict[str, Any]:
    """Times the routes of a loaded kernel against ATen in every size bucket.

    Runs in the child. Returns ``plan``, a hexadecimal digit a bucket, and ``ratios``, ATen's time over the kernel's by
    bucket (None: not measured).
    """
    if kernel["driver"] == "gemm":  # with 1 thread and with all
        verdict = _calibrate.measure_plan(kernel["name"], seconds=SECONDS, thorough=True)
        routes, ratios = list(verdict.plan), list(verdict.ratios)
    else:
        family = {"rotary": rotary, "scan": scan, "whole": whole}.get(kernel["driver"], rows)
        routes, ratios = family.plan(kernel, threads)
    return {"plan": "".join(f"{route:x}" for route in routes), "ratios": [r or None for r in ratios]}
