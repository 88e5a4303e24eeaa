"""A broker whose master key is in shares: it starts sealed, takes shares one by one, then delivers keys."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.tls.forging import signing_request
from tests.tls.running import CLI, LOOPBACK, Broker, free_ports, run_cli, unlock_request


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[tuple[Broker, list[str]]]:
    """A broker that is not running yet, and the three shares of its master key, of which two are needed."""
    main, enrolment = free_ports(2)
    made = run_cli(
        "init", "--ip", LOOPBACK, "--operator", "alice", "--trust-domain", "test.internal", "--json",
        "--config-dir", str(tmp_path / "config"), "--state-dir", str(tmp_path / "state"),
        "--listen", LOOPBACK, "--main-port", str(main), "--enrolment-port", str(enrolment),
        "--health", f"unix:{tmp_path / 'health.sock'}", "--master-key", "shares:2/3",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    broker = Broker(tmp_path, main, enrolment)
    yield broker, json.loads(made.stdout)["shares"]
    if broker.process is not None:
        assert broker.stop() == 0


def unseal(broker: Broker, *shares: str, status: int = 0) -> dict[str, Any]:
    """Pipe shares to the verb; return what it says as JSON, or its message where it fails."""
    done = subprocess.run(
        [*CLI, "unseal", "--json", "--config", str(broker.config), *([] if shares else ["--status"])],
        input="".join(f"{share}\n" for share in shares),
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    for share in shares:
        assert share not in done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout) if status == 0 else {"said": done.stderr}
    return document


def given(broker: Broker) -> int:
    (key,) = unseal(broker)["keys"]
    number: int = key["given"]
    return number


def records(broker: Broker) -> list[tuple[str, str]]:
    found = broker.ask("GET", "/v1/audit", who=broker.operator).document["audit"]
    return [(one["outcome"], str(one["detail"])) for one in found if one["verb"] == "unseal"]


def test_it_comes_up_sealed_and_delivers_keys_once_it_has_enough_shares(
    shared: tuple[Broker, list[str]],
) -> None:
    broker, shares = shared
    broker.start()
    assert any("STATUS=sealed, with 0 of 2 shares" in each for each in broker.notified)
    assert broker.probe("/healthz").status == 200
    unready = broker.probe("/readyz")
    assert (unready.status, unready.document["detail"]) == (503, "broker: is sealed, with 0 of 2 shares")
    body = {
        "token": "kbe1." + "a" * 32 + "." + "b" * 43,
        "csr": signing_request(ec.generate_private_key(ec.SECP256R1())),
    }
    for reply in (
        broker.ask("POST", "/v1/unlock", unlock_request(), who=broker.operator),
        broker.ask("GET", "/v1/addons", who=broker.operator),
        broker.ask("POST", "/v1/enrolment", body, port=broker.enrolment),
    ):
        assert (reply.status, reply.problem) == (503, "unavailable")
        assert int(reply.headers["retry-after"]) == 15
    assert unseal(broker, shares[2])["sealed"] is True
    broker.wait_for("STATUS=sealed, with 1 of 2 shares")
    assert unseal(broker, shares[2])["keys"][0]["given"] == 1  # again: changes nothing
    assert broker.probe("/readyz").status == 503
    assert unseal(broker, shares[0].lower().replace("-", " "))["sealed"] is False
    broker.wait_for("STATUS=serving")
    assert broker.probe("/readyz").status == 200
    broker.add_addon("shop")
    host = broker.enrol("shop")
    volume = broker.add_volume("shop", "data")
    passphrase = broker.claim(host, volume)
    assert [outcome for outcome, _detail in records(broker)] == ["done", "done"]
    broker.stop()
    broker.start()
    assert broker.ask("POST", "/v1/unlock", unlock_request(volume), who=host.files).status == 503
    assert unseal(broker, *shares[1:])["sealed"] is False
    reply = broker.ask("POST", "/v1/unlock", unlock_request(volume), who=host.files)
    assert reply.document["grants"][0]["keys"]["1"] == passphrase
    kept = b"".join(each.read_bytes() for each in broker.directory.rglob("*") if each.is_file())
    for share in shares:
        assert share.encode() not in kept


def test_a_kill_while_it_is_being_unsealed_leaves_it_sealed_and_loses_nothing(
    shared: tuple[Broker, list[str]],
) -> None:
    broker, shares = shared
    broker.start()
    passphrase, host, volume = None, None, None
    for i in range(4):
        assert given(broker) == 0
        unseal(broker, shares[i % 3])
        assert given(broker) == 1
        broker.kill()
        broker.start()
        if i == 1:
            unseal(broker, *shares[:2])
            broker.add_addon("shop")
            host, volume = broker.enrol("shop"), broker.add_volume("shop", "data")
            passphrase = broker.claim(host, volume)
            broker.kill()
            broker.start()
    assert host is not None
    assert volume is not None
    unseal(broker, *shares[1:])
    reply = broker.ask("POST", "/v1/unlock", unlock_request(volume), who=host.files)
    assert reply.document["grants"][0]["keys"]["1"] == passphrase


def test_a_wrong_share_and_a_mixture_are_said_and_nothing_is_half_done(
    shared: tuple[Broker, list[str]],
) -> None:
    from keybroker.masterkey.shares import Share
    from keybroker.wire.secret import Secret

    broker, shares = shared
    broker.start()
    typo = shares[0][:-1] + ("A" if shares[0][-1] != "A" else "B")
    assert "has a typing error" in unseal(broker, typo, status=65)["said"]
    assert given(broker) == 0
    other = json.loads(
        run_cli(
            "init", "--json", "--ip", LOOPBACK, "--operator", "bob", "--master-key", "shares:2/3",
            "--config-dir", str(broker.directory / "etc2"), "--state-dir", str(broker.directory / "var2"),
        ).stdout
    )["shares"][0]  # fmt: skip
    assert "does not name" in unseal(broker, other, status=66)["said"]
    # one that a holder forged: its form, its set and its checksum are right
    honest = Share.parse(Secret(shares[1].encode()))
    value = bytes(32)
    forged = Share(2, 3, 2, honest.set_id, Secret(value)).text().reveal().decode()
    assert unseal(broker, forged)["keys"][0]["given"] == 1
    assert "another one of that number" in unseal(broker, shares[1], status=73)["said"]
    said = unseal(broker, shares[0], status=73)["said"]
    assert "shares 1, 2: do not give the key" in said
    assert given(broker) == 0
    assert broker.probe("/readyz").status == 503
    assert unseal(broker, *shares[:2])["sealed"] is False
    outcomes = [outcome for outcome, _detail in records(broker)]
    assert outcomes == ["refused", "refused", "done", "refused", "refused", "done", "done"]


def test_only_the_owner_and_root_may_give_shares(shared: tuple[Broker, list[str]]) -> None:
    broker, _shares = shared
    broker.start()
    path = broker.directory / "state/unseal.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # should the directory and the socket be open to others by mistake, the peer's user still counts
    for each in (broker.directory, *broker.directory.parents):
        if not each.stat().st_mode & stat.S_IXOTH:
            each.chmod(0o755)
    path.parent.chmod(0o755)
    path.chmod(0o666)
    program = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534);"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "s.sendall(b'{\"share\": null}\\n'); print(s.makefile().readline())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert json.loads(done.stdout)["problem"] == "not-allowed"
    assert "keys" not in json.loads(done.stdout)


@pytest.mark.parametrize("line", [b"", b"\n", b"{}\n", b"[1]\n", b"\xff\n", b"x" * 9000, b'{"share": 1}\n'])
def test_whatever_is_said_to_the_socket_it_goes_on(shared: tuple[Broker, list[str]], line: bytes) -> None:
    import socket

    broker, shares = shared
    broker.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(broker.directory / "state/unseal.sock"))
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    assert "Traceback" not in broker.log.read_text()
    assert unseal(broker, *shares[:2])["sealed"] is False


def test_it_stops_at_once_while_it_is_sealed(shared: tuple[Broker, list[str]]) -> None:
    broker, _shares = shared
    broker.start()
    assert broker.stop() == 0
    assert not (broker.directory / "state/unseal.sock").exists()


def test_a_broker_is_rotated_to_shares_only_after_they_were_given_back(tmp_path: Path) -> None:
    from tests.tls.running import running

    with running(tmp_path) as broker:
        config = ("--config", str(broker.config))
        broker.add_addon("shop")
        volume = broker.add_volume("shop", "data")
        host = broker.enrol("shop")
        passphrase = broker.claim(host, volume)
        made = json.loads(run_cli("master", "split", "2/3", "--json", *config).stdout)
        early = run_cli("master", "rotate", "--to", made["uri"], *config)
        assert early.returncode == 75
        assert "is sealed, with 0 of 2 shares" in early.stderr
        assert broker.probe("/readyz").status == 200  # what serves goes on
        assert unseal(broker, *made["shares"][1:])["sealed"] is False
        done = run_cli("master", "rotate", "--to", made["uri"], "--wait", *config)
        assert done.returncode == 0, done.stderr
        broker.stop()
        broker.start()
        assert broker.probe("/readyz").status == 503
        unseal(broker, *made["shares"][:2])
        reply = broker.ask("POST", "/v1/unlock", unlock_request(volume), who=host.files)
        assert reply.document["grants"][0]["keys"]["1"] == passphrase
        # and back: a key in shares that wraps nothing is not waited for, though it is not forgotten yet
        assert run_cli("master", "rotate", "--wait", *config).returncode == 0
        broker.stop()
        broker.start()
        assert broker.probe("/readyz").status == 200
