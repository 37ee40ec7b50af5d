"""Loading packs: the right one, and each kind of wrong one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import tvmops
from tests.support import ROOT, python, randn, served

DEFAULT = ROOT / "tvmops" / "packs" / "default.so"


def compiled(folder: Path, source: str) -> Path:
    """A shared library of the C source."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("g++")
    if not compiler:
        pytest.skip("no C compiler")
    (folder / "pack.c").write_text(source)
    target = folder / "pack.so"
    flags = ["-x", "c", "-shared", "-fPIC", "-I", str(ROOT / "csrc" / "runtime")]
    subprocess.run([compiler, *flags, str(folder / "pack.c"), "-o", str(target)], check=True)
    return target


def table(magic: str = "TVMOPS_PACK_MAGIC", version: str = "TVMOPS_ABI_VERSION", arch: str = "x86_64") -> str:
    return f"""#include "abi.h"
static const tvmops_pack pack = {{{magic}, {version}, 0, "{arch}", "{{\\"kernels\\": []}}", 0}};
const tvmops_pack* TVMOPS_PACK_ENTRY(void) {{ return &pack; }}
"""


def truncated(folder: Path) -> Path:
    (folder / "short.so").write_bytes(DEFAULT.read_bytes()[:5000])
    return folder / "short.so"


def text(folder: Path) -> Path:
    (folder / "text.so").write_text("not a library at all\n" * 100)
    return folder / "text.so"


def empty(folder: Path) -> Path:
    (folder / "empty.so").touch()
    return folder / "empty.so"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo.so")
    return folder / "fifo.so"


def zeroed(folder: Path) -> Path:
    data = bytearray(DEFAULT.read_bytes())
    data[64:4096] = bytes(4032)
    (folder / "zeroed.so").write_bytes(data)
    return folder / "zeroed.so"


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none.so", "No such file or directory"),
    "in a folder that is missing": (lambda folder: folder / "none" / "none.so", "No such file or directory"),
    "a directory": (lambda folder: folder, "it is a directory, not a shared library"),
    "a fifo": (fifo, "it is not a regular file"),
    "text": (text, "it is not a shared library (no ELF header)"),
    "empty": (empty, "it is not a shared library (0 bytes)"),
    "truncated": (truncated, "it is truncated (5000 bytes"),
    "headers zeroed": (zeroed, ""),
    "another library": (
        lambda folder: compiled(folder, "int x;"),
        "it has no entry point tvmops_pack_entry, so it is not a kernel pack",
    ),
    "another magic": (lambda folder: compiled(folder, table(magic="1")), "a kernel pack has 0x"),
    "another version": (
        lambda folder: compiled(folder, table(version="99")), "ABI version 99, this tvmops needs ",
    ),
    "another architecture": (
        lambda folder: compiled(folder, table(arch="vax")), "built for architecture 'vax', this machine is ",
    ),
    "without a table": (
        lambda folder: compiled(folder, "void* tvmops_pack_entry(void) { return 0; }"), "returned no table",
    ),
    "symbols missing": (
        lambda folder: compiled(folder, table() + "void nowhere(void); void f(void) { nowhere(); }"),
        "the dynamic loader refuses it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_a_pack_is_refused(kind: str, tmp_path: Path) -> None:
    """With one sentence that names the path and the cause; what was loaded stays."""
    make, cause = WRONG[kind]
    path = make(tmp_path)
    before = tvmops.kernels()
    with pytest.raises(RuntimeError) as error:
        tvmops.load_pack(path)
    message = str(error.value)
    assert message.startswith(f"pack {path.resolve()}: ")
    assert cause in message
    assert "\n" not in message
    assert tvmops.kernels() == before
    with tvmops.mode("force"):
        served(tvmops.mm, randn(3, 4), randn(4, 5))


@pytest.mark.parametrize("bad", [None, 3, ""])
def test_what_is_not_a_path(bad: object) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        tvmops.load_pack(bad)


def test_a_pack_is_loaded_once() -> None:
    assert tvmops.load_pack(DEFAULT) is False
    assert tvmops.load_pack(os.path.relpath(DEFAULT)) is False


def test_a_pack_of_one_s_own(tmp_path: Path) -> None:
    """A copy of the default pack takes precedence, under its own path."""
    path = tmp_path / "mine.so"
    shutil.copy(DEFAULT, path)
    code = """
import sys, torch, tvmops
assert tvmops.load_pack(sys.argv[1]) is True
assert tvmops.load_pack(sys.argv[1]) is False
served = {k["name"]: k for k in tvmops.kernels() if not k["shadowed"]}
assert all(k["pack"] == sys.argv[1] for k in served.values())
assert sum(k["shadowed"] for k in tvmops.kernels()) == len(served)
a = torch.randn(50, 60)
layer = tvmops.nn.Linear(60, 70).requires_grad_(False)
with tvmops.mode("force"):
    assert tvmops.explain(tvmops.mm, a, a.t())[0].kernel in served
    torch.testing.assert_close(tvmops.mm(a, a.t()), a @ a.t())
    torch.testing.assert_close(layer(a), torch.nn.functional.linear(a, layer.weight, layer.bias))
print("served")
"""
    assert "served" in python(code, str(path)).stdout


def test_a_pack_loaded_between_calls_of_a_layer(tmp_path: Path) -> None:
    """What was packed for a kernel is packed anew for the one that replaces it."""
    path = tmp_path / "mine.so"
    shutil.copy(DEFAULT, path)
    code = """
import sys, torch, tvmops
layer, x = tvmops.nn.Linear(60, 70).requires_grad_(False), torch.randn(50, 60)
expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
with tvmops.mode("force"):
    torch.testing.assert_close(layer(x), expected)
    tvmops.load_pack(sys.argv[1])
    torch.testing.assert_close(layer(x), expected)
"""
    python(code, str(path))


def test_the_path_of_the_environment(tmp_path: Path) -> None:
    first, second = tmp_path / "first.so", tmp_path / "second.so"
    for path in (first, second):
        shutil.copy(DEFAULT, path)
    code = "import tvmops; print(*(p for p, _ in tvmops._C.packs()))"
    loaded = python(code, env={"TVMOPS_PACK_PATH": f"{first}::{second}:"}).stdout.split()
    assert loaded[-2:] == [str(first), str(second)]
    assert len(python(code, env={"TVMOPS_PACK_PATH": ""}).stdout.split()) == len(loaded) - 2


def test_the_path_of_the_environment_is_wrong(tmp_path: Path) -> None:
    done = python("import tvmops", env={"TVMOPS_PACK_PATH": f"{tmp_path}/none.so"}, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"TVMOPS_PACK_PATH: pack {tmp_path}/none.so: No such file or directory" in last


def test_without_any_pack_aten_serves() -> None:
    code = """
import pathlib, torch
exists = pathlib.Path.exists
pathlib.Path.exists = lambda self: self.name != "default.so" and exists(self)
import tvmops
assert tvmops.kernels() == []
a = torch.randn(5, 6)
with tvmops.mode("force"):
    (decision,) = tvmops.explain(tvmops.mm, a, a.t())
    assert decision.reason == "no loaded kernel runs on this CPU", decision
    assert torch.equal(tvmops.nn.Linear(6, 7)(a), tvmops.nn.Linear(6, 7)(a)) is False
"""
    python(code)


def test_no_symbol_of_a_pack_leaks() -> None:
    """A pack keeps what it defines to itself, so that tvm and other packs may define the same."""
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("no nm")
    done = subprocess.run([nm, "-D", "--defined-only", str(DEFAULT)], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["tvmops_pack_entry"]
