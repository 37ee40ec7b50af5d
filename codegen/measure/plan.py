"""The plan of a kernel: by size bucket, which route wins here, or that ATen does."""

from __future__ import annotations

from typing import Any

from tvmops import _calibrate

# A shipped plan is for everyone: it takes more time than a user's own calibration, and looks at both ends of a bucket.
SECONDS = 0.008


def measure_plan(kernel: str) -> dict[str, Any]:
    """Times the routes of a loaded kernel against ATen, with the code of ``python -m tvmops calibrate``.

    Runs in the child, with 1 thread and with all. Returns ``plan``, a hexadecimal digit a bucket, and ``ratios``,
    ATen's time over the kernel's by bucket (None: not measured).
    """
    verdict = _calibrate.measure_plan(kernel, seconds=SECONDS, thorough=True)
    return {"plan": "".join(f"{route:x}" for route in verdict.plan), "ratios": [r or None for r in verdict.ratios]}
