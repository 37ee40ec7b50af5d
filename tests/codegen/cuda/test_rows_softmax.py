"""The shipped kernels of softmax, log_softmax and their gradients against float64, on the emulator."""

import pytest
import torch

from codegen import ops
from codegen.workload import Workload
from tests.codegen.cuda.device_rows import SIZES, TORCH, inputs, kernels, shipped, within

NAMES = ("softmax", "log_softmax", "softmax_backward", "log_softmax_backward")
FORWARD = ("softmax", "log_softmax")
inf, nan = torch.inf, torch.nan


def results(key, directory):
    """A kernel, and what torch makes of the same inputs in float64."""
    (kernel,) = kernels(key, directory).values()
    operator = ops.load(Workload.parse(key).op)
    (result,) = (o.name for o in kernel.program.operands if o.written and o.role == "row")

    def both(x, rows, n):
        return kernel(x, rows, n)[result], operator.aten(*(t.double() for t in x.values()))

    return both


def test_what_is_shipped():
    assert len(shipped(*NAMES)) == 3 * len(NAMES)


@pytest.mark.parametrize("key", shipped(*NAMES))
def test_against_float64(tmp_path, key):
    both = results(key, tmp_path)
    for rows, n in SIZES:
        within(*both(inputs(key, rows, n), rows, n), 1e-6)
    if Workload.parse(key).op in FORWARD:
        for n in (8, 100, 1001, 9000):
            special(both, n, TORCH[Workload.parse(key).dtype])


def special(both, n, dtype):
    """Rows with what is not finite, and with large numbers: as torch has them."""
    x = torch.randn(8, n)
    x[1, 0] = nan
    x[2, n - 1] = inf
    x[3] = -inf
    x[4, : n // 2] = -inf
    x[5] = inf
    x[6] *= 50
    x[7] = -300
    within(*both({"x": x.to(dtype)}, 8, n), 1e-6)
