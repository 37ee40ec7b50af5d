"""TVM's ``tune_tir`` as it comes, for comparison: its own space, search, cost model, builder, runner and database."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

from ..errors import CodegenError
from ..spaces.metaschedule import MetaScheduleSpace
from ..target import Target
from ..workload import Workload

# TVM records 1e10 for a run that failed.
FAILED_SECONDS = 1e9


def tune_default(
    workload: Workload, target: Target, trials: int, seed: int, work_dir: Path
) -> tuple[float, list[float], s_tir.Schedule | None]:
    """Tunes a workload of static sizes with all defaults of TVM's.

    Candidates are built and run in processes that TVM starts, which take ``TVM_NUM_THREADS`` from this one's
    environment; TVM builds as many at a time as the machine has cores, and runs one at a time. Each of these processes
    imports TVM with the intrinsics of all architectures, and a build has 30 s, imports included: on a busy machine the
    first builds run out of time and count as failed. ``work_dir``, which must be new or empty, gets TVM's database and
    logs.

    Returns:
        The seconds it took, without imports; of each trial, in order, the median of its times in seconds, infinite for
        one that failed; the best schedule, None if all failed. TVM may hand out fewer trials than it is asked for.

    Raises:
        CodegenError: a dimension is symbolic, psutil is missing, or ``work_dir`` holds something.
    """
    if importlib.util.find_spec("psutil") is None:
        raise CodegenError("TVM's tune_tir needs psutil: pip install psutil")
    work_dir.mkdir(parents=True, exist_ok=True)
    if any(work_dir.iterdir()):
        raise CodegenError(f"{work_dir} is not empty: TVM would take what is there for earlier results")
    space = MetaScheduleSpace(workload, target)
    tvm_target = space.context().target
    importlib.import_module("tvm.s_tir.tensor_intrin")  # takes half a minute, which is not the search's
    importlib.import_module("xgboost")
    start = time.perf_counter()
    database = ms.tune_tir(space.function, tvm_target, str(work_dir), trials, seed=seed)
    seconds = time.perf_counter() - start
    lines = (work_dir / "database_tuning_record.json").read_text().splitlines()
    # A line is the number of the workload and its record: trace, times, target, arguments.
    runs = [sorted(json.loads(line)[1][1]) for line in lines]
    times = [run[len(run) // 2] for run in runs]
    best = ms.tir_integration.compile_tir(database, space.function, tvm_target)
    return seconds, [t if t < FAILED_SECONDS else float("inf") for t in times], best
