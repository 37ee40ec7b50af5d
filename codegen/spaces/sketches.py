"""Sketches of MetaSchedule: traces whose random decisions are left open, and what those decisions may be.

A sketch is a program of schedule instructions. Some of them sample: ``SamplePerfectTile`` splits a loop into factors,
``SampleCategorical`` picks one of some candidates, ``SampleComputeLocation`` picks the loop at which a block is
computed. One more decision is not sampled, but MetaSchedule mutates it: how many iterations may run in parallel, the
value of an annotation. Each is named here after what it decides, so that sketches that decide the same have knobs in
common.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import tvm
from tvm import s_tir
from tvm.s_tir.schedule import Instruction

from .constraints import Choice, Domains

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

TILE, CATEGORY, LOCATION = "SamplePerfectTile", "SampleCategorical", "SampleComputeLocation"
PARALLEL, _KEY = "Annotate", "meta_schedule.parallel"
# A block is computed at no loop of its consumer.
ROOT = -1
# What a block is computed at depends on which tiles have one iteration. A sketch with more combinations of these takes
# TVM's own way out: a location that is not possible stands for the next possible one further out.
MOST_PATTERNS = 64
_INLINE = -2
_FAR = 1 << 20


@dataclass(frozen=True)
class Sampling:
    """An instruction that decides: its place in the trace, its knobs, and the values that each may take."""

    at: int
    kind: str
    knobs: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    meaning: str

    def rest(self) -> tuple[int, ...]:
        """What its knobs are worth where no sketch asks for them."""
        if self.kind == TILE:
            return (max(self.values[0]), *(1 for _ in self.knobs[1:]))
        return {LOCATION: (ROOT,), CATEGORY: (0,), PARALLEL: (max(self.values[0]),)}[self.kind]

    def renamed(self, suffix: str) -> Sampling:
        """With other names."""
        return replace(self, knobs=tuple(name + suffix for name in self.knobs))

    def within(self, reached: Collection[int]) -> Sampling:
        """A location that may be anything from the least to the largest of these."""
        return replace(self, values=(tuple(range(min(reached), max(reached) + 1)),))

    @property
    def extent(self) -> int:
        """Of the loop that is split."""
        return max(self.values[0])

    def splits(self) -> Iterator[tuple[int, ...]]:
        """All values of the knobs of a split."""

        def extend(left: int, domains: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
            if not domains:
                if left in self.values[0]:
                    yield (left,)
                return
            for factor in domains[-1]:
                if left % factor == 0:
                    yield from ((*head, factor) for head in extend(left // factor, domains[:-1]))

        return extend(self.extent, self.values[1:])


class Sketch:
    """A trace with open decisions over a module."""

    def __init__(self, mod: tvm.IRModule, trace: s_tir.Trace) -> None:
        """``trace``: one without instructions of postprocessors, with some decisions."""
        self.mod, self.trace = mod, trace
        self.instructions = list(trace.insts)
        self.signature = signature(trace)
        self.samplings = self._samplings()
        self._known: dict[tuple[bool, ...], frozenset[tuple[int, ...]]] = {}

    @property
    def tiles(self) -> list[Sampling]:
        """What splits loops."""
        return [s for s in self.samplings if s.kind == TILE]

    @property
    def places(self) -> list[Sampling]:
        """What locates blocks."""
        return [s for s in self.samplings if s.kind == LOCATION]

    @property
    def exact(self) -> bool:
        """Whether the locations that are possible can be told for all tiles; see ``MOST_PATTERNS``."""
        return len(self.patterns) <= MOST_PATTERNS

    def replay(self, choice: Choice) -> s_tir.Schedule:
        """A schedule with these decisions, not postprocessed.

        Raises:
            tvm.s_tir.ScheduleError: an instruction does not apply.
        """
        instructions = list(self.instructions)
        decisions: dict[Any, Any] = {}
        for sampling in self.samplings:
            values = [choice[name] for name in sampling.knobs]
            instruction = instructions[sampling.at]
            if sampling.kind == PARALLEL:
                instructions[sampling.at] = Instruction(
                    instruction.kind, [instruction.inputs[0], values[0]], instruction.attrs, instruction.outputs
                )
            else:
                decisions[instruction] = values if sampling.kind == TILE else values[0]
        schedule = s_tir.Schedule(self.mod, seed=1)
        s_tir.Trace(instructions, decisions).apply_to_schedule(schedule, remove_postproc=True)
        return schedule

    def values(self, trace: s_tir.Trace) -> dict[str, int]:
        """The knobs of a trace of this sketch, simplified."""
        taken = trace.decisions
        found: dict[str, int] = {}
        for sampling in self.samplings:
            instruction = trace.insts[sampling.at]
            decision = instruction.inputs[1] if sampling.kind == PARALLEL else taken[instruction]
            values = list(decision) if sampling.kind == TILE else [decision]
            found.update(zip(sampling.knobs, map(int, values), strict=True))
        return found

    @cached_property
    def patterns(self) -> dict[tuple[bool, ...], dict[str, int]]:
        """Of each combination of tiles that are one iteration, an example; none where nothing depends on them."""
        if not self.places:
            return {}
        examples: list[dict[tuple[bool, ...], tuple[int, ...]]] = []
        for tile in self.tiles:
            found: dict[tuple[bool, ...], tuple[int, ...]] = {}
            for split in tile.splits():
                found.setdefault(tuple(factor == 1 for factor in split), split)
            examples.append(found)
        names = [name for tile in self.tiles for name in tile.knobs]
        # One more than are of use tells that there are too many.
        some = itertools.islice(itertools.product(*(e.items() for e in examples)), MOST_PATTERNS + 1)
        return {
            tuple(bit for bits, _ in parts for bit in bits): dict(
                zip(names, (factor for _, split in parts for factor in split), strict=True)
            )
            for parts in some
        }

    def possible(self, pattern: tuple[bool, ...]) -> frozenset[tuple[int, ...]]:
        """What the locations may be, all together, where these tiles are one iteration."""
        if pattern not in self._known:
            self._known[pattern] = frozenset(self._located({**self.rest(), **self.patterns[pattern]}, ()))
        return self._known[pattern]

    def pattern(self, choice: Choice) -> tuple[bool, ...]:
        """Which tiles are one iteration."""
        return tuple(choice[name] == 1 for tile in self.tiles for name in tile.knobs)

    def bounds(self) -> range:
        """From the least to the largest that a location can be."""
        names = [place.knobs[0] for place in self.places]
        found = {ROOT}
        # With few tiles of one iteration there are the most loops to be computed at.
        for pattern in sorted(self.patterns, key=sum)[:4]:
            example = self.patterns[pattern]
            for asked in (_INLINE, _FAR):
                choice = {**self.rest(), **example, **dict.fromkeys(names, asked)}
                got = self.values(self.replay(choice).trace.simplified(True))
                found.update(got[name] for name in names)
        return range(min(found), max(found) + 1)

    def rest(self) -> dict[str, int]:
        """Some value for each knob."""
        return {name: value for s in self.samplings for name, value in zip(s.knobs, s.rest(), strict=True)}

    def _located(self, choice: dict[str, int], before: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(before) == len(self.places):
            yield before
            return
        for place in self._candidates(choice, before):
            yield from self._located(choice, (*before, place))

    def _candidates(self, choice: dict[str, int], before: tuple[int, ...]) -> Iterator[int]:
        """The locations of a block, given those of the blocks before it; TVM rounds what is asked for down to one."""
        names = [place.knobs[0] for place in self.places]
        name, asked = names[len(before)], _FAR
        while asked >= _INLINE:
            located = dict(zip(names, before, strict=False))
            got = self.values(self.replay({**choice, **located, name: asked}).trace.simplified(True))[name]
            if got > asked:
                return
            yield got
            asked = got - 1

    def _limits(self, most: int) -> tuple[int, ...]:
        """Numbers of iterations that outer loops can have together, and the one that is the most allowed."""
        schedule = s_tir.Schedule(self.mod)
        totals = [
            math.prod(int(schedule.get(loop).extent) for loop in schedule.get_loops(block))
            for block in schedule.get_child_blocks(schedule.get_sblock("root"))
        ]
        return tuple(n for n in range(1, most + 1) if n == most or any(total % n == 0 for total in totals))

    def _samplings(self) -> list[Sampling]:
        schedule = s_tir.Schedule(self.mod, seed=1)
        found: list[Sampling] = []
        names: set[str] = set()
        position = itertools.count()

        def unique(name: str) -> str:
            numbered = (f"{name}_{i}" for i in itertools.count(2))
            other = next(n for n in itertools.chain([name], numbered) if n not in names)
            names.add(other)
            return other

        def visit(instruction: Any, inputs: Sequence[Any], attrs: Sequence[Any], decision: Any) -> Any:
            at, kind = next(position), instruction.kind.name
            if kind == TILE:
                loop = schedule.get(inputs[0])
                block = schedule.get(schedule.get_child_blocks(inputs[0])[0]).name_hint
                count, limit, extent = int(attrs[0]), int(attrs[1]), int(loop.extent)
                base = unique(f"{block}_{loop.loop_var.name}")
                divisors = tuple(d for d in range(1, extent + 1) if extent % d == 0)
                inner = tuple(d for d in divisors if limit < 0 or d <= limit)
                values = (*(divisors for _ in range(count - 1)), inner)
                knobs = tuple(f"{base}_{i}" for i in range(count))
                found.append(
                    Sampling(at, kind, knobs, values, f"loop {loop.loop_var.name} of {block}, outermost first")
                )
            elif kind == CATEGORY:
                candidates = [int(c) for c in attrs[0]]
                name = unique(_annotated(self.instructions[at + 1 :], instruction.outputs[0]))
                meaning = f"which of {', '.join(map(str, candidates))}"
                found.append(Sampling(at, kind, (name,), (tuple(range(len(candidates))),), meaning))
            elif kind == LOCATION:
                block = schedule.get(inputs[0]).name_hint
                meaning = f"loop of the consumer at which {block} is computed; -1: none, -2: inlined"
                found.append(Sampling(at, kind, (unique(f"{block}_at"),), ((ROOT,),), meaning))
            elif kind == PARALLEL and attrs[0] == _KEY:
                meaning = "outer loops run in parallel as far as they have together no more iterations"
                found.append(Sampling(at, kind, (unique("parallel"),), (self._limits(int(inputs[1])),), meaning))
            elif kind.startswith("Sample"):
                raise ValueError(f"no knobs are known for {kind}")
            return decision

        self.trace.apply_to_schedule(schedule, remove_postproc=True, decision_provider=visit)
        return found


def signature(trace: s_tir.Trace) -> str:
    """What a trace does apart from its decisions."""
    return re.sub(rf'(ann_key="{_KEY}", ann_val=)\d+', r"\1", str(s_tir.Trace(trace.insts, {})))


def _annotated(following: Sequence[Any], sampled: Any) -> str:
    """What a sampled number is for."""
    for instruction in following:
        if instruction.kind.name == "Annotate" and any(sampled.same_as(i) for i in instruction.inputs):
            return str(instruction.attrs[0]).rpartition(".")[2].removesuffix("_explicit")
    return "category"


@dataclass(frozen=True)
class Locations:
    """Blocks are computed at loops where TVM can compute them, given a sketch and its tiles."""

    index: int
    sketch: Sketch

    @property
    def knobs(self) -> tuple[str, ...]:
        """The sketch, its tiles, its locations."""
        return ("sketch", *(name for s in (*self.sketch.tiles, *self.sketch.places) for name in s.knobs))

    @property
    def text(self) -> str:
        """In words."""
        names = ", ".join(name for place in self.sketch.places for name in place.knobs)
        return f"of sketch {self.index}: {names} are loops at which TVM can compute these blocks"

    def holds(self, choice: Choice) -> bool:
        """Found by trying, once for each combination of tiles of one iteration."""
        if choice["sketch"] != self.index:
            return True
        pattern = self.sketch.pattern(choice)
        places = tuple(choice[name] for place in self.sketch.places for name in place.knobs)
        return pattern in self.sketch.patterns and places in self.sketch.possible(pattern)

    def post(self, model: cp_model.CpModel, variables: Mapping[str, Any], domains: Domains) -> None:
        """As a table over copies of the knobs, which bind where the sketch is chosen."""
        chosen = model.new_bool_var("")
        model.add(variables["sketch"] == self.index).only_enforce_if(chosen)
        model.add(variables["sketch"] != self.index).only_enforce_if(~chosen)
        columns = []
        for name in (name for tile in self.sketch.tiles for name in tile.knobs):
            one = model.new_bool_var("")
            model.add(variables[name] == 1).only_enforce_if([chosen, one])
            model.add(variables[name] != 1).only_enforce_if([chosen, ~one])
            columns.append(one)
        for name in (name for place in self.sketch.places for name in place.knobs):
            place = model.new_int_var(_INLINE, max(ROOT, *domains[name]), "")
            model.add(variables[name] == place).only_enforce_if(chosen)
            columns.append(place)
        rows = [
            (*map(int, pattern), *places)
            for pattern in self.sketch.patterns
            for places in sorted(self.sketch.possible(pattern))
        ]
        model.add_allowed_assignments(columns, rows)
