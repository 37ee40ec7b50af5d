"""What the tests share: operands in every layout, the accuracy that the project promises, runs in a process apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import tvmops

ROOT = Path(__file__).resolve().parent.parent

# The relative error of one rounding to float32: below it, "twice ATen's error" would compare noise.
FLOOR = 2.0**-23

MODES = ("force", "auto")
ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")

# Sizes around the tiles of the kernels, more often than others.
EDGES = (1, 2, 5, 6, 7, 8, 13, 14, 15, 16, 17, 28, 29, 31, 32, 33, 48, 64, 96)
sizes = st.one_of(st.sampled_from(EDGES), st.integers(1, 200))
sizes_or_zero = st.one_of(st.just(0), sizes)
seeds = st.integers(0, 2**31)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _steps(rows: int, columns: int, seed: int) -> Tensor:
    return randn(2 * rows + 1, 3 * columns + 2, seed=seed)[1 : 1 + 2 * rows : 2, 2 : 2 + 3 * columns : 3]


# [rows, columns] in memory as a caller may have it; the seed fills it.
LAYOUTS: dict[str, Callable[[int, int, int], Tensor]] = {
    "row-major": lambda r, c, seed: randn(r, c, seed=seed),
    "transposed": lambda r, c, seed: randn(c, r, seed=seed).t(),
    "rows of a wider matrix": lambda r, c, seed: randn(r + 2, c + 5, seed=seed)[1 : r + 1, 3 : c + 3],
    "columns of a taller matrix": lambda r, c, seed: randn(c + 2, r + 5, seed=seed)[1 : c + 1, 3 : r + 3].t(),
    "steps in both dimensions": _steps,
    "one row for all": lambda r, c, seed: randn(1, c, seed=seed).expand(r, c),
    "one column for all": lambda r, c, seed: randn(r, 1, seed=seed).expand(r, c),
}
layouts = st.sampled_from(sorted(LAYOUTS))


def matrix(rows: int, columns: int, layout: str, seed: int = 0) -> Tensor:
    """A float32 matrix of normal numbers in the layout of that name."""
    return LAYOUTS[layout](rows, columns, seed)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """The Frobenius norm of the difference, relative to that of the float64 reference."""
    norm = torch.linalg.vector_norm(reference).item()
    return torch.linalg.vector_norm(value.double() - reference).item() / norm if norm else float(value.abs().sum())


def assert_accurate(value: Tensor, aten: Tensor, reference: Tensor, a_priori: Tensor | None = None) -> None:
    """Shape and dtype are ATen's, the error against float64 at most twice ATen's own (or one rounding).

    Norms of a few numbers say little: one that ATen happens to round well would fail any other order of summation. So
    below 256 different results what theory allows is allowed more: ``a_priori``, see :func:`summation_bound`.
    """
    assert value.shape == aten.shape
    assert value.dtype == aten.dtype
    assert value.isfinite().all()
    if not value.numel():
        return
    allowed = 2 * relative_error(aten, reference) + FLOOR
    if a_priori is not None and reference.unique().numel() < 256:
        norms = [torch.linalg.vector_norm(x).item() for x in (a_priori, reference)]
        allowed += norms[0] / max(norms[1], 1e-300)
    assert relative_error(value, reference) <= allowed


def summation_bound(depth: int, magnitude: Tensor) -> Tensor:
    """What sums of ``depth`` products may be off by in any order, given the sums of their absolute values.

    Source: N. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, section 3.1.
    """
    return (depth + 2) * 2.0**-24 * magnitude


def assert_same_nonfinite(value: Tensor, reference: Tensor) -> None:
    """NaN where the reference has NaN, and infinities of the same sign."""
    assert torch.equal(value.isnan(), reference.isnan())
    assert torch.equal(value.isposinf(), reference.isposinf())
    assert torch.equal(value.isneginf(), reference.isneginf())


def assert_same(value: Tensor, expected: Tensor) -> None:
    """Equal in all that a caller can see; NaN equals NaN."""
    torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True, check_stride=False)


def observed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, tvmops.Decisions]:
    """The result of a call, and what its operators came to."""
    result = []
    decisions = tvmops.explain(lambda: result.append(function(*args, **kwargs)))
    return result[0], decisions


def served(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a call whose operators are all served by kernels: a test of them must not be one of ATen."""
    result, decisions = observed(function, *args, **kwargs)
    assert decisions, "no operator of tvmops ran"
    assert all(d.kernel for d in decisions), str(decisions)
    return result


def by_aten(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a call whose operators all went to ATen, although kernels were asked for."""
    with tvmops.mode("force"):
        result, decisions = observed(function, *args, **kwargs)
    assert not any(d.kernel for d in decisions), str(decisions)
    return result


def called(mode: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a call in a mode; in mode force, of kernels."""
    with tvmops.mode(mode):
        return (served if mode == "force" else lambda f, *a, **k: f(*a, **k))(function, *args, **kwargs)


def assert_same_error(ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    """Both calls fail, with the same type and the same words."""
    with pytest.raises(Exception) as expected:  # noqa: PT011  which one is torch's affair
        theirs()
    with pytest.raises(type(expected.value)) as actual:
        ours()
    assert type(actual.value) is type(expected.value)
    assert str(actual.value).splitlines()[0] == str(expected.value).splitlines()[0]


def assert_same_outcome(ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> None:
    """Both calls fail in the same way, or give close results on the same device."""
    try:
        expected = theirs()
    except Exception as error:
        again = error

        def fails() -> None:
            raise again

        assert_same_error(ours, fails)
        return
    value = ours()
    assert (value.device, value.dtype, value.shape) == (expected.device, expected.dtype, expected.shape)
    if not value.is_meta:
        torch.testing.assert_close(value, expected, equal_nan=True)


def python(
    code: str, *args: str, env: Mapping[str, str | None] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process apart, from the repository's root, with variables set (or, if None, unset)."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("TVMOPS_")}
    for name, value in {"TVMOPS_CALIBRATION": "off", **(env or {})}.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300
    )
    if check:
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
