"""Settings of all tests: the same examples in every run, the same threads before and after."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

KEPT = ("TVMOPS_TARGET", "TVMOPS_TEST_EXAMPLES", "TVMOPS_TEST_PACK")

# What the caller's shell says of tvmops, and what was measured on this machine, is not what is tested. (TVMOPS_TARGET
# stays: it tells on which kernels to run the tests.)
for _name in [n for n in os.environ if n.startswith("TVMOPS_") and n not in KEPT]:
    del os.environ[_name]
os.environ["TVMOPS_CALIBRATION"] = "off"

# TVMOPS_TEST_EXAMPLES=1000 searches further; a negative number draws new examples in every run.
examples = int(os.environ.get("TVMOPS_TEST_EXAMPLES", "60"))
settings.register_profile(
    "tvmops",
    deadline=None,
    derandomize=examples > 0,
    max_examples=abs(examples) or 60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tvmops")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """What a test sets is not the next one's concern."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["force", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    """Kernels wherever they apply, and kernels where they win."""
    return str(request.param)
