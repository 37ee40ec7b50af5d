"""What `make gpu-check` compares the kernels of norms with: every result has its own, from ATen and in float64."""

import pytest

from benchmarks.gpu import cases, devices
from benchmarks.gpu.worker import as_tuple, relative_error
from codegen import ops, spaces
from codegen.cuda.lower import DeviceSource
from codegen.measure import device_batch
from codegen.measure.device_points import Point
from codegen.target import find_gpu

TARGET = find_gpu("sm_80")
GRADIENTS = [w for w in ops.device_shipped(TARGET) if w.op.endswith(("layer_norm_backward", "rms_norm_backward"))]


def test_gradients_of_norms_ship():
    assert len(GRADIENTS) == 12


@pytest.mark.parametrize("workload", GRADIENTS, ids=lambda w: w.key)
def test_every_gradient_of_a_norm_is_judged(workload):
    space = spaces.find(workload, TARGET)
    candidate = device_batch.Candidate(workload, TARGET, space, space.default(), "shipped", 0, True)
    request = device_batch.request_of(candidate, DeviceSource("x", TARGET, "", (), False, {}), [None])
    problem = cases.problem(request, Point({"M": 7, "N": 64}), 0, devices.make("emulated"))
    exact, aten = as_tuple(problem.exact()), as_tuple(problem.aten())
    assert [out.shape for out in problem.outputs] == [right.shape for right in exact]
    for right, other in zip(exact, aten, strict=True):
        assert relative_error(other, right) <= 4 * cases.ROUNDING[workload.dtype]
