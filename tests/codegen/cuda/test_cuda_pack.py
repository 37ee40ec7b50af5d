"""The CUDA pack that is installed with the extension: when it is made, of what, and for which architectures."""

import subprocess
import sys

import pytest
import torch

from codegen.errors import CodegenError
from codegen.export import cuda_pack, device
from codegen.target import GPU_TARGETS
from tests.codegen.cuda.test_device_packs import read, two_targets
from tests.support import ROOT


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Sources for sm_80 and sm_90a."""
    folder = tmp_path_factory.mktemp("exported")
    device.export(two_targets(), device.sources(two_targets()), folder)
    return folder


def test_the_targets_are_those_of_codegen():
    assert {capability: name for name, t in GPU_TARGETS.items() for capability in [t.capability]} == cuda_pack.TARGETS


@pytest.mark.parametrize(
    ("architectures", "targets"),
    [
        ("8.0", ["sm_80"]),
        ("8.0;8.6;8.9;9.0", ["sm_80", "sm_86", "sm_89", "sm_90a"]),
        ("9.0a+PTX 8.0+PTX", ["sm_90a", "sm_80"]),
        ("Ampere Hopper", ["sm_80", "sm_86", "sm_90a"]),
        ("8.7", ["sm_86"]),  # Orin: the newest that is not newer
        ("7.5;12.0;Turing", []),
        ("8.0;8.0+PTX", ["sm_80"]),
    ],
)
def test_what_pytorch_calls_architectures(architectures, targets):
    assert cuda_pack.targets_of(architectures) == targets


@pytest.mark.parametrize("text", ["sm_80", "8", "eight", "8.0,9.0"])
def test_what_is_no_architecture(text):
    with pytest.raises(CodegenError, match="TORCH_CUDA_ARCH_LIST: not an architecture"):
        cuda_pack.targets_of(text)


@pytest.mark.parametrize(("asked", "cuda", "made"), [("", None, False), ("", "13.0", True), ("0", "13.0", False)])
def test_when_a_pack_is_made(monkeypatch, asked, cuda, made):
    monkeypatch.setenv("TVMOPS_CUDA", asked)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert cuda_pack.wanted() == made


def test_a_cuda_torch_without_nvcc_builds_none(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("TVMOPS_CUDA", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("NVCC", str(tmp_path / "nvcc"))
    assert not cuda_pack.wanted()
    assert "no CUDA kernels are built: NVCC names" in capsys.readouterr().out


def test_a_pack_of_exported_sources(monkeypatch, tmp_path, exported):
    monkeypatch.setenv("TVMOPS_CUDA_SOURCES", str(exported))
    before = sorted(path.name for path in exported.iterdir())
    assert cuda_pack.build(tmp_path / "cuda.so", ["sm_80", "sm_86"])
    count, entries = read(tmp_path / "cuda.so")
    assert (count, list(entries)) == (1, ["sm_80"])
    assert sorted(path.name for path in exported.iterdir()) == before


def test_exported_sources_for_other_targets(monkeypatch, tmp_path, exported):
    monkeypatch.setenv("TVMOPS_CUDA_SOURCES", str(exported))
    with pytest.raises(CodegenError, match=r"has kernels for sm_80, sm_90a, none for sm_86"):
        cuda_pack.build(tmp_path / "cuda.so", ["sm_86"])


def test_a_folder_of_something_else(monkeypatch, tmp_path):
    monkeypatch.setenv("TVMOPS_CUDA_SOURCES", str(tmp_path))
    with pytest.raises(CodegenError, match=r"is not what 'tvmops-codegen export --target sm_80' wrote"):
        cuda_pack.build(tmp_path / "cuda.so", ["sm_86"])


def run(**environment):
    command = [sys.executable, "-c", BLIND, *environment.pop("arguments", ())]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


# As where TVM is not installed.
BLIND = """
import runpy, sys
sys.modules["tvm"] = None
import importlib.util as util
real = util.find_spec
util.find_spec = lambda name, *rest: None if name == "tvm" else real(name, *rest)
runpy.run_module("codegen.export.cuda_pack", run_name="__main__")
"""


def test_without_tvm_and_sources_there_is_none():
    done = run(TVMOPS_CUDA="1", PATH="/usr/local/bin:/usr/bin:/bin")
    assert done.returncode == 2
    assert "there is no apache-tvm to make them, and TVMOPS_CUDA_SOURCES is not set" in done.stdout


def test_an_error_is_one_sentence():
    done = run(TVMOPS_CUDA="yes", PATH="/usr/bin:/bin")
    assert done.returncode == 2
    assert done.stderr == "error: TVMOPS_CUDA is 0 or 1, not 'yes'; TVMOPS_CUDA=0 builds without CUDA kernels\n"
