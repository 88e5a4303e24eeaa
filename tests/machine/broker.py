"""The broker of a test, run on this machine as an operator would run it: ``init``, ``serve``, and the verbs.

    with HostBroker(directory) as broker:
        broker.start()
        broker.operate("addon", "add", "shop-db", "--engine", "postgresql")

It listens on loopback only; a test machine reaches it at 10.0.2.2.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

GUEST_SEES_US_AT: Final = "10.0.2.2"
PROGRAM: Final = Path(sys.executable).parent / "keybroker"


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class HostBroker:
    """An installation of its own in a directory, and the process that serves it.

    Args:
        directory: made by ``init``; must not hold an installation yet.
        ports: main and enrolment; another broker's, to stand in its place. Free ones by default.
    """

    def __init__(self, directory: Path, *, ports: tuple[int, int] | None = None) -> None:
        self.directory = directory
        self.ports = ports or (free_port(), free_port())
        self.configuration = directory / "etc/keybroker.toml"
        self._health = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._run(
            "init", "--ip", GUEST_SEES_US_AT, "--operator", "tester", "--listen", "127.0.0.1",
            "--main-port", str(self.ports[0]), "--enrolment-port", str(self.ports[1]),
            "--health", self._health,
            "--config-dir", str(directory / "etc"), "--state-dir", str(directory / "var"),
        )  # fmt: skip

    def start(self, *, limit_seconds: float = 30.0) -> None:
        """Serve, and wait until it says that it is ready."""
        assert self._process is None, "it serves"
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "serve", "--config", self.configuration],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until = time.monotonic() + limit_seconds
        while not self._ready():
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError(f"the broker is not ready:\n{self.log()[-4000:]}")
            time.sleep(0.1)

    @property
    def serves(self) -> bool:
        """Say whether it was started and not stopped."""
        return self._process is not None

    def stop(self) -> None:
        """Stop serving, as systemd would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            finally:
                self._process.kill()
                self._process.wait()
                self._process = None

    def operate(self, *arguments: str) -> Any:
        """Run one of an operator's verbs and return its JSON document."""
        return json.loads(self._run(*arguments, "--config", str(self.configuration), "--json"))

    def log(self) -> str:
        """Return what the server logged."""
        file = self.directory / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            said = f"keybroker {' '.join(arguments)}: status {done.returncode}\n{done.stderr}"
            raise RuntimeError(f"{said}\n{self.log()[-4000:]}")
        return done.stdout

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._health}/readyz", timeout=2) as reply:  # noqa: S310
                return bool(reply.status == 200)
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
