"""The kernels of cross_entropy on a GPU, which know the classes of rows, against float64 on the emulator."""

import pytest
import torch

from codegen.measure import emulator
from codegen.ops.cross_entropy import IGNORED
from tests.codegen.cuda.device_rows import inputs, kernels, shipped, within

LENGTHS = [(5, 1), (9, 7), (70, 24), (3, 1000), (2, 2048), (2, 9000), (2, 9001)]


def expected(x, target, smoothing):
    """Losses, and whether they count."""
    loss = torch.nn.functional.cross_entropy(
        x.double(), target, reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
    )
    return loss, target != IGNORED


def test_what_is_shipped():
    assert len(shipped("cross_entropy", "cross_entropy_backward")) == 6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses(tmp_path, dtype):
    key = f"cross_entropy({dtype};M=*,N=*)"
    (kernel,) = kernels(key, tmp_path).values()
    for rows, n in LENGTHS:
        x = inputs(key, rows, n, seed=n)
        x["target"][0] = n - 1
        for smoothing in (0.0, 0.1):
            got = kernel(x, rows, n, [1 - smoothing, smoothing / n, IGNORED])
            loss, counts = expected(x["x"], x["target"], smoothing)
            torch.testing.assert_close(got["loss"].double(), loss, rtol=3e-6, atol=3e-6)
            assert torch.equal(got["counts"], counts.float())
        wide = x["x"].double()
        assert torch.equal(got["maximum"].double(), wide.amax(1))
        torch.testing.assert_close(got["maximum"] + got["log_sum"], wide.logsumexp(1).float(), rtol=1e-6, atol=2e-6)
    # A row with minus infinity, of which the class is another; one that is a NaN.
    x = inputs(key, 3, 40)
    x["x"][0, 3], x["x"][1, 5], x["target"][:] = -torch.inf, torch.nan, 7
    loss = kernel(x, 3, 40, [1.0, 0.0, IGNORED])["loss"].double()
    assert loss[1].isnan()
    torch.testing.assert_close(loss[::2], expected(x["x"], x["target"], 0.0)[0][::2], rtol=3e-6, atol=3e-6)
    for wrong in (40, -1, 2**32 + 7):
        x["target"][2] = wrong
        with pytest.raises(emulator.EmulationError, match="traps"):
            kernel(x, 3, 40, [1.0, 0.0, IGNORED])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradients(tmp_path, dtype):
    key = f"cross_entropy_backward({dtype};M=*,N=*)"
    (kernel,) = kernels(key, tmp_path).values()
    for (rows, n), smoothing in zip(LENGTHS, (0.0, 0.1) * 4, strict=False):
        x = inputs(key, rows, n, seed=n)
        wide = x["x"].double().requires_grad_()
        maximum = wide.detach().amax(1)
        x |= {"maximum": maximum.float(), "log_sum": (wide.detach() - maximum[:, None]).logsumexp(1).float()}
        loss, _ = expected(wide, x["target"], smoothing)
        loss.backward(x["g"].double())
        got = kernel(x, rows, n, [1 - smoothing, smoothing / n, IGNORED])["dx"]
        within(got, wide.grad, 3e-6)
        assert (got[x["target"] == IGNORED] == 0).all()
