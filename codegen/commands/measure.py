"""``measure``: candidates that are timed elsewhere, on a farm of servers or as a batch that is carried there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn

from .. import ops, search, spaces
from ..errors import CodegenError
from ..measure import batch, carry, device_files, device_records
from ..measure.measurer import ROUNDS
from ..measure.runner import Runner
from ..measure.tracker import address_of
from ..records import store
from ..spaces.space import Choice, Space, broken, pin
from ..target import TARGETS, Target, find
from ..workload import Workload, parse_dims
from ._common import (
    GoalOption,
    KnobsOption,
    StoreOption,
    ThreadsOption,
    app,
    goal_of,
    knobs_of,
    progress,
    say,
    target_of,
    threads_of,
)

group = typer.Typer(help="Times candidates elsewhere.", no_args_is_help=True)
app.add_typer(group, name="measure")


@group.command()
def serve(
    tracker: Annotated[str, typer.Option(help="HOST:PORT of TVM's RPC tracker, python -m tvm.exec.rpc_tracker.")],
    key: Annotated[str, typer.Option(help="By which clients ask for servers; one for each kind of machine.")],
    host: Annotated[
        str, typer.Option(help="The interface to listen on; 0.0.0.0: all. Whoever reaches it can run code here.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The first of 100 ports that it may listen on.")] = 9091,
    address: Annotated[
        str | None, typer.Option(help="By which clients reach this machine, if not by the one the tracker sees.")
    ] = None,
) -> None:
    """Measures candidates on this machine for searches elsewhere, until Ctrl-C. One session at a time."""
    from ..measure import rpc_server

    where = address_of(tracker)

    def ready(number: int) -> None:
        typer.echo(f"serving {key} on {host}:{number} for the tracker {tracker}")

    rpc_server.serve(where, key, host, port, address, ready)


BatchArgument = Annotated[Path, typer.Argument(help="The directory of a batch.", file_okay=False)]


@group.command()
def export(
    op: Annotated[str, typer.Option(help=f"The operator: {', '.join(ops.all_ops())}.")],
    dims: Annotated[str, typer.Option(help="Its dimensions, * for a symbolic one, e.g. M=*,N=3072,K=768.")],
    out: Annotated[Path, typer.Option(help="The directory of the batch; one that is there is added to.")],
    dtype: Annotated[str, typer.Option(help="Of the operands in memory.")] = "float32",
    target: GoalOption = "native",
    space: Annotated[str | None, typer.Option(help="As for tune.")] = None,
    strategy: Annotated[str, typer.Option(help=f"{', '.join(search.all_strategies())}.")] = "random",
    count: Annotated[int, typer.Option(min=1, help="How many candidates the strategy proposes.")] = 16,
    knobs: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable: NAME=VALUE,..., a candidate in place of those; what it lacks is the default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the strategy and of the data.")] = 0,
    records: StoreOption = Path("build/records"),
    threads: ThreadsOption = "1",
    rounds: Annotated[int, typer.Option(min=1, help="Samples to take at least.")] = ROUNDS,
    limit: Annotated[float, typer.Option(min=1, help="Seconds that checking and timing one choice may take.")] = 300.0,
    knob: KnobsOption = None,
) -> None:
    """Builds candidates into a directory, to be timed on a machine without TVM: what to do there is in its README.

    The strategy knows the records that are there, so that export, run and import in turns are a search.
    """
    workload, goal = ops.check(Workload(op, dtype, parse_dims(dims))), target_of(target)
    plan = carry.Plan(seed, threads_of(threads), rounds, limit)
    chosen = spaces.find(workload, goal, space)
    pin(chosen, knobs_of(knob))
    known = store.matching(store.read(store.file_of(records, goal.name)), workload, goal.name)
    given = [_given(chosen, text) for text in knobs or ()]
    choices = given or carry.proposals(chosen, strategy, seed, known)
    with progress(BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task(f"building {workload.key}", total=len(given) or count)

        def report(what: carry.Request | str) -> None:
            if isinstance(what, str):
                bar.console.print(f"left out: {what}", highlight=False, markup=False)
            else:
                bar.update(task, advance=1)

        added = carry.export(
            out,
            workload,
            goal,
            chosen,
            choices,
            len(given) or count,
            strategy="given" if given else strategy,
            first=len(known),
            plan=plan,
            report=report,
        )
    if not added:
        raise CodegenError(f"nothing was added to {out}: no choice of {workload.key} is new and can be built")
    typer.echo(f"{out}: {len(added)} candidates of {workload.key} for {goal.name}; see {out / 'README.md'}")


def _given(space: Space, text: str) -> Choice:
    choice = {**space.default(), **knobs_of(text.split(","))}
    wrong = broken(space, choice)
    if wrong:
        raise CodegenError(f"{text}: {'; '.join(wrong)}")
    return choice


@group.command()
def run(directory: BatchArgument) -> None:
    """Measures the candidates of a batch that have no result yet. Without TVM: python -m codegen.measure.batch DIR."""
    raise typer.Exit(batch.main([str(directory)]))


@group.command(name="import")
def import_(directory: BatchArgument, records: StoreOption = Path("build/records")) -> None:
    """Adds the results of a batch to the records. What is there already stays as it is."""
    collect = device_records.collect if device_files.is_device_batch(directory) else carry.collect
    added, known = collect(directory, records)
    for failed in (r for r in added if r.status != "ok"):
        say(f"trial {failed.trial} of {failed.workload}: {failed.status}: {failed.reason}")
    typer.echo(f"{records}: {len(added)} records added, {known} were there")


def runner_of(
    name: str, goal: str, tracker: str | None, key: str | None
) -> tuple[Callable[[], Runner], Target, dict[str, Any]]:
    """What gives runners of that name, the target of that name, which their machine runs, and the machine for records.

    Args:
        name: local, or rpc with a tracker and a key.
        goal: a target, or native: the best that the machine runs.

    Raises:
        CodegenError: there is none, the machine is not reached, or does not run the target.
    """
    from ..measure.local import LocalRunner
    from ..measure.rpc import RpcRunner

    if name == "local":
        if tracker or key:
            raise CodegenError("--tracker and --key are for the runner rpc, not for local")
        here, about = goal_of(goal)
        return lambda: LocalRunner(here), here, about
    if name != "rpc":
        raise CodegenError(f"unknown runner {name!r}; known: local, rpc")
    if not tracker or not key:
        raise CodegenError("the runner rpc needs --tracker HOST:PORT and --key KEY")
    wanted = None if goal == "native" else find(goal)
    remote = RpcRunner(address_of(tracker), key)
    try:
        machine = remote.about()
    finally:
        remote.close()
    usable = [t for t in machine.targets if t in TARGETS]
    there = wanted or (find(usable[0]) if usable else None)
    if there is None or there.name not in usable:
        what = f"the target {there.name}" if there else f"any of the targets {', '.join(TARGETS)}"
        raise CodegenError(f"the machine of the runner rpc does not run {what}, only {', '.join(machine.targets)}")
    remote.target = there
    return lambda: remote, there, machine.about  # one for all searches: each holds a server, and reconnects when used
