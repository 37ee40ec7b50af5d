"""Plans without a search: many kernels, as their records or the defaults have them, judged one after the other."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .errors import CodegenError
from .export import pack, selection
from .measure.local import LocalRunner
from .measure.measurer import MEASURE_LIMIT, PLAN_LIMIT
from .records import store
from .target import Target
from .tune import rounded
from .worker import WorkerError
from .workload import Workload

SWEEP_ROUNDS = 3


def sweep(
    workloads: Sequence[Workload],
    target: Target,
    path: Path,
    machine: dict[str, Any],
    threads: Sequence[int],
    report: Callable[[store.Record], None],
) -> None:
    """Checks and times the kernel of each workload and measures its plan, each in a process of its own; records each.

    A kernel that brings its process down is recorded so.

    Raises:
        CodegenError: the kernels can't be built, or a record can't be written.
    """
    kernels = [
        selection.kernel(w, target, store.best(selection.records_of(target, [path.parent]), w, target.name))
        for w in workloads
    ]
    with tempfile.TemporaryDirectory(prefix="tvmops-") as directory:
        pack.export(kernels, Path(directory))
        library = pack.link(Path(directory), Path(directory) / "candidates.so")
        runner = LocalRunner(target)
        try:
            for kernel in kernels:
                common: dict[str, Any] = {"workload": kernel.workload.key, "knobs": dict(kernel.knobs)}
                common |= {"seed": 0, "threads": sorted(set(threads))}
                try:
                    answer = runner.run(library, {"what": "measure", "rounds": SWEEP_ROUNDS, **common}, MEASURE_LIMIT)
                    plan = {"what": "plan", **common}
                    planned = runner.run(library, plan, PLAN_LIMIT) if answer["status"] == "ok" else {}
                except WorkerError as error:
                    answer, planned = {"status": error.status, "reason": str(error)}, {}
                if planned.get("status", "ok") != "ok":
                    raise CodegenError(f"the plan of {kernel.name} could not be measured: {planned['reason']}")
                answer["points"] = [rounded(p) for p in answer.get("points", [])]
                record = store.Record(
                    workload=kernel.workload.key,
                    target=target.name,
                    space=kernel.driver,
                    knobs=dict(kernel.knobs),
                    machine=machine,
                    date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    seed=0,
                    strategy="sweep",
                    trial=0,
                    **answer,
                    **{k: v for k, v in planned.items() if k != "status"},
                )
                store.append(path, record)
                report(record)
        finally:
            runner.close()
