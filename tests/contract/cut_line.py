"""A line to PostgreSQL that is cut at the next COMMIT: before the server hears it, or before it answers."""

from __future__ import annotations

import socket
import tempfile
import threading
from pathlib import Path
from typing import Literal

Cut = Literal["question", "answer"]


class CutLine:
    """A unix socket in front of a server's.

    Args:
        server: directory of the server's socket.

    Attributes:
        cut: what is lost of the next COMMIT; None for nothing.
        cuts: how many lines were cut.
    """

    def __init__(self, server: Path) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="kb-cut-", dir="/tmp"))
        self.cut: Cut | None = None
        self.cuts = 0
        self._server = server / ".s.PGSQL.5432"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.home / ".s.PGSQL.5432"))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        (self.home / ".s.PGSQL.5432").unlink()
        self.home.rmdir()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                lost, self.cut = (self.cut, None) if b"COMMIT\0" in data and self.cut else (None, self.cut)
                if lost == "answer":
                    client.shutdown(socket.SHUT_RDWR)
                    server.sendall(data)
                if lost == "question":
                    client.shutdown(socket.SHUT_RDWR)
                if lost:
                    self.cuts += 1
                    break
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                client.sendall(data)
        except OSError:
            return
        finally:
            server.close()
            client.close()
