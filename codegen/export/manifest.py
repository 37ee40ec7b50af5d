"""What a pack says of itself to a person or a script, embedded in it as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import tvm

if TYPE_CHECKING:
    from .pack import PackKernel

FORMAT = 1


def manifest(kernels: Iterable[PackKernel]) -> dict[str, Any]:
    """The versions, and by kernel its workload, target, driver, knobs, and what ``about`` adds: its record."""
    return {
        "format": FORMAT,
        "tvm": tvm.__version__,
        "kernels": [
            {
                "name": k.name,
                "workload": k.workload.key,
                "target": k.target.name,
                "driver": k.driver,
                "knobs": dict(k.knobs),
                **k.about,
            }
            for k in kernels
        ],
    }
