"""A broker whose master key is in a PKCS#11 token: it serves, and says 503 while the token is away."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.contract.softhsm import PIN, SoftToken, make_token
from tests.tls.running import Broker, install, run_cli, unlock_request


@pytest.fixture
def token(tmp_path: Path) -> SoftToken:
    return make_token(tmp_path)


def make(token: SoftToken, uri: str) -> Broker:
    made = run_cli("master", "create", uri, "--config", "/nonexistent", **token.environment)
    assert made.returncode == 0, made.stderr
    root = token.directory.with_name("broker")
    root.mkdir()
    return install(root, options=("--master-key", uri), **token.environment)


def test_while_the_token_is_away_a_boot_is_told_to_come_back_and_then_it_is_served(token: SoftToken) -> None:
    broker = make(token, token.uri("master-1"))
    broker.start(SOFTHSM2_CONF=str(token.configuration))
    try:
        broker.add_addon("shop")
        host = broker.enrol("shop")
        volume = broker.add_volume("shop", "data")
        passphrase = broker.claim(host, volume)
        body = unlock_request(volume)
        token.take_away()
        for _ in range(3):
            reply = broker.ask("POST", "/v1/unlock", body, who=host.files)
            assert (reply.status, reply.problem) == (503, "unavailable")
            assert int(reply.headers["retry-after"]) >= 1
        assert broker.probe("/healthz").status == 200
        token.bring_back()
        deadline = time.monotonic() + 20
        while (reply := broker.ask("POST", "/v1/unlock", body, who=host.files)).status != 200:
            assert time.monotonic() < deadline, reply.body
            time.sleep(0.5)
        assert reply.document["grants"][0]["keys"]["1"] == passphrase
        assert PIN not in broker.log.read_text()
    finally:
        assert broker.stop() == 0


def test_check_and_serve_say_what_is_wrong_with_module_token_pin_and_key(token: SoftToken) -> None:
    broker = make(token, token.uri("master-1"))
    config = ("--config", str(broker.config))
    good = broker.config.read_text()
    assert run_cli("check", *config, **token.environment).returncode == 0

    def wrong(text: str, status: int) -> str:
        """Say what both say, which must be the same."""
        broker.config.write_text(text)
        checked = run_cli("check", *config, **token.environment)
        served = run_cli("serve", *config, **token.environment)
        assert (checked.returncode, served.returncode) == (status, status), checked.stdout + served.stderr
        assert "Traceback" not in checked.stderr + served.stderr
        assert PIN not in checked.stdout + served.stderr
        return served.stderr

    assert "there is no such key" in wrong(good.replace("master-1", "master-9"), 78)
    assert "cannot be used" in wrong(good.replace("libsofthsm2.so", "none.so"), 78)
    # 75: a token may come yet, so systemd tries again
    assert "the token is not there" in wrong(good.replace("token=keybroker", "token=none"), 75)
    assert "a PIN does not belong into it" in wrong(
        good.replace("&pin-source", "&pin-value=1&pin-source"), 78
    )
    token.pin.chmod(0o440)
    assert f"chmod 0400 {token.pin}" in wrong(good, 78)
    token.pin.chmod(0o600)
    token.pin.write_text("0000-0000")
    token.pin.chmod(0o400)
    assert "the PIN was refused, and is not tried again" in wrong(good, 78)


def test_nothing_of_a_key_in_a_token_is_in_what_the_broker_keeps(token: SoftToken, tmp_path: Path) -> None:
    """A key that is imported, so that it can be looked for."""
    key = tmp_path / "key"
    key.write_bytes(b"\xa5marked master key of thirty-two!"[:32])
    token.import_key(key, "imported")
    root = tmp_path / "broker"
    root.mkdir()
    broker = install(root, options=("--master-key", token.uri("imported")), **token.environment)
    broker.start(SOFTHSM2_CONF=str(token.configuration))
    try:
        broker.add_addon("shop")
        broker.add_volume("shop", "data")
    finally:
        assert broker.stop() == 0
    for path in (each for each in root.rglob("*") if each.is_file()):
        content = path.read_bytes()
        assert b"marked master key" not in content, path
        assert PIN.encode() not in content, path
    saved = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout
    recipient = saved.partition("public key: ")[2].split()[0]
    made = run_cli(
        "backup", str(tmp_path / "b.age"), "--recipient", recipient, "--config", str(broker.config),
        **token.environment,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert f"its PIN in file:{token.pin}" in made.stderr
