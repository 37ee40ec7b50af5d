"""Why tuning a sigmoid by schedule alone gains nothing, and what does.

y = 1 / (1 + exp(-x)) in float32. First the definition anyone would write, with ``te.exp``, under a set of schedules:
vectors of several widths, unrolled, parallel. All are about as slow: TVM makes of the exponential one call of the C
library's ``expf`` for each single number, and no schedule can take a call apart. Then the same schedules on another
definition, whose exponential is a polynomial (``codegen/mathlib.py``): now everything is vector arithmetic.

Run it with ``python examples/sigmoid.py``; docs/schedules.md explains what is seen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # codegen, benchmarks and examples lie there

from examples import schedules as sharing  # isort: skip  # before TVM is imported, for its threads

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from tvm import s_tir, te, tirx

import tvmops
from codegen import mathlib
from codegen.target import Target
from examples.minilm import cpu_name
from examples.schedules import Evidence, Kernel, Step, build, native, time_in_turns

LARGEST_ULP = 2.5  # of torch, of a polynomial and of expf with the roundings after it
CHUNKS = 8  # that a parallel schedule deals out to each of a few threads
TUNED, TORCH = "tvmops.sigmoid", "torch.sigmoid"


def with_libm(x: Any) -> Any:
    """1 / (1 + e**-x) as a textbook has it."""
    one = tirx.const(1.0, "float32")
    return one / (one + te.exp(-x))


def with_polynomial(x: Any) -> Any:
    """The same in vector arithmetic: the exponent by shifting an integer, the rest by a polynomial of degree 6."""
    return mathlib.sigmoid(x)


DEFINITIONS: dict[str, Callable[[Any], Any]] = {"te.exp": with_libm, "polynomial": with_polynomial}


def definition(function: Callable[[Any], Any], size: int) -> tirx.PrimFunc:
    """The TIR of y[i] = function(x[i]), not scheduled."""
    x = te.placeholder((size,), "float32", "X")
    return te.create_prim_func([x, te.compute((size,), lambda i: function(x[i]), "Y")])


def schedules(target: Target) -> list[Step]:
    """What one might try."""
    lanes = target.lanes()

    def schedule(width: int = 1, unroll: int = 1, parallel: bool = False) -> Callable[[s_tir.Schedule], None]:
        def apply(sch: s_tir.Schedule) -> None:
            (i,) = sch.get_loops(sch.get_sblock("Y"))
            outer, times, inner = sch.split(i, [None, unroll, width])
            if width > 1:
                sch.vectorize(inner)
            if unroll > 1:
                sch.unroll(times)
            if parallel:
                chunk, _ = sch.split(outer, [CHUNKS, None])
                sch.parallel(chunk)

        return apply

    half, one, two = lanes // 2, lanes, 2 * lanes
    return [
        Step("serial", "as defined", schedule()),
        Step(f"vector {half}", "half a register", schedule(half)),
        Step(f"vector {one}", "a register", schedule(one)),
        Step(f"vector {two}", "two registers", schedule(two)),
        Step(f"vector {one}, unroll 4", "four registers at a time", schedule(one, 4)),
        Step(f"vector {one}, unroll 4, parallel", f"the same in {CHUNKS} parts", schedule(one, 4, True)),
    ]


def kernels(size: int, target: Target) -> dict[str, list[Kernel]]:
    """Every schedule of each definition, built."""
    return {
        name: [build(definition(function, size), step, target) for step in schedules(target)]
        for name, function in DEFINITIONS.items()
    }


def ulp_error(value: np.ndarray, x: np.ndarray) -> float:
    """The largest error against float64, in units in the last place of the exact value."""
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    return float((np.abs(value - exact) / np.spacing(exact.astype(np.float32)).astype(np.float64)).max())


@dataclass(frozen=True)
class Row:
    """A line of the table. Times are medians, in seconds, by number of threads; a serial schedule has one."""

    definition: str
    schedule: str
    evidence: Evidence | None
    ulp: float
    seconds: dict[int, float]


def check_size(size: int, target: Target) -> None:
    """Raises ValueError for a size that the schedules do not divide."""
    unit = 4 * CHUNKS * target.lanes()
    if size < unit or size % unit:
        raise ValueError(f"{size} is not a positive multiple of {unit}")


def measure(size: int, threads: Sequence[int], rounds: int, seconds: float) -> list[Row]:
    """Every schedule of both definitions, checked and timed, then tvmops.sigmoid and torch.sigmoid."""
    target = native()
    check_size(size, target)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(size, "float32") * 3).clone()
    built = [(f"{name}: {k.step.name}", name, k) for name, group in kernels(size, target).items() for k in group]
    results = {label: torch.empty_like(x) for label, _, _ in built}
    calls = {label: k.bind(x, results[label]) for label, _, k in built}
    before = torch.get_num_threads()
    found: dict[str, dict[int, float]] = {label: {} for label in (*calls, TUNED, TORCH)}
    try:
        with torch.inference_mode(), tvmops.mode("force"):
            for count in threads:
                sharing.use_threads(count)
                timed = {label: calls[label] for label, _, k in built if k.evidence.parallel or count == threads[0]}
                peers = {TUNED: lambda: tvmops.sigmoid(x), TORCH: lambda: torch.sigmoid(x)}
                for label, spread in time_in_turns({**timed, **peers}, rounds, seconds).items():
                    found[label][count] = spread.median
            ours, theirs = tvmops.sigmoid(x), torch.sigmoid(x)
    finally:
        sharing.use_threads(before)
    rows = [
        Row(name, k.step.name, k.evidence, ulp_error(results[label].numpy(), x.numpy()), found[label])
        for label, name, k in built
    ]
    for name, output in ((TUNED, ours), (TORCH, theirs)):
        rows.append(Row(name, "", None, ulp_error(output.numpy(), x.numpy()), found[name]))
    return rows


def table(rows: Sequence[Row], size: int, threads: Sequence[int]) -> Table:
    """For ``rich`` to print: calls of expf in the machine code, GB/s read and written, and speed against torch."""
    shown = Table(title=f"sigmoid of {size} float32", title_justify="left")
    for name in ("definition", "schedule"):
        shown.add_column(name, no_wrap=True)
    for name in ("expf calls", "vector FMAs", "error, ULP"):
        shown.add_column(name, justify="right")
    for count in threads:
        for unit in ("µs", "GB/s", "x torch"):
            shown.add_column(f"{count} thread{'s' if count > 1 else ''}\n{unit}", justify="right")
    torch_seconds = rows[-1].seconds
    for before, row in zip([None, *rows], rows, strict=False):
        if before and before.definition != row.definition and row.definition != TORCH:
            shown.add_section()
        e = row.evidence
        cells = [row.definition, row.schedule, *([str(e.expf_calls), str(e.vector_fma)] if e else ["", ""])]
        cells.append(f"{row.ulp:.2f}")
        for count in threads:
            if count not in row.seconds:
                cells += ["serial", "", ""]
                continue
            took = row.seconds[count]
            cells += [f"{1e6 * took:.1f}", f"{8 * size / took / 1e9:.1f}", f"{torch_seconds[count] / took:.2f}"]
        shown.add_row(*cells)
    return shown


def exponential_of(kernel: Kernel) -> str:
    """The first line of a kernel's LLVM IR that asks for an exponential; empty if none does."""
    return next((line.strip() for line in kernel.llvm.splitlines() if "call" in line and "@llvm.exp." in line), "")


def best(rows: Sequence[Row], name: str, count: int) -> float:
    """The least time of a definition's schedules at one number of threads."""
    return min(row.seconds[count] for row in rows if row.definition == name and count in row.seconds)


def main(
    size: Annotated[int, typer.Option(help="Numbers; a multiple of what the schedules take at a time.")] = 64 * 1024,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of timing.")] = 21,
    seconds: Annotated[float, typer.Option(min=0, help="That each may be timed at each number of threads.")] = 1.0,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Show that no schedule helps a sigmoid which calls expf, why, and what does help."""
    target = native()
    try:
        check_size(size, target)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from None
    threads = sorted({1, torch.get_num_threads()})
    rows = measure(size, threads, rounds, seconds)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    shown = table(rows, size, threads)
    if as_markdown:
        print(sharing.markdown(shown), end="\n\n")
    else:
        console.print(shown)
    serial = next(row for row in rows if row.definition == "te.exp" and row.schedule == "serial").seconds[1]
    libm, polynomial = (best(rows, name, 1) for name in DEFINITIONS)
    console.print(f"At 1 thread the best schedule of te.exp takes {libm / serial:.2f} of the time of the serial one;")
    console.print(f"that of the polynomial is {libm / polynomial:.1f} times as fast. Why: the LLVM IR of te.exp has")
    widest = build(definition(with_libm, size), schedules(target)[3], target)
    console.print(f"  {exponential_of(widest)}", markup=False, soft_wrap=True)
    calls = f"{widest.evidence.expf_calls} calls of expf"
    console.print(f"of which the machine code makes {calls}, one for each lane of {2 * target.lanes()}.")
    console.print(f"{cpu_name()}, {target.name}, torch {torch.__version__}. Medians; all take turns in every round.")
    if json_path:
        result = {"cpu": cpu_name(), "size": size, "rows": [asdict(row) for row in rows]}
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    wrong = [f"{row.definition} {row.schedule}".strip() for row in rows if not row.ulp <= LARGEST_ULP]
    if wrong:
        sys.exit(f"sigmoid: wrong results: {', '.join(wrong)}")


if __name__ == "__main__":
    typer.run(main)
