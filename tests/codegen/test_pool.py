from __future__ import annotations

from typing import Any

from codegen.pool import Pool


class Tracked:
    """A measurer that tells when it is opened and closed."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    def __enter__(self) -> Tracked:
        self._log.append(f"+{self._name}")
        return self

    def __exit__(self, *_: object) -> None:
        self._log.append(f"-{self._name}")

    def measure(self, choice: Any, rounds: int = 1) -> Any:
        return self._name, choice, rounds

    def measure_all(self, choices: Any, rounds: int = 1) -> Any:
        return [self.measure(choice, rounds) for choice in choices]

    def plan(self, choice: Any) -> Any:
        return {"plan": self._name}


def test_measurers_open_when_used_and_the_one_idle_for_longest_makes_room() -> None:
    log: list[str] = []
    with Pool(2) as pool:
        a, b, c = (pool.measurer(lambda n=name: Tracked(n, log)) for name in "abc")
        assert log == []
        assert a.measure({"x": 1}, 7) == ("a", {"x": 1}, 7)
        assert list(b.measure_all([{"x": 2}], 3)) == [("b", {"x": 2}, 3)]
        assert a.plan({"x": 1}) == {"plan": "a"}
        assert log == ["+a", "+b"]
        c.measure({"x": 1})
        assert log == ["+a", "+b", "-b", "+c"]
        b.measure({"x": 1})
        assert log == ["+a", "+b", "-b", "+c", "-a", "+b"]
    assert log == ["+a", "+b", "-b", "+c", "-a", "+b", "-c", "-b"]
