"""``tune``: a search on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn

from .. import models, ops, search, spaces
from .. import tune as tuning
from ..errors import CodegenError
from ..pool import Pool
from ..records import store
from ..search.economy import Patience
from ..spaces.space import pin
from ..workload import Workload, parse_dims
from ._common import (
    GoalOption,
    KnobsOption,
    StoreOption,
    ThreadsOption,
    app,
    knobs_of,
    line,
    progress,
    say,
    threads_of,
)
from ._tuning import DEFAULT, MODELLED, Settings, strategy_of
from ._tuning_model import ModelOptions, tune_model
from .measure import runner_of

TRIALS = 64


@app.command()
def tune(
    op: Annotated[str | None, typer.Option(help=f"The operator: {', '.join(ops.all_ops())}.")] = None,
    dims: Annotated[
        str | None, typer.Option(help="Its dimensions, * for a symbolic one, e.g. M=*,N=3072,K=768.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Instead of --op and --dims: a function, as PATH.py:FUNCTION or package.module:FUNCTION, that returns "
            "a model and example inputs, (model, args) or (model, args, kwargs). Its workloads are tuned together."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the operands in memory.")] = "float32",
    target: GoalOption = "native",
    space: Annotated[
        str | None,
        typer.Option(help="derived, metaschedule, or the operator's own, the default where it applies."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(search.all_strategies())}. Default: {DEFAULT}, or genetic where it lacks its libraries."
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Choices to measure, those in the records included; with --model of all workloads together. "
            f"Default: {TRIALS} for each workload; with --model and --minutes, what there is time for.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the strategy and of the data.")] = 0,
    records: StoreOption = Path("build/records"),
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; with --model, plans included as far as may be.")
    ] = None,
    threads: ThreadsOption = "1",
    limit: Annotated[float, typer.Option(min=1, help="Seconds that checking and timing one choice may take.")] = 300.0,
    plan: Annotated[bool, typer.Option(help="Measure the winner again, and its plan.")] = True,
    cost_model: Annotated[
        str | None, typer.Option(help=f"The cost model of {' and '.join(MODELLED)}: {', '.join(models.all_models())}.")
    ] = None,
    features: Annotated[
        str,
        typer.Option(help="What the cost model sees: knobs, or tir: the scheduled program, too. It takes longer."),
    ] = "knobs",
    transfer: Annotated[
        bool, typer.Option(help="The cost model starts from records of other workloads and targets in --records.")
    ] = True,
    prune: Annotated[bool, typer.Option(help="Put off choices near those that were bad.")] = True,
    runner: Annotated[
        str, typer.Option(help="Where candidates run: local, or rpc, on servers (`measure serve`) behind a tracker.")
    ] = "local",
    tracker: Annotated[str | None, typer.Option(help="HOST:PORT of the tracker, for the runner rpc.")] = None,
    key: Annotated[str | None, typer.Option(help="Of the servers, for the runner rpc.")] = None,
    aten: Annotated[
        bool, typer.Option(help="Time ATen beside every candidate; else beside the first and the best.")
    ] = True,
    flush: Annotated[
        bool, typer.Option("--flush", help="Empty the caches before each sample, for operands that come from memory.")
    ] = False,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop when so many trials in a row gained less than --least-gain.")
    ] = None,
    least_gain: Annotated[float, typer.Option(min=0, help="A fraction of the best score before.")] = 0.01,
    knob: KnobsOption = None,
    out_dir: Annotated[
        Path, typer.Option("--out", help="With --model: where default.so, the pack, and export/ go.")
    ] = Path("build/tuned"),
    least_share: Annotated[
        float, typer.Option(min=0, max=1, help="With --model: leave alone what has less of the time.")
    ] = 0.01,
    general: Annotated[
        bool, typer.Option("--general", help="With --model: tune kernels for all sizes too. Their plans take long.")
    ] = False,
) -> None:
    """Searches for the best schedules, of a workload or of all that matter in a model, and records every trial.

    It goes on from the records that are there. Ctrl-C ends it; what was measured stays. A winner is measured again
    and gets a plan: by size, whether the kernel or ATen serves a call. With --model, the winners become a pack.
    """
    started = time.monotonic()
    if model is not None and (op, dims) != (None, None):
        raise CodegenError("--model and --op/--dims exclude each other")
    if model is None and (op is None or dims is None):
        raise CodegenError("nothing to tune: give --op and --dims, or --model")
    if model is not None and (knob or space):
        raise CodegenError("--knob and --space are of one workload; they don't go with --model")
    workload = ops.check(Workload(op, dtype, parse_dims(dims))) if op is not None and dims is not None else None
    counts = threads_of(threads)
    fixed = knobs_of(knob)
    name, why = strategy_of(strategy)
    if cost_model is not None and cost_model not in models.all_models():
        raise CodegenError(f"unknown cost model {cost_model!r}; known: {', '.join(models.all_models())}")
    make, goal, about = runner_of(runner, target, tracker, key)
    stop = None if patience is None else Patience(patience, least_gain)
    settings = Settings(
        goal, about, name, cost_model, features, transfer, seed, records, counts, limit, stop, prune, aten, flush, make
    )
    if strategy is None:
        typer.echo(f"strategy: {name} ({why})")
    if model is not None:
        tune_model(ModelOptions(model, trials, minutes, plan, out_dir, least_share, general, started), settings)
        return
    assert workload is not None
    chosen = spaces.find(workload, goal, space)
    pin(chosen, fixed)
    with Pool() as pool:
        run = settings.search(pool, workload, chosen)
        if run.measured:
            typer.echo(f"{settings.path}: {run.measured} choices of {workload.key} are measured already")
        try:
            _search(run, trials or TRIALS, minutes, plan)
        except KeyboardInterrupt:
            say(f"interrupted; {run.measured} choices of {workload.key} are in {settings.path}")
            raise typer.Exit(130) from None
        best = run.best
    if best is None:
        raise CodegenError(f"no choice of {workload.key} was right and in time; the reasons are in {settings.path}")
    typer.echo(f"{workload.key} on {goal.name}: {line(best)}, trial {best.trial}, {best.knobs}")


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
