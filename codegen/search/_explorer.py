"""What the strategies share: what was tried, random numbers that a resumed search draws again, choices nobody tried."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import CodegenError
from ..spaces.sampling import Sampler
from ..spaces.space import Choice, Space, broken
from .strategy import Trial, identity

if TYPE_CHECKING:
    from ..spaces.solver import Solver

Known = set[tuple[tuple[str, int], ...]]

# So many draws in a row that are invalid or known mean that valid choices are rare, or few are left.
DRAWS = 500
# A space of no more valid choices than this is listed when draws fail.
LISTED = 10_000
# In a larger one the solver is asked so often for a choice that nobody tried.
SAMPLES = 50
# What a strategy proposes at once, if it does not say otherwise: enough to keep a machine busy building.
BATCH = 8
# So many moves may be completed in the search for one that leads somewhere.
COMPLETED = 20


class Explorer:
    """A strategy that lacks only its ideas: ``_pick`` says what to try next, ``_learn`` takes in a trial.

    Both depend on nothing but the space, the seed, the trials observed and the choices proposed since. Random numbers
    are therefore not drawn from one stream but from one for each proposal and each trial, so that a search that was
    killed and shown its records proposes what it would have proposed.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.domains = {knob.name: knob.values for knob in space.knobs}
        self.trials: list[Trial] = []
        self._seed = seed
        self._seen: Known = set()
        self._pending: Known = set()
        self._proposed = 0

    @property
    def batch(self) -> int:
        """See :class:`.strategy.Strategy`."""
        return BATCH

    def propose(self, n: int) -> list[dict[str, int]]:
        """Up to ``n`` valid choices that were neither proposed nor observed before; fewer only if none are left."""
        taken: list[dict[str, int]] = []
        while len(taken) < n:
            rng = self._stream("propose", len(self._pending))
            picked = self._pick(rng)
            choice = self.fresh(rng) if picked is None or not self.is_fresh(picked) else dict(picked)
            if choice is None:
                break
            self._seen.add(identity(choice))
            self._pending.add(identity(choice))
            taken.append(choice)
        self._proposed += len(taken)
        return taken

    def observe(self, trial: Trial) -> None:
        """Takes note of a trial, proposed by this strategy or not."""
        rng = self._stream("observe")
        self._seen.add(identity(trial.choice))
        self._pending.discard(identity(trial.choice))
        self.trials.append(trial)
        self._learn(trial, rng)

    def state(self) -> dict[str, int]:
        """How many were proposed and observed, and what the strategy adds."""
        return {"proposed": self._proposed, "observed": len(self.trials), **self._figures()}

    def is_fresh(self, choice: Choice) -> bool:
        """Whether a choice is valid and was neither proposed nor observed."""
        return identity(choice) not in self._seen and not broken(self.space, choice)

    def fresh(self, rng: random.Random, known: Known | None = None) -> dict[str, int] | None:
        """A random choice that nobody tried, or that is not ``known``; None if there is none left."""
        known = self._seen if known is None else known
        for _ in range(DRAWS):
            choice = self._sampler.draw(rng)
            if all(c.holds(choice) for c in self.space.constraints) and identity(choice) not in known:
                return choice
        if self._all is not None:
            left = [choice for choice in self._all if identity(choice) not in known]
            return dict(rng.choice(left)) if left else None
        for _ in range(SAMPLES):
            sampled = self.solver.sample(rng)
            if sampled is not None and identity(sampled) not in known:
                return sampled
        # Of so many choices at least one is not known.
        return next((c for c in self.solver.listed(len(known) + 1) if identity(c) not in known), None)

    def move(self, at: Choice, order: Iterable[tuple[str, int]]) -> dict[str, int] | None:
        """The first of the changes of one knob that leads to a choice nobody tried.

        One that breaks constraints is completed by the solver, which changes as few other knobs as it can; that takes
        time, so that it gives up after some.
        """
        completed = 0
        for name, value in order:
            choice = {**at, name: value}
            if not all(c.holds(choice) for c in self.space.constraints):
                completed += 1
                choice = self.solver.solve({name: [value]}, near=choice) or choice
            if self.is_fresh(choice):
                return choice
            if completed == COMPLETED:
                break
        return None

    @cached_property
    def solver(self) -> Solver:
        """Of the space; made, and its library imported, when it is first needed: many searches get by without.

        Raises:
            CodegenError: the library is not installed.
        """
        try:
            from ..spaces.solver import Solver
        except ModuleNotFoundError as error:
            raise CodegenError(f"this search needs {error.name}: pip install 'tvmops[tune]'") from None
        return Solver(self.space)

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self.space)

    @cached_property
    def _all(self) -> list[dict[str, int]] | None:
        """All valid choices, if they are few."""
        found = self.solver.listed(LISTED + 1)
        return found if len(found) <= LISTED else None

    def _stream(self, *where: object) -> random.Random:
        return random.Random(" ".join(map(str, (self._seed, len(self.trials), *where))))

    def _pick(self, rng: random.Random) -> Choice | None:
        """What to try next; for None, and for what was tried or is invalid, a random choice stands in."""
        raise NotImplementedError

    def _learn(self, trial: Trial, rng: random.Random) -> None:
        """Takes in a trial, which is the last of ``trials``."""

    def _figures(self) -> dict[str, int]:
        """More for ``state``."""
        return {}


def moves(domains: dict[str, tuple[int, ...]], choice: Choice) -> Iterator[tuple[str, int]]:
    """Every change of one knob of a choice: its name and its new value."""
    for name, values in domains.items():
        yield from ((name, value) for value in values if value != choice[name])
