"""Emitted kernels run on the emulator; numbers are judged against float64."""

import numpy as np
import pytest

from codegen.cuda.lower import emit
from codegen.measure import emulator
from codegen.target import find_gpu
from tests.codegen.cuda import device_kernels

ORDERS = ("forward", "backward", "random")


def _compiled(kernel, directory):
    return emulator.compile(emit(kernel, find_gpu("sm_80")).text, directory)


@pytest.mark.parametrize("order", ORDERS)
def test_functions_with_workspaces(tmp_path, order):
    library = _compiled(device_kernels.SCALED_SUM, tmp_path)
    emulated = emulator.Emulated(library, "sm_80", order=order)
    a = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float16)
    b = np.zeros_like(a)
    emulated.launch("scaled_sum", [a, b], [6, 16], [2.0])
    x = 2.0 * a.astype(np.float64)
    np.testing.assert_allclose(b, x + (x * x[::-1])[::-1], rtol=1e-3, atol=1e-3)
    assert emulated.workspace("scaled_sum", [6, 16]) >= 2 * 6 * 16 * 4


def test_shared_memory_is_read_again_after_it_changed(tmp_path):
    library = _compiled(device_kernels.STALE, tmp_path)
    a, b = np.arange(256, dtype=np.float16), np.zeros(256, np.float32)
    emulator.Emulated(library, "sm_80").launch("stale", [a, b], [])
    np.testing.assert_array_equal(b.reshape(2, 32, 4)[:, ::-1], a.reshape(2, 32, 4))


def test_buffers_of_a_warp(tmp_path):
    library = _compiled(device_kernels.WARP, tmp_path)
    a, b = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    emulator.Emulated(library, "sm_80").launch("two_warp_buffers", [a, b], [])
    np.testing.assert_array_equal(b.reshape(8, 32)[::-1], 2 * a.reshape(8, 32))
