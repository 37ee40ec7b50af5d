"""The page: one file of HTML that holds its pictures, which also lie beside it."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from .. import objectives, ops, spaces
from ..errors import CodegenError
from ..records import store
from ..spaces.space import Space, broken
from ..target import find
from ..workload import Workload
from . import analysis, bars, pareto, trials
from .collect import Group
from .limits import Limits
from .study import Study, study_of

TEMPLATE = Path(__file__).with_name("page.html.jinja")
# A compiler's complaint can fill pages.
LONGEST_REASON = 400
MOST_REASONS = 20


@dataclass(frozen=True)
class Value:
    """A knob of the best candidate; ``default`` and ``meaning`` are None where the space does not know it."""

    knob: str
    value: int
    default: int | None
    meaning: str | None

    @property
    def changed(self) -> bool:
        """Whether tuning moved it."""
        return self.default is not None and self.value != self.default


@dataclass(frozen=True)
class Scored:
    """The best by weighted score; ``record`` and ``score`` are None where no trial has all the objectives."""

    weights: str
    record: store.Record | None
    score: float | None  # of the fastest it is 1
    measured: dict[str, float]


@dataclass
class Section:
    """What the page says of a workload on a target."""

    group: Group
    number: int
    failures: list[analysis.Failure]
    values: list[Value]
    commands: list[str]
    unusable: str | None  # what the best candidate breaks of the space as it is now
    studies: list[Study]  # of each space
    scored: Scored | None = None
    pictures: dict[str, Path] = field(default_factory=dict)
    limited: bool = False  # whether the machine's limit is known for any point

    @property
    def study(self) -> Study:
        """Of the best candidate's space; of the first one's if none is ok."""
        space = (self.group.best or self.group.records[0]).space
        return next(study for study in self.studies if study.space == space)

    @property
    def ok(self) -> int:
        """How many trials were ok."""
        return sum(r.status == "ok" for r in self.group.trials)


def write(
    groups: Sequence[Group],
    limits: Limits,
    out: Path,
    step: Callable[[str, int], None],
    weights: Mapping[str, float] | None = None,
) -> tuple[Path, list[Section]]:
    """Writes ``index.html`` and its pictures to a folder, which is made if it is not there.

    ``step`` is told each workload before its turn, and how many are done. ``weights`` of objectives: the page
    also names the best by their weighted score.

    Raises:
        CodegenError: the folder can't be written to.
    """
    page = out / "index.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        page.touch()  # before minutes of drawing
        sections = []
        for number, group in enumerate(groups, 1):
            step(group.workload, number - 1)
            sections.append(_section(number, group, limits, out, weights or {}))
        page.write_text(render(sections, limits), encoding="utf-8")
    except OSError as error:
        raise CodegenError(f"can't write the report to {out}: {error.strerror}") from None
    return page, sections


def render(sections: Sequence[Section], limits: Limits) -> str:
    """The HTML. Whatever comes from records is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["cut"] = lambda text: text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} …"
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    units = {name: objective.unit for name, objective in objectives.OBJECTIVES.items()}
    return template.render(sections=sections, limits=limits, units=units, most_reasons=MOST_REASONS)


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _section(number: int, group: Group, limits: Limits, out: Path, weights: Mapping[str, float]) -> Section:
    best = group.best
    space = _space(group, best.space if best else group.records[0].space)
    section = Section(
        group=group,
        number=number,
        failures=analysis.failures(group.trials),
        values=_values(space, best),
        commands=_commands(group, best),
        unusable=next(iter(broken(space, best.knobs)), None) if space and best else None,
        studies=[],
        scored=_scored(group, weights) if weights else None,
    )
    # The number tells apart keys that differ only in what file names can't hold.
    stem = f"{number:03d}-{re.sub('[^A-Za-z0-9.-]+', '_', f'{group.workload}-{group.target}')[:100]}"

    def picture(kind: str, draw: Callable[[Path], None]) -> None:
        path = out / f"{stem}-{kind}.png"
        draw(path)
        section.pictures[kind] = path

    picture("trials", lambda path: trials.draw(group, path))
    for name in group.spaces:
        study, drawn = study_of(group, name, _space(group, name))
        section.studies.append(study)
        for kind, draw in drawn.items():
            key = f"{name}-{kind}" if len(group.spaces) > 1 else kind
            picture(key, draw)
            study.pictures[kind] = section.pictures[key]
    costs = pareto.others(group.records)
    if costs:
        chosen = section.scored.record if section.scored else None
        picture("pareto", lambda path: pareto.draw(group, costs, chosen, path))
    if best is not None and best.points:
        bounds = [limits.seconds(group.workload, point) for point in best.points]
        section.limited = any(bounds)
        picture("points", lambda path: bars.draw_points(group, best.points, bounds, path))
    return section


def _scored(group: Group, weights: Mapping[str, float]) -> Scored:
    found = objectives.best(group.records, weights)
    record, score = found or (None, None)
    text = ", ".join(f"{name}={weight:g}" for name, weight in weights.items())
    measured = objectives.values(record, list(weights)) if record else None
    return Scored(text, record, score, dict(zip(weights, measured or (), strict=False)))


def _space(group: Group, name: str) -> Space | None:
    """The space as it is now; None for an operator or a target that this version does not know."""
    try:
        workload = ops.check(Workload.parse(group.workload))
        return spaces.find(workload, find(group.target), name)
    except CodegenError:
        return None


def _values(space: Space | None, best: store.Record | None) -> list[Value]:
    if best is None:
        return []
    default = space.default() if space else {}
    meanings = {knob.name: knob.meaning for knob in space.knobs} if space else {}
    return [Value(name, value, default.get(name), meanings.get(name)) for name, value in best.knobs.items()]


def _commands(group: Group, best: store.Record | None) -> list[str]:
    """What builds a pack that has the best candidate, and what shows it."""
    if best is None:
        return []
    folder, name = shlex.quote(str(group.folder)), shlex.quote(f"{group.workload}@{group.target}")
    return [
        f"python -m codegen build --records {folder} --target {shlex.quote(group.target)} --out build/mine",
        f"python -m codegen show {name} --records {folder} --what asm",
    ]
