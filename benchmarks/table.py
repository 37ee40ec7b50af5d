"""Tables for people: a Rich table for the terminal, the same rows as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.limits import Limits, Machine
from benchmarks.peers import OURS
from benchmarks.results import BUSY, LOSS, Key, Result, Summary, summarise
from benchmarks.timing import Ratio

Row = list[str]


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.0f}"


def _ratio(found: Ratio | None, spread: bool = False) -> str:
    if found is None:
        return "-"
    text = f"{found.by_round.median:.2f}"
    return f"{text} ({found.by_round.q1:.2f}-{found.by_round.q3:.2f})" if spread else text


def style(value: float | None) -> str:
    """Red for a loss, green for a win, plain between."""
    if value is None:
        return "dim"
    return "bold red" if value < LOSS else "green" if value > 1 / LOSS else ""


def _median(found: Ratio | None) -> float | None:
    return found.by_round.median if found else None


class Columns:
    """Which columns a run has, and the cells of each result: `(text, style)`."""

    def __init__(self, results: Sequence[Result], baseline: dict[Key, float] | None) -> None:
        self.peers = list(dict.fromkeys(peer for result in results for peer in result.warm if peer != OURS))
        self.cold = any(result.cold for result in results)
        self.baseline = baseline

    def header(self) -> Row:
        """Column titles; `x peer` is the peer's time over tvmops' time."""
        names = ["case", f"{OURS} us", *(f"{peer} us" for peer in self.peers)]
        names += [f"x {peer} (quartiles)" for peer in self.peers]
        if self.cold:
            names += [f"cold x {peer}" for peer in self.peers]
        if self.baseline is not None:
            names += ["before", "change"]
        return [*names, "GFLOP/s", "% limit", "GB/s", "route"]

    def cells(self, result: Result) -> list[tuple[str, str]]:
        """One row, in the order of `header`."""
        if result.error:
            blanks = len(self.header()) - 2
            return [(result.case, "bold red"), *[("", "")] * blanks, (f"FAILED: {result.error}", "bold red")]
        row = [(result.case, ""), (_number(result.us(OURS)), "")]
        row += [(_number(result.us(peer)), "") for peer in self.peers]
        for cold in (False, True) if self.cold else (False,):
            for peer in self.peers:
                found = result.ratio(peer, cold=cold)
                row.append((_ratio(found, spread=not cold), style(_median(found))))
        if self.baseline is not None:
            old, new = self.baseline.get(result.key), _median(result.ratio())
            change = new / old if old and new else None
            row += [(_number(old, 2), ""), ("-" if change is None else f"{change - 1:+.1%}", style(change))]
        notes = "".join(f" [{note}]" for note in result.notes)
        row += [(_number(result.gflops()), ""), (_number(result.percent()), ""), (_number(result.gbps()), "")]
        return [*row, (result.route + notes, "")]


def rich_table(results: Sequence[Result], title: str, baseline: dict[Key, float] | None = None) -> Table:
    """All results, a section per suite."""
    columns = Columns(results, baseline)
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in columns.header():
        text = name in ("case", "route")
        table.add_column(name, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for suite, group in groupby(results, key=lambda result: result.suite):
        table.add_section()
        table.add_row(Text(suite, style="bold"))
        for result in group:
            table.add_row(*(Text(text, style=cell_style) for text, cell_style in columns.cells(result)))
    return table


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _markdown_table(header: Row, rows: list[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_escape, line)) + " |" for line in lines)


def markdown(results: Sequence[Result], title: str, baseline: dict[Key, float] | None = None) -> str:
    """The same table; losses are bold, so that they show without colour."""
    columns = Columns(results, baseline)
    rows = []
    for result in results:
        cells = columns.cells(result)
        marked = [f"**{text}**" if "red" in cell_style and text else text for text, cell_style in cells]
        rows.append([result.suite, *marked])
    return f"## {title}\n\n{_markdown_table(['suite', *columns.header()], rows)}\n"


def _summary_rows(results: Sequence[Result]) -> tuple[Row, list[tuple[Row, Summary]]]:
    header = ["suite", "cases", "geomean", "cold geomean", "min", "losses", "% limit median", "% limit min", "failed"]
    groups = {suite: list(group) for suite, group in groupby(results, key=lambda result: result.suite)}
    rows = []
    for suite, group in [*groups.items(), ("all", list(results))]:
        found = summarise(group)
        lowest = _median(found.lowest.ratio()) if found.lowest else None
        rated = sum(result.ratio() is not None for result in group)
        losses = f"{len(found.losses)} of {rated} ({len(found.losses) / rated:.0%})" if rated else "-"
        row = [suite, str(found.count), _number(found.geomean, 2), _number(found.cold_geomean, 2), _number(lowest, 2)]
        rows.append(([*row, losses, _number(found.percent), _number(found.percent_lowest), str(found.failed)], found))
    return header, rows


def summary_markdown(results: Sequence[Result], host: Machine, bounds: Limits) -> str:
    """Summary per suite, as Markdown."""
    header, rows = _summary_rows(results)
    return f"{caption(host, bounds)}\n\n{_markdown_table(header, [row for row, _ in rows])}\n"


def caption(host: Machine, bounds: Limits) -> str:
    """CPU, threads and limits in one line."""
    threads = f"{bounds.threads} thread" + ("s" if bounds.threads > 1 else "")
    return f"{host.title()}; {threads}; {bounds.text()}; torch {host.versions['torch']}"


def print_summary(
    console: Console, results: Sequence[Result], host: Machine, bounds: Limits, baseline: dict[Key, float] | None = None
) -> None:
    """Geomean, min, losses, the worst five; every failure; and where it was measured."""
    header, rows = _summary_rows(results)
    table = Table(title="ATen's time over tvmops' time, warm", title_justify="left", header_style="bold")
    for name in header:
        table.add_column(name, justify="left" if name == "suite" else "right")
    for row, found in rows:
        if row[0] == "all":
            table.add_section()
        colours = ["", "", style(found.geomean), style(found.cold_geomean), style(_lowest(found))]
        colours += ["bold red" if found.losses else "green", "", "", "bold red" if found.failed else ""]
        table.add_row(*(Text(text, style=colour) for text, colour in zip(row, colours, strict=True)))
    console.print(table)
    whole = rows[-1][1]
    if whole.worst:
        console.print("worst five:")
        for result in whole.worst:
            found_ratio = result.ratio()
            line = f"  {_ratio(found_ratio, spread=True)}  {result.suite} {result.case}  {result.route}"
            console.print(Text(line, style=style(_median(found_ratio))))
    _print_changes(console, results, baseline)
    for result in results:
        if result.error:
            console.print(Text(f"FAILED {result.suite} {result.case}: {result.error}", style="bold red"))
    busy = sum(result.preempted_per_s > BUSY for result in results)
    if busy:
        text = f"{busy} of {len(results)} cases were timed while other work took the cores: repeat on a quiet machine"
        console.print(Text(text, style="yellow"))
    console.print(Text(caption(host, bounds)))


def _lowest(found: Summary) -> float | None:
    return _median(found.lowest.ratio()) if found.lowest else None


def _print_changes(console: Console, results: Sequence[Result], baseline: dict[Key, float] | None) -> None:
    if baseline is None:
        return
    pairs = [(baseline.get(result.key), _median(result.ratio()), result) for result in results]
    changes = sorted(((new / old, result) for old, new, result in pairs if old and new), key=lambda pair: pair[0])
    console.print(f"against the baseline: {len(changes)} of {len(results)} cases in common; lowest changes:")
    for change, result in changes[:5]:
        console.print(Text(f"  {change - 1:+.1%}  {result.suite} {result.case}", style=style(change)))
