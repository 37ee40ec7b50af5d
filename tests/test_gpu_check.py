"""`make gpu-check` from beginning to end, on the CPU in place of a GPU: what it finds right, wrong, and keeps."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.gpu import preflight, timing
from benchmarks.gpu.devices import Host
from benchmarks.gpu.session import PARTS, Budget
from codegen.commands import app
from codegen.errors import CodegenError
from codegen.measure import device_files
from codegen.records import store

from .gpu_batches import GEMM, ROOT, SOFTMAX, request, softmax, write

GOOD = GEMM.replace("FINAL", "0")
WRONG = GOOD.replace("r < k", "r + 1 < k")
BESIDE = GOOD.replace("return 0;", "c[batch * m * n] = 1; return 0;")
SILENT = GOOD.replace("  return 0;", "  c[0] = NAN; return 0;")


# What a machine with a GPU may lack.
LACKING = ("tvm", "tvm_ffi", "jsonschema", "ortools", "rich", "scipy", "sklearn", "typer", "xgboost")


def check(directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs the check in a batch, as on a machine that lacks all that it may."""
    blocked = directory.parent / "blocked"
    blocked.mkdir(exist_ok=True)
    for name in LACKING:
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not here')\n")
    command = [sys.executable, "-m", "benchmarks.gpu", str(directory), "--device", "emulated", "--minutes", "2", *more]
    env = {**os.environ, "PYTHONPATH": str(blocked)}
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=300)


def results(directory: Path) -> dict[str, dict]:
    path = device_files.results_file(directory, "emulated")
    return {name: result.answer for name, (_, result) in device_files.results(path).items()}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A batch of what is right and what is wrong in several ways, and what checking it printed."""
    batch = [
        request(GOOD),
        softmax(),
        request(GOOD.replace("gemm_x", "gemm_y"), symbol="gemm_y", knobs={"block_m": 32}, shipped=False, trial=1),
        request(WRONG, knobs={"block_m": 64}, shipped=False, trial=2),
        request(BESIDE, knobs={"block_m": 65}, shipped=False, trial=3),
        request(SILENT, knobs={"block_m": 66}, shipped=False, trial=4),
        request(GEMM.replace("FINAL", "700"), knobs={"block_m": 67}, shipped=False, trial=5),
        request(GEMM, knobs={"block_m": 68}, shipped=False, trial=6),
        softmax(SOFTMAX.replace("return 0;", "__builtin_trap();"), knobs={"threads": 1}, shipped=False, trial=1),
    ]
    directory = write(tmp_path_factory.mktemp("gpu") / "batch", batch)
    return directory, [one for one, _ in batch], check(directory)


def test_what_is_right_is_timed_and_what_is_wrong_is_named(checked):
    directory, every, done = checked
    assert done.returncode == 0, done.stderr + done.stdout
    answers = results(directory)
    statuses = [answers[one.id]["status"] for one in every]
    assert statuses == ["ok", "ok", "ok", "wrong", "wrong", "wrong", "crashed", "failed", "crashed"]
    reasons = [answers[one.id].get("reason", "") for one in every]
    assert "relative error" in reasons[3]
    assert "it writes beside its results" in reasons[4]
    assert "relative error nan" in reasons[5]
    assert reasons[6] == "LaunchError: the launch returned error 700"
    assert reasons[7].startswith("nvcc: ")
    assert "FINAL" in reasons[7]
    assert reasons[8].startswith("exit status -")
    good = answers[every[0].id]
    assert 0 < good["error"] < 1e-6
    assert [p["sizes"]["M"] for p in good["points"]] == [33, 8]
    assert all(p["seconds"] > 0 and p["aten_seconds"] > 0 for p in good["points"])


def test_the_table_has_every_point_of_the_winners_and_all_that_failed(checked):
    _, _, done = checked
    lines = done.stdout.splitlines()
    head = next(line for line in lines if line.startswith("kernel "))
    assert " ".join(head.split()) == "kernel space shape us rate % of card x ATen x Inductor predicted us"
    rows = lines[lines.index(head) + 2 :]
    assert sum(row.startswith("matmul(") for row in rows) == 2
    assert sum(row.startswith("softmax(") for row in rows) == 1
    gelu = next(row for row in rows if "2x8x16x8 gelu" in row)
    assert "TFLOP/s" in gelu
    assert any(" 33x24x40 " in row and row.endswith(" 2.0") for row in rows)
    assert sum(row.startswith(("wrong: ", "crashed: ", "failed: ")) for row in rows) == 6
    assert any("LOSS" in row for row in rows) == any(float(r) < 0.97 for r in _ratios(rows))
    assert "9 kernels looked at, 3 right and timed; 0 left for another run" in done.stdout


def _ratios(rows: list[str]) -> list[str]:
    cells = [row.replace(" TFLOP/s", "").replace(" GB/s", "").replace(" LOSS", "").split() for row in rows]
    return [c[-3] for c in cells if c and c[0].startswith(("matmul(", "softmax("))]


def test_the_winner_of_a_workload_gets_a_plan(checked):
    directory, every, _ = checked
    answers = results(directory)
    planned = [answers[one.id] for one in every if "plan" in answers[one.id]]
    assert len(planned) == 1
    (one,) = planned
    assert one["ratios"][1] is None
    assert [len(one["plan"]), one["plan"][1]] == [3, "0"]
    assert [route == "1" for route in one["plan"]] == [(r or 0) >= 1.03 for r in one["ratios"]]


def test_results_become_records(checked, tmp_path):
    directory, every, _ = checked
    arguments = ["measure", "import", str(directory), "--records", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "9 records added, 0 were there" in done.output
    records = store.read(tmp_path / "sm_80.jsonl", strict=True)
    assert {(r.workload, r.trial, r.status == "ok") for r in records} == {
        (one.workload, one.trial, results(directory)[one.id]["status"] == "ok") for one in every
    }
    best = store.winner(r for r in records if r.workload.startswith("matmul"))
    assert best is not None
    assert best.plan is not None
    assert best.machine["gpu"] == "emulated"
    assert "0 records added, 9 were there" in CliRunner().invoke(app, arguments).output


def test_a_second_run_goes_on_where_the_first_ended(tmp_path):
    directory = write(tmp_path / "batch", [request(GOOD), softmax()])
    first = check(directory, "--parts", "card,build")
    assert "0 kernels looked at, 0 right and timed; 2 left for another run" in first.stdout
    assert check(directory, "--parts", "time").returncode == 0
    path = device_files.results_file(directory, "emulated")
    before = path.read_bytes()
    path.write_bytes(before + b'{"format":1,"id":"cut')  # a run was killed here
    again = check(directory, "--parts", "time")
    assert again.returncode == 0, again.stderr
    assert path.read_bytes() == before
    assert "2 kernels looked at, 2 right" in again.stdout


def test_a_wrong_kernel_that_ships_is_a_failure(tmp_path):
    directory = write(tmp_path / "batch", [request(WRONG)])
    assert check(directory, "--parts", "time").returncode == 1


def test_a_batch_that_was_changed_is_refused(tmp_path):
    directory = write(tmp_path / "batch", [request(GOOD)])
    path = directory / "requests.jsonl"
    line = json.loads(path.read_text())
    path.write_text(json.dumps({**line, "symbol": "other", "knobs": {"block_m": 1}}) + "\n")
    refused = check(directory)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {path}:1: ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.skipif(preflight.gpus()[0] > 0, reason="there is a GPU")
@pytest.mark.parametrize("arguments", [[], ["no-such-folder"]])
def test_without_a_gpu_it_says_so(arguments, tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == preflight.NO_GPU == 3
    assert done.stderr.startswith("no GPU here (")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ([], "no nvcc"),
        (["nvcc"], "there is no C++ compiler"),
        (["nvcc", "c++"], "is built without CUDA"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, tmp_path, there, said):
    def find() -> None:
        if "nvcc" not in there:
            raise CodegenError("no nvcc")

    for name in there:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr(preflight.nvcc, "find", find)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(preflight, "gpus", lambda: (1, 13000))
    with pytest.raises(preflight.Unable, match=said.replace("+", r"\+")) as caught:
        preflight.check()
    assert caught.value.status == preflight.LACKING == 4


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((8, 0), {"sm_80"}), ((8, 7), {"sm_80", "sm_86"}), ((9, 0), {"sm_90a"}), ((9, 1), set()), ((12, 0), set())],
)
def test_which_targets_a_device_runs(capability, expected):
    targets = {"sm_80": [8, 0], "sm_86": [8, 6], "sm_89": [8, 9], "sm_90a": [9, 0]}
    assert {n for n, c in targets.items() if device_files.suits(capability, n, {"capability": c})} == expected


def test_peers_take_turns_and_each_set_of_buffers_its_own():
    called: list[str] = []
    peers = {name: [lambda n=f"{name}{i}": called.append(n) for i in range(3)] for name in "ab"}  # type: ignore[misc]
    device = Host()
    times = timing.interleaved(device, peers, rounds=4)
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4}
    assert all(value > 0 for values in times.values() for value in values)
    size = 3 * math.ceil(timing.GRAPH / 3)
    last = called[-2 * size * 4 :]
    blocks = [last[i : i + size] for i in range(0, len(last), size)]
    turns = size // 3
    assert all(block in (["a0", "a1", "a2"] * turns, ["b0", "b1", "b2"] * turns) for block in blocks)
    assert sum(block[0] == "a0" for block in blocks) == 4
    assert all({blocks[i][0], blocks[i + 1][0]} == {"a0", "b0"} for i in range(0, 8, 2))


def test_buffers_together_exceed_the_cache():
    device = Host()
    assert timing.sets(device, 1) * 1 <= 256
    for moved in (device.l2_bytes // 7, device.l2_bytes, 10 * device.l2_bytes):
        count = timing.sets(device, moved)
        assert count >= 2
        assert count * moved >= 2 * device.l2_bytes


def test_parts_share_the_time_and_the_last_ends_with_it():
    shares = list(PARTS.values())
    assert shares == sorted(shares)
    assert shares[-1] < 1
    assert 59 < Budget(1.0).left("inductor") / PARTS["inductor"] <= 60
