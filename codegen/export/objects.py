"""Leaves to machine code, one object a target, cached by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import tvm

from ..leaves import lower
from ..spaces.space import Leaf
from ..target import Target
from . import symbols

_SOURCES = Path(__file__).resolve().parent.parent


def source_hash() -> str:
    """A hash of the code that decides what a leaf becomes: the makers of leaves, their math, and TVM's version."""
    digest = hashlib.sha256(tvm.__version__.encode())
    files = [_SOURCES / f"{name}.py" for name in ("activations", "mathlib", "target")]
    for path in sorted([*_SOURCES.glob("leaves/*.py"), *files]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def module(leaves: Iterable[Leaf]) -> tvm.IRModule:
    """The leaves as one TIR module, each symbol once."""
    unique = {leaf.symbol: leaf for leaf in leaves}
    return tvm.IRModule({symbol: leaf.make() for symbol, leaf in sorted(unique.items())})


def compile_module(mod: tvm.IRModule, target: Target) -> tvm.runtime.Executable:
    """Machine code for a module of leaves."""
    with tvm.transform.PassContext(config=lower.PASS_CONFIG):
        return tvm.compile(mod, target=target.tvm_target())


def compile_leaves(leaves: Iterable[Leaf], target: Target, directory: Path) -> Path:
    """Writes ``leaves-{target}.o`` and ``.ll`` to ``directory`` unless they are there already, of the same content.

    Returns:
        The path of the object.

    Raises:
        CodegenError: a leaf needs a symbol that leaves may not need.
    """
    leaves = list(leaves)
    names = sorted({leaf.symbol for leaf in leaves})
    key = hashlib.sha256("\n".join([source_hash(), *names]).encode()).hexdigest()
    path = directory / f"leaves-{target.name}.o"
    stamp = path.with_suffix(".key")
    if path.exists() and stamp.exists() and stamp.read_text() == key:
        return path
    directory.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    executable = compile_module(module(leaves), target)
    executable.mod.write_to_file(str(path))
    symbols.check(path)
    path.with_suffix(".ll").write_text(executable.mod.inspect_source("ll"))
    stamp.write_text(key)
    return path


def compile_leaf(leaf: Leaf, target: Target, directory: Path) -> Path:
    """One leaf as an object of its own, ``{symbol}.o`` in ``directory``, unless it is there already.

    For a search, whose candidates share most of their leaves; the directory must not outlive the process, as nothing
    but the symbol says what is in it.
    """
    path = directory / f"{leaf.symbol}.o"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = directory / f"{leaf.symbol}.unfinished.o"
        compile_module(module([leaf]), target).mod.write_to_file(str(unfinished))
        symbols.check(unfinished)
        unfinished.replace(path)
    return path
