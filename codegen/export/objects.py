"""Leaves to machine code: an object per operator and target, cached by content, compiled side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import tvm

from .. import spaces
from ..errors import CodegenError
from ..leaves import lower
from ..spaces.space import Leaf
from ..target import Target, find
from ..worker import Worker, WorkerError, serve
from ..workload import Workload
from . import symbols

_SOURCES = Path(__file__).resolve().parent.parent
# Seconds that the leaves of one operator may take to compile.
LIMIT = 600.0


def source_hash() -> str:
    """A hash of all that may have a say in what a leaf becomes: this package, and TVM's version."""
    digest = hashlib.sha256(tvm.__version__.encode())
    for path in sorted([*_SOURCES.glob("*.py"), *_SOURCES.glob("leaves/*.py"), *_SOURCES.glob("ops/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def module(leaves: Iterable[Leaf]) -> tvm.IRModule:
    """The leaves as one TIR module, each symbol once."""
    unique = {leaf.symbol: leaf for leaf in leaves}
    return tvm.IRModule({symbol: leaf.make() for symbol, leaf in sorted(unique.items())})


def compile_module(mod: tvm.IRModule, target: Target, whole: bool = False) -> tvm.runtime.Executable:
    """Machine code for a module of leaves, or of whole kernels."""
    with tvm.transform.PassContext(config={} if whole else lower.PASS_CONFIG):
        return tvm.compile(mod, target=target.tvm_target())


def compile_leaves(leaves: Iterable[Leaf], target: Target, directory: Path, name: str = "") -> Path:
    """Writes ``leaves-{target}[-{name}].o`` and ``.ll`` to ``directory`` unless they are there, of the same content.

    The content is the same if neither sources nor symbols changed, or else if the leaves' TIR did not.

    Returns:
        The path of the object.

    Raises:
        CodegenError: a leaf needs a symbol that leaves may not need.
    """
    unique = {leaf.symbol: leaf for leaf in leaves}
    path = object_path(directory, target, name)
    stamp = path.with_suffix(".key")
    sources = hashlib.sha256("\n".join([source_hash(), *sorted(unique)]).encode()).hexdigest()
    known = stamp.read_text().split() if path.exists() and stamp.exists() else ["", ""]
    if known[0] == sources:
        return path
    mod = module(unique.values())
    whole = any(leaf.whole for leaf in unique.values())
    tir = hashlib.sha256(f"{tvm.__version__} {target} {lower.PASS_CONFIG} {tvm.ir.save_json(mod)}".encode()).hexdigest()
    if known[1] != tir:
        directory.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        executable = compile_module(mod, target, whole)
        executable.mod.write_to_file(str(path))
        symbols.check(path, whole)
        path.with_suffix(".ll").write_text(executable.mod.inspect_source("ll"))
    stamp.write_text(f"{sources} {tir}\n")
    return path


def object_path(directory: Path, target: Target, name: str = "") -> Path:
    """Where :func:`compile_leaves` puts an object."""
    return directory / f"leaves-{target.name}{'-' + name if name else ''}.o"


@dataclass(frozen=True)
class Group:
    """The kernels of one operator on one target; leaves of the symbols in ``elsewhere`` are in another object."""

    op: str
    target: Target
    choices: Sequence[tuple[Workload, str, Mapping[str, int]]]  # with the name of the space
    whole: bool = False  # see :class:`.spaces.space.Leaf`
    elsewhere: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Of the object."""
        return f"{self.op}-whole" if self.whole else self.op

    def leaves(self) -> list[Leaf]:
        """What goes into the object."""
        found: dict[str, Leaf] = {}
        for workload, space, knobs in self.choices:
            for leaf in spaces.find(workload, self.target, space).apply(knobs):
                if leaf.symbol not in self.elsewhere:
                    found.setdefault(leaf.symbol, leaf)
        return list(found.values())


def compile_groups(groups: Sequence[Group], directory: Path, progress: Callable[[str], None]) -> list[Path]:
    """Compiles groups, several at a time, each in a helper process; ``progress`` is told when one is done.

    Returns:
        The objects.

    Raises:
        CodegenError: a leaf could not be compiled, or needs a symbol that leaves may not need.
    """
    workers: SimpleQueue[Worker] = SimpleQueue()
    everyone = [Worker(__name__) for _ in range(max(1, min(len(groups), os.cpu_count() or 1)))]
    for worker in everyone:
        workers.put(worker)

    def one(group: Group) -> Path:
        worker = workers.get()
        try:
            answer = worker.call(_request(group, directory), LIMIT)
        except WorkerError as error:
            answer = {"status": error.status, "reason": str(error)}
        finally:
            workers.put(worker)
        if answer["status"] != "ok":
            raise CodegenError(answer["reason"].removeprefix("CodegenError: "))
        return object_path(directory, group.target, group.name)

    try:
        with ThreadPoolExecutor(len(everyone)) as pool:
            pending = {pool.submit(one, group): group for group in groups}
            for done in as_completed(pending):
                done.result()
                progress(f"{pending[done].op} for {pending[done].target.name}")
            return [future.result() for future in pending]
    finally:
        for worker in everyone:
            worker.close()


def _request(group: Group, directory: Path) -> dict[str, Any]:
    return {
        "op": group.op,
        "target": group.target.name,
        "choices": [[workload.key, space, dict(knobs)] for workload, space, knobs in group.choices],
        "whole": group.whole,
        "elsewhere": sorted(group.elsewhere),
        "directory": str(directory),
    }


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    choices = [(Workload.parse(key), space, knobs) for key, space, knobs in request["choices"]]
    elsewhere = frozenset(request["elsewhere"])
    group = Group(request["op"], find(request["target"]), choices, request["whole"], elsewhere)
    compile_leaves(group.leaves(), group.target, Path(request["directory"]), group.name)
    return {"status": "ok"}


def compile_leaf(leaf: Leaf, target: Target, directory: Path) -> Path:
    """One leaf as an object of its own, ``{symbol}.o`` in ``directory``, unless it is there already.

    For a search, whose candidates share most of their leaves; the directory must not outlive the process, as nothing
    but the symbol says what is in it.
    """
    path = directory / f"{leaf.symbol}.o"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = directory / f"{leaf.symbol}.{os.getpid()}.unfinished.o"  # others may compile the same now
        compile_module(module([leaf]), target, leaf.whole).mod.write_to_file(str(unfinished))
        symbols.check(unfinished, leaf.whole)
        unfinished.replace(path)
    return path


if __name__ == "__main__":
    serve(_answer)
