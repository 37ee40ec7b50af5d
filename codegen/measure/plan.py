"""The plan of a kernel: by size bucket, which route wins here, or that ATen does."""

from __future__ import annotations

from typing import Any


def measure_plan(kernel: str) -> dict[str, Any]:
    """Times the routes of a loaded kernel against ATen, with the code of ``python -m tvmops calibrate``.

    Runs in the child. Returns ``plan``, a hexadecimal digit a bucket, and ``ratios``, ATen's time over the kernel's by
    bucket (None: not measured).
    """
    from tvmops import _calibrate

    plan, ratios = _calibrate.measure_plan(kernel)
    return {"plan": "".join(f"{route:x}" for route in plan), "ratios": [r and round(r, 3) for r in ratios]}
