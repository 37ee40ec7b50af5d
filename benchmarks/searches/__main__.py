"""`python -m benchmarks.searches run`, `valid` and `table`: searches at equal trials; results are added to one file.

`run` goes on where it stopped. Nothing else may run on the machine meanwhile. One thread everywhere.
"""

from __future__ import annotations

import os

os.environ["TVM_NUM_THREADS"] = "1"  # before TVM is imported: its runner's processes too

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.searches import finals, series, table, valid
from codegen.measure.measurer import this_machine
from codegen.target import TARGETS, find
from codegen.workload import Workload

AT = (16, 64)
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
OutOption = Annotated[Path, typer.Option("--out", help="The file of results, JSON lines.", dir_okay=False)]
OUT = Path("benchmarks/results/searches.jsonl")


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _add(path: Path, line: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _workloads(pattern: str) -> list[Workload]:
    return [Workload.parse(key) for key in series.WORKLOADS if pattern in key]


def _wanted(runs: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, int]]]:
    for run in runs:
        for trials in AT:
            yield from ((run["space"], knobs) for knobs in series.best_of(run, trials))


@app.command()
def run(
    out: OutOption = OUT,
    only: Annotated[str, typer.Option(help="Workloads with this text in their key.")] = "",
    names: Annotated[str, typer.Option("--series", help="Comma-separated.")] = ",".join(
        (series.TVM, *series.STRATEGIES)
    ),
    trials: Annotated[int, typer.Option(min=1)] = 64,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Searches, then times the best of every search again."""
    machine = this_machine()
    target = find(next(name for name in machine.targets if name in TARGETS))
    done = {(r["workload"], r["series"], r["seed"]) for r in _read(out) if "series" in r}
    todo = [
        (seed, workload, name)
        for seed in range(seeds)
        for workload in _workloads(only)
        for name in names.split(",")
        if (workload.key, name, seed) not in done
    ]
    with Progress(*COLUMNS, console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task("searches", total=len(todo) * trials)
        for i, (seed, workload, name) in enumerate(todo):
            progress.update(task, completed=i * trials, description=f"{workload.op} {name} {seed}", refresh=True)
            found = series.run(name, workload, target, machine.about, trials, seed, lambda _: None)
            _add(out, {**found, "machine": machine.about, "target": target.name})
        for workload in _workloads(only):
            runs = [r for r in _read(out) if r["workload"] == workload.key and "series" in r]
            wanted = {json.dumps([space, sorted(knobs.items())]): (space, knobs) for space, knobs in _wanted(runs)}
            progress.update(task, description=f"{workload.op}: the best again", refresh=True)
            found = finals.measure(workload, target, list(wanted.values()), lambda: None)
            _add(out, {"workload": workload.key, "finals": found})
        progress.update(task, completed=len(todo) * trials, refresh=True)


@app.command("valid")
def count_valid(
    out: OutOption = OUT,
    only: Annotated[str, typer.Option(help="Workloads with this text in their key.")] = "",
    count: Annotated[int, typer.Option(min=1, help="Candidates of each kind.")] = 64,
) -> None:
    """How many candidates build, run and are right: solved for, and drawn knob by knob, constraints left aside."""
    machine = this_machine()
    target = find(next(name for name in machine.targets if name in TARGETS))
    for workload in _workloads(only):
        _add(out, {"workload": workload.key, "valid": valid.count(workload, target, count)})


@app.command("table")
def print_table(out: OutOption = OUT) -> None:
    """Prints the results as Markdown."""
    typer.echo(table.markdown(_read(out)))


if __name__ == "__main__":
    app()
