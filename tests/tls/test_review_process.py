"""The broker's process gives nothing away: its own user cannot read its memory, and it asks nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.tls.running import CLI, Broker, install

NOBODY = 65534


@pytest.fixture
def served_by_nobody() -> Iterator[subprocess.Popen[bytes]]:
    """A broker that root did not start: who gives up root is protected by that alone (PR_SET_DUMPABLE)."""
    with tempfile.TemporaryDirectory() as directory:  # not pytest's, which others may not enter
        os.chmod(directory, 0o755)  # noqa: S103  # as /etc is
        broker = install(Path(directory))
        for path in (broker.directory, *broker.directory.rglob("*")):
            shutil.chown(path, NOBODY, NOBODY)
        process = subprocess.Popen(
            [*CLI, "serve", "--config", str(broker.config)],
            user=NOBODY, group=NOBODY, extra_groups=[], stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while not broker.health.exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        assert broker.probe("/readyz").status == 200
        yield process
        process.terminate()
        assert process.wait(30) == 0


def test_other_processes_of_its_user_cannot_read_its_memory(
    served_by_nobody: subprocess.Popen[bytes],
) -> None:
    peek = "import sys; open(f'/proc/{sys.argv[1]}/mem', 'rb')"
    peeking = subprocess.run(
        [sys.executable, "-c", peek, str(served_by_nobody.pid)],
        user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert "PermissionError" in peeking.stderr
    limits = Path(f"/proc/{served_by_nobody.pid}/limits").read_text()
    assert [line.split()[-3:-1] for line in limits.splitlines() if "core" in line] == [["0", "0"]]


def test_a_key_with_a_pass_phrase_is_refused_without_asking_for_it(broker: Broker) -> None:
    key = broker.directory / "config/server.key"
    genuine = key.read_bytes()
    locked = serialization.load_pem_private_key(genuine, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a pass phrase"),
    )
    assert os.geteuid() == 0, "this tier is run as root"
    key.write_bytes(locked)
    try:
        broker.drain()
        broker.signal(signal.SIGHUP)
        broker.wait_for("STATUS=serving; the last reload was refused")
        assert "pass phrase" not in broker.log.read_text()
    finally:
        key.write_bytes(genuine)
