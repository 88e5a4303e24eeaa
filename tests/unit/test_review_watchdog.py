"""A broker that can write no record hands out no key, for good: the service manager is to start another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, sys
from keybroker.supervisor import watchdog
async def main():
    async with asyncio.timeout(0.6):
        await watchdog(lambda: sys.argv[1] == "alive")
try:
    asyncio.run(main())
except TimeoutError:
    pass
"""


@pytest.mark.parametrize(("writer", "heard"), [("alive", True), ("dead", False)])
def test_the_watchdog_is_fed_while_the_writer_lives(tmp_path: Path, writer: str, heard: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, writer],
            env={"PATH": os.environ["PATH"]} | environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        manager.setblocking(False)
        said = set()
        try:
            while True:
                said.add(manager.recv(100))
        except BlockingIOError:
            pass
    assert said == ({b"WATCHDOG=1"} if heard else set())
