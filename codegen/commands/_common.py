"""What the commands share: the application, its options, and how values given as text are read."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..errors import CodegenError
from ..export import selection
from ..measure import measurer
from ..records import store
from ..target import GPU_TARGETS, TARGETS, GpuTarget, Target, find, find_gpu

out, err = Console(), Console(stderr=True)


class _Commands(typer.core.TyperGroup):
    """Says what a person can put right in one sentence on stderr, with exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
                return super().invoke(ctx)
        except CodegenError as error:
            say(f"error: {error}")
        except OSError as error:
            say(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
        raise typer.Exit(2)


def say(text: str) -> None:
    typer.echo(" ".join(text.split()), err=True)


app = typer.Typer(
    cls=_Commands,
    help="Describes operators, searches for their best schedules, and makes kernel packs of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

AnyTargetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help=f"Repeatable: {', '.join([*TARGETS, *GPU_TARGETS])}, or native. Default: all CPUs of this architecture.",
    ),
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


def target_of(name: str) -> Target:
    if name != "native":
        return find(name)
    for usable in measurer.this_machine().targets:
        if usable in TARGETS:
            return find(usable)
    raise CodegenError(f"this machine runs none of the targets {', '.join(TARGETS)}")


def any_target_of(name: str) -> Target | GpuTarget:
    """Of a CPU or, with a name such as sm_80, of a GPU."""
    return find_gpu(name) if name.startswith("sm_") else target_of(name)


def any_targets_of(names: list[str] | None) -> tuple[list[Target], list[GpuTarget]]:
    """Those of CPUs, all of this architecture if none is named, and those of GPUs."""
    found = dict.fromkeys(map(any_target_of, names)) if names else selection.default_targets()
    of_gpu = [target for target in found if isinstance(target, GpuTarget)]
    return [target for target in found if isinstance(target, Target)], of_gpu


def knobs_of(texts: list[str] | None) -> dict[str, int]:
    knobs = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        if not name or not value.removeprefix("-").isdecimal():
            raise CodegenError(f"not a knob: {text!r} (expected NAME=VALUE with an integer)")
        knobs[name] = int(value)
    return knobs


def threads_of(text: str) -> list[int]:
    counts = text.split(",")
    if not all(c.isdecimal() and int(c) > 0 for c in counts):
        raise CodegenError(f"not a list of thread counts: {text!r} (expected e.g. 1,2)")
    return [int(c) for c in counts]


def goal_of(name: str) -> tuple[Target, dict[str, Any]]:
    """The target of that name, which this machine runs, and the machine as records tell it."""
    wanted = None if name == "native" else find(name)
    machine = measurer.this_machine()
    goal = wanted or target_of("native")
    if goal.name not in machine.targets:
        raise CodegenError(f"this machine does not run {goal.name}, only {', '.join(machine.targets)}")
    return goal, machine.about


def line(record: store.Record) -> str:
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    return f"{record.ratio:.3f} x ATen"


@contextlib.contextmanager
def progress(*columns: Any) -> Iterator[Progress]:
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), *columns, TimeElapsedColumn(), console=err) as bar:
        yield bar
