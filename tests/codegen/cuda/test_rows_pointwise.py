"""The shipped kernels of pointwise functions, their gradients and gates against float64, on the emulator."""

import pytest
import torch

from codegen import ops
from codegen.ops import fused
from codegen.ops.pointwise import ON_GPU
from codegen.workload import Workload
from tests.codegen.cuda.device_rows import TORCH, inputs, kernels, shipped, within

# Of the result, in units of its last place; low precision is one rounding of something better.
ULPS = {"float32": 2.0, "bfloat16": 0.51, "float16": 0.52}
GRADIENTS = [name for name in ON_GPU if name.endswith("_backward")]
FUNCTIONS = [name for name in ON_GPU if name not in GRADIENTS]
COUNTS = (1, 3, 8, 100, 1000, 4099)


def everywhere(dtype):
    """Numbers of every size and sign, and what is not finite."""
    exponents = torch.arange(-140, 128, 0.03125, dtype=torch.float64)
    x = torch.cat([2.0**exponents, -(2.0**exponents), torch.linspace(-20, 20, 4001, dtype=torch.float64)])
    return torch.cat([x, torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan])]).to(TORCH[dtype])[None]


def exact(name, x):
    """The function without the cancellation that torch's own formulas have in the far tails."""
    x = x.double()
    y = {
        "gelu": lambda: 0.5 * x * torch.special.erfc(-x * 0.5**0.5),
        "gelu_tanh": lambda: x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
        "silu": lambda: x * torch.sigmoid(x),
    }[name]()
    return y.where(x != -torch.inf, 0.0)


def ulps(got, wanted):
    """The largest error; a result that is subnormal in float32 may be zero."""
    info = torch.finfo(got.dtype)
    finite = wanted.abs() <= info.max
    others = wanted[~finite].to(got.dtype)
    torch.testing.assert_close(got[~finite], others, rtol=0, atol=0, equal_nan=True)
    unit = torch.exp2(torch.floor(torch.log2(wanted[finite].abs().clamp(min=info.tiny)))) * info.eps
    error = (got.double()[finite] - wanted[finite]).abs() / unit
    flushed = (got[finite] == 0) & (wanted[finite].abs() < 2.0**-126)
    return error[~flushed].max().item()


def test_what_is_shipped():
    assert len(shipped(*ON_GPU, "gated_activation")) == 3 * (len(ON_GPU) + 1)


@pytest.mark.parametrize("key", shipped(*FUNCTIONS))
def test_functions(tmp_path, key):
    workload = Workload.parse(key)
    (kernel,) = kernels(key, tmp_path).values()
    x = everywhere(workload.dtype)
    assert ulps(kernel({"x": x}, 1, x.numel())["y"], exact(workload.op, x)) <= ULPS[workload.dtype]
    for n in COUNTS:
        x = inputs(key, 1, n)["x"]
        assert ulps(kernel({"x": x}, 1, n)["y"], exact(workload.op, x)) <= ULPS[workload.dtype]


@pytest.mark.parametrize("key", shipped(*GRADIENTS))
def test_gradients(tmp_path, key):
    (kernel,) = kernels(key, tmp_path).values()
    operator = ops.load(Workload.parse(key).op)
    for n in COUNTS:
        x = inputs(key, 1, n)
        within(kernel(x, 1, n)["dx"], operator.aten(*(t.double() for t in x.values())), 1e-6)


@pytest.mark.parametrize("key", shipped("gated_activation"))
def test_gates(tmp_path, key):
    made = kernels(key, tmp_path)
    assert set(made) == set(fused.ON_GPU)
    for name, kernel in made.items():
        for n in COUNTS:
            x = inputs(key, 1, n)
            wanted = exact(name, x["gate"]) * x["up"].double()
            within(kernel(x, 1, n)["y"], wanted, 1e-6)
