"""Holds one session with a server of a farm: ``python -m codegen.measure.rpc_client``, the helper of ``rpc``.

TVM's client waits for ever where a server hangs. In a process of its own, it can be ended.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tvm import rpc

from ..worker import serve
from .rpc_server import FUNCTION


class _Client:
    def __init__(self) -> None:
        self._session: rpc.RPCSession | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """``connect`` to a server that a tracker handed out, or what the server answers to ``ask``."""
        if request["what"] == "connect":
            self._session = rpc.connect(request["host"], request["port"], request["match"])
            return {"status": "ok"}
        assert self._session is not None
        about = request["ask"]
        if "pack" in about:
            path = Path(about["pack"])
            about["pack"] = path.parent.name + "-" + path.name
            self._session.upload(bytearray(path.read_bytes()), about["pack"])
        try:
            answer = self._session.get_function(FUNCTION)(json.dumps(about))
        finally:
            if "pack" in about:
                self._session.remove(about["pack"])
        return {"status": "ok", "answer": json.loads(str(answer))}


if __name__ == "__main__":
    serve(_Client().answer)
