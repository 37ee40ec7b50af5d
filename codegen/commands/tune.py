"""``tune`` and ``plan``: what is measured on this machine."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn

from .. import models, ops, search, spaces, sweep
from .. import tune as tuning
from ..errors import CodegenError
from ..measure import measurer
from ..models import transfer as transferring
from ..records import store
from ..search.economy import Patience
from ..spaces.space import Space, pin
from ..workload import Workload, parse_dims
from ._common import (
    GoalOption,
    KnobsOption,
    StoreOption,
    ThreadsOption,
    app,
    goal_of,
    knobs_of,
    line,
    progress,
    say,
    threads_of,
)

# The strategy that has a cost model, and which one it has if nothing is said.
MODELLED, DEFAULT_MODEL = "constrained-genetic", "xgboost-rank"


@app.command()
def tune(
    op: Annotated[str, typer.Option(help=f"The operator: {', '.join(ops.all_ops())}.")],
    dims: Annotated[str, typer.Option(help="Its dimensions, * for a symbolic one, e.g. M=*,N=3072,K=768.")],
    dtype: Annotated[str, typer.Option(help="Of the operands in memory.")] = "float32",
    target: GoalOption = "native",
    space: Annotated[
        str | None,
        typer.Option(help="derived, metaschedule, or the operator's own, the default where it applies."),
    ] = None,
    strategy: Annotated[str, typer.Option(help=f"{', '.join(search.all_strategies())}.")] = "random",
    trials: Annotated[int, typer.Option(min=1, help="Choices to measure, those in the records included.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the strategy and of the data.")] = 0,
    records: StoreOption = Path("build/records"),
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so long.")] = None,
    threads: ThreadsOption = "1",
    limit: Annotated[float, typer.Option(min=1, help="Seconds that checking and timing one choice may take.")] = 300.0,
    plan: Annotated[bool, typer.Option(help="Measure the winner again, and its plan.")] = True,
    cost_model: Annotated[
        str | None, typer.Option(help=f"The cost model of constrained-genetic: {', '.join(models.all_models())}.")
    ] = None,
    transfer: Annotated[
        bool, typer.Option(help="The cost model starts from records of other workloads and targets in --records.")
    ] = True,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop when so many trials in a row gained less than --least-gain.")
    ] = None,
    least_gain: Annotated[float, typer.Option(min=0, help="A fraction of the best score before.")] = 0.01,
    knob: KnobsOption = None,
) -> None:
    """Searches for the best schedule of a workload and records every trial.

    It goes on from the records that are there. Ctrl-C ends it; what was measured stays. The winner is measured again
    and gets a plan: by size, whether the kernel or ATen serves a call.
    """
    workload = ops.check(Workload(op, dtype, parse_dims(dims)))
    counts = threads_of(threads)
    fixed = knobs_of(knob)
    if strategy not in search.all_strategies():
        raise CodegenError(f"unknown strategy {strategy!r}; known: {', '.join(search.all_strategies())}")
    goal, about = goal_of(target)
    chosen = spaces.find(workload, goal, space)
    pin(chosen, fixed)
    path = store.file_of(records, goal.name)
    store.check_writable(path)
    options = _model(strategy, cost_model, transfer, chosen, path, workload, seed)
    stop = None if patience is None else Patience(patience, least_gain)
    with measurer.LocalMeasurer(workload, goal, chosen.name, counts, seed=seed, limit=limit) as local:
        run = tuning.Search(workload, goal, chosen, strategy, seed, path, about, local, options, stop)
        if run.measured:
            typer.echo(f"{path}: {run.measured} choices of {workload.key} are measured already")
        try:
            _search(run, trials, minutes, plan)
        except KeyboardInterrupt:
            say(f"interrupted; {run.measured} choices of {workload.key} are in {path}")
            raise typer.Exit(130) from None
        best = run.best
    if best is None:
        raise CodegenError(f"no choice of {workload.key} was right and in time; the reasons are in {path}")
    typer.echo(f"{workload.key} on {goal.name}: {line(best)}, trial {best.trial}, {best.knobs}")


def _model(
    strategy: str, name: str | None, transfer: bool, space: Space, path: Path, workload: Workload, seed: int
) -> dict[str, Any]:
    """The options of a strategy: its cost model, which may start from the records of others beside ``path``."""
    if strategy != MODELLED:
        if name is not None:
            raise CodegenError(f"--cost-model is for {MODELLED}; {strategy} has no cost model")
        return {}
    chosen = name or DEFAULT_MODEL
    if not transfer:
        return {"model": models.load(chosen, seed)}
    others = [
        record
        for file in sorted(path.parent.glob("*.jsonl"))
        for record in store.read(file)
        if record.workload != workload.key or file != path
    ]
    return {"model": transferring.transfer(chosen, space, others, seed)}


def _search(run: tuning.Search, trials: int, minutes: float | None, plan: bool) -> None:
    with progress(BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task(run.workload.key, total=max(trials, run.measured), completed=run.measured)

        def report(record: store.Record) -> None:
            best = run.best
            text = f"{run.workload.key}: best {line(best)}" if best else run.workload.key
            bar.update(task, completed=run.measured, description=text)
            if record.status != "ok":
                bar.console.print(f"trial {record.trial} {line(record)}", highlight=False, markup=False)

        run.run(trials, minutes, report)
        if plan:
            bar.update(task, description=f"{run.workload.key}: the best again, and the winner's plan")
            run.crown()


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
