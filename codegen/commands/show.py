"""``show``: a kernel or its space, to read."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import ops
from .. import show as showing
from ..export import selection
from ..records import store
from ..target import GPU_TARGETS, TARGETS
from ..workload import Workload
from ._common import KnobsOption, RecordsOption, any_target_of, app, knobs_of


@app.command()
def show(
    key: Annotated[
        str, typer.Argument(help="A workload's key, e.g. 'linear(float32;M=*,N=768,K=768)', or KEY@TARGET.")
    ],
    target: Annotated[
        str | None,
        typer.Option(help=f"{', '.join([*TARGETS, *GPU_TARGETS])}, or native. Default: {next(reversed(TARGETS))}."),
    ] = None,
    what: Annotated[
        str, typer.Option(help=f"{', '.join(showing.WHAT)}; on a GPU {', '.join(showing.DEVICE_WHAT)}.")
    ] = "tir",
    leaf: Annotated[
        str | None, typer.Option(help="A leaf by name (--what space lists them). Default: the full tile.")
    ] = None,
    space: Annotated[bool, typer.Option("--space", help="Short for --what space.")] = False,
    space_name: Annotated[
        str | None, typer.Option(help="Which space to show: derived, metaschedule, or the operator's own, the default.")
    ] = None,
    records: RecordsOption = None,
    knob: KnobsOption = None,
) -> None:
    """Prints a kernel: TVMScript, LLVM IR, assembly, the operator's TE, its schedule space, or its C table.

    On a GPU: the CUDA source (cu), machine code (sass), or registers, instructions and predicted times (time).

    Of a space: knobs, their values, constraints, and how many choices meet them. There --knob leaves the part of it in
    which a knob has a value.
    """
    name, at, suffix = key.partition("@")
    workload = ops.check(Workload.parse(name))
    goal = any_target_of(target or (suffix if at else next(reversed(TARGETS))))
    recorded = selection.records_of(goal, [records] if records else [])
    record = store.best(recorded, workload, goal.name)
    if space or what == "space":
        typer.echo(showing.show_space(workload, goal, space_name, record, knobs_of(knob)))
        return
    kernel = selection.kernel(workload, goal, record, knobs_of(knob))
    typer.echo(showing.show(kernel, what, leaf))
