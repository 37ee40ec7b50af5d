"""What is asked of TVM's RPC tracker, which hands out servers by key."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from tvm.rpc import base

from ..errors import CodegenError

CONNECT_LIMIT = 10.0  # seconds
BACK = 3.0  # seconds for a server to be known again after a session that broke off

Address = tuple[str, int]


def address_of(text: str) -> Address:
    """``HOST:PORT`` as an address.

    Raises:
        CodegenError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise CodegenError(f"not an address: {text!r} (expected HOST:PORT)")
    return host.removeprefix("[").removesuffix("]"), int(port)


def summary(tracker: Address) -> dict[str, int]:
    """How many servers a tracker knows, busy ones included, by key.

    Raises:
        CodegenError: it is not reached.
    """
    with _errors(tracker), _connected(tracker, CONNECT_LIMIT) as connection:
        status, found = _ask(connection, [base.TrackerCode.SUMMARY])
        if status != base.TrackerCode.SUCCESS:
            raise ValueError(f"answers with {status}")
        keys = [server["key"].removeprefix("server:") for server in found["server_info"]]
        return {key: keys.count(key) for key in sorted(set(keys))}


def request(tracker: Address, key: str, wait: float) -> tuple[str, int, str]:
    """A server that is free: its host, its port, and the key that it wants to hear. It is taken.

    Args:
        wait: seconds for one to become free, as all may be busy.

    Raises:
        CodegenError: the tracker is not reached, no server has this key, or none became free.
    """
    deadline = time.monotonic() + BACK
    while key not in (servers := summary(tracker)) and time.monotonic() < deadline:
        time.sleep(0.2)
    if key not in servers:
        known = f"it has servers for {', '.join(servers)}" if servers else "it has no servers at all"
        raise CodegenError(f"the tracker {name(tracker)} has no server for the key {key!r}: {known}")
    with _errors(tracker), _connected(tracker, CONNECT_LIMIT) as connection:
        connection.settimeout(wait)
        try:
            status, found = _ask(connection, [base.TrackerCode.REQUEST, key, "", 1])
        except TimeoutError:
            which = f"the {servers[key]} servers for {key!r} of the tracker {name(tracker)}"
            raise CodegenError(f"none of {which} was free within {wait:g} s") from None
        if status != base.TrackerCode.SUCCESS:
            raise ValueError(f"answers with {status}")
        host, port, match = found
        return host, port, match


def name(address: Address) -> str:
    """As a person writes it."""
    return "{}:{}".format(*address)


@contextlib.contextmanager
def _errors(tracker: Address) -> Iterator[None]:
    try:
        yield
    except CodegenError:
        raise
    except TimeoutError:
        raise CodegenError(f"the tracker {name(tracker)} is not reached: no answer in {CONNECT_LIMIT:g} s") from None
    except OSError as error:
        raise CodegenError(f"the tracker {name(tracker)} is not reached: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise CodegenError(f"what listens at {name(tracker)} is no RPC tracker: {error}") from None


@contextlib.contextmanager
def _connected(tracker: Address, limit: float) -> Iterator[socket.socket]:
    with socket.create_connection(tracker, limit) as connection:
        connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        (magic,) = struct.unpack("<i", base.recvall(connection, 4))
        if magic != base.RPC_TRACKER_MAGIC:
            raise ValueError("it answers otherwise")
        yield connection


def _ask(connection: socket.socket, message: list[Any]) -> Any:
    base.sendjson(connection, message)
    return base.recvjson(connection)
