"""The control socket of a running QEMU: one JSON line asks, one JSON line answers, events in between.

Source: QEMU documentation, "QEMU Machine Protocol Specification".
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any


class Qmp:
    """One connection, ready for commands."""

    def __init__(self, path: Path, *, limit_seconds: float = 20.0) -> None:
        self._socket = _connect(path, limit_seconds)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        greeting = json.loads(self._lines.readline())
        assert "QMP" in greeting, greeting
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> Any:
        """Run one command and return its result.

        Raises:
            RuntimeError: QEMU refused it, or is gone.
        """
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while line := self._lines.readline():
            reply = json.loads(line)
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]
        raise RuntimeError(f"{command}: QEMU closed its socket")

    def close(self) -> None:
        """Close the connection; the machine runs on."""
        self._lines.close()
        self._socket.close()


def _connect(path: Path, limit_seconds: float) -> socket.socket:
    until = time.monotonic() + limit_seconds
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(limit_seconds)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return connection
