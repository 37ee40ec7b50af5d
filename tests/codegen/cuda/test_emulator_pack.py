"""An exported directory as a pack whose kernels run in the emulator."""

import ctypes

import numpy as np
import pytest

from codegen.errors import CodegenError
from codegen.export import device
from codegen.export.pack import PackKernel
from codegen.measure import emulator
from codegen.target import find_gpu
from codegen.workload import Workload
from tests.codegen.cuda import device_kernels as kernels


class Launch(ctypes.Structure):
    _fields_ = [("buffers", ctypes.POINTER(ctypes.c_void_p)), ("sizes", ctypes.POINTER(ctypes.c_int64))]
    _fields_ += [("params", ctypes.POINTER(ctypes.c_float)), ("workspace", ctypes.c_void_p)]
    _fields_ += [("stream", ctypes.c_void_p), ("device", ctypes.c_int32)]


class Leaf(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p)]


class Kernel(ctypes.Structure):
    _fields_ = [(n, ctypes.c_char_p) for n in ("name", "op", "workload", "target", "driver")]
    _fields_ += [("dims", ctypes.c_void_p), ("n_dims", ctypes.c_uint32)]
    _fields_ += [("params", ctypes.c_void_p), ("n_params", ctypes.c_uint32)]
    _fields_ += [("leaves", ctypes.POINTER(Leaf)), ("n_leaves", ctypes.c_uint32)]
    _fields_ += [("plan", ctypes.c_void_p), ("n_plan", ctypes.c_uint32)]


class Pack(ctypes.Structure):
    _fields_ = [("magic", ctypes.c_uint64), ("version", ctypes.c_uint32), ("n_kernels", ctypes.c_uint32)]
    _fields_ += [("arch", ctypes.c_char_p), ("manifest", ctypes.c_char_p), ("kernels", ctypes.POINTER(Kernel))]


class Device(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int32) for n in ("major", "minor", "multiprocessors", "driver", "runtime")]
    _fields_ += [("name", ctypes.c_char * 256)]


def _pack_kernel(kernel, op):
    workload = Workload.parse(f"{op}(float32;M=*,N=*)")
    return PackKernel(workload, find_gpu("sm_80"), "test", "cuda_rows", {"threads": 128}, {"threads": 128}, [kernel])


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A pack of two kernels, on a device that is an sm_86."""
    folder = tmp_path_factory.mktemp("pack")
    both = [_pack_kernel(kernels.SCALED_SUM, "softmax"), _pack_kernel(kernels.copy(), "log_softmax")]
    device.export(both, device.sources(both), folder)
    return ctypes.CDLL(str(emulator.link_pack(folder, folder / "cuda.so", "sm_86")))


def _leaves(library):
    library.tvmops_pack_entry.restype = ctypes.POINTER(Pack)
    table = library.tvmops_pack_entry().contents
    return {
        (kernel.op.decode(), leaf.name.decode()): leaf.function
        for kernel in table.kernels[: table.n_kernels]
        for leaf in kernel.leaves[: kernel.n_leaves]
    }


def _launch(library, op, arrays, sizes, params=(), workspace=None, number=0):
    call = Launch(
        (ctypes.c_void_p * len(arrays))(*[None if a is None else a.ctypes.data for a in arrays]),
        (ctypes.c_int64 * len(sizes))(*sizes),
        (ctypes.c_float * max(1, len(params)))(*params),
        None if workspace is None else workspace.ctypes.data,
        None,
        number,
    )
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_leaves(library)[op, "launch"])(ctypes.byref(call))


def test_the_device_is_the_targets(library):
    about = Device()
    assert library.tvmops_pack_device(0, ctypes.byref(about)) == 0
    assert (about.major, about.minor, about.multiprocessors) == (8, 6, find_gpu("sm_86").multiprocessors)
    assert about.driver == about.runtime == 13000
    assert about.name == b"emulated device"
    assert library.tvmops_pack_device(1, ctypes.byref(about)) == 101  # cudaErrorInvalidDevice


def test_a_kernel_with_a_workspace(library):
    a = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float16)
    b = np.zeros_like(a)
    size = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(_leaves(library)["softmax", "workspace"])
    workspace = np.zeros(size(ctypes.byref((ctypes.c_int64 * 2)(6, 16))), np.uint8)
    assert workspace.size >= 2 * 6 * 16 * 4
    assert _launch(library, "softmax", [a, b], [6, 16], [2.0], workspace) == 0
    x = 2.0 * a.astype(np.float64)
    np.testing.assert_allclose(b, x + (x * x[::-1])[::-1], rtol=1e-3, atol=1e-3)


def test_what_is_found_is_the_text_of_the_error(library):
    a = np.zeros(64, np.float32)
    error = _launch(library, "log_softmax", [a, None], [64])
    assert error == 719  # cudaErrorLaunchFailure
    library.tvmops_pack_error.restype = ctypes.c_char_p
    text = library.tvmops_pack_error(error).decode()
    assert text.startswith("plain_copy_kernel: thread (")
    assert "null pointer" in text
    assert library.tvmops_pack_error(2) == b"cudaErrorMemoryAllocation"
    assert _launch(library, "log_softmax", [a, np.ones(64, np.float32)], [64]) == 0


def test_a_directory_without_sources(tmp_path):
    with pytest.raises(CodegenError, match="no CUDA source"):
        emulator.link_pack(tmp_path, tmp_path / "cuda.so", "sm_80")
