"""The picture of a search: every trial, the best so far, failures by status, and strategies side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ..records.schema import STATUSES
from .analysis import Curve, best_so_far, curves
from .collect import Group

# Okabe and Ito's colours, which are told apart without colour vision too; each strategy also has its own marker.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY, GRID = "#666666", "#dddddd"
DPI = 110
# Of a strategy's name in a legend; more would leave no room for the data.
LONGEST = 34


def literal(text: str) -> str:
    """So that matplotlib takes no part of it for mathematics."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float, group: Group, title: str) -> Figure:
    """Inches; laid out so that labels fit. The title has a line for the workload, as small as its key needs."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    text = f"{title}\n{group.workload} on {group.target}"
    size = min(10.0, 105 * width / max(map(len, text.split("\n"))))
    figure.suptitle(literal(text), x=0.01, ha="left", fontsize=size, fontweight="bold")
    return figure


def ratio_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic vertical axis for ratios against ATen, with a line at 1 and labels that do not overlap."""
    low, high = min(*values, 0.9), max(*values, 1.1)
    room = (high / low) ** 0.06
    axes.set_yscale("log")
    axes.set_ylim(low / room, high * room)
    span = high / low
    near = (1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    subs = near if span < 2.5 else (1, 1.2, 1.5, 2, 3, 5, 7) if span < 6 else (1, 2, 5) if span < 100 else (1,)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.axhline(1, color="black", linewidth=1, zorder=1)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel("× ATen (log; above 1: faster)")


def draw(group: Group, path: Path) -> None:
    """Writes the PNG at ``path``."""
    trials, runs = group.trials, group.runs
    seen = dict.fromkeys(r.status for r in trials)
    failed = [s for s in dict.fromkeys([*STATUSES, *seen]) if s != "ok" and s in seen]
    strip = 0.22 * len(failed)
    found = curves(runs) if len(runs) > 1 else []
    legend = 0.17 * max(0, math.ceil(len(found) / _columns(map(_run_label, found))) - 2)
    figure = new_figure(12 if found else 9, 4.4 + strip + legend, group, "Trials")
    grid = figure.add_gridspec(1, 2, width_ratios=(3, 2)) if found else figure.add_gridspec(1, 1)
    if failed:
        inner = grid[0, 0].subgridspec(2, 1, height_ratios=(3.2, strip), hspace=0.02)
        above, bottom = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
        above.tick_params(labelbottom=False)
        _failures(bottom, group, failed)
    else:
        above = bottom = figure.add_subplot(grid[0, 0])
    _trials(above, group, named=not found)
    for axes in (above, bottom):
        axes.set_xlim(0.5 - 0.01 * len(trials), len(trials) + 0.5 + 0.01 * len(trials))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    bottom.set_xlabel("trial")
    if found:
        _strategies(figure.add_subplot(grid[0, 1]), found)
    figure.savefig(path)


def _strategies_of(group: Group) -> list[str]:
    return list(dict.fromkeys(map(group.name_of, group.trials)))


def _named(strategy: str) -> str:
    return literal(strategy if len(strategy) <= LONGEST else f"{strategy[:LONGEST]}…")


def _look(strategies: Sequence[str], strategy: str) -> tuple[str, str]:
    at = strategies.index(strategy)
    # Where colours begin again, each comes with another marker.
    return COLOURS[at % len(COLOURS)], MARKERS[(at + at // len(COLOURS)) % len(MARKERS)]


def _trials(axes: Axes, group: Group, named: bool) -> None:
    """``named``: the legend tells strategies; otherwise that of the curves beside it does, in the same looks."""
    trials = group.trials
    names = [group.name_of(r) for r in trials]
    strategies = _strategies_of(group)
    size = 26 if len(trials) < 80 else 12
    for strategy in strategies:
        colour, marker = _look(strategies, strategy)
        places = [(i, r.ratio) for i, r in enumerate(trials, 1) if r.ratio and names[i - 1] == strategy]
        label = _named(strategy) if places and named else None
        xs, ys = [x for x, _ in places], [y for _, y in places]
        axes.scatter(xs, ys, size, color=colour, marker=marker, alpha=0.8, linewidths=0, label=label, zorder=2)
    best = np.array(best_so_far(trials))
    reached = np.flatnonzero(best)
    if len(reached):
        # Up to half a trial further, or the step to a best last trial could not be seen.
        ends = np.append(reached + 1, len(trials) + 0.5)
        axes.step(
            ends,
            np.append(best[reached], best[-1]),
            where="post",
            color="black",
            linewidth=1.4,
            label="best so far",
            zorder=3,
        )
    again = [r.ratio for r in group.again if r.ratio]
    if again:
        label = "winners, measured again"
        xs = [len(trials)] * len(again)
        axes.scatter(xs, again, 80, facecolors="white", edgecolors="black", marker="*", label=label, zorder=4)
    ratio_axis(axes, [*(r.ratio for r in trials if r.ratio), *again, 1.0])
    if len(reached):
        _legend(axes, 4)
    else:
        axes.text(0.5, 0.6, "no trial was ok", transform=axes.transAxes, ha="center", color=GREY)


def _failures(axes: Axes, group: Group, failed: Sequence[str]) -> None:
    trials, strategies = group.trials, _strategies_of(group)
    names = [group.name_of(r) for r in trials]
    for row, status in enumerate(failed):
        for strategy in strategies:
            places = [i for i, r in enumerate(trials, 1) if r.status == status and names[i - 1] == strategy]
            axes.scatter(places, [row] * len(places), 40, color=_look(strategies, strategy)[0], marker="|")
    counts = [f"{status} ({sum(r.status == status for r in trials)})" for status in failed]
    axes.set_yticks(range(len(failed)), counts, fontsize=8)
    axes.set_ylim(len(failed) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_facecolor("#f6f6f6")


def _strategies(axes: Axes, found: Sequence[Curve]) -> None:
    strategies = [curve.strategy for curve in found]
    seen = [1.0]
    for curve in found:
        colour, marker = _look(strategies, curve.strategy)
        for line in curve.runs:
            _steps(axes, np.array(line), color=colour, linewidth=0.7, alpha=0.45)
            seen += [value for value in line if value]
        if len(curve.runs) > 1:
            numbers = np.arange(1, len(curve.median) + 1)
            shown = curve.low > 0
            axes.fill_between(
                numbers, curve.low, curve.high, where=shown, step="post", color=colour, alpha=0.18, linewidth=0
            )
        _steps(
            axes,
            curve.median,
            color=colour,
            linewidth=2,
            label=_run_label(curve),
            marker=marker,
            markersize=5,
            markevery=max(1, len(curve.median) // 8),
        )
    ratio_axis(axes, seen)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("trial of the run")
    axes.set_ylabel("best so far, × ATen (log)")
    _legend(axes, _columns(map(_run_label, found)))


def _run_label(curve: Curve) -> str:
    return f"{_named(curve.strategy)} ({len(curve.runs)} run{'s' if len(curve.runs) > 1 else ''})"


def _columns(labels: Iterable[str]) -> int:
    """How many columns of a legend fit beside each other above the curves."""
    return 2 if max(map(len, labels), default=0) <= 28 else 1


def _steps(axes: Axes, values: np.ndarray, **look: object) -> None:
    numbers = np.arange(1, len(values) + 1)
    axes.step(numbers, np.where(values > 0, values, np.nan), where="post", **look)  # type: ignore[arg-type]


def _legend(axes: Axes, columns: int) -> None:
    """Above the data, where it can't cover any."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize=8, frameon=False)
