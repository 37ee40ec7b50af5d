"""A matrix product, one optimisation at a time: what each does to the loops, and what it gains.

C = A @ B in float32. All steps compute the same TE definition; a step is a function on ``tvm.s_tir.Schedule``, and each
goes on from the one before: naive, tiled, vectorised, parallel, unrolled, packed. The last one is what the project's
search found: ``tvmops.matmul``. Every result is checked against float64; times are taken in turns with torch.matmul.

Run it with ``python examples/matmul_ladder.py``; docs/schedules.md explains each step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # codegen, benchmarks and examples lie there

from examples import schedules  # isort: skip  # before TVM is imported, for its threads

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from tvm import s_tir, te

import tvmops
from codegen.ops import matmul
from codegen.target import Target
from codegen.workload import Workload
from examples.minilm import cpu_name
from examples.schedules import Evidence, Kernel, Step, build, native, relative_error, time_in_turns

TOLERANCE = 1e-5
BLOCK = 32  # of the tiled step: three tiles of 32 x 32 floats are 12 KiB, well within L1
TUNED, TORCH = "tuned", "torch.matmul"


@dataclass(frozen=True)
class Tile:
    """The block of C that stays in registers: rows and columns."""

    rows: int
    columns: int
    lanes: int

    @staticmethod
    def of(target: Target) -> Tile:
        """Two vectors wide; as many rows as leave registers for B and A, as a power of two, which divides sizes."""
        return Tile(target.vector_registers // 4, 2 * target.lanes(), target.lanes())


def steps(target: Target) -> list[Step]:
    """The ladder, from the bottom."""
    tile = Tile.of(target)

    def naive(sch: s_tir.Schedule) -> None:
        """i, j, k as the definition has them: each number of C is a dot product, B is read down its columns."""

    def tiled(sch: s_tir.Schedule) -> None:
        """Blocks of all three loops: what a block reads is still in L1 when it is read again."""
        i, j, k = sch.get_loops(sch.get_sblock("C"))
        (io, ii), (jo, ji), (ko, ki) = (sch.split(loop, [None, BLOCK]) for loop in (i, j, k))
        sch.reorder(io, jo, ko, ii, ji, ki)

    def vectorised(sch: s_tir.Schedule) -> None:
        """j innermost, where B and C lie side by side: one instruction for as many columns as a vector has lanes."""
        _register_tile(sch, tile)

    def parallel(sch: s_tir.Schedule) -> None:
        """The blocks of C are independent: they are dealt to the threads."""
        _parallel(sch, _register_tile(sch, tile))

    def unrolled(sch: s_tir.Schedule) -> None:
        """The tile of C in registers for the whole sum, its rows unrolled: C is written once, not once for each k."""
        _accumulate(sch, tile)

    def packed(sch: s_tir.Schedule) -> None:
        """B copied first into panels as wide as the tile: the inner loop reads memory from one end to the other."""
        _pack(sch, tile)
        _accumulate(sch, tile)

    return [
        Step("naive", "as defined: i, j, k", naive),
        Step("tiled", f"blocks of {BLOCK} x {BLOCK} x {BLOCK}", tiled),
        Step("vectorised", f"{tile.rows} x {tile.columns} tile, its columns as vectors", vectorised),
        Step("parallel", "tiles dealt to threads", parallel),
        Step("unrolled", "tile in registers, rows unrolled", unrolled),
        Step("packed", f"B in panels of {tile.columns} columns", packed),
    ]


def _register_tile(sch: s_tir.Schedule, tile: Tile) -> Sequence[s_tir.schedule.LoopRV]:
    """Loops (row block, column block, k, row, columns as vectors); returns all but the last."""
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    io, ii = sch.split(i, [None, tile.rows])
    jo, ji = sch.split(j, [None, tile.columns])
    sch.reorder(jo, io, k, ii, ji)
    sch.vectorize(ji)
    return jo, io, k, ii


def _parallel(sch: s_tir.Schedule, loops: Sequence[s_tir.schedule.LoopRV]) -> s_tir.schedule.LoopRV:
    blocks = sch.fuse(*loops[:2])
    sch.parallel(blocks)
    return blocks


def _accumulate(sch: s_tir.Schedule, tile: Tile) -> None:
    loops = _register_tile(sch, tile)
    _, _, k, row = loops
    blocks = _parallel(sch, loops)
    block = sch.get_sblock("C")
    write = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(write, blocks)
    *_, write_row, write_columns = sch.get_loops(write)
    sch.unroll(row)
    sch.unroll(write_row)
    sch.vectorize(write_columns)
    sch.decompose_reduction(block, k)  # zeros before the sum, in the same loops: unrolled rows of vectors


def _pack(sch: s_tir.Schedule, tile: Tile) -> None:
    block = sch.get_sblock("C")
    copy = sch.cache_read(block, 1, "global")
    sch.transform_layout(copy, ("write", 0), lambda k, j: (j // tile.columns, k, j % tile.columns))
    k, j = sch.get_loops(copy)
    panel, column = sch.split(j, [None, tile.columns])
    sch.reorder(panel, k, column)
    sch.parallel(panel)
    sch.vectorize(column)


def definition(size: int) -> object:
    """The TIR of the matrix product of two squares, not scheduled."""
    return te.create_prim_func(matmul.definition(Workload.parse(f"matmul(float32;M={size},N={size},K={size})")))


def kernels(size: int, target: Target) -> list[Kernel]:
    """All steps but the last, built."""
    function = definition(size)
    return [build(function, step, target) for step in steps(target)]


@dataclass(frozen=True)
class Row:
    """A line of the table. Times are medians, in seconds; None where the step was not timed at that many threads."""

    name: str
    change: str
    evidence: Evidence | None
    error: float
    seconds: dict[int, float]


def check_size(size: int, target: Target) -> None:
    """Raises ValueError for a size that the tiles do not divide."""
    unit = max(BLOCK, Tile.of(target).columns)
    if size < unit or size % unit:
        raise ValueError(f"{size} is not a positive multiple of {unit}")


def measure(size: int, threads: Sequence[int], rounds: int, seconds: float) -> list[Row]:
    """The whole ladder, checked and timed; torch.matmul is the last row.

    Serial steps are timed at the first of ``threads`` only. ``seconds`` limits each step's timing at each count.
    """
    target = native()
    check_size(size, target)
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.standard_normal((size, size), "float32")).clone() for _ in range(2))
    exact = matmul.reference(a.numpy(), b.numpy())
    built = kernels(size, target)
    results = {kernel.step.name: torch.empty_like(a) for kernel in built}
    calls = {kernel.step.name: kernel.bind(a, b, results[kernel.step.name]) for kernel in built}

    def ours() -> torch.Tensor:
        return tvmops.matmul(a, b)

    def torchs() -> torch.Tensor:
        return torch.matmul(a, b)

    before = torch.get_num_threads()
    found: dict[str, dict[int, float]] = {name: {} for name in (*calls, TUNED, TORCH)}
    try:
        with torch.inference_mode(), tvmops.mode("force"):
            for count in threads:
                schedules.use_threads(count)
                timed = {k.step.name: calls[k.step.name] for k in built if k.evidence.parallel or count == threads[0]}
                spreads = time_in_turns({**timed, TUNED: ours, TORCH: torchs}, rounds, seconds)
                for name, spread in spreads.items():
                    found[name][count] = spread.median
            outputs = {**results, TUNED: ours(), TORCH: torchs()}
    finally:
        schedules.use_threads(before)
    about: dict[str, tuple[str, Evidence | None]] = {k.step.name: (k.step.change, k.evidence) for k in built}
    about[TUNED] = ("the search's winner: tvmops.matmul", None)
    about[TORCH] = ("what PyTorch has", None)
    return [
        Row(name, *about[name], relative_error(outputs[name].numpy(), exact), seconds_by_count)
        for name, seconds_by_count in found.items()
    ]


def changes(rows: Sequence[Row], size: int) -> Table:
    """For ``rich`` to print: what each step did to the loops and to the machine code, and its error."""
    shown = Table(title=f"C = A @ B, {size} x {size} x {size}, float32: what changes", title_justify="left")
    for name in ("step", "what it changes", "loops in the TIR"):
        shown.add_column(name)
    for name in ("vector FMAs", "scalar FMAs", "error"):
        shown.add_column(name, justify="right")
    for row in rows:
        e = row.evidence
        seen = [e.loops, str(e.vector_fma), str(e.scalar_fma)] if e else ["", "", ""]
        shown.add_row(row.name, row.change, *seen, f"{row.error:.1e}")
    return shown


def speeds(rows: Sequence[Row], size: int, threads: Sequence[int], peaks: dict[int, float]) -> Table:
    """For ``rich`` to print: time, GFLOP/s, share of the FMA peak, and speed against torch, by number of threads."""
    flops = 2 * size**3
    shown = Table(title="and what it gains", title_justify="left")
    shown.add_column("step")
    for count in threads:
        title = f"{count} thread{'s' if count > 1 else ''}"
        for unit in ("ms", "GFLOP/s", "of peak", "x torch"):
            shown.add_column(f"{title}\n{unit}", justify="right")
    torch_seconds = next(row for row in rows if row.name == TORCH).seconds
    for row in rows:
        cells = [row.name]
        for count in threads:
            if count not in row.seconds:
                cells += ["serial", "", "", ""]
                continue
            speed = flops / row.seconds[count] / 1e9
            ratio = torch_seconds[count] / row.seconds[count]
            cells += [f"{1e3 * row.seconds[count]:.2f}", f"{speed:.1f}", f"{speed / peaks[count]:.1%}", f"{ratio:.3f}"]
        shown.add_row(*cells)
    return shown


def main(
    size: Annotated[int, typer.Option(help="Rows and columns of A, B and C; a multiple of the tiles.")] = 1024,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of timing.")] = 15,
    seconds: Annotated[float, typer.Option(min=0, help="That a step may be timed at each number of threads.")] = 1.0,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Climb from the naive matrix product to the tuned one, and time every step against torch.matmul."""
    try:
        check_size(size, native())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from None
    threads = sorted({1, torch.get_num_threads()})
    before = schedules.fma_peaks(threads)
    rows = measure(size, threads, rounds, seconds)
    after = schedules.fma_peaks(threads)
    peaks = {count: max(before[count], after[count]) for count in threads}
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    for table in (changes(rows, size), speeds(rows, size, threads, peaks)):
        if as_markdown:
            print(schedules.markdown(table), end="\n\n")
        else:
            console.print(table)
    peak_text = ", ".join(f"{peaks[count]:.0f} GFLOP/s at {count}" for count in threads)
    console.print(f"{cpu_name()}, {native().name}, torch {torch.__version__}; FMA peak measured now: {peak_text}.")
    console.print(
        "Medians of rounds in which all steps take turns. A serial step is the same at any number of threads."
    )
    if json_path:
        result = {"cpu": cpu_name(), "size": size, "peak_gflops": peaks, "rows": [asdict(row) for row in rows]}
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    wrong = [row.name for row in rows if not row.error <= TOLERANCE]
    if wrong:
        sys.exit(f"matmul_ladder: wrong results: {', '.join(wrong)}")


if __name__ == "__main__":
    typer.run(main)
