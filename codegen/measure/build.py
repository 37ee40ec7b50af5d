"""A candidate as a pack. Runs as a helper process: ``python -m codegen.measure.build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import spaces
from ..export import objects, pack
from ..spaces.space import Choice, Space
from ..target import Target, find
from ..worker import serve
from ..workload import Workload


def build(
    workload: Workload, target: Target, space: Space, choice: Choice, directory: Path, leaves: Path | None = None
) -> Path:
    """The pack of a candidate, in ``directory``. Leaves that an earlier candidate had are not compiled again.

    They are in ``leaves``, which candidates that are built at the same time may share; by default within ``directory``.
    """
    kernel = pack.PackKernel(
        workload, target, space.name, space.driver, choice, space.params(choice), space.apply(choice)
    )
    compiled = {objects.compile_leaf(leaf, target, leaves or directory / "leaves") for leaf in kernel.leaves}
    pack.write_sources([kernel], directory)
    return pack.link(directory, directory / "candidate.so", compiled)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    workload, target = Workload.parse(request["workload"]), find(request["target"])
    space = spaces.find(workload, target, request["space"])
    directory, leaves = Path(request["directory"]), Path(request["leaves"])
    return {"status": "ok", "pack": str(build(workload, target, space, request["knobs"], directory, leaves))}


if __name__ == "__main__":
    serve(_answer)
