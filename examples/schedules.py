"""What the worked examples about schedules share: steps are built, looked at, checked, and timed in turns."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# TVM would pin this thread to the first core, where torch's threads then are too, and its idle threads would spin in
# the way of torch's.
os.environ.setdefault("TVM_BIND_THREADS", "0")
# It would take half of the logical cores, as if each had a twin.
os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")

import numpy as np
import torch
import tvm
from rich.table import Table
from tvm import s_tir

import tvmops
from benchmarks import timing
from codegen.commands import _common
from codegen.target import Target

# Seconds: a call that takes longer is a sample by itself.
SLOW = 0.1

Scheduler = Callable[[s_tir.Schedule], None]


@dataclass(frozen=True)
class Step:
    """A schedule: its name, what it changes, and the function that makes the changes."""

    name: str
    change: str
    apply: Scheduler


@dataclass(frozen=True)
class Evidence:
    """What a schedule left behind in the loops (TIR) and in the machine code."""

    parallel: int  # loops of each kind in the TIR
    vectorized: int
    unrolled: int
    vector_fma: int  # fused multiplications and additions, of whole vectors and of single numbers
    scalar_fma: int
    expf_calls: int  # call instructions to the C library's exponential, which takes one number

    @property
    def loops(self) -> str:
        """In words."""
        kinds = {"parallel": self.parallel, "vectorized": self.vectorized, "unrolled": self.unrolled}
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "serial"


@dataclass(frozen=True)
class Kernel:
    """A built step: ``bind`` it to tensors of the right shapes, the last one being written."""

    step: Step
    evidence: Evidence
    script: str  # TVMScript
    llvm: str
    run: Callable[..., None]

    def bind(self, *arguments: torch.Tensor) -> Callable[[], None]:
        """The call with these tensors, whose memory is shared; what torch allocates is aligned as TVM wants it."""
        tensors = [tvm.runtime.from_dlpack(argument) for argument in arguments]
        return lambda: self.run(*tensors)


def native() -> Target:
    """The best target that this machine runs."""
    return _common.target_of("native")


def build(function: tvm.tirx.PrimFunc, step: Step, target: Target) -> Kernel:
    """Schedules, compiles, and looks at what came out."""
    schedule = s_tir.Schedule(function)
    step.apply(schedule)
    script = schedule.mod.script()
    executable = tvm.compile(schedule.mod, target=target.tvm_target())
    llvm, asm = executable.mod.inspect_source("ll"), executable.mod.inspect_source("asm")
    evidence = Evidence(
        parallel=script.count("T.parallel("),
        vectorized=script.count("T.vectorized("),
        unrolled=script.count("T.unroll("),
        vector_fma=len(re.findall(r"vfn?m(?:add|sub)\d+ps", asm)),
        scalar_fma=len(re.findall(r"vfn?m(?:add|sub)\d+ss", asm)),
        expf_calls=len(re.findall(r"\bcallq?\s+\*?expf\b", asm)),
    )
    return Kernel(step, evidence, script, llvm, executable["main"])


def relative_error(value: np.ndarray, exact: np.ndarray) -> float:
    """In the Frobenius norm, against float64."""
    return float(np.linalg.norm(value - exact) / np.linalg.norm(exact))


def use_threads(count: int) -> None:
    """For torch, tvmops (which uses torch's) and TVM's own thread pool."""
    torch.set_num_threads(count)
    tvm.get_global_func("runtime.config_threadpool")(1, count)


def fma_peaks(counts: Sequence[int]) -> dict[int, float]:
    """GFLOP/s of fused multiplications and additions in registers, by number of threads: the limit of arithmetic."""
    return {count: max(tvmops._C.fma_peak_gflops(0.1, count) for _ in range(3)) for count in counts}


def time_in_turns(calls: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, timing.Spread]:
    """Times calls one after the other in each round, so that a change of clock speed meets all of them.

    Args:
        calls: by name.
        rounds: how often each is timed at most.
        seconds: that a call may take in all; a slow one takes part in the first rounds only, in one at least.

    Returns:
        Median and quartiles in seconds a call.
    """
    inner: dict[str, int] = {}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        first = timing.sample(call, 1) / 1e9
        if first > SLOW:  # then what is slower about a first call does not count
            inner[name] = 1
            taken[name].append(first)
        else:
            inner[name] = timing.inner_count(call, 0.005e9)
    for turn in range(rounds):
        for name in timing.order(list(calls), turn):
            spent = sum(taken[name]) * inner[name]
            if turn == 0 or spent + inner[name] * taken[name][0] <= seconds:
                taken[name].append(timing.sample(calls[name], inner[name]) / inner[name] / 1e9)
    return {name: timing.Spread.of(values) for name, values in taken.items()}


def markdown(table: Table) -> str:
    """A table of ``rich`` as one of Markdown, its title above."""
    headers = [str(column.header).replace("\n", ", ") for column in table.columns]
    marks = ["---:" if column.justify == "right" else "---" for column in table.columns]
    rows = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    lines = [" | ".join(cells) for cells in (headers, marks, *rows)]
    return "\n".join([f"{table.title}:", "", *(f"| {line} |" for line in lines)])
