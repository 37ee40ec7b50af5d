"""``report``: what searches found, in pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn

from ..objectives import weights_of
from ._common import StoreOption, app, out, progress, target_of


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
    weights: Annotated[
        str | None, typer.Option(help="Also name the best by a weighted score of objectives, e.g. time=1,code=0.2.")
    ] = None,
) -> None:
    """Shows what searches found: a page with pictures of the trials, knobs and winners, and a table here."""
    # matplotlib and scikit-learn take seconds to import, and no other command needs them.
    from ..report import collect, page, summary
    from ..report import limits as machine_limits

    weighed = weights_of(weights) if weights else {}
    targets = [target_of(name).name if name == "native" else name for name in target or ()]
    groups = collect.collect(records, pattern, targets)
    known = machine_limits.read(limits) if limits else machine_limits.Limits()
    with progress(BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task("report", total=len(groups))

        def step(workload: str, done: int) -> None:
            bar.update(task, description=escape(workload), completed=done)

        written, sections = page.write(groups, known, out_dir, step, weighed)
        bar.update(task, completed=len(groups), description="report")
    console = out if out.is_terminal else Console(width=200)
    console.print(summary.table(sections))
    scores = summary.scores(sections)
    if scores is not None:
        console.print(scores)
    typer.echo(written)
