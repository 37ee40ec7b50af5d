"""Pictures of one figure a row: knob importance, measured points; and the ranks that a model predicts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .collect import Group
from .forest import Calibration, Importance
from .trials import COLOURS, GREY, GRID, literal, new_figure

# Beyond, the bars are too short to say anything.
MOST_KNOBS = 20
# Characters in a line of a name; longer names are broken where words end.
LINE = 36
TUNED, LOST, ATEN = COLOURS[0], COLOURS[1], "#bbbbbb"


def draw_importance(group: Group, found: Importance, path: Path, space: str = "") -> None:
    """Writes the PNG at ``path``: a bar a knob, the most important first. ``space`` is for the title."""
    knobs = found.knobs[:MOST_KNOBS]
    title = f"Knob importance over {found.trials} choices{_of(space)}"
    if len(knobs) < len(found.knobs):
        title += f", the first {MOST_KNOBS} of {len(found.knobs)} knobs"
    names = [literal(_broken(name)) for name in knobs]
    lines = max(name.count("\n") for name in names) + 1
    figure = new_figure(7, 1.6 + (0.1 + 0.16 * lines) * len(knobs), group, title)
    axes = figure.add_subplot()
    rows = np.arange(len(knobs))
    axes.barh(rows, found.means[: len(knobs)], 0.62, color=TUNED)
    axes.errorbar(
        found.means[: len(knobs)], rows, xerr=found.spreads[: len(knobs)], fmt="none", ecolor="black", elinewidth=1
    )
    axes.set_yticks(rows, names, fontsize=9)
    axes.set_ylim(len(knobs) - 0.4, -0.6)
    axes.axvline(0, color="black", linewidth=1)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.supxlabel(
        "growth of the held-out error if shuffled, as a share of the variance\n"
        f"(the forest explains {found.explained:.0%} of it; line: one standard deviation)",
        fontsize=9,
    )
    figure.savefig(path)


def draw_calibration(group: Group, found: Calibration, path: Path, space: str = "") -> None:
    """Writes the PNG at ``path``: a point a choice, on the diagonal where the ranks agree. ``space``: for the title."""
    count = len(found.measured)
    figure = new_figure(4.6, 4.9, group, f"Predicted against measured rank{_of(space)}: ρ = {found.rho:.2f}")
    axes = figure.add_subplot()
    axes.plot([1, count], [1, count], color=GREY, linewidth=1, zorder=1)
    size = 26 if count < 80 else 12
    axes.scatter(found.measured, found.predicted, size, color=TUNED, alpha=0.8, linewidths=0, zorder=2)
    room = 0.03 * count
    axes.set_xlim(1 - room, count + room)
    axes.set_ylim(1 - room, count + room)
    axes.set_aspect("equal")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("measured rank (1: the fastest)")
    axes.set_ylabel("rank predicted from the other folds")
    figure.savefig(path)


def draw_points(group: Group, points: Sequence[Mapping[str, Any]], limits: Sequence[float | None], path: Path) -> None:
    """Writes the PNG at ``path``: for each point the best candidate's speed, ATen's (1) and, where known, the limit's.

    ``limits`` are the seconds that the machine's limit allows.
    """
    speeds = np.array([p["aten_seconds"] / p["seconds"] for p in points])
    reach = max(float(speeds.max()), 1.0)
    figure = new_figure(9, 1.7 + 0.36 * len(points), group, "Tuned against ATen, by measured point")
    axes = figure.add_subplot()
    rows = np.arange(len(points), dtype=float)
    won = speeds >= 1
    for wins, colour, label in ((won, TUNED, "tuned"), (~won, LOST, "tuned, slower than ATen")):
        if wins.any():
            axes.barh(rows[wins] - 0.19, speeds[wins], 0.36, color=colour, label=label)
    axes.barh(rows + 0.19, np.ones(len(rows)), 0.36, color=ATEN, label="ATen")
    known = [(row, p["aten_seconds"] / s) for row, p, s in zip(rows, points, limits, strict=True) if s]
    # A limit far beyond the bars would make them too short to compare; it is told as a figure.
    near = [(row, limit) for row, limit in known if limit <= 1.5 * reach]
    if near:
        ys, xs = [row for row, _ in near], [limit for _, limit in near]
        axes.scatter(xs, ys, 130, color="black", marker="|", label="limit", zorder=3)
        reach = max([reach, *xs])
    axes.set_yticks(rows, [literal(name) for name in point_names(points)], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.04 * reach)
    for row, (point, limit) in enumerate(zip(points, limits, strict=True)):
        text = f" {speeds[row]:.2f}×  {_time(point['seconds'])}, ATen {_time(point['aten_seconds'])}"
        if limit:
            text += f"; {limit / point['seconds']:.0%} of the limit"
        axes.text(1.0, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("speed, × ATen")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, frameon=False)
    figure.savefig(path)


def point_names(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells the points apart; all there is to say where nothing does."""
    parts = [
        {
            **{name: f"{name}={size}" for name, size in p["sizes"].items()},
            "layout ": p.get("layout", ""),
            "threads ": f"{p['threads']} thread" + ("s" if p["threads"] > 1 else ""),
        }
        for p in points
    ]
    differ = {name for part in parts for name in part if len({other.get(name) for other in parts}) > 1}
    shown = [[text for name, text in part.items() if text and (name in differ or not differ)] for part in parts]
    return [", ".join(words) for words in shown]


def _of(space: str) -> str:
    return f", space {space}" if space else ""


def _broken(name: str) -> str:
    """In lines of about ``LINE`` characters: knobs of one stem differ at the end or in the middle, so all is shown."""
    lines = [""]
    for word in re.findall(f"[^_. -]{{,{LINE}}}[_. -]?", name):
        if lines[-1] and len(lines[-1] + word) > LINE:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
