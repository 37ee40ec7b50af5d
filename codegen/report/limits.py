"""What a machine can do, as a benchmark run measured it, and how near a kernel comes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import ops
from ..errors import CodegenError
from ..workload import Workload

_LEVELS = (("L2", 1 << 20), ("L3", 32 << 20))


@dataclass(frozen=True)
class Limit:
    """At one number of threads: float32 FMA, and by cache level the bandwidth of a copy."""

    peak_gflops: float | None
    copy_gbps: Mapping[str, float]


@dataclass(frozen=True)
class Limits:
    """By number of threads; empty where none are known."""

    by_threads: Mapping[int, Limit] = field(default_factory=dict)
    source: str = ""  # the file, and the CPU that it names

    def seconds(self, key: str, point: Mapping[str, Any]) -> float | None:
        """The least time that arithmetic and memory traffic allow a measured point of a workload; None if unknown."""
        limit = self.by_threads.get(point["threads"])
        if limit is None:
            return None
        try:
            workload = Workload.parse(key)
            operator = ops.load(workload.op)
            flops, traffic = operator.flops(point["sizes"]), operator.bytes(point["sizes"])
        except (CodegenError, KeyError):  # an operator or sizes that this version does not know
            return None
        if workload.dtype != "float32":  # the peak is of float32, and so is the count of bytes
            return None
        bounds = [flops / limit.peak_gflops / 1e9] if limit.peak_gflops else []
        level = next((name for name, size in _LEVELS if traffic <= size), "DRAM")
        if limit.copy_gbps.get(level):
            bounds.append(traffic / limit.copy_gbps[level] / 1e9)
        return max(bounds, default=None)


def read(path: Path) -> Limits:
    """The limits in a JSON file of ``python -m benchmarks``.

    Raises:
        CodegenError: there is no such file, or it holds no limits.
    """
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise CodegenError(f"can't read the limits in {path}: {error.strerror}") from None
    except ValueError as error:
        raise CodegenError(f"{path} is not JSON: {error}") from None
    try:
        found = {}
        for threads, entry in document["threads"].items():
            limits = entry["limits"]
            copies = {str(level): float(gbps) for level, gbps in limits.get("copy_gbps", {}).items()}
            peak = limits.get("peak_gflops")
            found[int(threads)] = Limit(None if peak is None else float(peak), copies)
    except (KeyError, TypeError, ValueError, AttributeError):
        found = {}
    if not found:
        raise CodegenError(f"{path} holds no limits (expected as in the results of python -m benchmarks)")
    machine = document.get("machine")
    cpu = machine.get("cpu") if isinstance(machine, dict) else None
    return Limits(found, f"{path.name}, {cpu or 'a CPU that it does not name'}")
