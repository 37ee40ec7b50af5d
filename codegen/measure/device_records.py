"""What was measured of a batch of GPU kernels becomes records."""

from __future__ import annotations

from pathlib import Path

from ..errors import CodegenError
from ..records import store
from ..target import find_gpu
from ..workload import Workload
from . import device_files
from .batch_files import Result
from .carry import measured
from .device_files import DeviceRequest
from .measurer import Outcome


def collect(directory: Path, records: Path) -> tuple[list[store.Record], int]:
    """Adds the results of a batch, of all cards, to the records of their targets, once all were looked at.

    Returns:
        What was added, and how many were there before.

    Raises:
        CodegenError: a line is broken, or the result of a kernel that is not in the batch; nothing was written then. Or
            a record can't be written.
    """
    every = device_files.requests(directory)
    found: list[store.Record] = []
    for path in sorted((directory / device_files.RESULTS).glob("*.jsonl")):
        for number, result in device_files.results(path).values():
            try:
                if result.id not in every:
                    raise CodegenError(f"{result.id} is no kernel of this batch")
                found.append(record(every[result.id], result))
            except CodegenError as error:
                raise CodegenError(f"{path}:{number}: {error}") from None
    return store.append_new(records, found)


def record(request: DeviceRequest, result: Result) -> store.Record:
    """The record of a result; an answer that is no measurement is a failure.

    Raises:
        CodegenError: the request or the rest of the result is not sound.
    """
    Workload.parse(request.workload)
    find_gpu(request.target)

    failed = measured(request, result, Outcome("failed", "its answer is no measurement"))
    try:
        answer = {k: v for k, v in result.answer.items() if k != "more"}
        plan, ratios = answer.pop("plan", None), answer.pop("ratios", None)
        if plan is not None and len(plan) != len(request.plan):
            raise CodegenError(f"a plan of {len(plan)} size buckets, not {len(request.plan)}")
        return measured(request, result, Outcome(**answer), plan=plan, ratios=ratios)
    except (CodegenError, AttributeError, KeyError, TypeError, ValueError):
        return failed
