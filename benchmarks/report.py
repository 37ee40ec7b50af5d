"""What a run leaves behind: tables on the console; CSV, JSON, Markdown and PNG in a folder."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks import plot, results, table
from benchmarks.limits import Machine
from benchmarks.runner import Options


@dataclass
class Report:
    """Collects one operator's results and keeps its files up to date, so that an interrupted run loses nothing."""

    op: str
    out: Path
    host: Machine
    options: Options
    config: str
    baseline: dict[results.Key, float] | None
    by_threads: dict[int, list[results.Result]] = field(default_factory=dict)

    def title(self, threads: int) -> str:
        """A heading that holds without its table."""
        return f"{self.op}: tvmops against ATen, float32, {threads} thread" + ("s" if threads > 1 else "")

    def show(self, console: Console, threads: int) -> None:
        """Prints table and summary of one thread count."""
        found = self.by_threads[threads]
        console.print(table.rich_table(found, self.title(threads), self.baseline))
        table.print_summary(console, found, self.host, found[0].limits, self.baseline)

    def write(self) -> list[Path]:
        """Writes all files; gives their paths."""
        every = [result for found in self.by_threads.values() for result in found]
        csv_path, json_path, text_path = (self.out / f"{self.op}.{suffix}" for suffix in ("csv", "json", "md"))
        results.write_csv(csv_path, every)
        written = [csv_path, json_path, text_path]
        text, summary = "", {}
        for threads, found in self.by_threads.items():
            bounds = found[0].limits
            path = self.out / f"{self.op}-{threads}t.png"
            plot.draw(found, path, self.title(threads), table.caption(self.host, bounds))
            written.append(path)
            text += table.markdown(found, self.title(threads), self.baseline) + "\n"
            text += table.summary_markdown(found, self.host, bounds) + "\n"
            peak = {"peak_gflops": bounds.peak(), "peak_samples": bounds.peak_samples}
            summary[str(threads)] = {
                "limits": {**peak, "copy_gbps": bounds.copy_gbps},
                "summary": results.summarise(found).record(),
            }
        document = {
            "op": self.op,
            "machine": dataclasses.asdict(self.host),
            "options": dataclasses.asdict(self.options),
            "tvmops": self.config,
            "threads": summary,
            "results": [result.record() for result in every],
        }
        text_path.write_text(text)
        json_path.write_text(json.dumps(document, indent=1) + "\n")
        return written
