"""TVM's RPC tracker on a free port of loopback, which it prints: ``python -m tests.codegen.rpc_tracker``.

The tracker's event loop is that of tornado. Where tornado is not installed, one with the few methods that the tracker
uses stands in for it; the tracker itself is TVM's in either case.
"""

from __future__ import annotations

import selectors
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType


class IOLoop:
    """Calls handlers of what is ready, as ``tornado.ioloop.IOLoop`` does."""

    READ, WRITE, ERROR = 1, 4, 24
    _current: IOLoop | None = None

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._running = False

    @classmethod
    def current(cls) -> IOLoop:
        cls._current = cls._current or cls()
        return cls._current

    @staticmethod
    def _mask(events: int) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if events & IOLoop.WRITE else 0)

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        self._selector.register(fd, self._mask(events), handler)

    def update_handler(self, fd: int, events: int) -> None:
        self._selector.modify(fd, self._mask(events), self._selector.get_key(fd).data)

    def remove_handler(self, fd: int) -> None:
        self._selector.unregister(fd)

    def start(self) -> None:
        self._running = True
        while self._running:
            for key, mask in self._selector.select():
                events = (self.READ if mask & selectors.EVENT_READ else 0) | (
                    self.WRITE if mask & selectors.EVENT_WRITE else 0
                )
                if key.fd in self._selector.get_map():  # an earlier handler may have removed it
                    key.data(key.fd, events)

    def stop(self) -> None:
        self._running = False


def main() -> None:
    if find_spec("tornado") is None:
        tornado, ioloop = ModuleType("tornado"), ModuleType("tornado.ioloop")
        ioloop.IOLoop = IOLoop  # type: ignore[attr-defined]
        tornado.ioloop = ioloop  # type: ignore[attr-defined]
        sys.modules |= {"tornado": tornado, "tornado.ioloop": ioloop}
    from tvm.rpc import tracker

    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    tracker._tracker_server(listening, "stop")


if __name__ == "__main__":
    main()
