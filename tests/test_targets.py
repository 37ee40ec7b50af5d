"""Every target that this CPU runs, each in a process of its own, as TVMOPS_TARGET is read once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import tvmops
from tests.support import ROOT, python

usable = pytest.mark.parametrize("target", sorted({k["target"] for k in tvmops.kernels() if k["usable"]}))


def test_this_machine_has_kernels() -> None:
    assert any(k["usable"] for k in tvmops.kernels())


@usable
def test_no_byte_beyond_the_operands_is_touched(target: str) -> None:
    done = python("from tests.guarded import main; main()", env={"TVMOPS_TARGET": target})
    assert int(done.stdout) > 1000


@usable
def test_the_operators_on_each_target(target: str) -> None:
    """The tests of the operators once more, with fewer examples."""
    if not any(k["target"] != target and k["usable"] for k in tvmops.kernels()) or os.environ.get("TVMOPS_TARGET"):
        pytest.skip("the only target here: the tests above ran on it")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("TVMOPS_", "PYTEST_"))}
    env |= {"TVMOPS_TARGET": target, "TVMOPS_TEST_EXAMPLES": "15"}
    tests = [f"tests/{name}.py" for name in ("ops/test_matmul", "ops/test_linear", "test_threads")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]


@usable
def test_a_target_can_be_forced(target: str) -> None:
    code = """
import torch, tvmops
a = torch.randn(20, 30)
with tvmops.mode("force"):
    name = tvmops.explain(tvmops.mm, a, a.t())[0].kernel
print({k["name"]: k["target"] for k in tvmops.kernels()}[name])
print(*sorted(k["target"] for k in tvmops.kernels() if k["usable"]))
"""
    served, allowed = python(code, env={"TVMOPS_TARGET": target}).stdout.splitlines()
    assert served == target
    assert target in allowed.split()


def test_a_target_below_lets_none_above_run() -> None:
    if "x86-64-v4" not in tvmops._C.usable_targets():
        pytest.skip("this CPU has no target but the lowest")
    assert python(
        "import tvmops; print(tvmops._C.usable_targets())", env={"TVMOPS_TARGET": "x86-64-v3"}
    ).stdout.strip() == str(["x86-64-v3"])


@pytest.mark.parametrize("name", ["x86-64-v9", "AVX2", " "])
def test_an_unknown_target(name: str) -> None:
    done = python("import tvmops", env={"TVMOPS_TARGET": name}, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert f"TVMOPS_TARGET: unknown target '{name}'" in last
    assert "x86-64-v3" in last


def test_a_target_that_this_cpu_lacks() -> None:
    missing = set(tvmops._C.known_targets()) - set(tvmops._C.usable_targets())
    if os.environ.get("TVMOPS_TARGET") or not missing:
        pytest.skip("this CPU has them all, or is told to have few")
    name = min(missing)
    done = python("import tvmops", env={"TVMOPS_TARGET": name}, check=False)
    assert done.returncode == 1
    assert f"target '{name}' is not supported by this CPU" in done.stderr.strip().splitlines()[-1]


def test_an_empty_target_is_none() -> None:
    assert python("import tvmops", env={"TVMOPS_TARGET": ""}).returncode == 0
