"""The command line of the offline stage: ``python -m codegen``, installed as ``tvmops-codegen``."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import models, ops, search, sweep
from . import show as showing
from . import tune as tuning
from .errors import CodegenError
from .export import pack, selection
from .measure import measurer
from .models import transfer as transferring
from .records import SHIPPED, store
from .search.economy import Patience
from .spaces import space as spaces
from .spaces.space import Space
from .target import TARGETS, Target, find
from .workload import Workload, parse_dims

# The strategy that has a cost model, and which one it has if nothing is said.
MODELLED, DEFAULT_MODEL = "constrained-genetic", "xgboost-rank"

out, err = Console(), Console(stderr=True)


class _Commands(typer.core.TyperGroup):
    """Says what a person can put right in one sentence on stderr, with exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
                return super().invoke(ctx)
        except CodegenError as error:
            _say(f"error: {error}")
        except OSError as error:
            _say(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
        raise typer.Exit(2)


def _say(text: str) -> None:
    typer.echo(" ".join(text.split()), err=True)


app = typer.Typer(
    cls=_Commands,
    help="Describes operators, searches for their best schedules, and makes kernel packs of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TargetsOption = Annotated[
    list[str] | None,
    typer.Option("--target", help=f"Repeatable: {', '.join(TARGETS)}, or native. Default: all of this architecture."),
]
RecordsOption = Annotated[
    Path | None, typer.Option("--records", help="A folder of records to take before the shipped ones.", file_okay=False)
]
GoalOption = Annotated[
    str, typer.Option("--target", help=f"{', '.join(TARGETS)}, or native: the best this machine runs.")
]
StoreOption = Annotated[
    Path, typer.Option("--records", help="The folder of record files, one a target.", file_okay=False)
]
ThreadsOption = Annotated[
    str, typer.Option("--threads", help="Thread counts to time with, e.g. 1,2. More than 1 needs an idle machine.")
]
KnobsOption = Annotated[list[str] | None, typer.Option("--knob", help="Repeatable: NAME=VALUE, fixes a knob.")]


def _target(name: str) -> Target:
    if name != "native":
        return find(name)
    for usable in measurer.this_machine().targets:
        if usable in TARGETS:
            return find(usable)
    raise CodegenError(f"this machine runs none of the targets {', '.join(TARGETS)}")


def _targets(names: list[str] | None) -> list[Target]:
    return list(dict.fromkeys(map(_target, names))) if names else selection.default_targets()


def _knobs(texts: list[str] | None) -> dict[str, int]:
    knobs = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        if not name or not value.removeprefix("-").isdecimal():
            raise CodegenError(f"not a knob: {text!r} (expected NAME=VALUE with an integer)")
        knobs[name] = int(value)
    return knobs


@contextlib.contextmanager
def _progress(*columns: Any) -> Iterator[Progress]:
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), *columns, TimeElapsedColumn(), console=err) as bar:
        yield bar


def _write(targets: list[Target], directories: list[Path], directory: Path) -> int:
    """Exports, with a progress bar. Returns how many kernels."""
    with _progress(BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task("machine code", total=None)
        kernels = selection.kernels(targets, directories)

        def step(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"machine code: {what}", completed=done, total=total)

        pack.export(kernels, directory, step)
        bar.update(task, description="machine code")
    return len(kernels)


@app.command()
def build(
    out_dir: Annotated[Path, typer.Option("--out", help="Where default.so and export/ go.")] = Path("build/pack"),
    target: TargetsOption = None,
    records: RecordsOption = None,
) -> None:
    """Makes a kernel pack from the records; a workload without one gets its space's default.

    What was made before from the same content is not made again.
    """
    if not target and not selection.ships_here():
        typer.echo(f"no kernels ship for {platform.machine()}: no pack is made, ATen will serve every call")
        return
    targets, library = _targets(target), out_dir / "default.so"
    count = _write(targets, [records] if records else [], out_dir / "export")
    names = ", ".join(t.name for t in targets)
    if pack.link_if_changed(out_dir / "export", library):
        typer.echo(f"{library}: {count} kernels for {names}, {library.stat().st_size >> 10} KiB")
    else:
        typer.echo(f"{library} is up to date: {count} kernels for {names}")


@app.command()
def export(
    target: TargetsOption = None,
    out_dir: Annotated[Path, typer.Option("--out", help="The folder to write to.")] = Path("build/export"),
    records: RecordsOption = None,
) -> None:
    """Writes what a machine without TVM builds a pack from: objects, table, header, manifest; and LLVM IR to read."""
    count = _write(_targets(target), [records] if records else [], out_dir)
    typer.echo(f"{out_dir}: {count} kernels; cc -shared -fPIC -o pack.so pack.c leaves-*.o makes a pack of them")


def _goal(name: str) -> tuple[Target, dict[str, Any]]:
    """The target of that name, which this machine runs, and the machine as records tell it."""
    wanted = None if name == "native" else find(name)
    machine = measurer.this_machine()
    goal = wanted or _target("native")
    if goal.name not in machine.targets:
        raise CodegenError(f"this machine does not run {goal.name}, only {', '.join(machine.targets)}")
    return goal, machine.about


def _line(record: store.Record) -> str:
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    return f"{record.ratio:.3f} x ATen"


@app.command()
def tune(
    op: Annotated[str, typer.Option(help=f"The operator: {', '.join(ops.all_ops())}.")],
    dims: Annotated[str, typer.Option(help="Its dimensions, * for a symbolic one, e.g. M=*,N=3072,K=768.")],
    dtype: Annotated[str, typer.Option(help="Of the operands in memory.")] = "float32",
    target: GoalOption = "native",
    strategy: Annotated[str, typer.Option(help=f"{', '.join(search.all_strategies())}.")] = "random",
    trials: Annotated[int, typer.Option(min=1, help="Choices to measure, those in the records included.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the strategy and of the data.")] = 0,
    records: StoreOption = Path("build/records"),
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so long.")] = None,
    threads: ThreadsOption = "1",
    limit: Annotated[float, typer.Option(min=1, help="Seconds that checking and timing one choice may take.")] = 300.0,
    plan: Annotated[bool, typer.Option(help="Measure the winner again, and its plan.")] = True,
    model: Annotated[
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
    counts = _threads(threads)
    fixed = _knobs(knob)
    if strategy not in search.all_strategies():
        raise CodegenError(f"unknown strategy {strategy!r}; known: {', '.join(search.all_strategies())}")
    goal, about = _goal(target)
    space = ops.load(op).space(workload, goal)
    spaces.pin(space, fixed)
    path = store.file_of(records, goal.name)
    store.check_writable(path)
    options = _model(strategy, model, transfer, space, path, workload, seed)
    stop = None if patience is None else Patience(patience, least_gain)
    with measurer.LocalMeasurer(workload, goal, counts, seed=seed, limit=limit) as local:
        run = tuning.Search(workload, goal, space, strategy, seed, path, about, local, options, stop)
        if run.measured:
            typer.echo(f"{path}: {run.measured} choices of {workload.key} are measured already")
        try:
            _search(run, trials, minutes, plan)
        except KeyboardInterrupt:
            _say(f"interrupted; {run.measured} choices of {workload.key} are in {path}")
            raise typer.Exit(130) from None
        best = run.best
    if best is None:
        raise CodegenError(f"no choice of {workload.key} was right and in time; the reasons are in {path}")
    typer.echo(f"{workload.key} on {goal.name}: {_line(best)}, trial {best.trial}, {best.knobs}")


@app.command()
def plan(
    pattern: Annotated[str, typer.Argument(help="Keys, with * and ? standing for anything: 'gelu*(float32*'.")] = "*",
    target: GoalOption = "native",
    records: StoreOption = Path("build/records"),
    threads: ThreadsOption = "1",
) -> None:
    """Measures the plans of shipped kernels as they are, without a search: where each wins and where ATen does."""
    goal, about = _goal(target)
    found = [w for w in ops.shipped() if fnmatch.fnmatchcase(w.key, pattern)]
    if not found:
        raise CodegenError(f"no shipped workload is like {pattern!r}")
    path = store.file_of(records, goal.name)
    store.check_writable(path)
    with _progress(BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task("machine code", total=len(found))

        def report(record: store.Record) -> None:
            bar.update(task, advance=1, description=record.workload)
            bar.console.print(f"{record.workload}: {_line(record)}", highlight=False, markup=False)

        sweep.sweep(found, goal, path, about, _threads(threads), report)


def _model(
    strategy: str, name: str | None, transfer: bool, space: Space, path: Path, workload: Workload, seed: int
) -> dict[str, Any]:
    """The options of a strategy: its cost model, which may start from the records of others beside ``path``."""
    if strategy != MODELLED:
        if name is not None:
            raise CodegenError(f"--model is for {MODELLED}; {strategy} has no cost model")
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


def _threads(text: str) -> list[int]:
    counts = text.split(",")
    if not all(c.isdecimal() and int(c) > 0 for c in counts):
        raise CodegenError(f"not a list of thread counts: {text!r} (expected e.g. 1,2)")
    return [int(c) for c in counts]


def _search(run: tuning.Search, trials: int, minutes: float | None, plan: bool) -> None:
    with _progress(BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task(run.workload.key, total=max(trials, run.measured), completed=run.measured)

        def report(record: store.Record) -> None:
            best = run.best
            text = f"{run.workload.key}: best {_line(best)}" if best else run.workload.key
            bar.update(task, completed=run.measured, description=text)
            if record.status != "ok":
                bar.console.print(f"trial {record.trial} {_line(record)}", highlight=False, markup=False)

        run.run(trials, minutes, report)
        if plan:
            bar.update(task, description=f"{run.workload.key}: the best again, and the winner's plan")
            run.crown()


@app.command()
def ship(
    records: Annotated[Path, typer.Option(help="The folder that tune wrote to.", file_okay=False)] = Path(
        "build/records"
    ),
    to: Annotated[Path, typer.Option(help="The folder of the shipped records.", file_okay=False)] = SHIPPED,
) -> None:
    """Takes the winners of searches into the shipped records, in place of older ones of the same kernel."""
    taken = tuning.ship(records, to)
    if not taken:
        raise CodegenError(f"{records} holds no record with a plan")
    for record in taken:
        typer.echo(f"{record.workload} on {record.target}: {_line(record)}")


@app.command("list")
def list_kernels(target: TargetsOption = None, records: RecordsOption = None) -> None:
    """Shows the workloads of the default pack, and the record that each kernel is made from."""
    table = Table("workload", "target", "x ATen", "error", "measured", "knobs, where not the default")
    for goal in _targets(target):
        for kernel in selection.kernels([goal], [records] if records else []):
            default = ops.load(kernel.workload.op).space(kernel.workload, goal).default()
            knobs = " ".join(f"{k}={v}" for k, v in kernel.knobs.items() if default.get(k) != v)
            record = kernel.about.get("record")
            if record:
                ratio = f"{record['aten_seconds'] / record['seconds']:.2f}"
                when = f"{record['date'][:10]}, {record['machine']['cpu']}"
                table.add_row(kernel.workload.key, goal.name, ratio, f"{record['error']:.1e}", when, knobs)
            else:
                table.add_row(kernel.workload.key, goal.name, "-", "-", "not yet", knobs)
    (out if out.is_terminal else Console(width=200)).print(table)


@app.command()
def show(
    key: Annotated[
        str, typer.Argument(help="A workload's key, e.g. 'linear(float32;M=*,N=768,K=768)', or KEY@TARGET.")
    ],
    target: Annotated[
        str | None, typer.Option(help=f"{', '.join(TARGETS)}, or native. Default: the last of these.")
    ] = None,
    what: Annotated[str, typer.Option(help=f"{', '.join(showing.WHAT)}.")] = "tir",
    leaf: Annotated[
        str | None, typer.Option(help="A leaf by name (--what space lists them). Default: the full tile.")
    ] = None,
    records: RecordsOption = None,
    knob: KnobsOption = None,
) -> None:
    """Prints a kernel: TVMScript, LLVM IR, assembly, the operator's TE, its schedule space, or its C table."""
    name, at, suffix = key.partition("@")
    workload = ops.check(Workload.parse(name))
    goal = _target(target or (suffix if at else next(reversed(TARGETS))))
    recorded = selection.records_of(goal, [records] if records else [])
    record = store.best(recorded, workload, goal.name)
    kernel = selection.kernel(workload, goal, record, _knobs(knob))
    typer.echo(showing.show(kernel, what, leaf))


@app.command()
def report(
    pattern: Annotated[str, typer.Argument(help="A key, or one with * and ? standing for anything.")] = "*",
    records: StoreOption = Path("build/records"),
    target: Annotated[list[str] | None, typer.Option(help="Repeatable, or native. Default: all there are.")] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="The folder to write to.")] = Path("build/report"),
    limits: Annotated[
        Path | None,
        typer.Option(help="What the machine can do: a JSON file that `python -m benchmarks` wrote.", dir_okay=False),
    ] = None,
) -> None:
    """Shows what searches found: a page with pictures of the trials, knobs and winners, and a table here."""
    # matplotlib and scikit-learn take seconds to import, and no other command needs them.
    from .report import collect, page, summary
    from .report import limits as machine_limits

    try:
        targets = [_target(name).name if name == "native" else name for name in target or ()]
        groups = collect.collect(records, pattern, targets)
        known = machine_limits.read(limits) if limits else machine_limits.Limits()
        with _progress(BarColumn(), MofNCompleteColumn()) as bar:
            task = bar.add_task("report", total=len(groups))

            def step(workload: str, done: int) -> None:
                bar.update(task, description=escape(workload), completed=done)

            written, sections = page.write(groups, known, out_dir, step)
            bar.update(task, completed=len(groups), description="report")
    except CodegenError as error:
        _say(f"error: {error}")
        raise typer.Exit(1) from None
    (out if out.is_terminal else Console(width=200)).print(summary.table(sections))
    typer.echo(written)


def main() -> None:
    """The entry point of the console script."""
    # Nothing here computes with threads, and idle ones would disturb what the helpers measure.
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    app(prog_name="python -m codegen" if __package__ == "codegen" else "tvmops-codegen")


if __name__ == "__main__":
    main()
