"""TVM's RPC tracker on a free port, which it prints."""

from __future__ import annotations

import socket


def main() -> None:
    from tvm.rpc import tracker

    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    tracker._tracker_server(listening, "stop")


if __name__ == "__main__":
    main()
