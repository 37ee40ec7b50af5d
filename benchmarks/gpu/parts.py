"""The parts of a run. Each ends when its time is up; none needs another's success."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks.gpu.build import Builds, Built, Extension
from benchmarks.gpu.packs import Pack
from benchmarks.gpu.process import Client, environment
from benchmarks.gpu.session import Session
from codegen.measure.device_files import DeviceRequest

#: Seconds that the check of one kernel, and its times, may take.
CHECK_LIMIT, TIME_LIMIT, INDUCTOR_LIMIT = 60.0, 60.0, 180.0
ROUNDS, QUICK_ROUNDS, SECONDS = 15, 7, 1.0
#: A kernel this many times slower than ATen is not chosen: the noise of a quiet machine.
MARGIN = 1.03
BUCKETS = 6  # of a plan, that are asked for at a time
Say = Callable[[str], None]


def judge(session: Session, client: Client, request: DeviceRequest, built: Built, say: Say) -> None:
    """Checks a kernel, then times it; what is wrong is not timed."""
    if built.library is None:
        answer: dict[str, Any] = {"status": "failed", "reason": f"nvcc: {built.reason}"}
    else:
        task = {"request": vars(request), "library": str(built.library)}
        answer = client.ask({"what": "check", **task}, CHECK_LIMIT)
        if answer["status"] == "ok":
            rounds = ROUNDS if request.shipped else QUICK_ROUNDS
            timed = client.ask({"what": "time", **task, "rounds": rounds, "seconds": SECONDS}, TIME_LIMIT)
            answer = {**answer, **_sorted_out(timed)} if timed["status"] == "ok" else timed
    if answer["status"] == "ok":
        answer["more"] = {**answer.get("more", {}), **built.about()}
    session.keep(request, answer)
    say(f"{request.workload} {request.target} {request.space}: {told(answer)}")


def _sorted_out(timed: dict[str, Any]) -> dict[str, Any]:
    """What a record has of a point, and apart from it what else is known."""
    points = [
        {
            "sizes": {name: size for name, size in p["sizes"].items() if size >= 1},
            **({"layout": p["epilogue"]} if p.get("epilogue") else {}),
            "threads": 1,
            "seconds": p["seconds"],
            "aten_seconds": p["aten_seconds"],
        }
        for p in timed["points"]
    ]
    keep = ("flops", "bytes", "inductor_seconds", "spread")
    more = {"points": [{name: p[name] for name in keep if name in p} for p in timed["points"]]}
    if timed.get("notes"):
        more["notes"] = timed["notes"]
    return {
        "seconds": timed["seconds"],
        "aten_seconds": timed["aten_seconds"],
        "points": points,
        "spread": max(p["spread"] for p in timed["points"]),
        "workspace_bytes": max(p["workspace_bytes"] for p in timed["points"]),
        "more": more,
    }


def told(answer: dict[str, Any]) -> str:
    """An answer in a few words."""
    if answer["status"] != "ok":
        return f"{answer['status']}: {answer.get('reason', '')}"
    return f"{answer['aten_seconds'] / answer['seconds']:.3f} x ATen"


def in_order(requests: Iterable[DeviceRequest]) -> list[DeviceRequest]:
    """What is worth most first, by the times that the model expects.

    The kernels that ship come first, those of the longest times before others. Then candidates: the fastest of every
    workload before the second of any, and again the workloads of the longest times before others.
    """
    shipped, by_workload = [], dict[str, list[DeviceRequest]]()
    for request in sorted(requests, key=lambda r: r.seconds):
        if request.shipped:
            shipped.append(request)
        else:
            by_workload.setdefault(request.workload, []).append(request)
    ranked = [(rank, r) for group in by_workload.values() for rank, r in enumerate(group)]
    return [*reversed(shipped), *(r for _, r in sorted(ranked, key=lambda one: (one[0], -one[1].seconds)))]


def time_shipped(session: Session, client: Client, builds: Builds, say: Say) -> None:
    """The kernels that ship: right, and how fast."""
    _judge_all(session, client, builds, in_order(session.shipped), "time", say)


def tune(session: Session, client: Client, builds: Builds, say: Say) -> None:
    """The candidates."""
    left = [r for r in in_order(session.requests) if not r.shipped]
    _judge_all(session, client, builds, left, "tune", say)


def _judge_all(
    session: Session, client: Client, builds: Builds, requests: Iterable[DeviceRequest], part: str, say: Say
) -> None:
    left = [r for r in requests if r.id not in session.known]
    while left and session.budget.left(part) > 0:
        ready = next((r for r in left if builds.ready(r)), None)
        if ready is None:
            builds.wait(min(1.0, session.budget.left(part)), every=False)
            continue
        left.remove(ready)
        judge(session, client, ready, builds.result(ready, 0), say)
    if left:
        say(f"{part}: time is up; {len(left)} kernels were not looked at, run again to go on")


def winners(session: Session) -> list[DeviceRequest]:
    """The fastest of each workload, against ATen."""
    best: dict[str, DeviceRequest] = {}
    for request in filter(session.ok, session.requests):
        known = best.get(request.workload)
        if known is None or ratio(session.known[request.id]) > ratio(session.known[known.id]):
            best[request.workload] = request
    return list(best.values())


def ratio(answer: dict[str, Any]) -> float:
    """How many times faster than ATen."""
    return float(answer["aten_seconds"] / answer["seconds"])


def plan(session: Session, client: Client, builds: Builds, say: Say) -> None:
    """By size bucket of each winner, whether it wins there; the worst of a bucket's points counts.

    A bucket that there was no time for is ATen's, and measured by the next run.
    """
    for request in winners(session):
        known = session.known[request.id].get("more", {}).get("buckets", [])
        ratios: list[float | None] = known or [None] * len(request.plan)
        left = [i for i, bucket in enumerate(request.plan) if bucket and ratios[i] is None]
        while left and session.budget.left("plan") > 0 and builds.ready(request):
            group, left = left[:BUCKETS], left[BUCKETS:]
            points = [p for i in group for p in request.plan[i]]
            task = {"what": "time", "request": vars(request), "library": str(builds.result(request, 0).library)}
            more = {"points": points, "rounds": QUICK_ROUNDS, "seconds": 0.1 * len(points), "check": False}
            timed = client.ask({**task, **more}, TIME_LIMIT)
            if timed["status"] != "ok":
                say(f"plan of {request.workload}: {timed['status']}: {timed.get('reason', '')}")
                break
            measured = iter(timed["points"])
            for i in group:
                found = [p["aten_seconds"] / p["seconds"] for _, p in zip(request.plan[i], measured, strict=False)]
                ratios[i] = round(min(found), 3)
            routes = "".join("1" if r is not None and r >= MARGIN else "0" for r in ratios)
            session.keep(request, {"status": "ok", "plan": routes, "ratios": ratios, "more": {"buckets": ratios}})
        if request.plan:
            measured_ones, wins = sum(r is not None for r in ratios), sum((r or 0) >= MARGIN for r in ratios)
            say(f"plan of {request.workload}: {measured_ones} of {len(ratios)} buckets measured, it wins in {wins}")


def inductor(session: Session, client: Client, builds: Builds, say: Say) -> None:
    """Triton and Inductor beside the winners: compiling takes them long, so this comes last."""
    for request in winners(session):
        more = session.known[request.id].get("more", {})
        if more.get("inductor") or session.budget.left("inductor") < 15:
            continue
        built = builds.result(request, 0)
        for i, point in enumerate(request.points):
            left = session.budget.left("inductor")
            if left < 15:
                say("inductor: time is up")
                return
            task = {"what": "time", "request": vars(request), "library": str(built.library), "points": [point]}
            limit = min(left, INDUCTOR_LIMIT)
            timed = client.ask({**task, "peers": ["inductor"], "rounds": ROUNDS, "check": False}, limit)
            points = session.known[request.id]["more"]["points"]
            if timed["status"] == "ok" and "inductor_seconds" in timed["points"][0]:
                points[i] = {**points[i], "inductor_seconds": timed["points"][0]["inductor_seconds"]}
            note = "; ".join(timed.get("notes", [])) or timed.get("reason", "")
            more = {"points": points, **({"inductor_note": note} if note else {})}
            session.keep(request, {"status": "ok", "more": more})
        session.keep(request, {"status": "ok", "more": {"inductor": True}})
        say(f"inductor: {request.workload}")


def calls(session: Session, extension: Extension, pack: Pack, say: Say) -> None:
    """The kernels that ship, called through the extension."""
    left = session.budget.left("calls")
    why = extension.wait(left) or pack.wait(session.budget.left("calls"))
    if why:
        session.keep_part("calls", {"status": "left out", "reason": why})
        say(f"calls: {why}")
        return
    ids = [r.id for r in session.shipped if session.ok(r) and "call" not in session.known[r.id].get("more", {})]
    command = [sys.executable, "-m", "benchmarks.gpu.calls", session.device, str(session.directory), str(pack.path)]
    log = session.path.with_name("calls.log")
    limit = max(20.0, session.budget.left("calls"))
    done = run([*command, *ids], session.directory, environment(session.directory), limit, log)
    found = []
    for line in log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    by_id = {r.id: r for r in session.requests}
    for one in found:
        request = by_id[one.pop("id")]
        session.keep(request, {"status": "ok", "more": {"call": one}})
    bad = [one for one in found if one["status"] != "ok"]
    status = "failed" if bad or done["status"] == "failed" else done["status"]
    reason = bad[0]["reason"] if bad else f"{len(found)} of {len(ids)} kernels were called and are right"
    session.keep_part("calls", {"status": status, "reason": reason, "log": log.name})
    say(f"calls: {status}: {reason}")


def tests(session: Session, extension: Extension, pack: Pack, say: Say) -> None:
    """The CUDA tests, through the extension, of the kernels that ship if their pack could be built."""
    if session.parts.get("tests", {}).get("status") == "ok":
        return
    why = extension.wait(session.budget.left("tests"))
    folder = session.directory / "tests" / "cuda"
    if not why and not folder.is_dir():
        why = "no tests were carried along"
    if not why and subprocess.run([sys.executable, "-c", "import pytest, hypothesis"], capture_output=True).returncode:
        why = "pytest or hypothesis is not installed; the kernels' own checks ran all the same"
    if why:
        session.keep_part("tests", {"status": "left out", "reason": why})
        say(f"tests: {why}")
        return
    limit = max(30.0, session.budget.left("tests"))
    # Those that only a GPU can run come first: time may be short.
    chosen = [str(path) for path in (folder / "test_devices.py", folder) if path.exists()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    shipped = {} if pack.wait(0) else {"TVMOPS_TEST_PACK": str(pack.path)}
    found = run(command, session.directory, {**os.environ, **shipped}, limit, session.path.with_name("tests.log"))
    session.keep_part("tests", found)
    say(f"tests: {found['status']}: {found['reason']}")


def sanitizer(session: Session, builds: Builds, say: Say) -> None:
    """compute-sanitizer over the checks of the kernels that ship, as many as there is time for."""
    tool = shutil.which("compute-sanitizer")
    if session.parts.get("sanitizer", {}).get("status") == "ok":
        return
    if not tool:
        session.keep_part("sanitizer", {"status": "left out", "reason": "compute-sanitizer is not on the PATH"})
        say("sanitizer: compute-sanitizer is not on the PATH")
        return
    ids = [r.id for r in session.shipped if session.ok(r) and builds.ready(r)]
    if not ids:
        return
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu.sanitized"]
    env = {**environment(session.directory), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    limit = max(20.0, session.budget.left("sanitizer"))
    command += [str(session.directory), str(int(limit * 0.6)), *ids]
    found = run(command, session.directory, env, limit, session.path.with_name("sanitizer.log"))
    session.keep_part("sanitizer", found)
    say(f"sanitizer: {found['status']}: {found['reason']}")


def run(command: list[str], where: Path, env: dict[str, str], limit: float, log: Path) -> dict[str, Any]:
    """Runs a command, its output in a file. Returns ``status``, and as ``reason`` the output's last line."""
    with open(log, "wb") as file:
        try:
            done = subprocess.run(command, cwd=where, env=env, stdout=file, stderr=subprocess.STDOUT, timeout=limit)
            status = "ok" if done.returncode == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "hung"
    lines = log.read_text(errors="replace").strip().splitlines() or [""]
    reason = f"no end within {limit:.0f} s; {lines[-1]}" if status == "hung" else lines[-1]
    return {"status": status, "reason": reason[:300], "log": log.name}


def geomean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    found = list(values)
    return geometric_mean(found) if found else None
