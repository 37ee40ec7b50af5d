"""``plan``: plans without a search, measured on this machine."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn

from .. import ops, sweep
from ..errors import CodegenError
from ..records import store
from ._common import GoalOption, StoreOption, ThreadsOption, app, goal_of, line, progress, threads_of


@app.command()
def plan(
    pattern: Annotated[str, typer.Argument(help="Keys, with * and ? standing for anything: 'gelu*(float32*'.")] = "*",
    target: GoalOption = "native",
    records: StoreOption = Path("build/records"),
    threads: ThreadsOption = "1",
) -> None:
    """Measures the plans of shipped kernels as they are, without a search: where each wins and where ATen does."""
    goal, about = goal_of(target)
    found = [w for w in ops.shipped() if fnmatch.fnmatchcase(w.key, pattern)]
    if not found:
        raise CodegenError(f"no shipped workload is like {pattern!r}")
    path = store.file_of(records, goal.name)
    store.check_writable(path)
    with progress(BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task("machine code", total=len(found))

        def report(record: store.Record) -> None:
            bar.update(task, advance=1, description=record.workload)
            bar.console.print(f"{record.workload}: {line(record)}", highlight=False, markup=False)

        sweep.sweep(found, goal, path, about, threads_of(threads), report)
