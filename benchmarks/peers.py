"""Who takes part: tvmops always, ATen eager, and on request Inductor."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Problem

OURS = "tvmops"
PEERS = ("aten", "inductor")


class NotBuiltError(RuntimeError):
    """tvmops can't be imported here; the message is one sentence for the user."""


def load_tvmops() -> ModuleType:
    """Imports tvmops; raises NotBuiltError with the reason where it is not built."""
    try:
        module = importlib.import_module("tvmops")
    except ImportError as error:
        raise NotBuiltError(f"tvmops can't be imported, build it first (see README.md): {error}") from error
    if not hasattr(module, "matmul"):
        raise NotBuiltError(
            "tvmops was found but has no matmul: its extension is not built, build it first (see README.md)"
        )
    return module


def _inductor(problem: Problem) -> Callable[[], Tensor]:
    """Compiles afresh, so that neither a recompile limit nor another case's thread count leaks into this one."""
    # torch._inductor's config is generated at run time, so type checkers can't see its members.
    config: Any = importlib.import_module("torch._inductor.config")
    torch._dynamo.reset()
    compiled = torch.compile(problem.traced.fn, mode="max-autotune-no-cudagraphs", dynamic=False)
    args = problem.traced.args
    # The autotuner reports every choice on stderr, and warns about its own use of torch.
    quiet = contextlib.redirect_stderr(io.StringIO())
    with config.patch(freezing=problem.frozen), quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled(*args)  # compiles here, under this configuration
    return lambda: compiled(*args)


def calls(problem: Problem, peers: Iterable[str]) -> tuple[dict[str, Callable[[], Tensor]], list[str]]:
    """The calls to time, tvmops first, and a note for each peer that could not take part."""
    made: dict[str, Callable[[], Tensor]] = {OURS: problem.ours.bind()}
    notes: list[str] = []
    for peer in peers:
        if peer == "aten":
            made[peer] = problem.eager.bind()
            continue
        try:
            made[peer] = _inductor(problem)
        except Exception as error:  # whatever a compiler stack throws, the other peers still count
            notes.append(f"{peer} failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return made, notes


def _field(record: object, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else getattr(record, name, None)


def route(tvmops: ModuleType, problem: Problem) -> str:
    """What served the call: kernel names, or `ATen: reason`; empty where tvmops doesn't tell."""
    explain = getattr(tvmops, "explain", None)
    if explain is None:
        return ""
    with contextlib.redirect_stdout(io.StringIO()):  # explain also prints, for people
        records = explain(problem.ours.fn, *problem.ours.args)
    taken = [str(_field(r, "kernel") or f"ATen: {_field(r, 'reason')}") for r in records]
    return ", ".join(dict.fromkeys(taken))
