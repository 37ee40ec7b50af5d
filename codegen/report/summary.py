"""The report in the terminal: a line a workload and target."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

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
        trials = group.trials
        at = next((i for i, r in enumerate(trials, 1) if best and r.knobs == best.knobs), None)
        failed = ", ".join(f"{count} {status}" for status, count in statuses(trials).items() if status != "ok")
        row = [
            group.workload,
            group.target,
            str(len(trials)),
            f"{section.ok / len(trials):.0%}",
            f"{best.ratio:.3f}" if best else "-",
            str(at) if at else "-",
            f"{section.calibration.rho:.2f}" if section.calibration else "-",
            failed or "-",
            section.importance.knobs[0] if section.importance else "-",
        ]
        found.add_row(*map(Text, row))
    return found
