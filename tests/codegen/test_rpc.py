"""A farm on loopback: TVM's tracker and servers of ours, all in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tvmops
from codegen import spaces, tune
from codegen.commands import app
from codegen.commands.measure import runner_of
from codegen.errors import CodegenError
from codegen.measure import tracker
from codegen.measure.measurer import LocalMeasurer
from codegen.measure.rpc import RpcRunner
from codegen.measure.runner import Machine
from codegen.records import store
from codegen.search.strategy import identity
from codegen.target import TARGETS, find
from codegen.worker import WorkerError
from codegen.workload import Workload
from tests.codegen.sabotage import CRASH, WORKLOAD, here, sabotaged

ROOT = Path(__file__).resolve().parents[2]
# What a process that ends, or is killed, leaves: long enough for a busy machine.
PATIENCE = 60.0
KEY = "here"


class Farm:
    """A tracker, and servers that are started and killed."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self.alive: list[subprocess.Popen[str]] = []  # servers
        self.address = ("127.0.0.1", int(said(self._start("tests.codegen.rpc_tracker"))))

    @property
    def tracker(self) -> str:
        return "{}:{}".format(*self.address)

    def servers(self, count: int) -> None:
        """Sees to it that there are so many: earlier tests may have used some up."""
        self.alive = [process for process in self.alive if process.poll() is None]
        started = [
            self._start("codegen", "measure", "serve", "--tracker", self.tracker, "--key", KEY)
            for _ in range(count - len(self.alive))
        ]
        for process in started:
            assert said(process).startswith(f"serving {KEY} on 127.0.0.1:")
        self.alive += started
        deadline = time.monotonic() + PATIENCE
        while tracker.summary(self.address).get(KEY, 0) < count:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def busy(self) -> subprocess.Popen[str]:
        """The server that has a session."""
        (found,) = [process for process in self.alive if children(process.pid)]
        return found

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, text=True, stdout=-1, stderr=subprocess.DEVNULL
        )
        self.processes.append(process)
        return process


def said(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def children(pid: int) -> list[int]:
    return [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    made = Farm()
    yield made
    made.close()


@pytest.fixture(scope="module")
def target() -> str:
    return next(name for name in tvmops._C.usable_targets() if name in TARGETS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("candidates")


def request(choice, workload: Workload = WORKLOAD):
    common = {"what": "measure", "workload": workload.key, "knobs": dict(choice), "seed": 0}
    return {**common, "threads": [1], "rounds": 1}


@pytest.fixture(scope="module")
def choice(target):
    return spaces.find(WORKLOAD, find(target)).default()


@pytest.fixture(scope="module")
def sound(target, choice, directory) -> Path:
    return here(WORKLOAD, target, directory)(choice)


def test_a_session_outlives_bad_candidates_and_is_given_back(farm, target, choice, sound, directory):
    farm.servers(1)
    runner = RpcRunner(farm.address, KEY, find(target))
    machine = runner.about()
    assert set(machine.about) == {"cpu", "threads", "torch", "tvm"}
    assert target in machine.targets
    assert runner.run(sound, request(choice), 60)["status"] == "ok"
    bad = sabotaged(target, directory, CRASH)(choice)
    with pytest.raises(WorkerError, match="SIGSEGV") as caught:
        runner.run(bad, request(choice), 60)
    assert caught.value.status == "crashed"
    assert runner.run(sound, request(choice), 60)["status"] == "ok"
    with pytest.raises(CodegenError, match=rf"none of the 1 servers for '{KEY}' .* was free within 0.5 s"):
        RpcRunner(farm.address, KEY, wait=0.5).about()
    runner.close()

    again = RpcRunner(farm.address, KEY, find(target), wait=1.0)
    again._machine = Machine({"cpu": "Another CPU", "threads": 8, "torch": "2", "tvm": "0"}, (target,))
    with pytest.raises(CodegenError, match=r"is left on Another CPU, 8 threads, torch 2, where this was begun; the"):
        again.run(sound, request(choice), 60)


def test_a_candidate_that_takes_two_servers_down_is_recorded_so(farm, target, choice, sound, directory):
    farm.servers(3)
    # Above the candidate: the server of forks, its keeper, the session, the RPC server.
    climb = (
        "char* strrchr(const char*, int); char name[64], text[512]; int pid = getpid(), up = 0; "
        "for (int i = 0; i < 4; i++) { "
        'snprintf(name, 64, "/proc/%d/stat", pid); FILE* f = fopen(name, "r"); text[fread(text, 1, 511, f)] = 0; '
        "fclose(f); sscanf(strrchr(text, ')'), \") %*c %d\", &up); pid = up; } kill(pid, SIGKILL); for (;;) pause();"
    )
    bad = sabotaged(target, directory, climb, name="climber")(choice)
    runner = RpcRunner(farm.address, KEY, find(target))
    with pytest.raises(WorkerError, match="2 servers were lost while it ran") as caught:
        runner.run(bad, request(choice), 60)
    assert caught.value.status == "crashed"
    assert runner.run(sound, request(choice), 60)["status"] == "ok"
    runner.close()
    assert sum(process.poll() == -signal.SIGKILL for process in farm.alive) == 2


def test_a_search_goes_on_where_a_server_is_killed_until_none_is_left(farm, target, tmp_path, monkeypatch):
    farm.servers(2)
    workload = Workload.parse("softmax(float32;M=8,N=64)")
    space = spaces.find(workload, find(target), "derived")
    path = store.file_of(tmp_path, target)
    runner = RpcRunner(farm.address, KEY, find(target))
    about = runner.about().about
    victim, connect, run = farm.busy(), runner._connect, runner.run
    started, connected = [], []

    def counted():
        connected.append(len(started))
        return connect()

    def third_takes_longer(pack, what, limit):
        started.append(identity(what["knobs"]))
        if len(started) != 3:
            return run(pack, what, limit)
        threading.Timer(0.5, victim.kill).start()
        return run(pack, {**what, "rounds": 1000}, limit)  # which takes at least two seconds

    monkeypatch.setattr(runner, "_connect", counted)
    monkeypatch.setattr(runner, "run", third_takes_longer)
    with LocalMeasurer(workload, find(target), space.name, [1], runner=runner) as measurer:
        search = tune.Search(workload, find(target), space, "random", 0, path, about, measurer)
        search.run(5, None, lambda _: None)
        kept = path.read_bytes()
        for process in farm.alive:
            process.kill()
            process.wait()
        with pytest.raises(CodegenError, match=f"has no server for the key '{KEY}': it has no servers at all"):
            search.run(6, None, lambda _: None)
    assert path.read_bytes() == kept
    started.pop()
    assert victim.wait(PATIENCE) == -signal.SIGKILL
    assert connected[0] == 3  # the other server, during the third
    records = store.read(path, strict=True)
    assert [identity(r.knobs) for r in records] == started
    assert len(set(started)) == 5
    assert {r.status for r in records} == {"ok"}
    assert all(r.machine == about for r in records)


def test_a_server_that_hangs_is_left_for_another(farm, target, choice, sound):
    farm.servers(2)
    runner = RpcRunner(farm.address, KEY, find(target), slack=2.0)
    runner.about()
    victim = farm.busy()
    for pid in [*children(victim.pid), victim.pid]:
        os.kill(pid, signal.SIGSTOP)
    assert runner.run(sound, request(choice), 6)["status"] == "ok"
    runner.close()
    victim.kill()


def test_runners_are_found_by_name(farm, target):
    make, goal, about = runner_of("local", "native", None, None)
    make().close()
    assert goal.name == target
    farm.servers(1)
    _, found, there = runner_of("rpc", target, farm.tracker, KEY)
    assert (found, there) == (goal, about)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("boat", "native", None, None), "unknown runner 'boat'; known: local, rpc"),
        (("rpc", "native", None, KEY), "the runner rpc needs --tracker HOST:PORT and --key KEY"),
        (("local", "native", None, KEY), "--tracker and --key are for the runner rpc"),
        (("rpc", "native", "127.0.0.1:x", KEY), "not an address: '127.0.0.1:x'"),
        (("rpc", "vax", "127.0.0.1:1", KEY), "unknown target 'vax'"),
        (("rpc", "native", "127.0.0.1:1", KEY), "the tracker 127.0.0.1:1 is not reached: Connection refused"),
    ],
)
def test_a_runner_that_there_is_not_is_named(arguments, said):
    with pytest.raises(CodegenError, match=said):
        runner_of(*arguments)


def test_what_cannot_be_reached_is_told_in_one_sentence(farm):
    serve = ["measure", "serve", "--key", "any", "--tracker"]
    for arguments, sentence in (
        ([*serve, "127.0.0.1:1"], "the tracker 127.0.0.1:1 is not reached: Connection refused"),
        ([*serve, "nowhere"], "not an address: 'nowhere' (expected HOST:PORT)"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert sentence in result.stderr
    with pytest.raises(CodegenError, match=r"the tracker 127.0.0.1:1 is not reached: Connection refused"):
        RpcRunner(("127.0.0.1", 1), "any").about()
    with pytest.raises(CodegenError, match=f"the tracker {farm.tracker} has no server for the key 'none'"):
        RpcRunner(farm.address, "none").about()
