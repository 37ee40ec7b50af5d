from __future__ import annotations

from pathlib import Path

import pytest

import tvmops
from codegen import ops
from codegen.measure.measurer import LocalMeasurer, this_machine
from codegen.target import TARGETS, find
from codegen.worker import Worker, WorkerError
from codegen.workload import Workload
from tests.codegen.sabotage import CRASH, HANG, NOTHING, WORKLOAD, here, sabotaged


@pytest.fixture(scope="module")
def target() -> str:
    return next(name for name in tvmops._C.usable_targets() if name in TARGETS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """Leaves that one test compiled are there for the next."""
    return tmp_path_factory.mktemp("candidates")


def space(target: str):
    return ops.load(WORKLOAD.op).space(WORKLOAD, find(target))


def test_this_machine_tells_what_records_want():
    machine = this_machine()
    assert set(machine.about) == {"cpu", "threads", "torch", "tvm"}
    assert list(machine.targets) == tvmops._C.usable_targets()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("key", [WORKLOAD.key, "matmul(float32;M=*,N=*,K=*)"])
def test_a_sound_candidate_is_ok(directory, name, key):
    if name not in tvmops._C.usable_targets():
        pytest.skip(f"this machine does not run {name}")
    workload = Workload.parse(key)
    choice = ops.load(workload.op).space(workload, find(name)).default()
    with LocalMeasurer(workload, find(name), "gemm", [1], build=here(workload, name, directory)) as measurer:
        outcome = measurer.measure(choice, rounds=1)
    assert (outcome.status, outcome.reason) == ("ok", None)
    assert outcome.points
    assert 0 < outcome.error <= max(2 * outcome.aten_error, 1e-7)
    assert outcome.ratio > 0


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [(CRASH, "crashed", "SIGSEGV"), (HANG, "hung", "no answer within"), (NOTHING, "wrong", "relative error")],
)
def test_a_bad_candidate_costs_only_itself(target, directory, body, status, reason):
    choice = space(target).default()
    limit = 5 if status == "hung" else 60
    with LocalMeasurer(
        WORKLOAD, find(target), "gemm", [1], build=sabotaged(target, directory, body), limit=limit
    ) as measurer:
        outcome = measurer.measure(choice, rounds=1)
    assert outcome.status == status
    assert reason in outcome.reason
    assert outcome.ratio == 0


def test_a_candidate_that_cannot_be_built_is_a_failure(target):
    choice = space(target).default()
    with LocalMeasurer(WORKLOAD, find(target), "gemm", [1]) as measurer:
        outcome = measurer.measure({k: v for k, v in choice.items() if k != "mr"})
    assert (outcome.status, outcome.reason) == ("failed", "build: KeyError: 'mr'")


def test_a_helper_that_does_not_start_says_why():
    worker = Worker("codegen.measure.no_such_module")
    with pytest.raises(WorkerError, match="No module named") as caught:
        worker.call({}, 30)
    assert caught.value.status == "failed"
