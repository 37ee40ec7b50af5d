"""The shipped kernels of layer_norm, rms_norm and their gradients against float64, on the emulator."""

import pytest
import torch

from codegen.ops.normalization import EPS
from codegen.workload import Workload
from tests.codegen.cuda.device_rows import SIZES, TORCH, inputs, kernels, shipped, within

NAMES = ("layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm")
GRADIENTS = tuple(f"{name}_backward" for name in NAMES)
# Rows that stay in registers, and that don't consist of whole vectors; longer ones: test_rows_sums.py.
GRADIENT_SIZES = [(70, 24), (3, 98), (2, 8200)]


def expected(name, x, dtype):
    """What the kernel writes, in float64, of the sum as it was rounded."""
    total = x["x"]
    out = {}
    if "residual" in x:
        out["sum"] = total = (x["x"].float() + x["residual"].float()).to(TORCH[dtype])
    total = total.double()
    if "layer" in name:
        out["mean"] = mean = total.mean(1)
        total = total - mean[:, None]
    out["rstd"] = rstd = (total.square().mean(1) + EPS).rsqrt()
    out["y"] = total * rstd[:, None] * x["weight"].double() + (x["bias"].double() if "bias" in x else 0)
    return out


def test_what_is_shipped():
    assert len(shipped(*NAMES)) == 3 * len(NAMES)
    assert len(shipped(*GRADIENTS)) == 3 * len(GRADIENTS)


@pytest.mark.parametrize("key", shipped(*NAMES))
def test_against_float64(tmp_path, key):
    workload = Workload.parse(key)
    (kernel,) = kernels(key, tmp_path).values()
    for rows, n in SIZES:
        x = inputs(key, rows, n, seed=n)
        got, wanted = kernel(x, rows, n, [EPS]), expected(workload.op, x, workload.dtype)
        assert got.keys() == wanted.keys()
        for name, tensor in got.items():
            # The mean of as many numbers of both signs is known as well as the largest of them.
            tolerance = 1e-5 if n == 1 else 2e-6
            within(tensor, wanted[name], tolerance * 20 if name == "mean" else tolerance)


@pytest.mark.parametrize("key", shipped("layer_norm"))
def test_a_large_mean_and_what_is_not_finite(tmp_path, key):
    (kernel,) = kernels(key, tmp_path).values()
    x = inputs(key, 4, 1000)
    x["x"][0] += 100
    x["x"][1, 3] = torch.nan
    x["x"][2, 5] = torch.inf
    got, wanted = kernel(x, 4, 1000, [EPS]), expected("layer_norm", x, Workload.parse(key).dtype)
    within(got["y"][[0, 3]], wanted["y"][[0, 3]], 4e-6)
    assert got["y"][1:3].isnan().all()


@pytest.mark.parametrize("key", shipped(*GRADIENTS))
def test_gradients(tmp_path, key):
    """Those of weights are summed over all rows."""
    layer = "layer" in key
    (kernel,) = kernels(key, tmp_path).values()
    for rows, n in GRADIENT_SIZES:
        x = inputs(key, rows, n, seed=n)
        g, weight, r = x["g"].double(), x["weight"].double(), x["rstd"].double()[:, None]
        h = (x["x"].double() - (x["mean"].double()[:, None] if layer else 0)) * r
        k = g * weight
        dx = r * (k - (k.mean(1, keepdim=True) if layer else 0) - h * (k * h).mean(1, keepdim=True))
        wanted = {"dx": dx + x["g_sum"].double() if "g_sum" in x else dx, "dweight": (g * h).sum(0)}
        wanted |= {"dbias": g.sum(0)} if layer else {}
        got = kernel(x, rows, n)
        assert got.keys() == wanted.keys()
        for name, tensor in got.items():
            within(tensor, wanted[name], 3e-6)
