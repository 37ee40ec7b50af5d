"""Launchers: with a CUDA runtime that only writes down what it is asked, and in the emulator."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from codegen.cuda import repair
from codegen.cuda.lower import emit
from codegen.export.pack import abi_header
from codegen.measure import emulator
from codegen.target import find_gpu
from tests.codegen.cuda import device_kernels as kernels

FAKE = Path(__file__).parent / "fake_cuda"


class Call(ctypes.Structure):
    """``tvmops_launch``."""

    _fields_ = [
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("params", ctypes.POINTER(ctypes.c_float)),
        ("workspace", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("device", ctypes.c_int32),
    ]


class Faked:
    """A kernel's launcher, without its device code."""

    def __init__(self, kernel, target, folder):
        source = emit(kernel, find_gpu(target))
        head = source.text[: source.text.index('#include "abi.h"')]
        launcher = source.text[source.text.index("// The launcher.") :]
        stubs = "".join(f"static void {launch.name}() {{}}\n" for launch in source.launches)
        (folder / "launcher.cpp").write_text(head + '#include "abi.h"\n' + stubs + launcher)
        flags = ["-std=c++17", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused-function"]
        flags += ["-I", str(FAKE), "-I", str(abi_header().parent), str(folder / "launcher.cpp")]
        subprocess.run(["g++", *flags, "-o", str(folder / "launcher.so")], check=True)
        self.library, self.symbol = ctypes.CDLL(str(folder / "launcher.so")), kernel.symbol
        self.library.fake_log.restype = ctypes.c_char_p

    def launch(self, sizes, params=(), device=0, stream=0, error=0, has_encode=True):
        """The status, and the calls of the runtime."""
        self.library.fake_reset(error, has_encode)
        given = (ctypes.c_void_p * 4)(1000, 2000, 3000, 4000)
        call = Call(given, (ctypes.c_int64 * 8)(*sizes), (ctypes.c_float * 4)(*params), 5000, stream, device)
        status = getattr(self.library, f"tvmops_launch_{self.symbol}")(ctypes.byref(call))
        return status, self.library.fake_log().decode().splitlines()

    def workspace(self, sizes):
        function = getattr(self.library, f"tvmops_workspace_{self.symbol}")
        function.restype = ctypes.c_int64
        return function((ctypes.c_int64 * 8)(*sizes))


@pytest.fixture(scope="module")
def scaled_sum(tmp_path_factory):
    """Three device functions, two workspaces."""
    return Faked(kernels.SCALED_SUM, "sm_80", tmp_path_factory.mktemp("scaled_sum"))


@pytest.fixture(scope="module")
def tma_copy(tmp_path_factory):
    """A tensor map, and 64 KiB of shared memory."""
    return Faked(kernels.TMA_COPY, "sm_90a", tmp_path_factory.mktemp("tma_copy"))


def test_every_device_function_is_launched_with_what_the_sizes_ask_for(scaled_sum):
    status, log = scaled_sum.launch([5, 104], [2.0], stream=7)
    assert status == 0
    assert log == ["launch 5 1 1 of 128 1 1, 0 bytes, stream 7"] * 3  # 520 elements


def test_the_workspace_is_as_large_as_the_sizes_ask_for(scaled_sum):
    assert scaled_sum.workspace([5, 24]) == 2 * 512  # 480 bytes each, up to a multiple of 256
    assert scaled_sum.workspace([1 << 15, 1 << 15]) == 2 * 4 << 30  # more than an int32 holds
    assert scaled_sum.workspace([0, 8]) == 0


def test_nothing_is_launched_for_nothing(scaled_sum):
    assert scaled_sum.launch([0, 8], [1.0]) == (0, [])


def test_a_grid_that_is_too_large_is_refused(tma_copy):
    status, log = tma_copy.launch([65536 * 64, 8])
    assert status == 9
    assert not any("launch" in line for line in log)
    assert log[-1] == "cleared"


def test_an_error_is_returned_and_cleared(scaled_sum):
    status, log = scaled_sum.launch([5, 104], [2.0], error=701)
    assert status == 701
    assert [line.split()[0] for line in log] == ["launch", "cleared"]  # no further launch
    assert scaled_sum.launch([5, 104], [2.0])[0] == 0


def test_another_device_is_set_and_set_back(scaled_sum):
    for error in (0, 701):
        status, log = scaled_sum.launch([1, 8], [2.0], device=3, error=error)
        assert status == error
        assert (log[0], log[-1]) == ("device 3", "device 0")
        assert scaled_sum.library.fake_device() == 0


def test_shared_memory_is_asked_for_once_a_device(tma_copy):
    asked = "attribute 8 = 65536"
    assert asked in tma_copy.launch([64, 64], device=1)[1]
    assert asked not in tma_copy.launch([64, 64], device=1)[1]
    assert asked in tma_copy.launch([64, 64], device=2)[1]
    assert asked in tma_copy.launch([64, 64], device=64)[1]
    assert asked in tma_copy.launch([64, 64], device=64)[1]


def test_a_tensor_map_has_the_sizes_of_the_launch(tmp_path):
    launcher = Faked(kernels.TMA_COPY, "sm_90a", tmp_path)
    status, log = launcher.launch([100, 200])
    assert status == 0
    assert log[:2] == [
        "entry cuTensorMapEncodeTiled 12000",
        "map of type 6, rank 2, at 1000: 200 100, strides 400, box 64 64, steps 1 1, modes 0 0 2 0",
    ]
    assert log[-1] == "launch 4 2 1 of 128 1 1, 65536 bytes, stream 0"
    assert "entry" not in "".join(launcher.launch([100, 200])[1])  # it is known by now


def test_a_driver_without_tensor_maps(tmp_path):
    launcher = Faked(kernels.TMA_COPY, "sm_90a", tmp_path)
    status, log = launcher.launch([64, 64], has_encode=False)
    assert status == 35  # cudaErrorInsufficientDriver
    assert log[-1] == "cleared"
    assert launcher.launch([64, 64])[0] == 0  # a driver that is found later is taken


def test_clusters_of_blocks(tmp_path):
    status, log = Faked(kernels.CLUSTERS, "sm_90a", tmp_path).launch([300], stream=7)
    assert status == 0
    assert log == ["clusters of 2 1 1: launch 6 1 1 of 128 1 1, 0 bytes, stream 7"]


def run(kernel, target, folder, buffers, sizes=(), params=()):
    library = emulator.compile(emit(kernel, find_gpu(target)).text, folder)
    emulator.Emulated(library).launch(kernel.symbol, buffers, list(sizes), list(params))


def test_three_device_functions_and_two_workspaces_on_numbers(tmp_path):
    a = np.random.default_rng(0).standard_normal((5, 104)).astype(np.float16)
    b = np.zeros_like(a)
    run(kernels.SCALED_SUM, "sm_80", tmp_path, [a, b], a.shape, [1.5])
    x = a.astype(np.float64) * 1.5
    # B = X + flip(Y) with Y = X * flip(X), and flip(Y) is Y again
    np.testing.assert_allclose(b, x + x * x[::-1], rtol=1e-3, atol=1e-3)


def test_fragments_of_a_warp_on_numbers(tmp_path):
    a, b = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    run(kernels.WARP, "sm_80", tmp_path, [a, b])
    np.testing.assert_array_equal(b.reshape(8, 32), 2 * a.reshape(8, 32)[::-1])


def test_a_vector_read_across_a_barrier_on_numbers(tmp_path, monkeypatch):
    a, b = np.arange(256, dtype=np.float16), np.zeros(256, np.float32)
    expected = a.reshape(2, 32, 4)[:, ::-1].astype(np.float32).ravel()
    run(kernels.STALE, "sm_80", tmp_path / "repaired", [a, b])
    np.testing.assert_array_equal(b, expected)
    monkeypatch.setattr(repair, "stale_vectors", lambda source: source)
    run(kernels.STALE, "sm_80", tmp_path / "as_it_was", [a, b])
    np.testing.assert_array_equal(b[:128], expected[:128])
    assert (b[128:] != expected[128:]).all()  # without the repair the second half is that of the first
