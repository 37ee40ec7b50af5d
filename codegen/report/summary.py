"""The report in the terminal: a line a workload and target."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from ..objectives import OBJECTIVES
from .analysis import statuses
from .page import Section


def table(sections: Sequence[Section]) -> Table:
    """For ``rich`` to print. Nothing in it is taken for markup."""
    found = Table(title="Tuning report", title_justify="left")
    for name in ("workload", "target"):
        found.add_column(name, overflow="fold")
    for name in ("trials", "ok", "best × ATen", "at trial", "ρ"):
        found.add_column(name, justify="right")
    for name in ("failures", "knob that matters most"):
        found.add_column(name, overflow="fold")
    for section in sections:
        group, best = section.group, section.group.best
        trials, study = group.trials, section.study
        at = next((i for i, r in enumerate(trials, 1) if best and (r.space, r.knobs) == (best.space, best.knobs)), None)
        failed = ", ".join(f"{count} {status}" for status, count in statuses(trials).items() if status != "ok")
        row = [
            group.workload,
            group.target,
            str(len(trials)),
            f"{section.ok / len(trials):.0%}",
            f"{best.ratio:.3f}" if best else "-",
            str(at) if at else "-",
            f"{study.calibration.rho:.2f}" if study.calibration else "-",
            failed or "-",
            study.importance.knobs[0] if study.importance else "-",
        ]
        found.add_row(*map(Text, row))
    return found


def scores(sections: Sequence[Section]) -> Table | None:
    """The best by weighted score, a line a workload and target; None where no weights were given."""
    scored = [(section.group, section.scored) for section in sections if section.scored]
    if not scored:
        return None
    found = Table(title=f"Best by {scored[0][1].weights}", title_justify="left")
    for name in ("workload", "target"):
        found.add_column(name, overflow="fold")
    for name in ("score", "× ATen"):
        found.add_column(name, justify="right")
    for name in ("objectives", "knobs"):
        found.add_column(name, overflow="fold")
    for group, choice in scored:
        record = choice.record
        if record is None or choice.score is None:
            row = ["-", "-", "no trial has all of them", "-"]
        else:
            measured = ", ".join(
                f"{name} {value:.4g} {OBJECTIVES[name].unit}" for name, value in choice.measured.items()
            )
            knobs = ", ".join(f"{name}={value}" for name, value in record.knobs.items())
            row = [f"{choice.score:.3f}", f"{record.ratio:.3f}", measured, f"{record.space}: {knobs}"]
        found.add_row(*map(Text, [group.workload, group.target, *row]))
    return found
