"""Kernels of row programs that also sum over rows, against float64."""

import pytest
import torch

from codegen import ops
from codegen.cuda.rows import Shape
from tests.codegen.cuda.device_rows import TORCH, Rows, kernel, within


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sums_over_rows(tmp_path, dtype):
    """The gradients of weights, in a fixed order: from registers, and from memory where rows are not kept."""
    program = ops.load("layer_norm_backward").variants(dtype)[""]
    shape = Shape(threads=64, vector=4, kept=2, unroll=2, blocks=3)
    rows_of = Rows(kernel(program, dtype, shape), program, dtype, tmp_path)
    for rows, n in ((70, 8), (5, 102), (7, 256), (3, 600)):
        torch.manual_seed(n)
        x, g, weight = torch.randn(rows, n).to(TORCH[dtype]), torch.randn(rows, n).to(TORCH[dtype]), torch.randn(n)
        mean = x.double().mean(1)
        rstd = (x.double().var(1, unbiased=False) + 1e-5).rsqrt()
        given = {"g": g, "x": x, "mean": mean.float(), "rstd": rstd.float(), "weight": weight}
        got = rows_of(given, rows, n)
        k, r = g.double() * weight.double(), rstd[:, None]
        h = (x.double() - mean[:, None]) * r
        within(got["dweight"], (g * h).sum(0), 3e-6)
        within(got["dbias"], g.double().sum(0), 3e-6)
        within(got["dx"], r * (k - k.mean(1, keepdim=True) - h * (k * h).mean(1, keepdim=True)), 3e-6)
    again = Rows(rows_of.kernel, program, dtype, tmp_path, order="random")(given, rows, n)
    assert all(torch.equal(got[name], again[name]) for name in got)
