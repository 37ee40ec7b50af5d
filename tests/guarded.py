"""Operands that end where memory ends: reading or writing one byte beyond them kills the process.

Run as ``python -m tests.guarded``; prints how many calls it made.
"""

from __future__ import annotations

import ctypes
import mmap
import random

import torch
from torch import Tensor

import tvmops

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

PAGE = mmap.PAGESIZE
_PROT_RW, _PRIVATE_ANONYMOUS = 3, 0x22


class Guarded:
    """Tensors between two unreadable pages; they must not outlive the context."""

    def __enter__(self) -> Guarded:
        self.maps: list[tuple[int, int]] = []
        return self

    def __exit__(self, *exception: object) -> None:
        for address, length in self.maps:
            _libc.munmap(address, length)

    def __call__(self, values: Tensor, at_start: bool = False) -> Tensor:
        """The same values, dense, so that the last byte (or else the first) is next to an unreadable page."""
        length = max(values.numel(), 1) * 4
        pages = -(-length // PAGE)
        whole = (pages + 2) * PAGE
        address = _libc.mmap(None, whole, _PROT_RW, _PRIVATE_ANONYMOUS, -1, 0)
        self.maps.append((address, whole))
        for guard in (address, address + (pages + 1) * PAGE):
            if _libc.mprotect(guard, PAGE, 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        begin = address + PAGE if at_start else address + (pages + 1) * PAGE - length
        memory = (ctypes.c_float * max(values.numel(), 1)).from_address(begin)
        tensor = torch.frombuffer(memory, dtype=torch.float32)[: values.numel()].view(values.shape)
        return tensor.copy_(values)


def close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)


def one_round(draw: random.Random) -> int:
    m = draw.choice([1, 2, 3, 4, 5, 6, 7, 13, 14, 15, 17, 29, 40])
    n, k = draw.randint(1, 150), draw.randint(1, 120)
    calls = 0
    with Guarded() as guard:
        for at_start in (False, True):
            a, b = guard(torch.randn(m, k), at_start), guard(torch.randn(k, n), at_start)
            a_t, b_t = guard(a.t(), at_start).t(), guard(b.t(), at_start).t()
            steps_a = guard(torch.randn(m * 2 - 1, k * 3 - 2), at_start)[::2, ::3]
            steps_b = guard(torch.randn(k * 2 - 1, n * 3 - 2), at_start)[::2, ::3]
            for x in (a, a_t, steps_a):
                for y in (b, b_t, steps_b):
                    out = guard(torch.zeros(m, n), at_start)
                    close(tvmops.mm(x, y), x @ y)
                    close(tvmops.mm(x, y, out=out), x @ y)
                    bias, start = guard(torch.randn(n), at_start), guard(torch.randn(m, n), at_start)
                    close(tvmops.addmm(bias, x, y, out=out), bias + x @ y)
                    close(tvmops.addmm(start, x, y, beta=0.5), 0.5 * start + x @ y)
                    for prepack in (False, True):
                        value = tvmops.linear(x, y.t(), bias, "gelu", start, prepack=prepack)
                        close(value, torch.nn.functional.gelu(x @ y + bias) + start)
                    calls += 6
                vector, out = guard(torch.randn(k), at_start), guard(torch.zeros(m), at_start)
                close(tvmops.mv(x, vector, out=out), x @ vector)
                stacked, other = guard(x.expand(3, m, k), at_start), guard(b.expand(3, k, n), at_start)
                close(tvmops.bmm(stacked, other), stacked @ other)
                close(tvmops.matmul(stacked, b), stacked @ b)
                calls += 3
        del a, b, a_t, b_t, steps_a, steps_b, x, y, out, bias, start, vector, stacked, other
    tvmops._C.release_packed_weights(True)
    return calls


def main(rounds: int = 60) -> None:
    """Small problems in every layout, then a few beyond the blocks."""
    draw = random.Random(1)
    torch.manual_seed(1)
    with tvmops.mode("force"):
        count = sum(one_round(draw) for _ in range(rounds))
        for m, n, k in [(1, 1033, 777), (3, 1100, 801), (130, 1030, 790)]:
            with Guarded() as guard:
                a, b, out = guard(torch.randn(m, k)), guard(torch.randn(k, n)), guard(torch.zeros(m, n))
                for y in (b, guard(b.t()).t()):
                    close(tvmops.mm(a, y, out=out), a @ y)
                    count += 1
                del a, b, y, out
        overrun()
    print(count)


def overrun() -> None:
    """Checks the check: the guard is there."""
    import os

    with Guarded() as guard:
        t = guard(torch.ones(3))
        if not (child := os.fork()):
            ctypes.string_at(t.data_ptr(), 13)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status >= 0:
            raise AssertionError("a read beyond the end went unnoticed")


if __name__ == "__main__":
    main()
