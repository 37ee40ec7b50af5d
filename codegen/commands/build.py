"""``build``, ``export``, ``list`` and ``ship``: from records to packs."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress
from rich.table import Table

from .. import spaces
from .. import tune as tuning
from ..errors import CodegenError
from ..export import device, pack, selection
from ..export.pack import PackKernel
from ..records import SHIPPED
from ..target import GpuTarget, Target
from ._common import AnyTargetsOption, RecordsOption, any_targets_of, app, line, out, progress


def _write(targets: list[Target], directories: list[Path], directory: Path) -> int:
    """Exports, with a progress bar. Returns how many kernels."""
    with progress(BarColumn(), MofNCompleteColumn()) as bar:
        step = _step(bar, "machine code")
        kernels = selection.kernels(targets, directories)
        pack.export(kernels, directory, step)
    return len(kernels)


def _step(bar: Progress, what: str) -> Callable[[str, int, int], None]:
    task = bar.add_task(what, total=None)

    def step(now: str, done: int, total: int) -> None:
        bar.update(task, description=what if done == total else f"{what}: {now}", completed=done, total=total)

    return step


def _build(targets: list[Target], directories: list[Path], out_dir: Path) -> None:
    library = out_dir / "default.so"
    count = _write(targets, directories, out_dir / "export")
    changed = pack.link_if_changed(out_dir / "export", library)
    _tell(library, changed, count, [t.name for t in targets])


def _build_device(targets: list[GpuTarget], directories: list[Path], out_dir: Path) -> None:
    library = out_dir / "cuda.so"
    kernels = selection.kernels(targets, directories)
    with progress(BarColumn(), MofNCompleteColumn()) as bar:
        steps = [_step(bar, "CUDA sources"), _step(bar, "machine code")]
        changed = device.build(kernels, out_dir / "export-cuda", out_dir / "objects-cuda", library, *steps)
    _tell(library, changed, len(kernels), [t.name for t in targets])


def _tell(library: Path, changed: bool, count: int, targets: list[str]) -> None:
    names = ", ".join(targets)
    if changed:
        typer.echo(f"{library}: {count} kernels for {names}, {library.stat().st_size >> 10} KiB")
    else:
        typer.echo(f"{library} is up to date: {count} kernels for {names}")


@app.command()
def build(
    out_dir: Annotated[
        Path, typer.Option("--out", help="Where default.so, cuda.so and what they are made from go.")
    ] = Path("build/pack"),
    target: AnyTargetsOption = None,
    records: RecordsOption = None,
) -> None:
    """Makes a kernel pack from the records; a workload without one gets its space's default.

    Kernels for CPUs go to default.so, those for GPUs to cuda.so, which takes nvcc. What was made before from the same
    content is not made again.
    """
    if not target and not selection.ships_here():
        typer.echo(f"no kernels ship for {platform.machine()}: no pack is made, ATen will serve every call")
        return
    targets, of_gpu = any_targets_of(target)
    directories = [records] if records else []
    if targets:
        _build(targets, directories, out_dir)
    if of_gpu:
        _build_device(of_gpu, directories, out_dir)


@app.command()
def export(
    target: AnyTargetsOption = None,
    out_dir: Annotated[Path, typer.Option("--out", help="The folder to write to.")] = Path("build/export"),
    records: RecordsOption = None,
    predict: Annotated[
        bool, typer.Option(help="Compile CUDA sources, to refuse what spills and to predict times. Takes nvcc.")
    ] = False,
) -> None:
    """Writes what a machine without TVM builds a pack from.

    For CPUs objects, table, header, manifest, and LLVM IR to read; for GPUs CUDA sources, table, header, manifest, and
    a Makefile, which needs nvcc and a C compiler.
    """
    targets, of_gpu = any_targets_of(target)
    if targets and of_gpu:
        raise CodegenError("an export is for CPUs or for GPUs, not for both: give them folders of their own")
    directories = [records] if records else []
    if targets:
        count = _write(targets, directories, out_dir)
        typer.echo(f"{out_dir}: {count} kernels; cc -shared -fPIC -o pack.so pack.c leaves-*.o makes a pack of them")
        return
    kernels = selection.kernels(of_gpu, directories)
    with progress(BarColumn(), MofNCompleteColumn()) as bar:
        found = device.sources(kernels, _step(bar, "CUDA sources"))
        device.export(kernels, found, out_dir)
        if predict:
            with tempfile.TemporaryDirectory() as objects:
                step = _step(bar, "machine code")
                compiled = device.compile_all(found, out_dir, Path(objects), step)
                device.export(kernels, found, out_dir, compiled)
    if predict:
        out.print(_predictions(kernels, compiled))
    typer.echo(f"{out_dir}: {len(kernels)} kernels; make -C {out_dir} makes cuda.so of them")


def _predictions(kernels: Sequence[PackKernel], compiled: Mapping[str, device.Compiled]) -> Table:
    table = Table("kernel", "sizes", "predicted", "TFLOP/s", "GB/s", "limit")
    for kernel in kernels:
        for p in device.predictions(kernel, compiled):
            sizes = ",".join(f"{name}={size}" for name, size in p.sizes.items())
            time = f"{p.seconds * 1e6:.1f} us"
            table.add_row(kernel.name, sizes, time, f"{p.tflops:.0f}", f"{p.gigabytes_per_second:.0f}", p.limit)
    return table


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
def list_kernels(target: AnyTargetsOption = None, records: RecordsOption = None) -> None:
    """Shows the workloads of the default packs, and the record that each kernel is made from."""
    table = Table("workload", "target", "x ATen", "error", "measured", "knobs, where not the default")
    of_cpu, of_gpu = any_targets_of(target)
    goals: list[Target | GpuTarget] = [*of_cpu, *of_gpu]
    for goal in goals:
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
