"""``build``, ``export``, ``list`` and ``ship``: from records to packs."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn
from rich.table import Table

from .. import spaces
from .. import tune as tuning
from ..errors import CodegenError
from ..export import pack, selection
from ..records import SHIPPED
from ..target import Target
from ._common import RecordsOption, TargetsOption, app, line, out, progress, targets_of


def _write(targets: list[Target], directories: list[Path], directory: Path) -> int:
    """Exports, with a progress bar. Returns how many kernels."""
    with progress(BarColumn(), MofNCompleteColumn()) as bar:
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
    targets, library = targets_of(target), out_dir / "default.so"
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
    count = _write(targets_of(target), [records] if records else [], out_dir)
    typer.echo(f"{out_dir}: {count} kernels; cc -shared -fPIC -o pack.so pack.c leaves-*.o makes a pack of them")


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
        typer.echo(f"{record.workload} on {record.target}: {line(record)}")


@app.command("list")
def list_kernels(target: TargetsOption = None, records: RecordsOption = None) -> None:
    """Shows the workloads of the default pack, and the record that each kernel is made from."""
    table = Table("workload", "target", "x ATen", "error", "measured", "knobs, where not the default")
    for goal in targets_of(target):
        for kernel in selection.kernels([goal], [records] if records else []):
            default = spaces.find(kernel.workload, goal, kernel.space).default()
            knobs = " ".join(f"{k}={v}" for k, v in kernel.knobs.items() if default.get(k) != v)
            record = kernel.about.get("record")
            if record:
                ratio = f"{record['aten_seconds'] / record['seconds']:.2f}"
                when = f"{record['date'][:10]}, {record['machine']['cpu']}"
                table.add_row(kernel.workload.key, goal.name, ratio, f"{record['error']:.1e}", when, knobs)
            else:
                table.add_row(kernel.workload.key, goal.name, "-", "-", "not yet", knobs)
    (out if out.is_terminal else Console(width=200)).print(table)
