"""The records of a folder, by workload and target."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CodegenError
from ..records import store
from ..search.strategy import identity


@dataclass(frozen=True)
class Run:
    """The trials that a strategy made with a seed, as one record file has them."""

    strategy: str  # with the space where the group has several, see ``Group.name_of``
    seed: int
    trials: list[store.Record]


@dataclass(frozen=True)
class Group:
    """The records of a workload on a target, in the order in which they were made. At least one."""

    workload: str
    target: str
    files: list[Path]  # of each record
    records: list[store.Record]

    @property
    def best(self) -> store.Record | None:
        """The record that a kernel would be made from."""
        return store.winner(self.records)

    @property
    def folder(self) -> Path:
        """Where the best record lies; any of the group's if none is ok."""
        best = self.best
        found = next((f for f, r in zip(self.files, self.records, strict=True) if r is best), self.files[0])
        return found.parent

    @property
    def trials(self) -> list[store.Record]:
        """Without ``again``: what the strategies chose."""
        again = set(map(id, self.again))
        return [r for r in self.records if id(r) not in again]

    @property
    def again(self) -> list[store.Record]:
        """Winners that were measured again at the end of a search, with their plans: no trials of a strategy."""
        seen, found = set(), []
        for record in self.records:
            name = record.space, identity(record.knobs)
            if record.plan is not None and name in seen:
                found.append(record)
            seen.add(name)
        return found

    @property
    def spaces(self) -> list[str]:
        """The names of the spaces that the trials are from, in the order in which they appear."""
        return list(dict.fromkeys(r.space for r in self.records))

    def name_of(self, record: store.Record) -> str:
        """The record's strategy, with its space where the group has several: there a strategy does several things."""
        return f"{record.strategy}, {record.space}" if len(self.spaces) > 1 else record.strategy

    @property
    def runs(self) -> list[Run]:
        """The trials apart by file, strategy and seed."""
        again = set(map(id, self.again))
        found: dict[tuple[Path, str, int], list[store.Record]] = {}
        for file, record in zip(self.files, self.records, strict=True):
            if id(record) not in again:
                found.setdefault((file, self.name_of(record), record.seed), []).append(record)
        return [Run(strategy, seed, trials) for (_, strategy, seed), trials in found.items()]


def collect(directory: Path, pattern: str = "*", targets: Sequence[str] = ()) -> list[Group]:
    """The groups of a folder and the folders in it whose workload is like ``pattern``, by name.

    ``pattern`` has ``*`` and ``?`` for anything, or is a key as it stands. No ``targets``: all.

    Raises:
        CodegenError: there are no such records, or one of them can't be read.
    """
    found: dict[tuple[str, str], list[tuple[Path, store.Record]]] = {}
    for path in sorted(directory.rglob("*.jsonl")):
        for record in store.read(path):
            found.setdefault((record.workload, record.target), []).append((path, record))
    if not found:
        raise CodegenError(f"{directory} holds no records")
    chosen = {name: members for name, members in found.items() if not targets or name[1] in targets}
    if not chosen:
        known = ", ".join(sorted({target for _, target in found}))
        raise CodegenError(f"{directory} holds no records for {' or '.join(targets)}, only for {known}")
    groups = []
    for (workload, target), members in sorted(chosen.items()):
        if workload == pattern or fnmatch.fnmatchcase(workload, pattern):
            members.sort(key=lambda member: member[1].date)  # stable: a file's own order counts within a second
            groups.append(Group(workload, target, [f for f, _ in members], [r for _, r in members]))
    if not groups:
        raise CodegenError(f"{directory} holds no records of a workload like {pattern!r}")
    return groups
