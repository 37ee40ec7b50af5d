from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import tvmops
from codegen import spaces
from codegen.errors import CodegenError
from codegen.measure import objectives, timing
from codegen.target import TARGETS, find
from tests.codegen.sabotage import WORKLOAD, here


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    target = next(name for name in tvmops._C.usable_targets() if name in TARGETS)
    choice = spaces.find(WORKLOAD, find(target)).default()
    return here(WORKLOAD, target, tmp_path_factory.mktemp("pack"))(choice)


def test_code_is_the_text_of_a_library(library):
    objects = list(library.parent.glob("leaves/*.o"))
    of_leaves = sum(map(objectives.code_bytes, objects))
    assert of_leaves > 1000
    # The linker aligns, and adds what starts and ends a library.
    assert of_leaves < objectives.code_bytes(library) < of_leaves + 64 * len(objects) + 1000


@pytest.mark.parametrize("cut", [0, 3, 50, 2000])
def test_what_is_no_library_is_refused(library, tmp_path, cut):
    broken = tmp_path / "broken.so"
    broken.write_bytes(library.read_bytes()[:cut])
    with pytest.raises(CodegenError, match=r"broken\.so is not a"):
        objectives.code_bytes(broken)


def package(root: Path, number: int, name: str, energy: int, most: int) -> Path:
    domain = root / f"intel-rapl:{number}"
    domain.mkdir()
    for file, value in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", most)):
        (domain / file).write_text(f"{value}\n")
    return domain / "energy_uj"


def test_energy_is_that_of_all_packages_and_their_counters_start_again(tmp_path):
    first = package(tmp_path, 0, "package-0", 900, 1000)
    second = package(tmp_path, 1, "package-1", 100, 1000)
    package(tmp_path, 2, "psys", 5, 1000)
    energy = objectives.Energy(tmp_path)
    before = energy.read()
    first.write_text("50\n")  # by way of 1000
    second.write_text("400\n")
    assert energy.between(before, energy.read()) == pytest.approx((150 + 300) * 1e-6)


def test_energy_is_by_call(tmp_path):
    counter, calls = package(tmp_path, 0, "package-0", 0, 10**9), itertools.count(1)
    energy = objectives.Energy(tmp_path)
    used = energy.of(lambda: counter.write_text(f"{7 * next(calls)}"), duration=0.01)
    assert used == pytest.approx(7e-6)


@pytest.mark.parametrize("missing", ["name", "energy_uj", "max_energy_range_uj"])
def test_energy_that_cannot_be_read_is_not_known(tmp_path, missing):
    counter = package(tmp_path, 0, "package-0", 0, 1000)
    counter.with_name(missing).unlink()
    energy = objectives.Energy(tmp_path)
    assert not energy.readable
    assert energy.of(lambda: pytest.fail("nothing is to be measured")) is None


def test_the_trimmed_mean_is_not_moved_by_an_outlier():
    assert timing.trimmed_mean([1, 1, 1, 1, 100]) == 1
    assert timing.trimmed_mean([1, 2, 100]) == 2
    assert timing.trimmed_mean([1, 3]) == 2
    assert timing.trimmed_mean([5]) == 5
    assert timing.trimmed_mean([*range(20)]) == 9.5


def test_the_spread_is_the_middle_half_over_the_median():
    assert timing.spread([3]) == 0
    assert timing.spread([1, 2, 3, 4, 5]) == pytest.approx(2 / 3)
    assert timing.spread([1, 1, 1, 1, 100]) == 0


def test_calls_take_turns_and_caches_are_emptied_before_each():
    said: list[str] = []
    taken = timing.samples([lambda: said.append("a"), lambda: said.append("b")], 3, lambda: said.append("-"))
    assert "".join(said)[:12] == "-a-b-b-a-a-b"
    assert len(taken[0]) == len(taken[1]) == 3 * timing.MOST  # a list's append never takes long enough


def test_a_call_alone_is_sampled_too():
    (taken,) = timing.samples([lambda: sum(range(1000))], 2)
    assert len(taken) >= 2
    assert all(t > 0 for t in taken)


def test_the_largest_cache_is_found(tmp_path):
    for index, size in enumerate(("32K", "1024K", "96M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert timing.last_level(tmp_path) == 96 << 20
    assert timing.last_level(tmp_path / "none") == timing.LAST_LEVEL
