"""Valid choices of a space, by constraint solving (OR-tools' CP-SAT): one is found however few there are."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from ortools.sat.python import cp_model

from ..errors import CodegenError
from .constraints import Choice, Constraint
from .space import Space

# A space is small: a solver that takes longer than this has met something it can't do.
SECONDS = 10.0


class Solver:
    """Finds choices that meet all constraints of a space."""

    def __init__(self, space: Space, constraints: Sequence[Constraint] | None = None) -> None:
        """``constraints``: instead of the space's own."""
        self._space = space
        self._domains = {knob.name: knob.values for knob in space.knobs}
        self._model = cp_model.CpModel()
        self._variables = {
            name: self._model.new_int_var_from_domain(cp_model.Domain.from_values(list(values)), name)
            for name, values in self._domains.items()
        }
        for constraint in space.constraints if constraints is None else constraints:
            constraint.post(self._model, self._variables, self._domains)
        self._solver = cp_model.CpSolver()
        self._solver.parameters.num_workers = 1
        self._solver.parameters.max_time_in_seconds = SECONDS

    def solve(self, within: Mapping[str, Sequence[int]], near: Choice | None = None) -> dict[str, int] | None:
        """A choice whose knobs have values ``within`` the given ones, where given; None if there is none.

        ``near``: of those that there are, one that differs from this in few knobs.

        Raises:
            CodegenError: the solver does not come to an end.
        """
        model = self._model.clone()
        variables = {name: model.get_int_var_from_proto_index(v.index) for name, v in self._variables.items()}
        for name, values in within.items():
            model.add_linear_expression_in_domain(variables[name], cp_model.Domain.from_values(list(values)))
        if near is not None:
            same = []
            for name, variable in variables.items():
                literal = model.new_bool_var("")
                model.add(variable == near[name]).only_enforce_if(literal)
                same.append(literal)
            model.maximize(sum(same))
        status = self._solver.solve(model)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return {name: self._solver.value(variable) for name, variable in variables.items()}
        if status == cp_model.INFEASIBLE:
            return None
        raise CodegenError(f"the solver gave up on the space {self._space.name} after {SECONDS:.0f} s")

    def sample(self, rng: random.Random, within: Mapping[str, Sequence[int]] | None = None) -> dict[str, int] | None:
        """A random choice; None if there is none.

        Knobs are set one after the other, in random order, each to a value drawn from those that leave a solution.
        Every valid choice may come; those in sparse corners come more often than others, which suits a search.
        """
        allowed = {name: list(values) for name, values in self._domains.items()}
        for name, values in (within or {}).items():
            allowed[name] = [v for v in values if v in self._domains[name]]
        order = list(allowed)
        rng.shuffle(order)
        found = self.solve(allowed)
        if found is None:
            return None
        for name in order:
            values = allowed[name]
            while True:
                value = rng.choice(values)
                if value == found[name]:
                    break
                other = self.solve({**allowed, name: [value]})
                if other is not None:
                    found = other
                    break
                values = [v for v in values if v != value]
            allowed[name] = [value]
        return found

    def listed(self, limit: int) -> list[dict[str, int]]:
        """Up to ``limit`` choices; all, in an order of their own, where there are no more."""
        found = _Found(self._variables, limit)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.enumerate_all_solutions = True
        solver.solve(self._model, found)
        return sorted(found.choices, key=lambda choice: tuple(choice.values()))

    def clash(self, within: Mapping[str, Sequence[int]] | None = None) -> list[str]:
        """Of a space without a valid choice, constraints that can't all be met, none of which could be left out."""
        kept = list(self._space.constraints)

        def feasible(constraints: Sequence[Constraint]) -> bool:
            return Solver(self._space, constraints).solve(within or {}) is not None

        if feasible(kept):
            return []
        for constraint in list(kept):
            rest = [c for c in kept if c is not constraint]
            if not feasible(rest):
                kept = rest
        return [c.text for c in kept]


class _Found(cp_model.CpSolverSolutionCallback):
    """Keeps up to ``limit`` solutions."""

    def __init__(self, variables: Mapping[str, cp_model.IntVar], limit: int) -> None:
        super().__init__()
        self._variables, self._limit = variables, limit
        self._found: dict[tuple[int, ...], dict[str, int]] = {}

    @property
    def choices(self) -> list[dict[str, int]]:
        """What was found."""
        return list(self._found.values())

    def on_solution_callback(self) -> None:
        """Called by the solver for each solution; those that differ only in helper variables are one choice."""
        choice = {name: self.value(variable) for name, variable in self._variables.items()}
        self._found[tuple(choice.values())] = choice
        if len(self._found) >= self._limit:
            self.stop_search()
