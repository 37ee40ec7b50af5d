"""Candidates that are carried to a machine without TVM, and their results brought back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import tvmops
from codegen import spaces
from codegen.commands import app
from codegen.errors import CodegenError
from codegen.measure import batch_files, carry
from codegen.records import store
from codegen.search.strategy import identity
from codegen.target import TARGETS, find
from codegen.workload import Workload
from tests.codegen.sabotage import CRASH, HANG, NOTHING, WORKLOAD, sabotaged

ROOT = Path(__file__).resolve().parents[2]
SOFTMAX = Workload.parse("softmax(float32;M=8,N=64)")
# What a machine may lack that only measures.
LACKING = ("tvm", "tvm_ffi", "jsonschema", "ortools", "rich", "sklearn", "typer", "xgboost")


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["measure", *map(str, arguments)])


@pytest.fixture(scope="module")
def target() -> str:
    return next(name for name in tvmops._C.usable_targets() if name in TARGETS)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> dict[str, str]:
    """The environment of a machine without TVM."""
    blocked = tmp_path_factory.mktemp("blocked")
    for name in LACKING:
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not here')\n")
    return {**os.environ, "PYTHONPATH": str(blocked)}


@pytest.fixture(scope="module")
def exported(target, tmp_path_factory) -> Path:
    """A batch of a small layer and of a kernel of one size."""
    directory = tmp_path_factory.mktemp("exported") / "batch"
    of_linear = ["--op", "linear", "--dims", "M=*,N=40,K=24", "--strategy", "genetic", "--count", "3"]
    of_softmax = ["--op", "softmax", "--dims", "M=8,N=64", "--space", "derived", "--count", "2", "--seed", "7"]
    for arguments in (of_linear, of_softmax):
        common = ["--target", target, "--rounds", "1", "--records", directory / "none"]
        result = command("export", *arguments, *common, "--out", directory)
        assert result.exit_code == 0, result.output
    return directory


@pytest.fixture
def carried(exported, tmp_path) -> Path:
    """That batch elsewhere."""
    return Path(shutil.copytree(exported, tmp_path / "batch"))


def measured(directory: Path, environment: dict[str, str], *, module: str = "codegen.measure.batch", cwd: Path = ROOT):
    return subprocess.run(
        [sys.executable, "-m", module, str(directory)],
        cwd=cwd,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


def test_the_whole_way(carried, exported, bare, target, tmp_path):
    every = list(batch_files.requests(carried).values())
    assert [r.workload for r in every] == [WORKLOAD.key] * 3 + [SOFTMAX.key] * 2
    assert every[0].knobs == spaces.find(WORKLOAD, find(target)).default()
    assert len({identity(r.knobs) for r in every[:3]}) == 3
    assert f"5 candidates for {target}" in (carried / "README.md").read_text()

    said = measured(carried, bare)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count(" x ATen") == 5
    assert "5 of 5 candidates are measured" in said.stdout

    # Only the results come back.
    shutil.copyfile(carried / batch_files.RESULTS, exported / batch_files.RESULTS)
    records = tmp_path / "records"
    assert "5 records added, 0 were there" in command("import", exported, "--records", records).stdout
    found = store.read(store.file_of(records, target), strict=True)
    assert [r.status for r in found] == ["ok"] * 5
    assert [r.knobs for r in found] == [r.knobs for r in every]
    assert [(r.strategy, r.seed, r.trial) for r in found] == [
        *(("genetic", 0, i) for i in range(3)),
        *(("random", 7, i) for i in range(2)),
    ]
    assert {(r.machine["cpu"], r.machine["torch"]) for r in found} == {(tvmops._C.cpu_model_name(), torch.__version__)}
    assert all(r.points and r.code_bytes and r.workspace_bytes is not None for r in found)
    assert "0 records added, 5 were there" in command("import", exported, "--records", records).stdout
    assert store.read(store.file_of(records, target), strict=True) == found

    # A search goes on from there: the next batch has others.
    more = tmp_path / "more"
    arguments = ["--op", "linear", "--dims", "M=*,N=40,K=24", "--target", target, "--count", "2"]
    assert command("export", *arguments, "--records", records, "--out", more).exit_code == 0
    others = batch_files.requests(more).values()
    assert [r.trial for r in others] == [3, 4]
    assert not {identity(r.knobs) for r in others} & {identity(r.knobs) for r in every}
    (exported / batch_files.RESULTS).unlink()


def test_an_installed_tvmops_runs_it_too(carried, bare, tmp_path):
    installed = tmp_path / "site"
    shutil.copytree(ROOT / "tvmops", installed / "tvmops")
    shutil.copytree(ROOT / "codegen", installed / "tvmops" / "codegen")
    paths = {"PYTHONPATH": os.pathsep.join([bare["PYTHONPATH"], str(installed)])}
    said = measured(carried, bare | paths, module="tvmops.codegen.measure.batch", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count(" x ATen") == 5


def test_a_killed_run_loses_the_candidate_in_flight_at_most(carried, bare):
    path = carried / batch_files.RESULTS
    process = subprocess.Popen(
        [sys.executable, "-m", "codegen.measure.batch", str(carried)], cwd=ROOT, env=bare, stdout=-1, text=True
    )
    assert process.stdout is not None
    first = [process.stdout.readline(), process.stdout.readline()]
    assert command("run", carried).stderr == f"error: another run writes to {path}\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = path.read_bytes()
    assert len(batch_files.results(carried)) >= 2
    path.write_bytes(kept + b'{"format":1,"id":"')
    assert measured(carried, bare).returncode == 0
    assert path.read_bytes().startswith(kept)
    found = [result.id for _, result in batch_files.results(carried)]
    assert sorted(found) == sorted(batch_files.requests(carried))
    assert [line.split()[0] for line in first] == found[:2]
    before = path.read_bytes()
    assert "5 of 5" in measured(carried, bare).stdout
    assert path.read_bytes() == before


def test_bad_candidates_cost_only_themselves(target, tmp_path):
    directory, choice = tmp_path / "batch", spaces.find(WORKLOAD, find(target)).default()
    packs = tmp_path / "packs"
    (directory / batch_files.PACKS).mkdir(parents=True)
    expected = []
    with open(directory / batch_files.REQUESTS, "w") as file:
        for trial, (body, status) in enumerate(((CRASH, "crashed"), (HANG, "hung"), (NOTHING, "wrong"))):
            pack = sabotaged(target, packs, body, name=status)(choice)
            request = batch_files.Request(
                WORKLOAD.key, target, "gemm", choice, 0, [1], 1, 2.0, "given", trial, "0", batch_files.digest(pack), 1
            )
            shutil.copyfile(pack, request.file(directory))
            file.write(request.to_json() + "\n")
            expected.append(status)
    result = command("run", directory)
    assert result.exit_code == 0, result.output
    added, known = carry.collect(directory, tmp_path / "records")
    assert ([r.status for r in added], known) == (expected, 0)


def test_targets_that_the_machine_does_not_run_are_left_out(carried, bare, target):
    other = next(name for name in TARGETS if name != target)
    every = list(batch_files.requests(carried).values())
    foreign = replace(every[0], target="no-such-cpu")
    with open(carried / batch_files.REQUESTS, "a") as file:
        file.write(foreign.to_json() + "\n")
    shutil.copyfile(every[0].file(carried), foreign.file(carried))
    said = measured(carried, bare)
    assert said.returncode == 0, said.stderr
    assert "left out: 1 candidates for no-such-cpu" in said.stdout
    assert "5 of 6" in said.stdout
    assert other not in said.stdout


def result(directory: Path, **changes) -> batch_files.Result:
    machine = {"cpu": "A CPU", "threads": 2, "torch": "2", "tvm": "0"}
    sizes = {"sizes": {"M": 1}, "threads": 1, "seconds": 1e-6, "aten_seconds": 2e-6}
    answer = {"status": "ok", "points": [sizes], "seconds": 1e-6, "aten_seconds": 2e-6}
    answer |= {"error": 1e-7, "aten_error": 1e-7, "workspace_bytes": 0, "spread": 0.1}
    known = next(iter(batch_files.requests(directory)))
    made = batch_files.Result(known, machine, "2026-01-02T03:04:05Z", answer)
    return replace(made, **changes)


def test_results_are_looked_at_before_any_is_taken(carried, tmp_path):
    path, records = carried / batch_files.RESULTS, tmp_path / "records"
    sound = result(carried)
    for bad, said in (
        (result(carried, id="0123456789abcdef").to_json(), "0123456789abcdef is no candidate of this batch"),
        (result(carried, machine={}).to_json(), "machine: 'cpu' is a required property"),
        (result(carried, date="today").to_json(), "date: 'today' does not match"),
        ("{broken", "not JSON"),
        ('{"format":99}', "format 99 is not 1"),
        ('{"format":1,"id":"x"}', "not a result"),
    ):
        path.write_text(f"{sound.to_json()}\n{bad}\n")
        refused = command("import", carried, "--records", records)
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"error: {path}:2: ")
        assert said in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert not records.exists()


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "ok"},
        {"status": "ok", "seconds": -1.0, "aten_seconds": 1.0, "error": 0.0, "aten_error": 0.0},
        {"status": "splendid", "reason": "none"},
        {"status": "failed", "reason": "none", "bribe": 1},
        [],
    ],
)
def test_an_answer_that_is_no_measurement_is_a_failure(carried, tmp_path, answer):
    (carried / batch_files.RESULTS).write_text(result(carried, answer=answer).to_json() + "\n")
    added, _ = carry.collect(carried, tmp_path / "records")
    assert [(r.status, r.reason) for r in added] == [("failed", "its answer is no measurement")]


def test_another_candidate_than_was_exported_is_refused(carried, tmp_path):
    first, second = list(batch_files.requests(carried).values())[:2]
    shutil.copyfile(second.file(carried), first.file(carried))
    refused = command("run", carried)
    assert refused.exit_code == 2
    assert f"{first.file(carried)} is not the pack that was exported" in refused.stderr

    path = carried / batch_files.REQUESTS
    lines = path.read_text().splitlines()
    changed = json.loads(lines[1])
    changed["knobs"]["mr"] += 1
    path.write_text("\n".join([lines[0], json.dumps(changed), *lines[2:]]) + "\n")
    with pytest.raises(CodegenError, match=rf"{path}:2: {second.id} is not the identity of this candidate"):
        carry.collect(carried, tmp_path / "records")


def test_knobs_can_be_given(target, tmp_path):
    directory = tmp_path / "batch"
    arguments = ["export", "--op", "linear", "--dims", "M=*,N=40,K=24", "--target", target, "--out", directory]
    default = spaces.find(WORKLOAD, find(target)).default()
    two = ["--knobs", f"mr={default['mr'] - 1}", "--knobs", f"mr={default['mr'] - 2},chain=128"]
    assert command(*arguments, *two).exit_code == 0
    with open(directory / batch_files.REQUESTS, "a") as file:
        file.write('{"format":1,')  # an export was killed here
    twice = command(*arguments, *two)
    assert twice.exit_code == 2
    assert "no choice of linear(float32;M=*,N=40,K=24) is new" in " ".join(twice.stderr.split())
    found = list(batch_files.requests(directory).values())
    assert [r.knobs for r in found] == [
        {**default, "mr": default["mr"] - 1},
        {**default, "mr": default["mr"] - 2, "chain": 128},
    ]
    assert {r.strategy for r in found} == {"given"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "--knobs", "mr=99"], "mr=99: mr=99 is not one of"),
        (["export", "--knobs", "tile=3"], "unknown knob 'tile'"),
        (["export", "--knobs", "mr"], "not a knob: 'mr'"),
        (["export", "--strategy", "luck"], "unknown strategy 'luck'; known: "),
        (["run", "no-such-folder"], "no-such-folder is no batch"),
        (["import", "no-such-folder"], "no-such-folder is no batch"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_sentence(tmp_path, target, arguments, said):
    if arguments[0] == "export":
        arguments = [*arguments, "--op", "linear", "--dims", "M=*,N=40,K=24", "--target", target, "--out", tmp_path]
    refused = command(*arguments)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert refused.stderr.strip().count("\n") == 0


def test_a_directory_of_something_else_is_left_alone(target, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    refused = command("export", "--op", "linear", "--dims", "M=*,N=40,K=24", "--target", target, "--out", tmp_path)
    assert refused.exit_code == 2
    assert f"{tmp_path} is not empty, and no batch" in " ".join(refused.stderr.split())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_runs_a_batch_imports_little(bare):
    imports = "import codegen.measure.batch, codegen.measure.child, sys"
    script = f"{imports}; print([name for name in {LACKING} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=bare, text=True, capture_output=True, check=True)
    assert ran.stdout.strip() == "[]"
