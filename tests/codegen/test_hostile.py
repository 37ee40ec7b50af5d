"""A thousand candidates that mean harm, between sound ones."""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from pathlib import Path

import pytest

import tvmops
from codegen import spaces
from codegen.measure.local import LocalRunner
from codegen.measure.measurer import LocalMeasurer
from codegen.records import store
from codegen.target import TARGETS, find
from tests.codegen.sabotage import CRASH, HANG, NOTHING, WORKLOAD, here, sabotaged

FORK = "if (!fork()) { setsid(); if (!fork()) setsid(); for (;;) pause(); }"
# As C++ does, whose exception then passes through the driver.
NEW = (
    'void* (*get)(size_t) = dlsym(dlopen("libstdc++.so.6", RTLD_LAZY), "_Znwm"); *(volatile char*)get(50ul << 30) = 1;'
)
# By name: what the micro-kernels do, what is recorded, a part of the reason, and how many there are.
BODIES = {
    "segfault": (CRASH, "crashed", "SIGSEGV", 300),
    "abort": ("abort();", "crashed", "SIGABRT", 50),
    "endless": (HANG, "hung", "no answer within 0.1 s", 20),
    "stopped": ("raise(SIGSTOP);", "hung", "no answer within 0.1 s", 10),
    "deaf": ("for (int i = 1; i < 65; i++) signal(i, SIG_IGN); for (;;) pause();", "hung", "no answer", 10),
    "50 GB": (NEW, "exhausted", "bad_alloc", 100),
    "50 GB or null": ("*(volatile char*)malloc(50ul << 30) = 1;", "crashed", "SIGSEGV", 20),
    "wrong": (NOTHING, "wrong", "relative error", 250),
    "exit": ("exit(3);", "failed", "exit status 3", 80),
    "silent exit": ("_exit(0);", "failed", "exit status 0", 40),
    "closed": ("for (int i = 0; i < 4096; i++) close(i);", "failed", "exit status 1", 40),
    "parent": ("kill(getppid(), SIGKILL); for (;;) pause();", "crashed", "the process that had started it", 10),
    "parent's group": ("kill(-getpgid(getppid()), SIGKILL); for (;;) pause();", "crashed", "that had started it", 10),
    "own group": ("kill(0, SIGKILL); for (;;) pause();", "crashed", "SIGKILL", 30),
    "forks": (FORK + " " + CRASH, "crashed", "SIGSEGV", 20),
}
# What is done while a sound candidate is loaded.
LOADING = {
    "prints": 'for (int i = 0; i < 1 << 21; i++) puts("a line of text"); fflush(stdout);',
    "leaves children": FORK,
}
SOUND, EACH = 12, 4


class Impatient:
    """A runner that waits less for what will not come to an end."""

    def __init__(self, runner: LocalRunner) -> None:
        self._runner = runner
        self.about, self.close = runner.about, runner.close

    def run(self, pack: Path, request, limit: float):
        return self._runner.run(pack, request, 0.1 if pack.stem in ("endless", "stopped", "deaf") else limit)


@pytest.fixture(scope="module")
def target() -> str:
    return next(name for name in tvmops._C.usable_targets() if name in TARGETS)


@pytest.fixture(scope="module")
def packs(target, tmp_path_factory) -> dict[str, Path]:
    directory, choice = tmp_path_factory.mktemp("hostile"), spaces.find(WORKLOAD, find(target)).default()
    built = {"sound": here(WORKLOAD, target, directory)(choice)}
    for name, (body, *_) in BODIES.items():
        built[name] = sabotaged(target, directory, body, name=name)(choice)
    for name, loading in LOADING.items():
        built[name] = sabotaged(target, directory, "", name=name, loading=loading)(choice)
    return built


def marked(mark: str) -> dict[int, str]:
    """The processes that were started with that in their environment, and the states of their children."""
    found, states, parents = set(), {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:2]
            states[int(entry)], parents[int(entry)] = state, int(parent)
            if mark.encode() in Path("/proc", entry, "environ").read_bytes():
                found.add(int(entry))
        except OSError:
            continue
    return {pid: state for pid, state in states.items() if pid in found or parents[pid] in found}


def test_a_thousand_hostile_candidates_cost_only_themselves(target, packs, tmp_path, monkeypatch):
    mark = f"mark-{uuid.uuid4()}"
    monkeypatch.setenv("TEST_MARK", mark)
    names = [name for name, (_, _, _, count) in BODIES.items() for _ in range(count)]
    names += [name for name in LOADING for _ in range(EACH)] + ["sound"] * (SOUND - 1)
    random.Random(0).shuffle(names)
    names.append("sound")  # after all of them
    assert len(names) >= 1000

    choice, path = spaces.find(WORKLOAD, find(target)).default(), tmp_path / f"{target}.jsonl"
    queue = iter(names)
    with LocalMeasurer(
        WORKLOAD,
        find(target),
        "gemm",
        [1],
        limit=60,
        recheck=10**9,
        build=lambda _: packs[next(queue)],
        runner=Impatient(LocalRunner(find(target))),
    ) as measurer:
        machine = {"cpu": "", "threads": 1, "torch": "2", "tvm": "0"}
        for trial, outcome in enumerate(measurer.measure_all([choice] * len(names), rounds=1)):
            about = {"machine": machine, "date": "2026-01-02T03:04:05Z", "seed": 0, "strategy": names[trial]}
            key = {"workload": WORKLOAD.key, "target": target, "space": "gemm", "knobs": dict(choice)}
            store.append(path, store.Record(**key, **about, trial=trial, **vars(outcome)))
        assert sorted(marked(mark).values()) == ["S", "S"]  # the server and its keeper, and nobody's remains
    assert marked(mark) == {}

    records = store.read(path, strict=True)
    assert [r.strategy for r in records] == names
    expected = {name: (status, reason) for name, (_, status, reason, _) in BODIES.items()}
    strange = Counter(
        (r.strategy, r.status, r.reason)
        for r in records
        if r.status != expected.get(r.strategy, ("ok", ""))[0]
        or expected.get(r.strategy, ("ok", ""))[1] not in (r.reason or "")
    )
    assert strange == {}
    assert all(r.seconds > 0 and r.aten_seconds > 0 for r in records if r.strategy not in BODIES)
