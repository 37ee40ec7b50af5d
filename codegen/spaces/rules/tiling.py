"""Multi-level tiling of a reduction that reads the same elements again and again: products, convolutions.

Loops from outside: blocks of results, in parallel; tiles of a block; the reduction; a register tile, unrolled, its last
axis in vectors. A reduction in pieces (its ``outer`` knobs) adds the sum of each piece to the block of results: pieces
of operands stay in the cache meanwhile, and rounding errors are those of short sums. An operand may go through a cache
stage: a copy made once, in the order in which register tiles read it. What follows the reduction, or a copy of its
result, is computed tile by tile, or block by block if there are pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from tvm import s_tir
from tvm.s_tir.schedule import LoopRV

from ...target import Target
from ..computation import Axis, Stage, divisors
from ..constraints import AtMost, Choice, Constraint, Relation, Split
from ..space import Knob

FLOAT = 4
LEVELS = ("outer", "tile", "inner")
# Steps of the reduction that may be unrolled, and the most statements that unrolling may make.
STEPS, MOST_STATEMENTS = (1, 2, 4), 128
# A longer chain of additions in one accumulator comes close to twice the error of ATen (see ``spaces/gemm.py``).
LONGEST_CHAIN = 256
SHORTEST_CHAIN = 32  # to be worth keeping a sum in registers
# Rows that must share a copy to pay for it, and multiplications that are worth starting threads for.
SHARED, PARALLEL = 64, 1 << 18


class Tiling:
    """Of one stage; ``follower`` is the one injective stage that reads its result, of the same shape."""

    def __init__(self, stage: Stage, follower: Stage | None, target: Target) -> None:
        self._stage, self._follower, self._target = stage, follower, target
        self._packable = [r for r in stage.reads if None not in r.axes and len(r.axes) > 1]
        knobs, constraints = [], []
        pieces = {
            a: tuple(d for d in divisors(a.extent) if d == 1 or a.extent // d >= SHORTEST_CHAIN) for a in stage.reduced
        }
        exact = math.prod(a.extent // max(pieces[a]) for a in stage.reduced) <= LONGEST_CHAIN
        for axis in stage.axes:
            every = divisors(axis.extent)
            outermost = pieces[axis] if axis.reduced and exact else every
            what = ("pieces", "steps of a piece", "unrolled steps") if axis.reduced else ("blocks", "tiles", "elements")
            domains = (outermost, every, self._inner(axis))
            names = tuple(f"{axis.name}_{level}" for level in LEVELS)
            for name, values, of in zip(names, domains, what, strict=True):
                knobs.append(Knob(name, values, f"{of} along {axis.name}"))
            constraints.append(Split(axis.extent, names))
        name = stage.name
        for read in self._packable:
            knobs.append(Knob(f"{name}_pack_{read.buffer}", (0, 1), f"copy {read.buffer} in the order of its use"))
        knobs.append(Knob(f"{name}_parallel", (0, 1), "use all threads"))
        self.knobs: Sequence[Knob] = tuple(knobs)
        self.constraints: Sequence[Constraint] = (*constraints, *self._limits())

    def _inner(self, axis: Axis) -> tuple[int, ...]:
        """Sizes that a register tile may have."""
        lanes, every = self._target.lanes(), divisors(axis.extent)
        if axis.reduced:
            return tuple(d for d in every if d in STEPS)
        if axis != self._stage.spatial[-1]:
            return tuple(d for d in every if d <= self._target.vector_registers)
        whole = tuple(d for d in every if d % lanes == 0 and d <= 4 * lanes)
        return whole or (max(d for d in every if d <= lanes),)

    def _limits(self) -> Iterator[Constraint]:
        lanes, registers = self._target.lanes(), self._target.vector_registers
        spatial, reduced, name = self._stage.spatial, self._stage.reduced, self._stage.name
        inner = tuple(f"{a.name}_inner" for a in spatial)
        # An axis that is no multiple of a vector takes a register all the same.
        unit = min(lanes, self._inner(spatial[-1])[0])
        registers_fit = AtMost(
            f"registers, in elements of which {unit} share one: sums, a vector of an operand, a broadcast of another",
            ((1, inner), (1, (inner[-1],)), (unit, ())),
            unit * registers,
        )
        yield registers_fit
        tiles = (dict(zip(inner, sizes, strict=True)) for sizes in product(*map(self._inner, spatial)))
        largest = max(math.prod(tile.values()) for tile in tiles if registers_fit.holds(tile))
        least = min(unit * registers // 4, largest)
        yield Relation(
            f"a register tile of at least {least} elements, or the multipliers idle",
            inner,
            lambda c: math.prod(c[n] for n in inner) >= least,
        )
        unrolled = (*inner[:-1], *(f"{a.name}_inner" for a in reduced))
        yield AtMost(f"unrolled statements of {name}", ((1, unrolled),), MOST_STATEMENTS)
        block = (*(f"{a.name}_tile" for a in spatial), *inner)
        yield AtMost("bytes of a block of results, half of L2", ((FLOAT, block),), self._target.l2_bytes // 2)
        chain = tuple(f"{a.name}_{level}" for a in reduced for level in ("tile", "inner"))
        yield AtMost("additions in one sum, or the error exceeds twice ATen's", ((1, chain),), LONGEST_CHAIN)

    def default(self) -> dict[str, int]:
        """A register tile that hides the latency of additions; blocks of a few tiles; the whole reduction at once."""
        out: dict[str, int] = {}
        name, lanes, spatial = self._stage.name, self._target.lanes(), self._stage.spatial
        widths = self._inner(spatial[-1])
        out[f"{spatial[-1].name}_inner"] = width = max(w for w in widths if w <= 2 * lanes)
        room = (self._target.vector_registers - 1) // max(1, width // lanes) - 1
        for axis in reversed(spatial[:-1]):
            out[f"{axis.name}_inner"] = size = max(d for d in self._inner(axis) if d <= room)
            room //= size
        for axis in spatial:
            tiles = axis.extent // out[f"{axis.name}_inner"]
            out[f"{axis.name}_tile"] = tile = max(d for d in divisors(tiles) if d <= 4)
            out[f"{axis.name}_outer"] = tiles // tile
        room = LONGEST_CHAIN
        for axis in reversed(self._stage.reduced):
            steps = max(d for d in divisors(axis.extent) if d <= room)
            room //= steps
            out |= {f"{axis.name}_outer": axis.extent // steps, f"{axis.name}_tile": steps, f"{axis.name}_inner": 1}
        rows = math.prod(a.extent for a in spatial[:-1])
        for read in self._packable:
            # The operand that is read in vectors.
            out[f"{name}_pack_{read.buffer}"] = int(spatial[-1].name in read.touched and rows >= SHARED)
        work = self._stage.elements * math.prod(a.extent for a in self._stage.reduced)
        return {**out, f"{name}_parallel": int(work >= PARALLEL)}

    def apply(self, schedule: s_tir.Schedule, choice: Choice) -> None:
        """See the module."""
        name, spatial, reduced = self._stage.name, self._stage.spatial, self._stage.reduced
        for i, read in enumerate(self._stage.reads):
            if choice.get(f"{name}_pack_{read.buffer}") == 1:
                self._pack(schedule, i, choice)
        in_pieces = any(choice[f"{a.name}_outer"] > 1 for a in reduced)
        block, total = schedule.get_sblock(name), None
        loops = dict(zip((a.name for a in self._stage.axes), schedule.get_loops(block), strict=True))
        if in_pieces:
            halves = {a.name: schedule.split(loops[a.name], [choice[f"{a.name}_outer"], None]) for a in reduced}
            schedule.reorder(*(half[0] for half in halves.values()), *(half[1] for half in halves.values()))
            piece = schedule.fuse(*(half[0] for half in halves.values()))
            block, total = schedule.rfactor(piece, factor_axis=0), block
            # The reduction's loops stand last, in the order given above, after the piece.
            own = schedule.get_loops(block)
            piece, rest = own[-1 - len(reduced)], own[len(own) - len(reduced) :]
            loops = dict(zip((a.name for a in (*spatial, *reduced)), (*own[: len(spatial)], *rest), strict=True))
        outer, tiles, inner = self._split(schedule, loops, spatial, choice, LEVELS)
        steps, unrolled = self._split(schedule, loops, reduced, choice, LEVELS[1:])
        schedule.reorder(*outer, *([piece] if in_pieces else []), *tiles, *steps, *unrolled, *inner)
        task = schedule.fuse(*outer)
        if total is not None:
            schedule.reverse_compute_at(total, tiles[-1], preserve_unit_loops=True)
            self._registers(schedule, schedule.get_loops(total)[-len(spatial) :])
        after = None
        if self._follower:
            after = schedule.get_sblock(self._follower.name)
        elif total is None:
            after = schedule.cache_write(block, 0, "global")
        if after is not None:
            schedule.reverse_compute_at(after, task if in_pieces else tiles[-1], preserve_unit_loops=True)
            own = schedule.get_loops(after)[-len(spatial) :]
            if in_pieces:
                _, vector = schedule.split(own[-1], [None, choice[f"{spatial[-1].name}_inner"]])
                schedule.vectorize(vector)
            else:
                self._registers(schedule, own)
        if choice[f"{name}_parallel"]:
            schedule.parallel(task)
        self._registers(schedule, [*unrolled, *inner])
        schedule.decompose_reduction(block, steps[0])
        if total is not None:
            schedule.decompose_reduction(total, piece)

    @staticmethod
    def _split(
        schedule: s_tir.Schedule,
        loops: Mapping[str, LoopRV],
        axes: Sequence[Axis],
        choice: Choice,
        levels: Sequence[str],
    ) -> list[list[LoopRV]]:
        """The loops of these axes, by level."""
        parts = [schedule.split(loops[a.name], [choice[f"{a.name}_{level}"] for level in levels]) for a in axes]
        return [list(part) for part in zip(*parts, strict=True)]

    @staticmethod
    def _registers(schedule: s_tir.Schedule, loops: Sequence[LoopRV]) -> None:
        schedule.vectorize(loops[-1])
        for loop in loops[:-1]:
            schedule.unroll(loop)

    def _pack(self, schedule: s_tir.Schedule, index: int, choice: Choice) -> None:
        """The cache stage: tiles of an operand's spatial axes outermost, then the reduction, then a tile's elements."""
        read = self._stage.reads[index]
        extents = {a.name: a for a in self._stage.spatial}
        tiled = [i for i, axis in enumerate(read.axes) if axis in extents]
        others = [i for i in range(len(read.axes)) if i not in tiled]
        sizes = {i: choice[f"{read.axes[i]}_inner"] for i in tiled}
        block = schedule.get_sblock(self._stage.name)
        copy = schedule.cache_read(block, index, "global")
        schedule.transform_layout(
            block,
            ("read", index),
            lambda *at: [
                *(at[i] // sizes[i] for i in tiled),
                *(at[i] for i in others),
                *(at[i] % sizes[i] for i in tiled),
            ],
        )
        loops = schedule.get_loops(copy)
        halves = {i: schedule.split(loops[i], [None, sizes[i]]) for i in tiled}
        order = [*(halves[i][0] for i in tiled), *(loops[i] for i in others), *(halves[i][1] for i in tiled)]
        schedule.reorder(*order)
        if tiled:
            if choice[f"{self._stage.name}_parallel"]:
                schedule.parallel(order[0])
            if tiled[-1] == len(read.axes) - 1:  # else neighbours are far apart in memory
                schedule.vectorize(order[-1])
