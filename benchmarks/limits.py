"""What this machine can do, measured in the run that quotes it: FMA peak and copy bandwidth."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import ModuleType

import torch

from benchmarks import timing

_CPUS = Path("/sys/devices/system/cpu")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on; cache sizes in bytes: one L2, one L3, all L3 together."""

    cpu: str
    cores: int
    isa: str
    l2: int
    l3: int
    l3_total: int
    load: float
    versions: dict[str, str]

    def title(self) -> str:
        """One line for captions."""
        return f"{self.cpu}, {self.cores} cores, {self.isa}"


@dataclass
class Limits:
    """Limits at one number of threads. Peak samples are taken all through the run; their median is the peak."""

    threads: int
    copy_gbps: dict[str, float]
    peak_samples: list[float] = field(default_factory=list)

    def peak(self) -> float | None:
        """GFLOP/s of float32 FMA, or None where it could not be measured."""
        return median(self.peak_samples) if self.peak_samples else None

    def text(self) -> str:
        """One line for people."""
        peak = self.peak()
        parts = ["FMA peak not measured (tvmops._C.fma_peak_gflops is missing)"]
        if peak is not None:
            low, high = min(self.peak_samples), max(self.peak_samples)
            parts = [f"FMA peak {peak:.1f} GFLOP/s ({low:.1f} to {high:.1f} during the run)"]
        parts += [f"copy in {level} {gbps:.0f} GB/s" for level, gbps in self.copy_gbps.items()]
        return ", ".join(parts)


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^([^\t:]+?)\s*:\s*(.*)$", text, flags=re.MULTILINE))
    name = fields.get("model name") or fields.get("CPU part") or platform.machine()
    # Virtual machines often hide the model's name; family and model still tell the core.
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    return name


def _caches(level: int, otherwise: int) -> list[int]:
    """Sizes in bytes of the distinct data caches of a level, or `otherwise` alone where Linux does not tell."""
    found: dict[str, int] = {}
    for index in sorted(_CPUS.glob("cpu[0-9]*/cache/index*")):
        try:
            if int((index / "level").read_text()) != level or (index / "type").read_text().strip() == "Instruction":
                continue
            match = re.fullmatch(r"(\d+)([KMG]?)", (index / "size").read_text().strip())
            shared = (index / "shared_cpu_list").read_text().strip()
        except (OSError, ValueError):
            continue
        if match:
            found[shared] = int(match[1]) * _UNITS.get(match[2], 1)
    return list(found.values()) or [otherwise]


def machine(tvmops: ModuleType) -> Machine:
    """Reads what can be known without measuring."""
    l3 = _caches(3, 32 << 20)
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        isa=torch.backends.cpu.get_cpu_capability(),
        l2=min(_caches(2, 1 << 20)),
        l3=min(l3),
        l3_total=sum(l3),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "tvmops": str(getattr(tvmops, "__version__", "unknown")),
        },
    )


def copy_gbps(total_bytes: int) -> float:
    """GB/s (read plus written) of a torch copy whose source and target take `total_bytes` together."""
    source = torch.zeros(total_bytes // 8)
    target = torch.empty_like(source)
    series = timing.warm({"copy": lambda: target.copy_(source)}, rounds=7, min_time=0.004)
    return 2 * source.numel() * source.element_size() / series["copy"].spread().median


def sample_peak(limits: Limits, tvmops: ModuleType, seconds: float = 0.02) -> None:
    """Adds one short sample of the FMA peak; nothing where the extension does not offer it."""
    measure = getattr(getattr(tvmops, "_C", None), "fma_peak_gflops", None)
    if measure is not None:
        limits.peak_samples.append(float(measure(seconds, limits.threads)))


def measure(host: Machine, tvmops: ModuleType, threads: int) -> Limits:
    """Measures bandwidths at torch's present number of threads, and the first samples of the peak."""
    sizes = {"L2": threads * host.l2 // 2, "L3": host.l3 // 2, "DRAM": max(8 * host.l3_total, 256 << 20)}
    limits = Limits(threads, {level: copy_gbps(min(size, 2 << 30)) for level, size in sizes.items()})
    for _ in range(3):
        sample_peak(limits, tvmops, 0.05)
    return limits
