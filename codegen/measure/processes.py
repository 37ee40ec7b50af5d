"""What Linux offers to keep a process and all that it starts in hand."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def die_with_parent() -> None:
    """This process is killed when its parent ends, however that happens."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """What descendants of this process leave behind becomes its child, not that of ``init``."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """The children of this process, those among them that have ended and were not waited for. It has one thread."""
    me, found = os.getpid(), []
    with contextlib.suppress(OSError):  # a kernel may be without this file
        return [int(pid) for pid in Path(f"/proc/self/task/{me}/children").read_text().split()]
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = Path("/proc", entry, "stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == me:
                    found.append(int(entry))
    return found


def end_children() -> dict[int, int]:
    """Kills and waits for all children, and what they leave behind to this process; it must have called adopt_orphans.

    Returns:
        The status of each, as ``os.waitpid`` has it.
    """
    ended: dict[int, int] = {}
    while True:
        for pid in children():
            for kill in (os.killpg, os.kill):  # its group at once, where it leads one
                with contextlib.suppress(OSError):
                    kill(pid, signal.SIGKILL)
        try:
            while (one := os.waitpid(-1, os.WNOHANG))[0]:
                ended[one[0]] = one[1]
        except ChildProcessError:
            return ended
        time.sleep(1e-3)


def cores(count: int) -> set[int]:
    """That many of the processors that this process may use, each of another core as long as there are any.

    The last ones are taken: what a system does besides is rather on the first.
    """
    usable = sorted(os.sched_getaffinity(0), reverse=True)
    by_core: dict[str, list[int]] = {}
    for cpu in usable:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            core = siblings.read_text()
        except OSError:
            core = str(cpu)
        by_core.setdefault(core, []).append(cpu)
    first = [cpus[0] for cpus in by_core.values()]
    rest = [cpu for cpu in usable if cpu not in first]
    return set((first + rest)[:count])
