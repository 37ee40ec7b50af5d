"""``tune --model``: the workloads of a model are found, searched together, and made a pack of."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn
from rich.table import Table

from .. import profiling, scheduler, spaces
from .. import tune as tuning
from ..errors import CodegenError
from ..export import pack, selection
from ..pool import Pool
from ..records import store
from ..scheduler import Task
from ..workload import Workload
from ._common import line, out, progress, say
from ._tuning import Settings

# Operators with less of the time are not listed one by one.
LISTED = 0.005
# Trials for each workload where neither trials nor minutes are given.
TRIALS = 64
# Of a time budget at most so much is kept for what comes after the search: the winners again, and their plans.
RESERVED = 0.5
# Guesses, in seconds: a trial, before any was made; a bucket of a plan with one number of threads.
TRIAL_GUESS, BUCKET_GUESS = 3.0, 0.2


@dataclass(frozen=True)
class ModelOptions:
    """What is asked of ``tune --model``."""

    spec: str
    trials: int | None  # of all workloads together
    minutes: float | None
    plan: bool
    out_dir: Path
    least_share: float
    general: bool
    started: float  # on the monotonic clock: the minutes count from there


def tune_model(options: ModelOptions, settings: Settings) -> None:
    """See the module. Ctrl-C keeps what was measured and builds nothing.

    Raises:
        CodegenError: the model can't be run, nothing in it is worth tuning, or a record can't be written.
    """
    profile = profiling.profile(options.spec, settings.target.name, max(settings.threads))
    chosen = profile.worth_tuning(options.least_share, options.general)
    _show(profile, [workload.key for workload in chosen])
    if not chosen:
        raise CodegenError(
            f"nothing to tune in {options.spec}: no kernel for certain sizes would serve {options.least_share:.1%} "
            "of its time or more (--least-share); --general tunes kernels for all sizes too"
        )
    deadline = None if options.minutes is None else options.started + 60 * options.minutes
    trials = options.trials
    if trials is None and deadline is None:
        trials = TRIALS * len(chosen)
    with Pool() as pool:
        searches = {w: settings.search(pool, w, spaces.find(w, settings.target)) for w in chosen}
        tasks = [Task(w.key, share, w.op, searches[w]) for w, share in chosen.items()]
        try:
            _search(list(searches.values()), tasks, trials, deadline, len(settings.threads) if options.plan else 0)
        except KeyboardInterrupt:
            count = sum(task.trials for task in tasks)
            say(f"interrupted; {count} trials are in {settings.path}, and the same command goes on from there")
            raise typer.Exit(130) from None
        best = {w: s.best for w, s in searches.items()}
    _report(tasks, best)
    _build({w: r for w, r in best.items() if r is not None}, options, settings)


def _search(
    searches: Sequence[tuning.Search], tasks: Sequence[Task], trials: int | None, deadline: float | None, plans: int
) -> None:
    """The search, within its part of the time, then the plans, the weightiest workload first.

    ``plans`` is the number of thread counts that a plan is measured with; 0: no plans.
    """
    began, known = time.monotonic(), sum(task.trials for task in tasks)

    def over() -> bool:
        if deadline is None:
            return False
        now = time.monotonic()
        done = sum(task.trials for task in tasks) - known
        each = (now - began) / done if done else TRIAL_GUESS
        rest = sum(_afterwards(search, each, plans) for search in searches) if plans else 0.0
        return now >= deadline - min(rest, RESERVED * (deadline - began))

    with progress(BarColumn(), MofNCompleteColumn()) as bar:
        shown = bar.add_task("searching", total=trials, completed=known)

        def report(task: Task, record: store.Record) -> None:
            bar.update(shown, advance=1, description=f"{task.name}: best {1 / task.cost(task.trials):.3f} x ATen")
            if record.status != "ok":
                bar.console.print(f"{task.name}: {line(record)}", highlight=False, markup=False)

        scheduler.schedule(tasks, trials, over, report)
        for search in searches if plans else ():
            bar.update(shown, description=f"{search.workload.key}: the best again, and the winner's plan")
            try:
                search.crown()
            except CodegenError as error:
                bar.console.print(f"{search.workload.key}: {error}", highlight=False, markup=False)


def _afterwards(search: tuning.Search, each: float, counts: int) -> float:
    """About how many seconds the winner of a search will take, if a trial takes ``each``."""
    # Most of a trial is the building, which the finalists may need again; more rounds weigh little.
    return tuning.FINALISTS * each + BUCKET_GUESS * search.space.plan_size() * counts


def _show(profile: profiling.Profile, tuned: Sequence[str]) -> None:
    """The operators of a model, and what becomes of each."""
    if profile.replaced:
        kinds = Counter(text.partition(": ")[2].partition("(")[0] for text in profile.replaced)
        modules = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        typer.echo(f"replaced by tvmops.nn, in a copy of the model: {modules}")
    table = Table("operator", "workload", "calls", "share of time", "served now by", "tuned")
    rest = [entry for entry in profile.entries if entry.share < LISTED]
    for entry in profile.entries:
        key = entry.workload.key if entry.workload else "-"
        if entry not in rest:
            row = (entry.op, key, str(entry.calls), f"{entry.share:.1%}", _served(entry))
            table.add_row(*row, "yes" if entry.ours and key in tuned else "no")
    if rest:
        calls, share = sum(e.calls for e in rest), sum(e.share for e in rest)
        table.add_row(f"{len(rest)} others", "-", str(calls), f"{share:.1%}", "-", "no")
    _print(table)
    aten = sum(entry.share for entry in profile.entries if not entry.ours)
    if aten >= LISTED:
        typer.echo(f"{aten:.1%} of the time is in ATen: no tvmops operator is called there, so no kernel can serve it")


def _served(entry: profiling.Entry) -> str:
    if entry.kernel is None:
        why = entry.reason or ("" if entry.ours else "the model calls torch")
        return f"no kernel: ATen{f' ({why})' if why else ''}"
    name = entry.kernel.partition("@")[0]
    return name if entry.served == entry.calls else f"{name}, {entry.served} of {entry.calls} calls"


def _report(tasks: Sequence[Task], best: dict[Workload, store.Record | None]) -> None:
    table = Table("workload", "share of time", "trials", "best", "plan")
    for task, record in zip(tasks, best.values(), strict=True):
        found = line(record) if record else "nothing was right and in time" if task.trials else "no time for it"
        plan = (record.plan or "not measured") if record else "-"
        table.add_row(task.name, f"{task.weight:.1%}", str(task.trials), found, plan)
    _print(table)


def _build(best: dict[Workload, store.Record], options: ModelOptions, settings: Settings) -> None:
    """The pack of the winners, and what it does for the model."""
    # A kernel whose plan leaves every call to ATen would only stand before one that serves some.
    winners = {w: r for w, r in best.items() if r.plan is None or any(r.routes() or ())}
    for workload in best.keys() - winners.keys():
        typer.echo(f"{workload.key}: no kernel is faster than ATen, so the pack has none")
    if not winners:
        typer.echo("no pack is made")
        return
    library = options.out_dir / "default.so"
    kernels = [selection.kernel(w, settings.target, record) for w, record in winners.items()]
    pack.export(kernels, options.out_dir / "export")
    pack.link_if_changed(options.out_dir / "export", library)
    typer.echo(f"{library}: {len(kernels)} kernels for {settings.target.name}; records in {settings.path}")
    compared = profiling.compare(options.spec, library.resolve(), settings.target.name, max(settings.threads))
    typer.echo(
        f"a call of the model, {max(settings.threads)} threads: {1e3 * compared.torch_seconds:.3f} ms as it is, "
        f"{1e3 * compared.seconds:.3f} ms on tvmops with this pack, a ratio of "
        f"{compared.torch_seconds / compared.seconds:.2f}; "
        f"the pack serves {compared.from_pack} of {compared.calls} tvmops calls"
    )
    typer.echo("to use it: tvmops.nn.replace(model), and")
    typer.echo(f"  tvmops.load_pack({str(library)!r})   or   TVMOPS_PACK_PATH={library}")


def _print(table: Table) -> None:
    (out if out.is_terminal else Console(width=200)).print(table)
