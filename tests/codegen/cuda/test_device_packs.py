"""Packs of kernels for GPUs: built here, built from an export by make alone, loaded where there is no GPU."""

import ctypes
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

import tvmops
from codegen.errors import CodegenError
from codegen.export import device, pack
from codegen.export.pack import PackKernel
from codegen.target import find_gpu
from codegen.workload import Workload
from tests.codegen.cuda import device_kernels as kernels
from tests.support import ROOT

ENTRIES = {"tvmops_pack_entry", "tvmops_pack_device", "tvmops_pack_error"}


def pack_kernel(kernel, op, target):
    params = {"operands": 2, "flat": 0, "threads": 128}
    params |= {"role0": 0, "written0": 0, "bytes0": 2, "role1": 0, "written1": 1, "bytes1": 2}
    workload = Workload.parse(f"{op}(float32;M=*,N=*)")
    return PackKernel(workload, find_gpu(target), "test", "cuda_rows", {"threads": 128}, params, [kernel])


def two_targets():
    on_90 = replace(kernels.TMA_COPY, symbol="tma_copy_on_90a")
    return [pack_kernel(kernels.SCALED_SUM, "softmax", "sm_80"), pack_kernel(on_90, "log_softmax", "sm_90a")]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A pack with a kernel for each of two targets, and what it was made from."""
    folder = tmp_path_factory.mktemp("pack")
    assert device.build(two_targets(), folder / "export", folder / "objects", folder / "cuda.so")
    return folder


class Device(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int32) for n in ("major", "minor", "multiprocessors", "driver", "runtime")]
    _fields_ += [("name", ctypes.c_char * 256)]


class Pack(ctypes.Structure):
    _fields_ = [("magic", ctypes.c_uint64), ("version", ctypes.c_uint32), ("n_kernels", ctypes.c_uint32)]
    _fields_ += [("arch", ctypes.c_char_p), ("manifest", ctypes.c_char_p), ("kernels", ctypes.c_void_p)]


def read(library):
    """How many kernels the table has, and the manifest's entries by target."""
    entry = ctypes.CDLL(str(library)).tvmops_pack_entry
    entry.restype = ctypes.POINTER(Pack)
    table = entry().contents
    return table.n_kernels, {k["target"]: k for k in json.loads(table.manifest)["kernels"]}


def exported(library):
    found = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in found.stdout.splitlines()}


def needed(library):
    found = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True)
    return set(re.findall(r"NEEDED.*\[(.*)\]", found.stdout))


def test_a_pack_shows_its_entry_points_and_needs_no_cuda(built):
    assert exported(built / "cuda.so") == ENTRIES
    assert not any(re.search("cuda|nv|stdc", name) for name in needed(built / "cuda.so"))


def test_a_pack_loads_where_there_is_no_gpu(built):
    assert tvmops.load_pack(built / "cuda.so")
    found = {k["name"] for k in tvmops.kernels() if k["pack"] == str(built / "cuda.so")}
    assert found == {"softmax(float32;M=*,N=*)@sm_80", "log_softmax(float32;M=*,N=*)@sm_90a"}


def test_the_manifest_tells_what_the_compiler_made(built):
    count, entries = read(built / "cuda.so")
    assert (count, set(entries)) == (2, {"sm_80", "sm_90a"})
    one = entries["sm_80"]
    assert one["functions"]["scaled_sum_kernel"]["spill_bytes"] == 0
    assert one["functions"]["scaled_sum_kernel"]["instructions"]["STG"] == 1
    assert one["predicted"][0]["seconds"] > 0


def test_a_pack_says_what_a_device_is_or_why_not(built):
    library = ctypes.CDLL(str(built / "cuda.so"))
    library.tvmops_pack_error.restype = ctypes.c_char_p
    about = Device()
    error = library.tvmops_pack_device(0, ctypes.byref(about))
    if error:
        assert error in (35, 100)  # cudaErrorInsufficientDriver, cudaErrorNoDevice
        assert re.search(b"driver|device", library.tvmops_pack_error(error))
    else:
        assert about.major >= 5
        assert about.name
    assert library.tvmops_pack_error(0) == b"no error"


def test_a_pack_is_not_made_twice(built):
    stamps = {
        path: path.stat().st_mtime_ns for path in (built / "objects").glob("*.o") if "pack_device" not in str(path)
    }
    assert len(stamps) == 2
    assert not device.build(two_targets(), built / "export", built / "objects", built / "cuda.so")
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_an_export_is_built_by_make_alone(built, tmp_path):
    export = tmp_path / "export"
    shutil.copytree(built / "export", export)
    assert not [path for path in export.iterdir() if path.suffix in (".o", ".so")]

    def make(*arguments):
        return subprocess.run(["make", "-C", str(export), *arguments], capture_output=True, text=True)

    done = make("-j2", "TARGETS=sm_80")
    assert done.returncode == 0, done.stderr
    assert exported(export / "cuda.so") == ENTRIES
    assert [read(export / "cuda.so")[0], *read(export / "cuda.so")[1]] == [1, "sm_80"]
    assert "up to date" in make("TARGETS=sm_80").stdout

    assert make("LIBRARY=all.so").returncode == 0
    assert [read(export / "all.so")[0], *read(export / "all.so")[1]] == [2, "sm_80", "sm_90a"]

    assert "no kernels for sm_86 here, only for sm_80 sm_90a" in make("TARGETS=sm_80 sm_86").stderr
    assert "/nowhere/nvcc does not run, or is no nvcc" in make("NVCC=/nowhere/nvcc").stderr


def test_an_export_needs_nothing_of_this_project_or_tvm(built):
    names = {path.name for path in (built / "export").iterdir()}
    assert names == {
        *("Makefile", "kernels.mk", "abi.h", "pack.c", "pack.map", "pack_device.cu", "manifest.json"),
        *("kernel-scaled_sum.cu", "kernel-tma_copy_on_90a.cu"),
    }
    (entry, _) = json.loads((built / "export" / "manifest.json").read_text())["kernels"]
    assert entry["sources"] == ["kernel-scaled_sum.cu"]
    for path in (built / "export").iterdir():
        assert str(ROOT) not in path.read_text()


def test_a_source_that_is_gone_is_removed(tmp_path):
    (tmp_path / "mine.cu").touch()
    chosen = two_targets()[:1]
    (tmp_path / "kernel-old.cu").touch()
    device.export(chosen, device.sources(chosen), tmp_path)
    assert {path.name for path in tmp_path.glob("*.cu")} == {"kernel-scaled_sum.cu", "mine.cu", "pack_device.cu"}


def test_the_embedded_manifest_is_that_of_the_chosen_targets(tmp_path):
    some = [*two_targets(), pack_kernel(kernels.copy("on_86"), "softmax", "sm_86")]
    some = [replace(k, leaves=[]) for k in some]
    (tmp_path / "abi.h").write_text(pack.abi_header().read_text())
    (tmp_path / "pack.c").write_text(
        pack.table([replace(k, leaves=[replace_leaf(k)]) for k in two_targets()] + some[2:])
    )
    for chosen in ([], ["sm_80"], ["sm_90a"], ["sm_90a", "sm_86"], ["sm_80", "sm_86"]):
        expected = chosen or ["sm_80", "sm_90a", "sm_86"]
        flags = [f"-DTVMOPS_WITH_{name}" for name in chosen]
        done = subprocess.run(["cc", "-E", "-P", *flags, str(tmp_path / "pack.c")], capture_output=True, text=True)
        literal = done.stdout[done.stdout.index("manifest[] =") :].split(";\n")[0]
        text = "".join(json.loads(part) for part in re.findall(r'"(?:[^"\\]|\\.)*"', literal))
        assert sorted(k["target"] for k in json.loads(text)["kernels"]) == sorted(expected)


def replace_leaf(kernel):
    return device.as_leaves(kernel, device.sources([kernel]))[0]


def test_two_kernels_of_one_symbol():
    twice = [pack_kernel(kernels.SCALED_SUM, "softmax", "sm_80"), pack_kernel(kernels.SCALED_SUM, "softmax", "sm_86")]
    with pytest.raises(CodegenError, match=r"@sm_86: kernels for sm_86 and sm_80 have the same symbol scaled_sum"):
        device.sources(twice)


def test_no_kernel_at_all(tmp_path):
    with pytest.raises(CodegenError, match="there are no kernels for these targets"):
        device.export([], {}, tmp_path)


def test_a_missing_nvcc_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("NVCC", os.fspath(tmp_path / "nvcc"))
    with pytest.raises(CodegenError, match=r"NVCC names .* as nvcc, but it does not run"):
        device.build(two_targets(), tmp_path, tmp_path, tmp_path / "cuda.so")
