"""What a model computes: its operators as workloads, with how often each is called and its share of the time.

The model runs in a process of its own (``child``): the search needs no torch, and a model that crashes costs only that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CodegenError
from ..worker import Worker, WorkerError
from ..workload import Workload

# Seconds that making a model and running it some times may take.
LIMIT = 1800.0


@dataclass(frozen=True)
class Entry:
    """All calls of one operator that are of one workload."""

    op: str  # with its namespace, e.g. ``tvmops.linear``
    workload: Workload | None  # None: nothing that a kernel could be made for
    calls: int
    seconds: float  # of all of them, the median over some runs of the model
    share: float  # of the time of all operators
    kernel: str | None  # that serves them, or most of them
    served: int  # so many of them
    reason: str  # why ATen serves the others

    @property
    def ours(self) -> bool:
        """Whether the model calls tvmops here, so that a kernel can serve it."""
        return self.op.startswith("tvmops.")

    @property
    def special(self) -> bool:
        """Whether the kernel is one for certain sizes, and not for all."""
        return self.workload is not None and any(self.workload.dims.values())


@dataclass(frozen=True)
class Profile:
    """The operators of a model, what takes most time first."""

    entries: tuple[Entry, ...]
    replaced: tuple[str, ...]  # modules, in words

    def worth_tuning(self, least_share: float, general: bool = False) -> dict[Workload, float]:
        """The workloads to tune and their shares of the time, the largest first.

        Args:
            least_share: a workload with less of the time is left alone.
            general: also those whose kernels serve all sizes.
        """
        shares: dict[Workload, float] = {}
        for entry in self.entries:
            if entry.workload and entry.ours and (entry.special or general):
                shares[entry.workload] = shares.get(entry.workload, 0.0) + entry.share
        return {w: s for w, s in sorted(shares.items(), key=lambda item: -item[1]) if s >= least_share}


@dataclass(frozen=True)
class Comparison:
    """A model as it is, and its copy on tvmops; medians, in seconds a call."""

    torch_seconds: float
    seconds: float
    calls: int  # of tvmops operators
    from_pack: int  # so many of them are served by the pack


def profile(spec: str, target: str, threads: int) -> Profile:
    """Runs the model that ``PATH.py:FUNCTION`` or ``package.module:FUNCTION`` makes and lists its operators.

    The function returns ``(model, args)`` or ``(model, args, kwargs)``. The model's modules are replaced by those of
    :mod:`tvmops.nn` first, in a copy.

    Args:
        spec: names the function.
        target: whose kernels may serve.
        threads: to run it with.

    Raises:
        CodegenError: there is no such function, it or the model raises, or it returns something else.
    """
    answer = _ask({"what": "profile", "model": spec, "threads": threads}, target)
    total = sum(e["seconds"] for e in answer["entries"]) or 1.0
    entries = sorted(_entries(answer["entries"], total), key=lambda entry: -entry.seconds)
    return Profile(tuple(entries), tuple(answer["replaced"]))


def compare(spec: str, pack: Path, target: str, threads: int) -> Comparison:
    """Times the model, and its copy on tvmops with the kernels of ``pack``.

    Raises:
        CodegenError: as :func:`profile`.
    """
    request = {"what": "compare", "model": spec, "threads": threads, "pack": str(pack)}
    answer = _ask(request, target)
    return Comparison(**{k: v for k, v in answer.items() if k != "status"})


def _entries(found: list[dict[str, Any]], total: float) -> Iterator[Entry]:
    for one in found:
        workload = Workload.parse(one["workload"]) if one["workload"] else None
        yield Entry(**{**one, "workload": workload, "share": one["seconds"] / total})


def _ask(request: Mapping[str, Any], target: str) -> dict[str, Any]:
    env = {"TVMOPS_TARGET": target, "TVMOPS_MODE": "", "TVMOPS_PACK_PATH": "", "TVMOPS_CALIBRATION": "off"}
    worker = Worker(f"{__name__}.child", env)
    try:
        answer = worker.call(request, LIMIT)
    except WorkerError as error:
        raise CodegenError(f"the model of {request['model']} took its process down: {error}") from None
    finally:
        worker.close()
    if answer["status"] != "ok":
        raise CodegenError(str(answer["reason"]))
    return answer
