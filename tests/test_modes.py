"""How calls choose: mode(), set_mode(), TVMOPS_MODE."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

import tvmops
from tests.support import observed, python, randn


@pytest.fixture(autouse=True)
def global_mode_stays() -> Iterator[None]:
    before = tvmops.current_mode()
    yield
    tvmops.set_mode(before)


def kernel_of_a_call() -> str | None:
    _, decisions = observed(tvmops.mm, randn(40, 50), randn(50, 60))
    return decisions[0].kernel


def test_modes_nest_and_end() -> None:
    assert tvmops.current_mode() == "auto"
    with tvmops.mode("off"):
        assert kernel_of_a_call() is None
        with tvmops.mode("force"):
            assert tvmops.current_mode() == "force"
            assert kernel_of_a_call()
        assert tvmops.current_mode() == "off"
    assert tvmops.current_mode() == "auto"


def test_a_mode_ends_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), tvmops.mode("off"):
        raise ZeroDivisionError
    assert tvmops.current_mode() == "auto"


def test_a_mode_decorates_a_function() -> None:
    @tvmops.mode("off")
    def of_a_call() -> str | None:
        return kernel_of_a_call()

    assert of_a_call() is None
    assert of_a_call() is None


def test_a_mode_is_of_its_thread() -> None:
    seen = []
    with tvmops.mode("force"):
        thread = threading.Thread(target=lambda: seen.append(tvmops.current_mode()))
        thread.start()
        thread.join()
    assert seen == ["auto"]


def test_the_mode_of_all_threads() -> None:
    tvmops.set_mode("off")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(kernel_of_a_call()))
    thread.start()
    thread.join()
    assert seen == [None]
    with tvmops.mode("force"):
        assert kernel_of_a_call()
    assert tvmops.current_mode() == "off"


@pytest.mark.parametrize("bad", ["fast", "", "AUTO", None, 1])
def test_a_name_that_is_no_mode(bad: str) -> None:
    with pytest.raises(ValueError, match="it can be auto, force or off") as error, tvmops.mode(bad):
        pass
    assert repr(bad) in str(error.value)
    with pytest.raises(ValueError, match="unknown mode"):
        tvmops.set_mode(bad)
    assert tvmops.current_mode() == "auto"


@pytest.mark.parametrize(("value", "mode"), [("force", "force"), ("off", "off"), ("auto", "auto"), ("", "auto")])
def test_the_environment(value: str, mode: str) -> None:
    assert python("import tvmops; print(tvmops.current_mode())", env={"TVMOPS_MODE": value}).stdout.strip() == mode


def test_the_environment_is_wrong() -> None:
    done = python("import tvmops", env={"TVMOPS_MODE": "fast"}, check=False)
    assert done.returncode == 1
    assert "TVMOPS_MODE is 'fast'; it can be auto, force or off" in done.stderr.strip().splitlines()[-1]


def test_off_is_aten_to_the_bit() -> None:
    a, b = randn(70, 80), randn(80, 90, seed=1)
    with tvmops.mode("off"):
        assert torch.equal(tvmops.matmul(a, b), a @ b)
        assert torch.equal(tvmops.linear(a, b.t(), prepack=True), torch.nn.functional.linear(a, b.t()))
