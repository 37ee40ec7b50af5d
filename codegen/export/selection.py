"""From records to the kernels of a pack."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from .. import ops, spaces
from ..errors import CodegenError
from ..records import SHIPPED, store
from ..spaces.space import Choice, broken
from ..target import TARGETS, GpuTarget, Target
from ..workload import Workload
from .pack import PackKernel

# What a person wants to know of a kernel's record; the single measurements stay in the store.
_LEFT_OUT = ("points", "workload", "target", "knobs", "plan", "reason")


def ships_here() -> bool:
    """Whether kernels ship for this machine's architecture."""
    return any(t.arch == platform.machine() for t in TARGETS.values())


def default_targets() -> list[Target]:
    """The targets of the default pack: all of this machine's architecture.

    Raises:
        CodegenError: there is none.
    """
    arch = platform.machine()
    found = [t for t in TARGETS.values() if t.arch == arch]
    if not found:
        raise CodegenError(f"no target is known for architecture {arch!r}; name one: {', '.join(TARGETS)}")
    return found


def records_of(target: Target | GpuTarget, directories: Sequence[Path] = ()) -> list[store.Record]:
    """The records of a target: of the first of ``directories`` that has any for a workload, else the shipped ones."""
    chosen: dict[str, list[store.Record]] = {}
    for directory in (*directories, SHIPPED):
        by_workload: dict[str, list[store.Record]] = {}
        for record in store.read(store.file_of(directory, target.name)):
            if record.status == "ok":
                by_workload.setdefault(record.workload, []).append(record)
        chosen = {**by_workload, **chosen}
    return [record for records in chosen.values() for record in records]


def kernel(
    workload: Workload, target: Target | GpuTarget, record: store.Record | None, knobs: Choice | None = None
) -> PackKernel:
    """The kernel of a record, or that of the space's default choice where there is none; ``knobs`` changes some of it.

    Raises:
        CodegenError: the knobs are not in the space, or the record's plan has another size.
    """
    space = spaces.find(workload, target, record.space if record else None)
    if record is None or knobs:
        choice = {**(record.knobs if record else space.default()), **(knobs or {})}
        problems = broken(space, choice)
        if problems:
            raise CodegenError(f"not a choice of {workload.key} on {target.name}, as this does not hold: {problems[0]}")
        return PackKernel(workload, target, space.name, space.driver, choice, space.params(choice), space.apply(choice))
    problems = broken(space, record.knobs)
    if problems:
        raise CodegenError(
            f"the record of {workload.key} for {target.name} ({record.date}) is not usable: {problems[0]}"
        )
    routes = record.routes()
    if routes is not None and len(routes) != space.plan_size():
        raise CodegenError(
            f"the record of {workload.key} for {target.name} ({record.date}) has a plan of {len(routes)} size buckets, "
            f"not {space.plan_size()}"
        )
    about = {"record": {k: v for k, v in asdict(record).items() if k not in _LEFT_OUT and v is not None}}
    leaves, params = space.apply(record.knobs), space.params(record.knobs)
    return PackKernel(workload, target, space.name, space.driver, record.knobs, params, leaves, routes, about)


def kernels(targets: Iterable[Target | GpuTarget], directories: Sequence[Path] = ()) -> list[PackKernel]:
    """What a pack holds: the workloads worth shipping, and those that ``directories`` have records of."""
    found = []
    for target in targets:
        records = records_of(target, directories)
        recorded = [ops.check(Workload.parse(key)) for key in dict.fromkeys(r.workload for r in records)]
        shipped = ops.device_shipped(target) if isinstance(target, GpuTarget) else ops.shipped()
        for workload in dict.fromkeys([*shipped, *recorded]):
            found.append(kernel(workload, target, store.best(records, workload, target.name)))
    return found
