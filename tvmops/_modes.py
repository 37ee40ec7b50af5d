"""How calls choose between kernels and ATen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvmops import _C

_MODES = ("auto", "force", "off")
_C.global_mode()  # a wrong TVMOPS_MODE is told when tvmops is imported, not at some first call


def _index(mode: str) -> int:
    if mode not in _MODES:
        raise ValueError(f"unknown mode {mode!r}; it can be auto, force or off")
    return _MODES.index(mode)


@contextmanager
def mode(name: str) -> Iterator[None]:
    """Within the block, calls of this thread choose as ``name`` says.

    ``"auto"``: a kernel where it is known to win, else ATen. ``"force"``: a kernel wherever one applies. ``"off"``:
    ATen always. The default for all threads is ``"auto"``, or the environment variable ``TVMOPS_MODE``.

    Raises:
        ValueError: the name is none of these.
    """
    before = _C.set_thread_mode(_index(name))
    try:
        yield
    finally:
        _C.set_thread_mode(before)


def current_mode() -> str:
    """The mode of the calling thread."""
    return _MODES[_C.current_mode()]


def set_mode(name: str) -> None:
    """Sets the mode of all threads that are not within :func:`mode`.

    Raises:
        ValueError: the name is not a mode.
    """
    _C.set_global_mode(_index(name))
