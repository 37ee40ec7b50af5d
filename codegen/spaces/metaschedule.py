"""TVM's own design space of a computation on CPU: what MetaSchedule searches, as knobs and constraints.

``PostOrderApply`` with the default rules for LLVM targets makes sketches of the TE definition; a choice is a sketch
and a value for each of its random decisions. Knobs that the sketch does not ask for have one value, so that equal
schedules are equal choices; sketches that decide the same share knobs. All sketches are kept: TVM makes 1 of an
elementwise operator, 3 of a matrix product or a softmax, 9 of a layer norm. Where blocks can be computed depends on
tiles and is found by trying. A sketch with too many combinations of these (``sketches.MOST_PATTERNS``) takes locations
as wishes, which TVM rounds to what is possible: there, unequal choices may be equal schedules. So may choices that
differ in ``parallel``, a bound: two bounds between which no product of outer loops lies do the same. The largest, 16
iterations for each core of this machine, is TVM's default.

Shao et al., "Tensor Program Optimization with Probabilistic Programs", NeurIPS 2022.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import tvm
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

from ..errors import CodegenError
from ..target import Target
from ..workload import Workload
from .constraints import Choice, Constraint, Relation, Split
from .intrinsics import only_x86
from .sketches import LOCATION, TILE, Locations, Sampling, Sketch, signature
from .space import Knob
from .whole import WholeSpace


class MetaScheduleSpace(WholeSpace):
    """See the module."""

    name = "metaschedule"

    def __init__(self, workload: Workload, target: Target) -> None:
        super().__init__(workload, target)
        self._context = self.context()
        try:
            schedules = self._context.generate_design_space()
        except s_tir.ScheduleError as error:
            raise CodegenError(f"TVM's rules do not apply to {workload.key}") from error
        traces = [schedule.trace.simplified(True) for schedule in schedules]
        # A sketch's number depends on nothing but what the sketches do: records name it.
        traces.sort(key=lambda trace: (len(trace.insts), signature(trace)))
        self.sketches = [Sketch(self._context.mod, trace) for trace in traces]
        self._by_signature = {sketch.signature: i for i, sketch in enumerate(self.sketches)}
        self._samplings = self._shared()
        self.knobs = (
            Knob("sketch", tuple(range(len(self.sketches))), "which of TVM's sketches"),
            *(
                Knob(name, values, sampling.meaning)
                for sampling in self._samplings.values()
                for name, values in zip(sampling.knobs, sampling.values, strict=True)
            ),
        )
        self.constraints = tuple(self._constraints())

    def context(self, seed: int = 1, threads: int = 1, strategy: Any = None) -> ms.TuneContext:
        """A fresh tuning context of TVM's for this workload. ``strategy``: a search strategy of TVM's."""
        # A number of cores makes TVM cut outer loops for them.
        target = tvm.target.Target({**_description(self.target), "num-cores": os.cpu_count() or 1})
        with only_x86():
            return ms.TuneContext(
                self.function,
                target=target,
                space_generator="post-order-apply",
                search_strategy=strategy,
                task_name=self.workload.key,
                rand_state=seed,
                num_threads=threads,
            )

    def schedule(self, choice: Choice) -> s_tir.Schedule:
        """The schedule of a choice, postprocessed.

        Raises:
            RuntimeError: a postprocessor of TVM's refuses it.
            tvm.s_tir.ScheduleError: an instruction does not apply.
        """
        schedule = self.sketches[choice["sketch"]].replay(choice)
        schedule.enter_postproc()
        for postprocessor in self._context.space_generator.postprocs:
            if not postprocessor.apply(schedule):
                raise RuntimeError(f"{postprocessor} refuses sketch {choice['sketch']} with {dict(choice)}")
        return schedule

    def choice_of(self, scheduled: s_tir.Schedule | s_tir.Trace) -> dict[str, int]:
        """The choice that a schedule, or its trace, was made from.

        Raises:
            CodegenError: it is of none of the sketches.
        """
        trace = (scheduled.trace if isinstance(scheduled, s_tir.Schedule) else scheduled).simplified(True)
        index = self._by_signature.get(signature(trace))
        if index is None:
            raise CodegenError(f"the trace is of none of the {len(self.sketches)} sketches of {self.workload.key}")
        return self._complete(index, self.sketches[index].values(trace))

    def default(self) -> dict[str, int]:
        """The first sketch with the decisions that TVM drew when it made it."""
        return self._complete(0, self.sketches[0].values(self.sketches[0].trace))

    def _complete(self, index: int, values: dict[str, int]) -> dict[str, int]:
        """With the knobs that a sketch does not ask for."""
        rest = {n: v for s in self._samplings.values() for n, v in zip(s.knobs, s.rest(), strict=True)}
        return {"sketch": index, **rest, **values}

    def _shared(self) -> dict[str, Sampling]:
        """What the sketches decide, by the name of the first knob."""
        found: dict[str, Sampling] = {}
        for i, sketch in enumerate(self.sketches):
            bounds = sketch.bounds()
            for j, sampling in enumerate(sketch.samplings):
                known = found.get(sampling.knobs[0])
                if sampling.kind == LOCATION:
                    sampling = sampling.within((*bounds, *(known.values[0] if known else ())))
                elif known is not None and (known.values, known.meaning) != (sampling.values, sampling.meaning):
                    sampling = sampling.renamed(f"_of{i}")
                sketch.samplings[j] = sampling
                found[sampling.knobs[0]] = sampling
        return found

    def _constraints(self) -> Iterator[Constraint]:
        for sampling in self._samplings.values():
            if sampling.kind == TILE:
                yield Split(sampling.extent, sampling.knobs)
            users = {
                i for i, sketch in enumerate(self.sketches) if sampling.knobs in {s.knobs for s in sketch.samplings}
            }
            if len(users) < len(self.sketches):
                for name, rest in zip(sampling.knobs, sampling.rest(), strict=True):
                    yield _unused(name, users, rest)
        for i, sketch in enumerate(self.sketches):
            if sketch.places and sketch.exact:
                yield Locations(i, sketch)


def _unused(name: str, users: set[int], rest: int) -> Relation:
    listed = ", ".join(map(str, sorted(users)))
    text = f"{name} is {rest} unless the sketch is one of {listed}"
    return Relation(text, ("sketch", name), lambda c: c["sketch"] in users or c[name] == rest)


def _description(target: Target) -> dict[str, Any]:
    return {"kind": "llvm", "mcpu": target.mcpu, "mattr": list(target.mattr)}


def create(workload: Workload, target: Target) -> MetaScheduleSpace:
    """TVM's design space of a workload.

    Raises:
        CodegenError: a dimension is symbolic, or TVM's own rules fail on the computation.
    """
    return MetaScheduleSpace(workload, target)
