"""Finding nvcc, compiling with it, and reading what ptxas says."""

import os
import stat
import subprocess

import pytest

from codegen.cuda.lower import emit
from codegen.errors import CodegenError
from codegen.export import nvcc, sass
from codegen.export.pack import abi_header
from codegen.target import GPU_TARGETS, find_gpu
from tests.codegen.cuda import device_kernels as kernels

INCLUDE = [abi_header().parent]
SPILLS = """\
ptxas info    : 0 bytes gmem
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient \
register resources for the wgmma pipeline in function 'second'
ptxas info    : Compiling entry function 'first' for 'sm_90a'
ptxas info    : Function properties for first
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 167 registers, used 1 barriers, 49152 bytes smem, 380 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    560 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""


@pytest.fixture
def source(tmp_path):
    """A .cu of a small kernel."""
    path = tmp_path / "copy.cu"
    path.write_text(emit(kernels.copy(), find_gpu("sm_80")).text)
    return path


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("name", GPU_TARGETS)
def test_every_target_is_known_to_nvcc(name, tmp_path, source):
    (usage,) = nvcc.compile_source(source, tmp_path / "copy.cubin", name, INCLUDE)
    assert usage.function == "plain_copy_kernel"
    assert 0 < usage.registers < 64
    assert (usage.stack, usage.spill_stores, usage.spill_loads, usage.shared) == (0, 0, 0, 0)
    found = sass.kinds(sass.disassemble(tmp_path / "copy.cubin")["plain_copy_kernel"])
    assert found["LDG"] == found["STG"] == 1


def test_an_object_holds_the_launcher_and_the_device_code(tmp_path, source):
    nvcc.compile_source(source, tmp_path / "copy.o", "sm_80", INCLUDE)
    assert b"tvmops_launch_plain_copy" in (tmp_path / "copy.o").read_bytes()
    assert list(sass.disassemble(tmp_path / "copy.o")) == ["plain_copy_kernel"]


def test_an_unknown_architecture(tmp_path, source):
    with pytest.raises(CodegenError, match=r"nvcc \d+\.\d+\.\d+ \(.*\) does not know the architecture 'sm_81'"):
        nvcc.compile_source(source, tmp_path / "copy.o", "sm_81", INCLUDE)


def test_a_source_with_an_error(tmp_path):
    (tmp_path / "wrong.cu").write_text("__global__ void f() { x = 1; }")
    with pytest.raises(CodegenError, match=r'nvcc can\'t compile .*wrong.cu for sm_80: .*identifier "x" is undefined'):
        nvcc.compile_source(tmp_path / "wrong.cu", tmp_path / "wrong.o", "sm_80")


def test_no_nvcc_at_all(monkeypatch, tmp_path, source):
    monkeypatch.setattr(nvcc, "_candidates", lambda: iter(()))
    monkeypatch.delenv("NVCC", raising=False)
    with pytest.raises(CodegenError, match=r"nvcc is not found: .*pip install 'tvmops\[cuda\]' brings it"):
        nvcc.compile_source(source, tmp_path / "copy.o", "sm_80", INCLUDE)


@pytest.mark.parametrize("text", [None, "exit 3", "echo hello"], ids=["missing", "fails", "something else"])
def test_an_nvcc_that_is_none(monkeypatch, tmp_path, text):
    named = tmp_path / "nvcc"
    if text:
        script(named, text)
    monkeypatch.setenv("NVCC", str(named))
    with pytest.raises(CodegenError, match=r"NVCC names .* as nvcc, but it does not (run|say)"):
        nvcc.find()


def test_where_nvcc_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"), prepend=os.pathsep)
    at_home = script(tmp_path / "home" / "bin" / "nvcc", "exit 0")
    on_path = script(tmp_path / "path" / "nvcc", "exit 0")
    assert list(nvcc._candidates())[:2] == [str(on_path), str(at_home)]


def test_the_wheels_serve_where_nothing_is_installed(monkeypatch, tmp_path, source):
    found = next(nvcc._wheels("nvcc"), None)
    if found is None:
        pytest.skip("the wheels of the extra 'cuda' are not installed")
    monkeypatch.setenv("NVCC", str(found))
    nvcc.compile_source(source, tmp_path / "copy.o", "sm_90a", INCLUDE)
    assert nvcc.find().runtime.name == "libcudart_static.a"
    assert "STG" in sass.kinds(sass.disassemble(tmp_path / "copy.o")["plain_copy_kernel"])


def test_what_ptxas_says():
    first, second = nvcc.usages(SPILLS)
    assert first == nvcc.Usage("first", "sm_90a", 167, 0, 0, 0, 49152)
    assert (second.registers, second.stack, second.spill_stores, second.spill_loads) == (255, 560, 12, 16)
    assert "serialized" in second.losses[0]
    nvcc.refuse_spills([first], "the kernel")
    with pytest.raises(CodegenError, match="the kernel: second spills registers, 12 bytes of stores and 16 of loads"):
        nvcc.refuse_spills([first, second], "the kernel")


@pytest.mark.parametrize(
    ("usage", "sentence"),
    [
        (nvcc.Usage("f", "sm_80", 32, 64, 0, 0, 0), "k: f keeps 64 bytes of arrays in memory, not in registers"),
        (nvcc.Usage("f", "sm_80", 32, 0, 0, 0, 0, ("it is slow (C7510)",)), r"k: f: it is slow \(C7510\)"),
    ],
)
def test_code_that_is_slow_for_other_reasons(usage, sentence):
    with pytest.raises(CodegenError, match=sentence):
        nvcc.refuse_spills([usage], "k")


def test_a_kernel_that_spills_is_seen(tmp_path):
    (tmp_path / "spills.cu").write_text(
        'extern "C" __global__ void __launch_bounds__(1024, 2) spills(float* p) {\n'
        "  float x[96];\n"
        "#pragma unroll\n  for (int i = 0; i < 96; ++i) x[i] = p[i * 1024 + threadIdx.x];\n"
        "  __syncthreads();\n"
        "#pragma unroll\n  for (int i = 0; i < 96; ++i) p[i * 1024 + threadIdx.x] = x[95 - i] * x[i];\n}\n"
    )
    found = nvcc.compile_source(tmp_path / "spills.cu", tmp_path / "spills.cubin", "sm_80")
    with pytest.raises(CodegenError, match=r"spills\.cu: spills (spills registers|keeps)"):
        nvcc.refuse_spills(found, "spills.cu")


def test_machine_code_of_several_architectures_from_one_source(tmp_path, source):
    found = nvcc.compile_source(source, tmp_path / "copy.fatbin", "sm_80", INCLUDE, ["sm_86", "sm_89"])
    assert [usage.architecture for usage in found] == ["sm_80", "sm_86", "sm_89"]
    for name in ("sm_80", "sm_86", "sm_89"):
        assert sass.kinds(sass.disassemble(tmp_path / "copy.fatbin", name)["plain_copy_kernel"])["STG"] == 1


def test_a_launch_of_clusters_compiles(tmp_path):
    (tmp_path / "clusters.cu").write_text(emit(kernels.CLUSTERS, find_gpu("sm_90a")).text)
    (usage,) = nvcc.compile_source(tmp_path / "clusters.cu", tmp_path / "clusters.o", "sm_90a", INCLUDE)
    assert usage.function == "clusters_kernel"


def test_launchers_need_no_library_of_cpp(tmp_path):
    """A pack is linked as C; this one raises the limit of shared memory and finds a function of the driver."""
    source = tmp_path / "tma_copy.cu"
    source.write_text(emit(kernels.TMA_COPY, find_gpu("sm_90a")).text)
    made = source.with_suffix(".o")
    nvcc.compile_source(source, made, "sm_90a", INCLUDE)
    needed = subprocess.run(["nm", "-u", str(made)], capture_output=True, text=True, check=True).stdout
    assert "cudaLaunchKernel" in needed
    assert not [name for name in needed.split() if name.startswith(("_Z", "__cxa", "__gxx", "_Unwind"))]
