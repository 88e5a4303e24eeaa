"""No passphrase is anywhere but in the reply to the host whose volume it is."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest

from tests.tls.running import Broker, Host, header, run_cli, running, unlock_request
from tests.tls.test_tls_changes import proof
from tests.tls.test_tls_roles import REPORT


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path_factory.mktemp("broker")) as started:
        started.add_addon("shop")
        yield started


@pytest.fixture(scope="module")
def host(broker: Broker) -> Host:
    return broker.enrol("shop")


@pytest.fixture(scope="module")
def secrets(broker: Broker, host: Host) -> list[bytes]:
    """The real passphrases, as the host has got them, in the forms in which they might turn up."""
    found = []
    for name in ("data", "logs", "index", "gone"):
        volume = broker.add_volume("shop", name)
        if name == "logs":
            passphrase = broker.claim(host, volume)
            reply = broker.ask("POST", "/v1/unlock", unlock_request(volume), who=host.files)
            assert passphrase in reply.body.decode(), "unlock gives the key that claim gave"
        else:
            passphrase = broker.make_ready(host, volume)
        found.append(passphrase)
        if name == "data":
            found += _rotated(broker, host, volume)
    erase = {"kind": "erase", "disk_gone": True}
    broker.ask("PUT", "/v1/addons/shop/volumes/gone/order", erase, who=broker.operator)
    return [form for passphrase in found for form in _forms(passphrase)]


def _forms(passphrase: str) -> list[bytes]:
    raw = base64.urlsafe_b64decode(passphrase + "=")
    return [passphrase.encode(), raw, raw.hex().encode(), base64.b64encode(raw)]


def _rotated(broker: Broker, host: Host, volume: dict[str, Any]) -> list[str]:
    """Have a key rotated, by the host's own calls, and return the new one."""
    at = f"/v1/volumes/{volume['volume']}"
    wanted = broker.ask("PUT", "/v1/addons/shop/volumes/data/wanted", {}, who=broker.operator).document
    grant = broker.ask("PUT", f"{at}/staged", {"revision": wanted["revision"]}, who=host.files).document
    new: str = grant["keys"]["2"]
    said = {"revision": grant["record"]["revision"], "proof": proof(volume, 2, new, 4)}
    promoted = broker.ask("PUT", f"{at}/current", said, who=host.files).document
    left = {"revision": promoted["revision"], "header": header(volume, 5), "copy": "S0JIMQ=="}
    left["proof"] = proof(volume, 2, new, 5)
    assert broker.ask("PUT", f"{at}/header", left, who=host.files).status == 200
    retired = broker.ask("DELETE", f"{at}/keys/1", who=host.files)
    assert retired.status == 200
    report = {**REPORT, "volumes": [
        {"volume": volume["volume"], "state": "open", "opened_by": 2, "sequence": 5, "activity": None,
         "trouble": None, "proof": proof(volume, 2, new, 5)},
    ]}  # fmt: skip
    told = broker.ask("POST", "/v1/report", report, who=host.files)
    assert told.status == 200
    assert new not in told.body.decode() + retired.body.decode()
    return [new]


RECIPIENT = "age1pjjkpf85cs8f9cf9fxzq9k20gylcaexld23ldu3hvhx6mrxgv3ussfvxa7"
"""Nobody has the key to it."""


def leaks(text: bytes, secrets: list[bytes]) -> list[bytes]:
    return [secret for secret in secrets if secret in text]


VERBS = [
    ("addon", "list"),
    ("addon", "show", "shop"),
    ("volume", "list"),
    ("volume", "list", "shop"),
    ("volume", "show", "shop", "data"),
    ("volume", "show", "shop", "logs"),
    ("volume", "add", "shop", "data", "--size", "1G", "--mount", "/srv/data"),
    ("volume", "rotate", "shop", "data"),
    ("volume", "rotate", "shop", "--dry-run"),
    ("volume", "record", "shop", "gone"),
    ("volume", "migrate", "shop", "index", "--serial", "new-index"),
    ("volume", "cancel", "shop", "index"),
    ("volume", "reencrypt", "shop", "data"),
    ("volume", "list", "--all"),
    ("host", "list"),
    ("audit", "tail", "--limit", "1000"),
    ("audit", "search"),
    ("audit", "export", "-"),
    ("audit", "verify"),
    ("operator", "list"),
    ("operator", "show"),
    ("recovery", "set-key", RECIPIENT),
    ("recovery", "show"),
    ("check",),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_no_verb_prints_one(
    broker: Broker, secrets: list[bytes], verb: tuple[str, ...], form: tuple[str, ...]
) -> None:
    done = run_cli(*verb, *form, "--config", str(broker.config))
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert leaks((done.stdout + done.stderr).encode(), secrets) == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/addons",
        "/v1/addons/shop",
        "/v1/volumes",
        "/v1/addons/shop/volumes/data",
        "/v1/addons/shop/volumes/gone/statements",
        "/v1/hosts",
        "/v1/audit?limit=1000",
        "/v1/operators",
        "/v1/self",
        "/v1/recovery",
        "/v1/recovery/volumes",
        "/openapi.json",
    ],
)
def test_no_reply_to_an_operator_has_one(broker: Broker, secrets: list[bytes], path: str) -> None:
    reply = broker.ask("GET", path, who=broker.operator)
    assert reply.status == 200
    assert leaks(reply.body, secrets) == []
    assert path == "/openapi.json" or b'"keys"' not in reply.body


def test_no_file_of_the_broker_has_one(broker: Broker, secrets: list[bytes]) -> None:
    files = [path for path in broker.directory.rglob("*") if path.is_file()]
    assert broker.log in files
    assert broker.database in files
    assert [path for path in files if leaks(path.read_bytes(), secrets)] == []


def test_a_backup_that_is_decrypted_has_one_wrapped_alone(
    broker: Broker, secrets: list[bytes], tmp_path: Path
) -> None:
    saved, key = tmp_path / "broker.age", pyrage.x25519.Identity.generate()
    recipient = str(key.to_public())
    done = run_cli("backup", str(saved), "--recipient", recipient, "--config", str(broker.config))
    assert done.returncode == 0, done.stderr
    plain = pyrage.decrypt(saved.read_bytes(), [key])
    assert len(plain) > 100_000
    master = (broker.directory / "config/master.key").read_bytes()
    assert leaks(plain, [*secrets, master, master.hex().encode()]) == []


def test_a_passphrase_that_was_revealed_is_in_no_file_of_the_broker(broker: Broker, tmp_path: Path) -> None:
    asked = ("volume", "reveal", "shop", "logs", "--reason", "why", "--output", str(tmp_path / "key"))
    done = run_cli(*asked, "--config", str(broker.config))
    assert done.returncode == 0, done.stderr
    forms = _forms((tmp_path / "key").read_text())
    assert leaks((done.stdout + done.stderr).encode(), forms) == []
    files = [path for path in broker.directory.rglob("*") if path.is_file()]
    assert [path for path in files if leaks(path.read_bytes(), forms)] == []


def test_no_process_has_one_in_its_arguments_or_environment(broker: Broker, secrets: list[bytes]) -> None:
    assert broker.process is not None
    seen = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        seen += int(entry.name) == broker.process.pid
        assert leaks(text, secrets) == []
    assert seen == 1


def test_the_log_has_no_token_no_request_and_no_certificate(
    broker: Broker, host: Host, secrets: list[bytes]
) -> None:
    said = run_cli("host", "enrol", "shop", "--config", str(broker.config)).stdout.split()
    (token,) = (word for word in said if word.startswith("kbe1."))
    broker.ask("POST", "/v1/enrolment", {"token": token, "csr": "x"}, port=broker.enrolment)
    broker.ask("GET", f"/v1/volumes?addon={token}", who=broker.operator)
    broker.ask("POST", "/v1/unlock", b'{"canary-in-a-body": 1}', who=host.files)
    broker.ask(
        "POST", "/v1/unlock", unlock_request(), who=host.files, headers={"X-Canary": "canary-in-a-field"}
    )
    log = broker.log.read_bytes()
    assert b"/v1/unlock" in log
    assert leaks(log, [*secrets, token.encode(), b"canary", b"BEGIN", b"boot_id"]) == []
