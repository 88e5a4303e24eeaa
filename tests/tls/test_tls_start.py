"""The server starts only when everything about it is right, tells systemd, and takes systemd's sockets."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from tests.tls.forging import SERVER, issue, new_ca
from tests.tls.running import LOOPBACK, Broker, install, run_cli


@pytest.fixture
def installed(tmp_path: Path) -> Broker:
    return install(tmp_path)


def refused(broker: Broker, status: int = 78) -> str:
    done = run_cli("serve", "--config", str(broker.config))
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_is_ready_only_after_it_has_refused_a_stranger(installed: Broker) -> None:
    installed.start()
    try:
        log = installed.log.read_text()
        assert "main: refuses clients without a certificate" in log
        assert installed.notified[0].startswith("READY=1")
    finally:
        assert installed.stop() == 0


def test_it_does_not_start_with_a_certificate_that_agents_would_refuse(installed: Broker) -> None:
    directory = installed.directory / "config"
    forged = issue(installed.directory, new_ca(), usages=(SERVER,), dns=["localhost"])
    for name, path in (("server.crt", forged.certificate), ("server.key", forged.key)):
        (directory / name).unlink()
        (directory / name).write_bytes(path.read_bytes())
        (directory / name).chmod(0o400)
    assert "server.crt" in refused(installed)


def test_it_does_not_start_where_another_listens(installed: Broker) -> None:
    with socket.create_server((LOOPBACK, installed.main)):
        # 75: worth another try, which systemd makes
        assert f"cannot listen on {LOOPBACK}:{installed.main}" in refused(installed, 75)


@pytest.mark.parametrize("name", ["ca.key", "server.key", "master.key", "keybroker.toml"])
def test_it_does_not_start_with_a_file_that_is_open_to_others(installed: Broker, name: str) -> None:
    path = installed.directory / "config" / name
    path.chmod(0o666)
    said = refused(installed)
    assert str(path) in said
    assert "chmod" in said


def test_it_feeds_the_watchdog(installed: Broker) -> None:
    installed.start(WATCHDOG_USEC="400000")
    try:
        began = time.monotonic()
        for _ in range(3):
            installed.wait_for("WATCHDOG=1", seconds=5)
        assert time.monotonic() - began < 3
    finally:
        assert installed.stop() == 0


def test_it_takes_sockets_from_systemd(installed: Broker) -> None:
    """systemd passes descriptors from 3 on, with the process id of the server (sd_listen_fds(3))."""
    import subprocess

    from tests.tls.running import CLI

    names = {"main": installed.main, "enrolment": installed.enrolment}
    passed = [socket.create_server((LOOPBACK, port)) for port in names.values()]
    path = installed.directory / "notify"
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(path))

    def arrange() -> None:
        for place, one in enumerate(passed, start=100):
            os.dup2(one.fileno(), place)
        for place in range(len(passed)):
            os.dup2(100 + place, 3 + place)
        os.environb[b"LISTEN_PID"] = str(os.getpid()).encode()

    command = f'LISTEN_PID=$$ exec {" ".join(CLI)} serve --config "{installed.config}"'
    environment = {
        "PATH": "/usr/bin:/bin",
        "NOTIFY_SOCKET": str(path),
        "LISTEN_FDS": str(len(passed)),
        "LISTEN_FDNAMES": ":".join(names),
    }
    with installed.log.open("ab") as log:
        installed.process = subprocess.Popen(
            ["sh", "-c", command], env=environment, stderr=log, preexec_fn=arrange, close_fds=False
        )
    installed._notify = notify
    try:
        installed.wait_for("READY=1")
        for one in passed:
            one.close()
        assert installed.ask("GET", "/v1/addons", who=installed.operator).status == 200
        assert installed.ask("GET", "/v1/enrolment", port=installed.enrolment).status == 200
    finally:
        assert installed.stop() == 0
