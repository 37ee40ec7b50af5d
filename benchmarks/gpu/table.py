"""The table of a run, and what stands around it: plain text, losses as plainly as wins."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.cases import is_tf32
from benchmarks.gpu.parts import geomean, winners
from benchmarks.gpu.session import Session
from codegen.measure.device_files import DeviceRequest
from codegen.workload import Workload

HEADER = ("kernel", "space", "shape", "us", "rate", "% of card", "x ATen", "x Inductor", "predicted us")
#: Under this, a kernel loses.
LOSS = 0.97


def lines(session: Session) -> Iterator[str]:
    """All that a run found: the card, one row for each winner and point, the losses, what failed, and the parts."""
    card = session.parts.get("card", {})
    peaks = card.get("peaks", {})
    yield f"{session.machine['gpu']}, torch {session.machine['torch']}, CUDA {session.machine.get('cuda', '?')}"
    if peaks:
        yield "measured here: " + ", ".join(f"{_peak(name)} {value:.0f}" for name, value in peaks.items())
    best = winners(session)
    rows = [row for request in best for row in _rows(session, request, peaks)]
    yield from _table([HEADER, *rows])
    yield from _summary(session, best)
    yield from _calls(session)
    for request in session.requests:
        answer = session.known.get(request.id)
        if answer and answer["status"] != "ok":
            what = "ships" if request.shipped else "candidate"
            name = f"{request.workload} {request.target} {request.space} ({what})"
            yield f"{answer['status']}: {name}: {answer['reason']}"
    for name in ("calls", "tests", "sanitizer"):
        if name in session.parts:
            yield f"{name}: {session.parts[name]['status']}: {session.parts[name]['reason']}"


def _peak(name: str) -> str:
    return {"copy_gbps": "copy GB/s"}.get(name, f"cuBLAS {name.partition('_')[0]} TFLOP/s")


def _peak_of(request: DeviceRequest) -> str:
    """The peak that a product is measured by."""
    return f"{'tf32' if is_tf32(request) else Workload.parse(request.workload).dtype}_tflops"


def _rows(session: Session, request: DeviceRequest, peaks: dict[str, float]) -> Iterator[tuple[str, ...]]:
    answer = session.known[request.id]
    for point, timed, more, predicted in zip(
        request.all_points, answer["points"], answer["more"]["points"], request.predicted, strict=False
    ):
        seconds, rate, share = timed["seconds"], "", None
        if more["flops"]:
            tflops = 1e-12 * more["flops"] / seconds
            rate, peak = f"{tflops:.1f} TFLOP/s", peaks.get(_peak_of(request))
            # Where memory is what limits it, arithmetic is no measure.
            bound = peaks.get("copy_gbps")
            memory = 1e-9 * more["bytes"] / seconds
            share = max(tflops / peak if peak else 0.0, memory / bound if bound else 0.0) or None
        else:
            gbps = 1e-9 * more["bytes"] / seconds
            rate, peak = f"{gbps:.0f} GB/s", peaks.get("copy_gbps")
            share = gbps / peak if peak else None
        other = more.get("inductor_seconds")
        yield (
            request.workload,
            request.space + ("" if request.shipped else " (tuned)"),
            point.text,
            f"{1e6 * seconds:.1f}",
            rate,
            f"{100 * share:.0f}" if share else "-",
            _ratio(timed["aten_seconds"] / seconds),
            _ratio(other / seconds) if other else "-",
            f"{1e6 * predicted:.1f}" if predicted else "-",
        )


def _ratio(value: float) -> str:
    return f"{value:.2f}{' LOSS' if value < LOSS else ''}"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    if len(rows) == 1:
        yield "nothing was timed"
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = enumerate(zip(row, widths, strict=True))
        yield "  ".join(cell.ljust(width) if i < 3 else cell.rjust(width) for i, (cell, width) in cells).rstrip()
        if not number:
            yield "  ".join("-" * width for width in widths)


def _calls(session: Session) -> Iterator[str]:
    """What a call of tvmops takes from the host's side, launching included."""
    for request in session.shipped:
        call = session.known.get(request.id, {}).get("more", {}).get("call", {})
        if call.get("status") == "ok":
            mine, its = (1e6 * call[name] for name in ("call_seconds", "aten_call_seconds"))
            yield f"a call of {request.workload} at {call['point']}: {mine:.1f} us, ATen {its:.1f} us"


def _summary(session: Session, best: list[DeviceRequest]) -> Iterator[str]:
    every = [(r, p) for r in best for p in zip(r.all_points, session.known[r.id]["points"], strict=False)]
    ratios = [timed["aten_seconds"] / timed["seconds"] for _, (_, timed) in every]
    mean = geomean(ratios)
    if mean:
        losses = sum(r < LOSS for r in ratios)
        yield f"{len(ratios)} points: {mean:.3f} x ATen (geometric mean), lowest {min(ratios):.2f}, {losses} losses"
    left = sum(r.id not in session.known for r in session.requests)
    tried = [session.known[r.id] for r in session.requests if r.id in session.known]
    good = sum(a["status"] == "ok" for a in tried)
    yield f"{len(tried)} kernels looked at, {good} right and timed; {left} left for another run"
