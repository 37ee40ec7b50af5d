"""Batches of GPU kernels: exported from spaces, checked elsewhere (here in the emulator), brought back as records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu import export, preflight
from codegen import ops, spaces
from codegen.errors import CodegenError
from codegen.export import nvcc, selection
from codegen.measure import device_batch, device_files, device_records
from codegen.records import store
from codegen.search.strategy import identity
from codegen.spaces.space import broken
from codegen.target import find_gpu
from codegen.tune import ship
from codegen.workload import Workload

ROOT = Path(__file__).resolve().parents[3]
GEMM = "matmul(float16;M=*,N=*,K=*;a=n,b=t,rows=64)"
SOFTMAX = "softmax(float16;M=*,N=*)"
TARGET = find_gpu("sm_80")


def has_nvcc() -> bool:
    try:
        nvcc.find()
    except CodegenError:
        return False
    return True


def chosen(key: str, count: int, seed: int = 0) -> list[device_batch.Candidate]:
    return list(device_batch.candidates([TARGET], count, seed, only=key))


def test_what_ships_comes_first_then_valid_samples_none_twice():
    found = chosen(GEMM, 3)
    assert [c.shipped for c in found] == [True, *[False] * (len(found) - 1)]
    assert found[0].choice == found[0].space.default()
    names = {c.space.name for c in found}
    assert names == {s.name for s in device_batch.spaces_of(Workload.parse(GEMM), TARGET)}
    for name in names:
        mine = [c for c in found if c.space.name == name]
        assert sum(not c.shipped for c in mine) == 3
        assert len({identity(c.choice) for c in mine}) == len(mine)
        assert not any(broken(c.space, c.choice) for c in mine)
    assert [c.trial for c in found] == [0, *range(1, len(found))]


def test_all_that_ships_is_in_a_batch_what_is_tuned_first():
    found = list(device_batch.candidates([TARGET], 0, 0))
    assert {c.workload for c in found} == set(ops.device_shipped(TARGET))
    assert all(c.shipped for c in found)
    tuned = [c.workload.dtype != "float32" and c.workload.op in ("matmul", *device_batch.TUNED_ROWS) for c in found]
    assert tuned == sorted(tuned, reverse=True)
    assert any(tuned)
    assert not all(tuned)


def test_candidates_are_those_of_the_seed():
    first, again, other = ([identity(c.choice) for c in chosen(SOFTMAX, 4, seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_known_records_ship_and_are_not_proposed_again(tmp_path):
    space = spaces.find(Workload.parse(SOFTMAX), TARGET)
    others = [c.choice for c in chosen(SOFTMAX, 3) if not c.shipped]
    for number, (choice, seconds) in enumerate(zip(others, (3e-6, 1e-6, 2e-6), strict=True)):
        one = store.Record(
            workload=SOFTMAX,
            target=TARGET.name,
            space=space.name,
            knobs=dict(choice),
            status="ok",
            machine={"cpu": "A CPU", "threads": 1, "torch": "2", "tvm": "0", "gpu": "A GPU"},
            date="2026-01-02T03:04:05Z",
            seed=0,
            strategy="solver",
            trial=number,
            seconds=seconds,
            aten_seconds=2e-6,
            error=1e-4,
            aten_error=1e-4,
        )
        store.append(store.file_of(tmp_path, TARGET.name), one)
    found = list(device_batch.candidates([TARGET], 3, 0, tmp_path, SOFTMAX))
    assert found[0].shipped
    assert found[0].choice == others[1]
    assert not {identity(c.choice) for c in found[1:]} & {identity(c) for c in others}
    assert [c.trial for c in found[1:]] == [3, 4, 5]


SMALL = {
    "cuda_gemm": [{"sizes": {"batch": 1, "M": 24, "N": 40, "K": 72}, "epilogue": "gelu"}],
    "cuda_rows": [{"sizes": {"M": 3, "N": 40}}],
}


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> Path:
    """Kernels as they are exported, but for the sizes that are timed: the emulator takes its time."""
    directory = tmp_path_factory.mktemp("device") / "batch"
    candidates = [c for key in (GEMM, SOFTMAX) for c in chosen(key, 1) if c.space.name in ("mma_sync", "device_rows")]
    small = []
    for request in device_batch.export(directory, candidates, compiled=False):
        points = SMALL[request.driver]
        plan = [[{**points[0], "epilogue": ""}], *[[] for _ in request.plan[1:]]]
        one = replace(request, points=points, predicted=[None], plan=plan)
        request.file(directory).rename(one.file(directory))
        small.append(one)
    (directory / "requests.jsonl").write_text("".join(r.to_json() + "\n" for r in small))
    for name in ("benchmarks", "codegen", "csrc", "tvmops"):
        (directory / name).symlink_to(ROOT / name)
    return directory


def test_exported_kernels_are_right_in_the_emulator_and_become_records(batch, tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", str(batch), "--device", "emulated", "--minutes", "9"]
    done = subprocess.run(command, cwd=batch, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    every = device_files.requests(batch)
    assert f"{len(every)} kernels looked at, {len(every)} right and timed" in done.stdout, done.stdout
    added, _ = device_records.collect(batch, tmp_path)
    assert {(r.workload, r.trial) for r in added} == {(r.workload, r.trial) for r in every.values()}
    for key in (GEMM, SOFTMAX):
        best = store.best(
            store.read(store.file_of(tmp_path, TARGET.name), strict=True), Workload.parse(key), TARGET.name
        )
        assert best is not None
        assert not broken(spaces.find(Workload.parse(key), TARGET, best.space), best.knobs)
        assert best.error is not None
        assert best.error < 1e-3
        kernel = selection.kernel(Workload.parse(key), TARGET, best)
        assert kernel.plan == best.routes()
        assert best.ratios is not None
        assert kernel.plan == [int((r or 0) >= 1.03) for r in best.ratios]
        assert sum(r is not None for r in best.ratios) == 1
    shipped = tmp_path / "shipped"
    ship(tmp_path, shipped)
    assert {r.workload for r in store.read(store.file_of(shipped, TARGET.name), strict=True)} == {GEMM, SOFTMAX}


def test_an_export_is_all_that_is_needed(tmp_path):
    out = tmp_path / "gpu-check"
    arguments = ["--out", str(out), "--target", "sm_80", "--samples", "1", "--workload", SOFTMAX]
    arguments += ["--records", str(tmp_path / "none")]
    assert export.main(arguments) == 0
    every = list(device_files.requests(out).values())
    assert [r.shipped for r in every] == [True, False]
    for request in every:
        assert request.file(out).is_file()
        assert not has_nvcc() or all(p is not None and p > 0 for p in request.predicted)
        assert len(request.predicted) == len(request.points)
    assert sorted(p.name for p in (out / "sources").iterdir()) == sorted(f"{r.id}.cu" for r in every)
    assert "softmax" in (out / "kernels" / "pack.c").read_text()
    assert (out / "csrc" / "runtime" / "abi.h").is_file()
    assert not list(out.rglob("*.so"))
    if not preflight.gpus()[0]:
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        for command in ([sys.executable, "gpu_check.py"], [sys.executable, "-m", "benchmarks.gpu"]):
            done = subprocess.run(command, cwd=out, env=env, capture_output=True, text=True)
            assert done.returncode == preflight.NO_GPU, done.stderr
    before = json.loads((out / "requests.jsonl").read_text().splitlines()[0])["id"]
    assert export.main(arguments) == 0  # again, over what is there
    assert json.loads((out / "requests.jsonl").read_text().splitlines()[0])["id"] == before


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert export.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is not empty, and was not made by this command\n"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_unknown_target_is_named(tmp_path, capsys):
    assert export.main(["--out", str(tmp_path), "--target", "sm_1"]) == 2
    assert "unknown GPU target 'sm_1'" in capsys.readouterr().err
