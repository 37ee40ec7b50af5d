"""What tvmops would do and did: kernels, decisions, configuration."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tvmops import _C
from tvmops._modes import current_mode


@dataclass(frozen=True)
class Decision:
    """What became of one call of an operator."""

    op: str
    shape: str
    kernel: str | None
    """The kernel's name, or None where ATen ran."""
    route: str
    reason: str


class Decisions(list[Decision]):
    """The decisions of a run, in order; ``str()`` is a table."""

    def __str__(self) -> str:
        rows = [("operator", "shape", "served by", "route", "why")]
        rows += [(d.op, d.shape, d.kernel or "ATen", d.route, d.reason) for d in self]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows)


def explain(fn: Callable[..., Any], *inputs: Any, **kwargs: Any) -> Decisions:
    """Runs ``fn(*inputs, **kwargs)`` and returns what each tvmops operator in it came to, in order.

    ``print(tvmops.explain(model, x))`` shows operator, shape, kernel or ATen, and why. Calls from other threads than
    this one are not seen.
    """
    _C.start_recording()
    try:
        fn(*inputs, **kwargs)
    finally:
        taken = _C.stop_recording()
    return Decisions(Decision(op, shape, kernel or None, route, reason) for op, shape, kernel, route, reason in taken)


def kernels() -> list[dict[str, Any]]:
    """Every kernel of every loaded pack, most preferred first.

    Each entry has ``name``, ``op``, ``workload``, ``target``, ``driver``, ``dims`` (-1 is symbolic), ``params``,
    ``pack`` (where it came from), ``gpu`` (it is for one), ``usable`` (this CPU runs it, or a GPU that calls came to so
    far), ``shadowed`` (a later pack replaces it), ``serves`` (calls can come to it), ``plan`` (what to do at each size;
    empty: by a rule of thumb, and on a GPU never by default), and what its manifest says: ``knobs``, and of the record
    it came from times, ratios and machine.
    """
    about = {}
    for origin, manifest in _C.packs():
        for entry in json.loads(manifest)["kernels"]:
            about[origin, entry["name"]] = entry
    return [{**about.get((k["pack"], k["name"]), {}), **k} for k in _C.kernels()]


def load_pack(path: str | os.PathLike[str]) -> bool:
    """Loads a kernel pack, a shared library made by ``tvmops-codegen``. Its kernels take precedence over earlier ones.

    A pack may hold kernels for GPUs. It then brings its own CUDA runtime, loads where there is no GPU too, and which of
    its kernels run on a device is decided when a call comes to it.

    Returns:
        False if it was loaded before.

    Raises:
        RuntimeError: it is not there, not a pack, or of another version or architecture; the message says which.
    """
    return bool(_C.load_pack(os.fspath(path)))


def show_config() -> str:
    """The versions, the CPU and its targets, the mode, and the loaded packs, as text."""
    from tvmops import __version__

    l1, l2, l3 = _C.cache_sizes()
    current = [k for k in kernels() if not k["shadowed"]]
    usable = [k for k in current if k["usable"] and not k["gpu"]]
    on_gpu = Counter(k["target"] for k in current if k["gpu"])
    lines = [
        f"tvmops {__version__}, torch {torch.__version__}",
        f"CPU: {_C.cpu_model_name()}; L1d {l1 >> 10} KiB, L2 {l2 >> 10} KiB, L3 {l3 >> 20} MiB",
        f"features: {' '.join(_C.cpu_features())}",
        f"targets: {', '.join(_C.usable_targets()) or 'none'} (of {', '.join(_C.known_targets())})",
        f"mode: {current_mode()}; threads: {torch.get_num_threads()}",
        f"packs: {len(_C.packs())}, kernels usable on this CPU: {len(usable)}",
        "kernels for GPUs: " + (", ".join(f"{n} for {target}" for target, n in sorted(on_gpu.items())) or "none"),
    ]
    lines += [f"  {origin}" for origin, _ in _C.packs()]
    return "\n".join(lines)
