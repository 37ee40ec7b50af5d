"""The parts of `make gpu-check` that need a GPU, each with a stand-in for what it asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import parts, table
from benchmarks.gpu.build import Builds
from benchmarks.gpu.packs import KERNELS, Pack
from benchmarks.gpu.process import Client
from benchmarks.gpu.session import Budget, Session
from codegen.measure import device_files

from .gpu_batches import GEMM, request, softmax, write

MACHINE = {"cpu": "A CPU", "threads": 1, "torch": "2", "gpu": "emulated"}


class Ready:
    """An extension, or a pack, that is built, or can't be."""

    path = ""

    def __init__(self, why: str = "") -> None:
        self.why = why

    def wait(self, seconds: float) -> str:
        return self.why


class Answers:
    """A worker that was asked, and what it says."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers = list(answers)

    def ask(self, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        self.asked.append(task)
        return self._answers.pop(0)


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> tuple[Path, Builds]:
    """A batch of two kernels, both right and timed."""
    directory = write(tmp_path_factory.mktemp("parts") / "batch", [request(GEMM.replace("FINAL", "0")), softmax()])
    session = open_session(directory)
    builds, client = Builds("emulated", directory, 2), Client("emulated", directory)
    try:
        builds.start(session.requests)
        parts.time_shipped(session, client, builds, lambda _: None)
    finally:
        client.close()
    assert all(map(session.ok, session.requests)), session.known
    return directory, builds


def open_session(directory: Path, minutes: float = 5.0) -> Session:
    every = list(device_files.requests(directory).values())
    return Session(directory, "emulated", Budget(minutes), MACHINE, every)


def test_calls_go_through_the_extension_and_are_kept(judged):
    directory, _ = judged
    session = open_session(directory)
    parts.calls(session, Ready(), Ready(), lambda _: None)
    assert session.parts["calls"]["status"] == "ok", session.parts
    assert session.parts["calls"]["reason"] == "2 of 2 kernels were called and are right"
    again = open_session(directory)
    for one in again.requests:
        call = again.known[one.id]["more"]["call"]
        assert call["served"]
        assert call["call_seconds"] > 0
        assert call["aten_call_seconds"] > 0
    assert sum(line.startswith("a call of ") for line in table.lines(again)) == 2


@pytest.mark.parametrize("which", ["extension", "pack"])
def test_without_extension_or_pack_calls_are_left_out(judged, which):
    directory, _ = judged
    session = open_session(directory)
    extension, pack = (Ready(f"the {n} could not be built: why" if n == which else "") for n in ("extension", "pack"))
    parts.calls(session, extension, pack, lambda _: None)
    assert session.parts["calls"] == {"status": "left out", "reason": f"the {which} could not be built: why"}


@pytest.mark.parametrize(("body", "status"), [("assert True", "ok"), ("assert False", "failed")])
def test_tests_are_run_where_they_are(tmp_path, body, status):
    directory = write(tmp_path / "batch", [request(GEMM)])
    (directory / "tests").unlink()
    (directory / "tests" / "cuda").mkdir(parents=True)
    code = f"import os\n\ndef test_one():\n    assert os.environ['TVMOPS_TEST_PACK'] == 'a.so'\n    {body}\n"
    (directory / "tests" / "cuda" / "test_one.py").write_text(code)
    session, pack = open_session(directory), Ready()
    pack.path = "a.so"
    parts.tests(session, Ready(), pack, lambda _: None)
    assert session.parts["tests"]["status"] == status
    assert ("1 passed" if status == "ok" else "1 failed") in session.parts["tests"]["reason"]


@pytest.mark.parametrize(("code", "status"), [(0, "ok"), (9, "failed")])
def test_the_sanitizer_judges_what_was_found_right(judged, tmp_path, monkeypatch, code, status):
    directory, builds = judged
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho "2 of 2 kernels ran"\nexit {code}\n')
    tool.chmod(0o755)
    session = open_session(directory)
    session.parts.pop("sanitizer", None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    parts.sanitizer(session, builds, lambda _: None)
    assert session.parts["sanitizer"]["status"] == status
    asked = (tmp_path / "asked").read_text().split()
    assert asked[-2:] == [one.id for one in session.requests]
    assert "benchmarks.gpu.sanitized" in asked


def test_the_sanitizer_is_left_out_where_it_is_not(judged, tmp_path, monkeypatch):
    directory, builds = judged
    session = open_session(directory)
    session.parts.pop("sanitizer", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    parts.sanitizer(session, builds, lambda _: None)
    assert session.parts["sanitizer"]["status"] == "left out"


def test_inductor_is_asked_point_by_point_and_failures_are_told(judged):
    directory, builds = judged
    session = open_session(directory)
    gemm = next(r for r in session.requests if r.driver == "cuda_gemm")
    session.requests = [gemm]
    client = Answers(
        {"status": "ok", "points": [{"inductor_seconds": 3e-6}]},
        {"status": "hung", "reason": "no answer within 180 s"},
    )
    parts.inductor(session, client, builds, lambda _: None)
    assert [t["points"] for t in client.asked] == [[p] for p in gemm.points]
    assert all(t["peers"] == ["inductor"] for t in client.asked)
    more = session.known[gemm.id]["more"]
    assert more["points"][0]["inductor_seconds"] == 3e-6
    assert "inductor_seconds" not in more["points"][1]
    assert more["inductor_note"] == "no answer within 180 s"
    parts.inductor(session, Answers(), builds, lambda _: None)  # it is known now


def test_no_part_begins_when_the_time_is_up(judged):
    directory, builds = judged
    session = open_session(directory, minutes=0.0)
    session.known.clear()
    said: list[str] = []
    parts.time_shipped(session, Answers(), builds, said.append)
    parts.tune(session, Answers(), builds, said.append)
    parts.inductor(session, Answers(), builds, said.append)
    assert said == ["time: time is up; 2 kernels were not looked at, run again to go on"]


def test_candidates_are_tried_by_predicted_time_and_each_workload_in_turn(tmp_path):
    batch = []
    for trial, (make, seconds) in enumerate([(request, 3e-6), (request, 1e-6), (softmax, 2e-6), (softmax, 9e-6)]):
        text = GEMM.replace("FINAL", "0")
        batch.append(make(text, knobs={"k": trial}, trial=trial, shipped=False, predicted=[seconds]))
    session = open_session(write(tmp_path / "batch", batch))

    class Made:
        def ready(self, one: Any) -> bool:
            return True

        def result(self, one: Any, seconds: float) -> Any:
            return type("Built", (), {"library": Path("x"), "about": lambda self: {}})()

    client = Answers(*[{"status": "wrong", "reason": "no"}] * 4)
    parts.tune(session, client, Made(), lambda _: None)
    assert [task["request"]["trial"] for task in client.asked] == [2, 1, 3, 0]


def test_what_ships_comes_first_and_the_longest_times_of_it():
    text = GEMM.replace("FINAL", "0")
    times = [9e-6, 1e-6, None, 5e-6]
    batch = [request(text, trial=i, shipped=i > 0, predicted=[s])[0] for i, s in enumerate(times)]
    assert [one.trial for one in parts.in_order(batch)] == [3, 1, 2, 0]


def test_a_pack_that_make_refuses_says_why(tmp_path, monkeypatch):
    from codegen.export import nvcc

    (tmp_path / KERNELS).mkdir()
    (tmp_path / KERNELS / "Makefile").write_text("$(error no kernels for $(TARGETS) here)\n")
    toolkit = nvcc.Toolkit("nvcc", tmp_path, "13.0.0")
    monkeypatch.setattr(nvcc, "find", lambda: toolkit)
    pack = Pack(tmp_path, "sm_80", 1)
    said = pack.wait(30)
    assert said.startswith("the pack could not be built: ")
    assert "no kernels for sm_80 here" in said
    (tmp_path / KERNELS / "Makefile").unlink()
    assert Pack(tmp_path, "sm_80", 1).wait(1) == "no pack was exported"
