"""`python -m benchmarks OP`: times tvmops against its peers, prints a table, writes CSV, JSON, Markdown and PNG."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import limits, ops, peers, results, runner
from benchmarks.case import Case
from benchmarks.report import Report

DEFAULT_OUT = Path(__file__).parent / "results"
_OPS = [*ops.names(), "all"]


def _threads(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"{text!r}: give numbers of at least 1, such as 1,2", param_hint="--threads")
    return list(dict.fromkeys(counts))


def _peers(text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in chosen:
        if name not in peers.PEERS:
            raise typer.BadParameter(f"unknown peer {name!r}; known: {', '.join(peers.PEERS)}", param_hint="--peers")
    return chosen if "aten" in chosen else ("aten", *chosen)  # every summary is against ATen


def _cases(op: str, suite: str, only: str) -> dict[str, list[Case]]:
    """The chosen cases of each chosen operator."""
    chosen = ops.names() if op == "all" else [op]
    if op not in _OPS:
        raise typer.BadParameter(f"unknown operator {op!r}; known: {', '.join(_OPS)}", param_hint="OP")
    wanted = [part.strip() for part in suite.split(",")]
    known = list(dict.fromkeys(name for family in chosen for name in ops.load(family).SUITES))
    for name in wanted:
        if name not in (*known, "all"):
            raise typer.BadParameter(f"unknown suite {name!r}; known: {', '.join(known)}, all", param_hint="--suite")
    found: dict[str, list[Case]] = {}
    for family in chosen:
        module = ops.load(family)
        suites = [name for name in module.SUITES if name in wanted or "all" in wanted]
        cases = [case for name in suites for case in module.cases(name) if only in case.name]
        if cases:
            found[family] = cases
    if not found:
        raise typer.BadParameter(f"no case has {only!r} in its name", param_hint="--case")
    return found


def _writable(out: Path) -> None:
    """Fails before an hour of timing, not after it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise typer.BadParameter(f"{out} can't be written: {error}", param_hint="--out") from error


def _run(console: Console, report: Report, cases: list[Case], tvmops: ModuleType, threads: int) -> None:
    # No refresh thread: it would run beside what is being timed.
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task(f"{report.op}, {threads} threads", total=len(cases))
        progress.refresh()
        for result in runner.run(cases, report.host, tvmops, threads, report.options):
            report.by_threads.setdefault(threads, []).append(result)
            progress.update(task, advance=1, description=f"{report.op}, {threads} threads, {result.case}")
            progress.refresh()


def main(
    op: Annotated[str, typer.Argument(help=f"What to time: {', '.join(_OPS)}.", metavar="OP")],
    threads: Annotated[str, typer.Option(help="Numbers of threads, one run each, such as 1,2.")] = "1,2",
    suite: Annotated[str, typer.Option(help="Suites, comma-separated, or all; --list names them.")] = "all",
    case: Annotated[str, typer.Option(help="Only cases with this text in their name.")] = "",
    rounds: Annotated[int, typer.Option(min=3, help="Rounds; in each, every peer is timed once.")] = 15,
    min_time: Annotated[float, typer.Option(min=0.0, help="Least milliseconds of a sample.")] = 2.0,
    cold: Annotated[bool, typer.Option("--cold/--no-cold", help="Also time with emptied caches.")] = False,
    peer: Annotated[str, typer.Option("--peers", help=f"Of {', '.join(peers.PEERS)}; aten always is.")] = "aten",
    mode: Annotated[str, typer.Option(help="tvmops' mode: auto, force or off.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for CSV, JSON, Markdown and PNG.", show_default="benchmarks/results")
    ] = DEFAULT_OUT,
    baseline: Annotated[Path | None, typer.Option(help="CSV of a former run to compare ratios with.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List suites and cases, time nothing.")] = False,
) -> None:
    """Time tvmops against its peers, interleaved in one process, after checking every result against float64.

    Ratios are a peer's time over tvmops' time: over 1, tvmops is faster. Losses (under 0.97) are red.
    Ends with status 1 if a case failed its check.
    """
    chosen = _cases(op, suite, case)
    counts = _threads(threads)
    names = _peers(peer)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a pipe has no width: 80 columns would fold every row
    if list_:
        for family, cases in chosen.items():
            for item in cases:
                console.print(f"{family}  {item.suite}  {item.name}", highlight=False)
        return
    try:
        before = None if baseline is None else results.read_baseline(baseline)
    except results.BaselineError as error:
        raise typer.BadParameter(str(error), param_hint="--baseline") from error
    try:
        tvmops = peers.load_tvmops()
    except peers.NotBuiltError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    if mode not in ("auto", "force", "off"):
        raise typer.BadParameter(f"unknown mode {mode!r}; known: auto, force, off", param_hint="--mode")
    _writable(out)
    host = limits.machine(tvmops)
    if host.load > 0.5:
        console.print(f"note: load average is {host.load:.1f}; ratios are interleaved, absolute figures may suffer")
    if max(counts) > host.cores:
        console.print(f"note: {max(counts)} threads asked for, {host.cores} cores here")
    options = runner.Options(rounds, min_time / 1e3, cold, names, seed)
    config = str(tvmops.show_config()) if hasattr(tvmops, "show_config") else ""
    failed = 0
    for family, cases in chosen.items():
        report = Report(family, out, host, options, config, before)
        try:
            with tvmops.mode(mode):
                for count in counts:
                    _run(console, report, cases, tvmops, count)
                    report.show(console, count)
        except KeyboardInterrupt:
            console.print("interrupted; what was timed is kept")
            raise typer.Exit(130) from None
        finally:
            if report.by_threads:
                console.print("written: " + ", ".join(map(str, report.write())), highlight=False, soft_wrap=True)
        failed += sum(bool(result.error) for found in report.by_threads.values() for result in found)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
