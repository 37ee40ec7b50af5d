from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import tvmops
from codegen import ops
from codegen.measure import processes
from codegen.measure.local import LocalRunner
from codegen.measure.measurer import ROUNDS, LocalMeasurer, this_machine
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
    assert outcome.workspace_bytes is not None


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


class Told:
    """A runner whose candidates take the seconds it was told, in turn; ATen takes ``aten`` of them."""

    def __init__(self, seconds: list[float], aten: float = 1.0) -> None:
        self.seconds, self.aten = iter(seconds), aten
        self.requests: list[dict[str, Any]] = []
        self.packs: list[bytes] = []

    def run(self, pack: Path, request, limit):
        self.requests.append(dict(request))
        self.packs.append(pack.read_bytes())
        seconds = next(self.seconds)
        point = {"sizes": {"M": 1}, "layout": "packed", "threads": 1, "seconds": seconds}
        answer = {"status": "ok", "points": [point], "seconds": seconds}
        if request["check"]:
            answer |= {"error": 0.0, "aten_error": 0.0}
        if request["aten"]:
            answer["aten_seconds"] = point["aten_seconds"] = self.aten
        return answer

    def about(self):
        raise NotImplementedError

    def close(self):
        pass


def told(target: str, library: Path, runner: Told, **options) -> LocalMeasurer:
    """A measurer whose packs differ by what follows the end of the library."""

    def build(choice):
        pack = library.with_name(f"{choice['mr']}.so")
        pack.write_bytes(library.read_bytes() + b"%d" % choice["mr"])
        return pack

    return LocalMeasurer(WORKLOAD, find(target), "gemm", [1], build=build, runner=runner, **options)


@pytest.fixture
def library(target, directory) -> Path:
    return here(WORKLOAD, target, directory)(space(target).default())


def test_the_incumbent_is_timed_again_and_a_change_of_the_machine_is_noise(target, library):
    runner = Told([3.0, 2.0, 2.5, 2.1, 4.0, 1.9, 2.3, 4.0, 4.1, 2.0])
    with told(target, library, runner, recheck=3) as measurer:
        outcomes = list(measurer.measure_all([{"mr": i} for i in range(7)]))
        assert measurer.recheck() is False
    checked = [r["check"] for r in runner.requests]
    #                  3.0   2.0   2.5   2.1 of 2.0: as before; 4.0, 1.9: the new incumbent, 2.3; 4.0 of 1.9
    assert checked == [True, True, True, False, True, True, True, False, True, False]
    assert runner.packs[3].endswith(b"1")
    assert runner.packs[7].endswith(b"4")
    assert [o.seconds for o in outcomes] == [3.0, 2.0, 2.5, 4.0, 1.9, 2.3, 4.1]
    assert [o.noisy for o in outcomes] == [None] * 6 + [True]


def test_aten_may_be_timed_now_and_then_only(target, library):
    runner = Told([3.0, 2.0, 2.5, 2.0, 4.0, 1.0])
    with told(target, library, runner, recheck=3, aten=False) as measurer:
        first = list(measurer.measure_all([{"mr": i} for i in range(3)]))
        runner.aten = 7.0
        second = list(measurer.measure_all([{"mr": 3}]))
        (third,) = measurer.measure_all([{"mr": 4}], ROUNDS + 1)
    assert [r["aten"] for r in runner.requests] == [True, False, False, True, False, True]
    assert [o.aten_seconds for o in (*first, *second, third)] == [1.0, 1.0, 1.0, pytest.approx(7.0), 7.0]
    assert first[1].points[0]["aten_seconds"] == 1.0


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), None, "1"])
def test_an_answer_that_is_no_measurement_is_a_failure(target, library, seconds):
    with told(target, library, Told([seconds])) as measurer:
        outcome = measurer.measure({"mr": 1})
    assert outcome.status == "failed"
    assert "measure" in outcome.reason


def test_a_batch_is_built_before_any_of_it_is_judged(target):
    chosen = space(target)
    good = chosen.default()
    bad = {k: v for k, v in good.items() if k != "mr"}
    with LocalMeasurer(WORKLOAD, find(target), "gemm", [1]) as measurer:
        outcomes = list(measurer.measure_all([good, bad, good], rounds=1))
        plan = measurer.plan(bad)
    assert [(o.status, o.reason) for o in outcomes] == [
        ("ok", None),
        ("failed", "build: KeyError: 'mr'"),
        ("ok", None),
    ]
    for outcome in (outcomes[0], outcomes[2]):
        assert outcome.code_bytes > 1000
        assert outcome.workspace_bytes is not None
        assert outcome.spread >= 0
    assert plan == {"status": "failed", "reason": "build: KeyError: 'mr'"}


@pytest.fixture(scope="module")
def runner(target):
    local = LocalRunner(find(target), memory=1 << 30)
    yield local
    local.close()


def request(target: str, **more: Any) -> dict[str, Any]:
    common = {"workload": WORKLOAD.key, "knobs": space(target).default(), "seed": 0, "threads": [1], "rounds": 1}
    return {"what": "measure", **common, **more}


def test_cold_caches_are_timed_too(target, library, runner):
    answer = runner.run(library, request(target, flush=True, check=False, aten=False), 60)
    assert answer["status"] == "ok"
    assert answer["seconds"] > 0
    assert "error" not in answer
    assert "aten_seconds" not in answer
    assert all("aten_seconds" not in point for point in answer["points"])


def test_a_candidate_keeps_to_its_cores_memory_and_files(target, directory, runner):
    body = """
      cpu_set_t set; struct rlimit limit;
      sched_getaffinity(0, sizeof set, &set);
      getrlimit(RLIMIT_CORE, &limit);
      void* some = malloc(512ul << 20);
      void* more = malloc(1ul << 30);
      fprintf(stderr, "%d core, dumps %d, %d more\\n", CPU_COUNT(&set), (int)limit.rlim_cur, (some != 0) - (more != 0));
      exit(7);
    """
    pack = sabotaged(target, directory, body, name="curious")(space(target).default())
    with pytest.raises(WorkerError) as caught:
        runner.run(pack, request(target), 60)
    assert caught.value.status == "failed"
    assert str(caught.value) == "ended with exit status 7 before it answered: 1 core, dumps 0, 1 more"


def test_what_a_candidate_writes_is_bounded(target, directory, runner):
    body = """
      setvbuf(stdout, 0, _IOFBF, 1 << 20);
      for (int i = 0; i < 1 << 20; i++) puts("0123456789012345678901234567890");
      struct stat about; fflush(stdout); fstat(1, &about);
      exit(about.st_size <= 16 << 20 ? 11 : 12);
    """
    pack = sabotaged(target, directory, body, name="talkative")(space(target).default())
    with pytest.raises(WorkerError, match="exit status 11 before it answered"):
        runner.run(pack, request(target), 60)


def test_the_server_is_started_again_after_it_died(target, library, runner):
    assert runner.run(library, request(target), 60)["status"] == "ok"
    server = runner._server._process
    server.kill()
    server.wait()
    assert runner.run(library, request(target), 60)["status"] == "ok"
    assert runner._server._process is not server


def test_a_candidate_may_kill_the_server_and_its_keeper(target, directory, library, runner):
    body = """
      char path[64], line[512] = {0};
      snprintf(path, sizeof path, "/proc/%d/stat", getppid());
      read(open(path, O_RDONLY), line, sizeof line - 1);
      int keeper = 0;
      sscanf(strrchr(line, ')') + 4, "%d", &keeper);
      kill(keeper, SIGKILL);
      for (;;) pause();
    """
    pack = sabotaged(target, directory, body, name="thorough")(space(target).default())
    with pytest.raises(WorkerError, match="killed by SIGKILL") as caught:
        runner.run(pack, request(target), 60)
    assert caught.value.status == "crashed"
    assert runner.run(library, request(target), 60)["status"] == "ok"


def test_cores_are_those_that_may_be_used():
    usable = os.sched_getaffinity(0)
    assert processes.cores(1) < usable or len(usable) == 1
    for count in range(1, len(usable) + 2):
        assert processes.cores(count) <= usable
        assert len(processes.cores(count)) == min(count, len(usable))


def test_what_children_leave_behind_is_ended_too():
    """In a fork, as it is for the whole process to adopt orphans."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            processes.adopt_orphans()
            for _ in range(3):
                if not os.fork():
                    os.setsid()
                    os.fork() or os.setsid()
                    os.fork()
                    signal.pause()
            ended = processes.end_children()
            status = 0 if len(ended) >= 3 and not processes.children() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
