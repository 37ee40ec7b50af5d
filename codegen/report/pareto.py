"""The picture of several objectives: time against what else a candidate costs, and the Pareto front of each pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from ..objectives import OBJECTIVES, front, values
from ..records.store import Record
from .collect import Group
from .trials import COLOURS, GREY, GRID, new_figure

LABELS = {"code": "code size", "workspace": "workspace", "energy": "energy a call"}


def others(records: Sequence[Record]) -> list[str]:
    """The objectives besides time in which the trials differ."""
    found = []
    for name in OBJECTIVES:
        known = {v for r in records if (v := values(r, ["time", name])) is not None}
        if name != "time" and len({v[1] for v in known}) > 1:
            found.append(name)
    return found


def draw(group: Group, names: Sequence[str], chosen: Record | None, path: Path) -> None:
    """Writes the PNG at ``path``: a panel for each of ``names`` against time.

    ``chosen``: the best by weighted score, if one was asked for.
    """
    figure = new_figure(1.4 + 4.8 * len(names), 4.9, group, "Time against what else it costs")
    for number, name in enumerate(names, 1):
        _panel(figure.add_subplot(1, len(names), number), group, name, chosen)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower left", ncols=len(handles[1]), fontsize=8, frameon=False)
    figure.savefig(path)


def _panel(axes: Axes, group: Group, name: str, chosen: Record | None) -> None:
    records = group.records
    points = np.array([v for r in records if (v := values(r, [name, "time"])) is not None])
    axes.scatter(points[:, 0], points[:, 1], 18, color=GREY, alpha=0.6, linewidths=0, label="trial", zorder=2)
    kept = np.array([v for r in front(records, ["time", name]) if (v := values(r, [name, "time"])) is not None])
    order = np.argsort(kept[:, 0], kind="stable")
    # A corner for each step: nothing on the front lies below or left of the line.
    axes.step(kept[order, 0], kept[order, 1], where="post", color=COLOURS[0], linewidth=1.6, zorder=3)
    axes.scatter(kept[:, 0], kept[:, 1], 34, color=COLOURS[0], linewidths=0, label="Pareto front", zorder=4)
    marked = [("fastest", group.best, "*", 170, COLOURS[1]), ("best by weighted score", chosen, "D", 80, COLOURS[2])]
    for label, record, marker, size, colour in marked:
        place = values(record, [name, "time"]) if record else None
        if place is not None:
            axes.scatter(
                place[0], place[1], size, facecolors="none", edgecolors=colour, marker=marker, label=label, zorder=5
            )
    unit = OBJECTIVES[name].unit
    axes.xaxis.set_major_formatter(EngFormatter("B" if unit == "bytes" else unit, sep=" "))
    axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=2))
    axes.margins(0.08)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(LABELS[name])
    axes.set_ylabel("time, × ATen's (below 1: faster)")
