"""Whoever is refused is on record: in the audit trail where it is known who asks, else in the log."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.tls.forging import SERVER, Files, issue, new_ca, signing_request
from tests.tls.running import LOOPBACK, OPERATOR, Broker, Host, Reply, client_context, refusal, unlock_request

ALICE = f"spiffe://test.internal/operator/{OPERATOR}"
HOURS = dt.timedelta(hours=1)


def logged(broker: Broker, mark: int, *words: str) -> str:
    """Return the first line of the log after ``mark`` that has all words; it is written beside the reply."""
    deadline = time.monotonic() + 10
    while True:
        for line in broker.log.read_text()[mark:].splitlines():
            if all(word in line for word in words):
                return line
        assert time.monotonic() < deadline, broker.log.read_text()[mark:]
        time.sleep(0.05)


def newest(broker: Broker) -> dict[str, Any]:
    reply = broker.ask("GET", "/v1/audit?after=-1&limit=1", who=broker.operator)
    (found,) = reply.document["audit"]
    return dict(found)


def forged(broker: Broker, directory: Path, **what: Any) -> Files:
    return issue(directory, broker.signer, uris=[ALICE], **what)


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (lambda _broker, _directory: None, "did not return a certificate"),
        (lambda _broker, there: issue(there, new_ca(), uris=[ALICE]), "unable to get local issuer"),
        (lambda _broker, there: issue(there, None, uris=[ALICE]), "self-signed certificate"),
        (lambda broker, there: forged(broker, there, begins=-2 * HOURS, ends=-HOURS), "has expired"),
        (lambda broker, there: forged(broker, there, begins=HOURS, ends=2 * HOURS), "is not yet valid"),
        (lambda broker, there: forged(broker, there, usages=(SERVER,)), "certificate purpose"),
    ],
    ids=["none", "another CA", "self-signed", "expired", "not yet valid", "a server's"],
)
def test_a_refused_handshake_is_in_the_log_with_its_address_and_reason(
    broker: Broker, tmp_path: Path, shown: Callable[[Broker, Path], Files | None], why: str
) -> None:
    before, mark = newest(broker), len(broker.log.read_text())
    refusal(broker, shown(broker, tmp_path))
    assert " WARNING " in logged(broker, mark, f"'{LOOPBACK}'", why)
    # a stranger cannot fill the trail
    assert newest(broker) == before


def test_who_speaks_an_older_tls_is_in_the_log_too(broker: Broker) -> None:
    mark = len(broker.log.read_text())
    context = client_context(broker.ca, broker.operator)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((LOOPBACK, broker.main), timeout=10) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=LOOPBACK)
    logged(broker, mark, f"'{LOOPBACK}'", "unsupported protocol")


def unlock(broker: Broker, who: Files) -> Reply:
    return broker.ask("POST", "/v1/unlock", unlock_request(), who=who)


def test_who_may_not_is_in_the_trail_with_name_address_and_reason(
    broker: Broker, host: Host, tmp_path: Path
) -> None:
    gone = broker.enrol("shop")
    away = {"reason": "its VM was cloned"}
    assert broker.ask("PUT", f"/v1/hosts/{gone.id}/revocation", away, who=broker.operator).status == 200
    broker.add_addon("bank")
    theirs = broker.add_volume("bank", "data")
    at = f"/v1/volumes/{theirs['volume']}"
    name = "spiffe://test.internal/host/{}".format
    cases: list[tuple[Callable[[], Reply], str, str, str, str]] = [
        (lambda: unlock(broker, broker.operator), "unlock", "denied", "not-allowed", ALICE),
        (lambda: unlock(broker, gone.files), "unlock", "denied", "revoked", name(gone.id)),
        (lambda: unlock(broker, forged(broker, tmp_path)), "unlock", "denied", "no-identity", ALICE),
        (lambda: broker.ask("GET", "/v1/hosts", who=host.files),
         "host.read", "denied", "not-allowed", name(host.id)),
        (lambda: broker.ask("GET", f"{at}/header", who=host.files),
         "header.read", "refused", "unknown", name(host.id)),
        (lambda: broker.ask("PUT", f"{at}/staged", {"revision": 1}, who=host.files),
         "stage", "refused", "unknown", name(host.id)),
    ]  # fmt: skip
    for call, verb, outcome, problem, actor in cases:
        before = newest(broker)["sequence"]
        assert call().problem == problem
        record = newest(broker)
        assert record["sequence"] == before + 1
        assert (record["verb"], record["outcome"], record["actor"]) == (verb, outcome, actor)
        assert (record["address"], record["detail"]["problem"]) == (LOOPBACK, problem)
        assert record["detail"]["why"]
    # what is asked for beside one's own volumes is on record by name
    assert broker.ask("POST", "/v1/unlock", unlock_request(theirs), who=host.files).status == 200
    assert newest(broker)["detail"]["not_its_volumes"] == [theirs["volume"]]


def enrol(broker: Broker, token: str) -> Reply:
    csr = signing_request(ec.generate_private_key(ec.SECP256R1()))
    return broker.ask("POST", "/v1/enrolment", {"token": token, "csr": csr}, port=broker.enrolment)


def test_a_replayed_token_is_in_the_trail_and_one_that_was_never_made_in_the_log(broker: Broker) -> None:
    token = broker.invite("shop")
    assert enrol(broker, token).status == 200
    before = newest(broker)["sequence"]
    assert enrol(broker, token).problem == "token-refused"
    record = newest(broker)
    assert record["sequence"] == before + 1
    assert (record["verb"], record["outcome"], record["address"]) == ("enrol", "denied", LOOPBACK)
    assert record["detail"]["why"] == "the token was used by another key"
    head, _, fingerprint = token.rpartition(".")
    mark = len(broker.log.read_text())
    assert enrol(broker, f"{head[:-4]}AAAA.{fingerprint}").problem == "token-refused"
    logged(broker, mark, "enrolment: POST /v1/enrolment 403", LOOPBACK)
    assert newest(broker) == record


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b" " * (2 << 20), 413)], ids=["malformed", "oversized"]
)
def test_what_cannot_be_read_is_in_the_log(broker: Broker, host: Host, body: bytes, status: int) -> None:
    before, mark = newest(broker), len(broker.log.read_text())
    assert broker.ask("POST", "/v1/unlock", body, who=host.files).status == status
    logged(broker, mark, f"main: POST /v1/unlock {status} ", LOOPBACK)
    assert newest(broker) == before
