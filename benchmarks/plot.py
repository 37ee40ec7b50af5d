"""One PNG per thread count: ratio against ATen and % of the FMA peak, a line per case."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.peers import OURS
from benchmarks.results import LOSS, Result

# Told apart also without colour vision, and losses have their own marker.
WIN, EVEN, LOST, PEER = "#0072b2", "#777777", "#d55e00", "#999999"
_ROW_INCHES = 0.21


def _rows(results: Sequence[Result]) -> tuple[list[tuple[float, Result]], list[tuple[float, str]]]:
    """Vertical places: a heading before each suite, then its cases downwards."""
    places, headings, y = [], [], 0.0
    for suite, group in groupby(results, key=lambda result: result.suite):
        headings.append((y, suite))
        y += 1
        for result in group:
            places.append((y, result))
            y += 1
        y += 0.4
    return places, headings


def _look(value: float) -> tuple[str, str]:
    return (LOST, "X") if value < LOSS else (WIN, "o") if value > 1 / LOSS else (EVEN, "s")


def _ratios(axes: Axes, places: list[tuple[float, Result]], peer: str) -> list[float]:
    seen = [1.0]
    for y, result in places:
        if result.error:
            axes.text(1.0, y, " FAILED", color=LOST, va="center", fontsize=7, fontweight="bold")
            continue
        found, cold = result.ratio(peer), result.ratio(peer, cold=True)
        if cold:
            seen.append(cold.by_round.median)
            axes.plot(cold.by_round.median, y, marker="D", markersize=4, color="none", markeredgecolor=PEER, zorder=2)
        if found:
            spread = found.by_round
            colour, marker = _look(spread.median)
            seen += [spread.median, spread.q1, spread.q3]
            axes.plot([1.0, spread.median], [y, y], color=colour, linewidth=0.7, alpha=0.35)
            axes.plot([spread.q1, spread.q3], [y, y], color=colour, linewidth=2)
            axes.plot(spread.median, y, marker=marker, markersize=5, color=colour, zorder=3)
    return seen


def _label(value: float, _: int) -> str:
    return f"{value:g}"


def _finish_ratios(axes: Axes, seen: list[float], peer: str) -> None:
    axes.set_xscale("log")
    low, high = min(*seen, 0.8), max(*seen, 1.5)
    room = (high / low) ** 0.05
    axes.set_xlim(low / room, high * room)
    span = high / low
    # About ten labels at most, or they overlap.
    wide = (1, 1.5, 2, 3, 5, 7) if span < 15 else (1, 2, 5) if span < 100 else (1,)
    subs = (1, 1.2, 1.5, 2, 3, 5, 7, 8, 9) if span < 4 else wide
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_label))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel(f"{peer} time / {OURS} time (log; right of 1: {OURS} is faster)")


def _percents(axes: Axes, places: list[tuple[float, Result]], peer: str) -> None:
    measured = False
    high = 100.0
    for y, result in places:
        ours, theirs = result.percent(), result.percent(peer)
        if ours is None:
            continue
        measured = True
        high = max(high, ours, theirs or 0)
        if theirs is not None:
            axes.plot([theirs, ours], [y, y], color=PEER, linewidth=0.8)
            axes.plot(theirs, y, marker="|", markersize=7, color="black")
        axes.plot(ours, y, marker="o", markersize=5, color=WIN)
    axes.set_xlim(0, high * 1.04)
    axes.axvline(100, color="black", linewidth=1)
    axes.set_xlabel(f"% of the FMA peak or the copy bandwidth (dot: {OURS}, bar: {peer})")
    if not measured:
        axes.text(0.5, 0.5, "no limit was measured", transform=axes.transAxes, ha="center", color=EVEN)


def _legend_text(cold: bool) -> str:
    text = f"circle: win, square: within {1 - LOSS:.0%}, cross: loss; thick line: quartiles over rounds"
    return text + ("; hollow diamond: cold cache" if cold else "")


def draw(results: Sequence[Result], path: Path, title: str, caption: str, peer: str = "aten") -> None:
    """Writes the PNG at `path`; the figure is as tall as there are cases. Results share one thread count."""
    places, headings = _rows(results)
    height = (places[-1][0] if places else 1) + 2
    inches = _ROW_INCHES * height + 1.6
    figure = Figure(figsize=(12, inches), dpi=110)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _finish_ratios(left, _ratios(left, places, peer), peer)
    _percents(right, places, peer)
    left.set_ylim(height - 1, -1)
    ticks = sorted([(y, result.case, False) for y, result in places] + [(y, suite, True) for y, suite in headings])
    left.set_yticks([y for y, _, _ in ticks], [text for _, text, _ in ticks], fontsize=8)
    for label, (_, _, heading) in zip(left.get_yticklabels(), ticks, strict=True):
        label.set_fontweight("bold" if heading else "normal")
    for axes in (left, right):
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_tick_params(labelsize=8, top=True, labeltop=inches > 8)
        for y, _ in headings[1:]:
            axes.axhline(y - 0.7, color="#bbbbbb", linewidth=0.6)
    figure.text(0.01, 1 - 0.12 / inches, title, fontsize=12, fontweight="bold", va="top")
    figure.text(0.01, 1 - 0.40 / inches, caption, fontsize=8, va="top")
    legend = _legend_text(any(result.cold for result in results))
    figure.text(0.01, 1 - 0.58 / inches, legend, fontsize=8, va="top", color="#444444")
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.8 / inches))
    figure.savefig(path)
