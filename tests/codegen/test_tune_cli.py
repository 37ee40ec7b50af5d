"""The command ``tune``, with a measurer that is a formula: what it does around a search."""

from __future__ import annotations

import functools
import importlib.util
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner, Result

from codegen import profiling
from codegen.commands import app
from codegen.measure import measurer
from codegen.measure.measurer import Outcome
from codegen.records import store
from codegen.search.strategy import identity

KEY = "linear(float32;M=*,N=24,K=40)"
OP = ["tune", "--op", "linear", "--dims", "M=*,N=24,K=40"]
TARGET = "x86-64-v3"
MACHINE = {"cpu": "Some CPU", "threads": 2, "torch": "2", "tvm": "0"}
MODEL = """
import torch

def make():
    first, second, third = torch.nn.Linear(40, 24), torch.nn.Linear(24, 72), torch.nn.Linear(72, 24)
    return torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), third), (torch.ones(32, 40),)

def nothing():
    return torch.sin, (torch.ones(4),)
"""
LAYERS = [KEY, "linear(float32;M=*,N=72,K=24)", "linear(float32;M=*,N=24,K=72)"]


class Formula:
    """In place of a measurer; what all of them measured is in ``measured``."""

    measured: ClassVar[list[tuple[Any, ...]]] = []
    interrupt_at: int | None = None
    plans: str = "4" * 10
    open: int = 0

    def __init__(self, workload: Any, *_: Any, **__: Any) -> None:
        self._key = workload.key

    def __enter__(self) -> Formula:
        Formula.open += 1
        return self

    def __exit__(self, *_: object) -> None:
        Formula.open -= 1

    def measure_all(self, choices: Any, rounds: int = 1) -> Iterator[Outcome]:
        for choice in choices:
            if len(self.measured) + 1 == self.interrupt_at:
                raise KeyboardInterrupt
            self.measured.append((self._key, *identity(choice)))
            yield Outcome("ok", None, 1e-3 / choice["mr"], 1e-3, 1e-7, 2e-7)

    def plan(self, choice: Any) -> dict[str, Any]:
        return {"status": "ok", "plan": self.plans, "ratios": [None] * 10}


@pytest.fixture(autouse=True)
def formula(monkeypatch) -> Iterator[type[Formula]]:
    monkeypatch.setattr(measurer, "LocalMeasurer", Formula)
    monkeypatch.setattr(measurer, "this_machine", lambda: measurer.Machine(MACHINE, (TARGET,)))
    for name, value in (("measured", []), ("interrupt_at", None), ("plans", "4" * 10)):
        monkeypatch.setattr(Formula, name, value)
    yield Formula
    assert Formula.open == 0


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def good(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "network.py"
    path.write_text(MODEL)
    return path


once = functools.cache(profiling.profile)


@pytest.fixture
def model(tmp_path, network, monkeypatch) -> list[str]:
    monkeypatch.setattr(profiling, "profile", once)  # a process that imports torch for each model, not for each test
    spec = f"{network}:make"
    where = ["--records", str(tmp_path / "records"), "--out", str(tmp_path / "out")]
    return ["tune", "--model", spec, "--least-share", "0", *where]


def recorded(directory: Path) -> list[store.Record]:
    return store.read(store.file_of(directory, TARGET), strict=True)


def test_a_model_is_tuned_and_a_pack_made_that_serves_it(tmp_path, model, formula):
    said = good(*model, "--trials", "30")
    assert "strategy: constrained-genetic (the default)" in said
    assert "3 Linear, 2 ReLU" in said
    assert "a call of the model, 1 threads:" in said
    assert "the pack serves 3 of 5 tvmops calls" in said
    library = tmp_path / "out" / "default.so"
    assert f"tvmops.load_pack('{library}')" in said
    manifest = json.loads((tmp_path / "out" / "export" / "manifest.json").read_text())
    assert sorted(k["workload"] for k in manifest["kernels"]) == sorted(LAYERS)
    records = recorded(tmp_path / "records")
    assert {r.workload for r in records} == set(LAYERS)
    trials = [r for r in records if r.plan is None]
    assert len(trials) == 30
    assert min(sum(r.workload == key for r in trials) for key in LAYERS) >= 8
    assert [r.plan for r in records[30:]] == ["4" * 10] * 3
    assert len(set(formula.measured)) == 30  # the finalists were measured again, nothing else

    # All trials are spent: the same command makes the same pack of what is known.
    measured = list(formula.measured)
    assert "the pack serves 3 of 5 tvmops calls" in good(*model, "--trials", "30")
    assert formula.measured == measured
    assert recorded(tmp_path / "records") == records


def test_an_interrupted_model_keeps_its_trials_builds_nothing_and_goes_on(tmp_path, model, formula, monkeypatch):
    monkeypatch.setattr(formula, "interrupt_at", 12)
    model = [*model, "--strategy", "random"]
    result = run(*model, "--trials", "20")
    assert result.exit_code == 130
    assert "interrupted; 11 trials are in" in result.stderr
    assert len(recorded(tmp_path / "records")) == 11
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(formula, "interrupt_at", None)
    good(*model, "--trials", "20", "--no-plan")
    assert len(formula.measured) == len(set(formula.measured)) == 20
    assert (tmp_path / "out" / "default.so").exists()


def test_no_time_means_no_trial_and_no_pack(tmp_path, model, formula):
    said = good(*model, "--minutes", "0")
    assert "no pack is made" in said
    assert formula.measured == []
    assert not (tmp_path / "out").exists()


def test_a_kernel_that_never_wins_is_not_in_the_pack(tmp_path, model, formula, monkeypatch):
    monkeypatch.setattr(formula, "plans", "0" * 10)
    said = good(*model, "--trials", "3")
    assert said.count("no kernel is faster than ATen") == 1
    assert "no pack is made" in said


def test_a_model_without_anything_to_tune_is_refused(tmp_path, model):
    result = run(*[argument.replace(":make", ":nothing") for argument in model])
    assert result.exit_code == 2
    assert "nothing to tune in" in result.stderr.splitlines()[-1]


NEWER = '{"format": 99}'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tune"], "nothing to tune: give --op and --dims, or --model"),
        (["tune", "--op", "linear"], "nothing to tune: give --op and --dims, or --model"),
        ([*OP, "--model", "a.py:b"], "--model and --op/--dims exclude each other"),
        (["tune", "--model", "a.py:b", "--knob", "mr=4"], "--knob and --space are of one workload"),
        (["tune", "--model", "no_such_file.py:make"], "there is no file no_such_file.py"),
        (["tune", "--op", "conv9", "--dims", "M=*"], "unknown operator 'conv9'; known: add_activation"),
        ([*OP, "--strategy", "luck"], "unknown strategy 'luck'; known: annealing, "),
        ([*OP, "--cost-model", "oracle"], "unknown cost model 'oracle'; known: "),
        (
            [*OP, "--strategy", "random", "--cost-model", "none"],
            "--cost-model is for constrained-genetic and metaschedule; random has no cost model",
        ),
        ([*OP, "--knob", "tile=3"], "unknown knob 'tile'; known: mr, nr"),
        ([*OP, "--knob", "mr=99"], "mr=99 is not one of 2, 3"),
        ([*OP, "--space", "moon"], "has no space 'moon'; known: gemm, "),
        ([*OP, "--knob", "mr=8", "--knob", "nr=32"], "no choice of knobs meets the constraints of linear(float32;"),
        ([*OP, "--target", "x86-64-v4"], "this machine does not run x86-64-v4, only x86-64-v3"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_sentence(tmp_path, arguments, said, formula):
    result = run(*arguments, "--records", tmp_path)
    assert result.exit_code == 2
    *before, last = result.stderr.splitlines()
    assert said in last
    assert not [line for line in before if "error" in line]
    assert "Traceback" not in result.output
    assert formula.measured == []


def test_clashing_constraints_are_named(tmp_path):
    result = run(*OP, "--knob", "mr=8", "--knob", "nr=32", "--records", tmp_path)
    assert "registers of 8 floats" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", [f"{TARGET}.jsonl", "other.jsonl"])
def test_newer_records_are_refused_and_kept(tmp_path, name, formula):
    (tmp_path / name).write_text(NEWER + "\n")
    result = run(*OP, "--records", tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path / name}:1: record format 99 is newer than 1" in result.stderr
    assert (tmp_path / name).read_text() == NEWER + "\n"
    assert formula.measured == []


def test_a_records_folder_that_cannot_be_written_is_named_before_anything_runs(tmp_path, model, formula):
    blocked = tmp_path / "blocked"
    blocked.write_text("kept")
    for command in (OP, model[:3]):
        result = run(*command, "--records", blocked / "records")
        assert result.exit_code == 2
        assert f"can't write records to {blocked}/records/{TARGET}.jsonl" in result.stderr.splitlines()[-1]
    assert blocked.read_text() == "kept"
    assert formula.measured == []


def test_the_strategy_is_the_best_whose_libraries_are_there(tmp_path, monkeypatch):
    assert "strategy: constrained-genetic (the default)" in good(*OP, "--trials", "1", "--records", tmp_path)
    found = importlib.util.find_spec
    missing = types.SimpleNamespace(find_spec=lambda name: None if name == "xgboost" else found(name))
    monkeypatch.setattr("codegen.commands._tuning.importlib", types.SimpleNamespace(util=missing))
    said = good(*OP, "--trials", "3", "--records", tmp_path)
    assert "strategy: genetic (constrained-genetic needs xgboost: pip install 'tvmops[tune]')" in said
    assert {r.strategy for r in recorded(tmp_path)} == {"constrained-genetic", "genetic"}
    assert "strategy:" not in good(*OP, "--trials", "1", "--strategy", "random", "--records", tmp_path)


def test_what_another_file_of_the_folder_holds_is_not_measured_again(tmp_path, formula):
    good(*OP, "--trials", "5", "--no-plan", "--records", tmp_path)
    store.file_of(tmp_path, TARGET).rename(tmp_path / "yesterday.jsonl")
    said = good(*OP, "--trials", "7", "--no-plan", "--records", tmp_path)
    assert f"5 choices of {KEY} are measured already" in said
    assert len(formula.measured) == len(set(formula.measured)) == 7


@pytest.mark.parametrize("prune", ["--prune", "--no-prune"])
def test_pruning_can_be_had_or_not(tmp_path, prune, formula):
    good(*OP, "--trials", "20", "--strategy", "annealing", prune, "--no-plan", "--records", tmp_path)
    assert len(set(formula.measured)) == 20
