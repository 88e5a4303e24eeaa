"""A host whose certificate has ended gets the next one by proof of its key, within the grace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.tls.ended import ended
from tests.tls.forging import Files, issue, private_pem, signing_request
from tests.tls.running import Broker, Host, Reply, refusal, unlock_request


@pytest.fixture
def host(broker: Broker) -> Host:
    """A host of each test's own, for there are so many late renewals a minute."""
    return broker.enrol("shop")


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def late(broker: Broker, shown: Files, key: ec.EllipticCurvePrivateKey) -> Reply:
    body = {"certificate": shown.certificate.read_text(), "csr": signing_request(key)}
    return broker.ask("POST", "/v1/enrolment/renewal", body, port=broker.enrolment)


def works(broker: Broker, reply: Reply, key: ec.EllipticCurvePrivateKey, directory: Path) -> bool:
    """Say whether the certificate of a reply lets its key's holder in."""
    files = Files(directory / "new.crt", directory / "new.key")
    files.certificate.write_text(reply.document["certificate"])
    files.key.write_bytes(private_pem(key))
    return broker.ask("POST", "/v1/unlock", unlock_request(), who=files).status == 200


def newest_record(broker: Broker) -> dict[str, Any]:
    trail = broker.ask("GET", "/v1/audit?after=-1&limit=1", who=broker.operator).document["audit"]
    record: dict[str, Any] = trail[-1]
    return record


def test_an_ended_certificate_is_refused_by_the_main_listener_and_renewed_by_the_other(
    broker: Broker, host: Host, tmp_path: Path
) -> None:
    key = new_key()
    shown = ended(broker, host.id, tmp_path, key, days=29)
    assert refusal(broker, shown) == "SSLV3_ALERT_CERTIFICATE_EXPIRED"
    reply = late(broker, shown, key)
    assert reply.status == 200, reply.body
    record = newest_record(broker)
    assert (record["verb"], record["outcome"], record["host"]) == ("renew.late", "done", host.id)
    assert reply.document["host"] == host.id
    assert reply.document["enrolment"] == [f"https://127.0.0.1:{broker.enrolment}"]
    assert works(broker, reply, key, tmp_path)


def test_a_repeated_request_gets_the_same_certificate_and_the_present_one_stays_good(
    broker: Broker, host: Host, tmp_path: Path
) -> None:
    key = new_key()
    shown = ended(broker, host.id, tmp_path, key, days=1)
    first, again = late(broker, shown, key), late(broker, shown, key)
    assert first.document["certificate"] == again.document["certificate"]
    assert works(broker, first, key, tmp_path)


def test_after_the_grace_it_is_refused(broker: Broker, host: Host, tmp_path: Path) -> None:
    key = new_key()
    reply = late(broker, ended(broker, host.id, tmp_path, key, days=30.01), key)
    assert (reply.status, reply.problem) == (403, "certificate")
    assert newest_record(broker)["outcome"] == "denied"


def test_a_revoked_host_is_refused(broker: Broker, host: Host, tmp_path: Path) -> None:
    key = new_key()
    shown = ended(broker, host.id, tmp_path, key, days=1)
    done = broker.ask("PUT", f"/v1/hosts/{host.id}/revocation", {"reason": "sold"}, who=broker.operator)
    assert done.status == 200
    assert late(broker, shown, key).problem == "revoked"


def test_a_stolen_certificate_without_its_key_gives_nothing_and_takes_nothing(
    broker: Broker, host: Host, tmp_path: Path
) -> None:
    key = new_key()
    shown = ended(broker, host.id, tmp_path, key, days=1)
    for _ in range(20):
        reply = late(broker, shown, new_key())
        assert (reply.status, reply.problem) == (403, "no-identity")
        assert b"CERTIFICATE-----" not in reply.body
    tried = broker.ask("GET", "/v1/audit?after=-1&limit=30", who=broker.operator).document["audit"]
    denied = [one for one in tried if one["verb"] == "renew.late" and one["host"] == host.id]
    assert 1 <= len(denied) <= 8, "some are on record, not all: nobody fills the trail with them"
    assert late(broker, shown, key).status == 200, "and the host itself is not kept out"


def test_each_key_s_grace_is_its_own(broker: Broker, host: Host, tmp_path: Path) -> None:
    gone, first, second = new_key(), new_key(), new_key()
    former = ended(broker, host.id, tmp_path, gone, days=30.01)
    shown = ended(broker, host.id, tmp_path, first, days=10)
    ended(broker, host.id, tmp_path, second, days=2)
    assert late(broker, former, gone).problem == "certificate"
    # a clone has renewed since, with a key of its own: the VM itself is not locked out by that
    reply = late(broker, shown, first)
    assert reply.status == 200
    assert works(broker, reply, first, tmp_path)
    # a renewal whose reply was lost: the host has the key, and only the certificate from before
    reply = late(broker, shown, second)
    assert reply.status == 200
    assert works(broker, reply, second, tmp_path)


def test_a_certificate_that_was_never_given_is_refused_though_the_ca_signed_it(
    broker: Broker, host: Host, tmp_path: Path
) -> None:
    key = new_key()
    forged = issue(tmp_path, broker.signer, uris=[f"spiffe://test.internal/host/{host.id}"], key=key)
    assert late(broker, forged, key).problem == "no-identity"


def test_an_operator_s_certificate_gets_none_here(broker: Broker) -> None:
    assert late(broker, broker.operator, new_key()).problem == "no-identity"


def test_too_many_a_minute_are_told_to_wait(broker: Broker, host: Host, tmp_path: Path) -> None:
    key = new_key()
    shown = ended(broker, host.id, tmp_path, key, days=1)
    replies = [late(broker, shown, key) for _ in range(8)]
    assert replies[-1].status == 429
    assert int(replies[-1].headers["retry-after"]) >= 1


def test_a_disabled_add_on_and_a_wrong_address_are_refused(broker: Broker, tmp_path: Path) -> None:
    broker.add_addon("blog")
    own, key = broker.enrol("blog"), new_key()
    shown = ended(broker, own.id, tmp_path, key, days=1)
    for change, problem in (
        ({"enabled": False}, "disabled"),
        ({"enabled": True, "allow": ["192.0.2.0/24"]}, "wrong-address"),
    ):
        done = broker.ask("PUT", "/v1/addons/blog/policy", change, who=broker.operator)
        assert done.status == 200, done.body
        assert late(broker, shown, key).problem == problem


@pytest.mark.parametrize("field", ["certificate", "csr"])
def test_what_cannot_be_read_is_said_to_be_so(broker: Broker, host: Host, field: str) -> None:
    body = {"certificate": host.files.certificate.read_text(), "csr": signing_request(new_key())}
    reply = broker.ask("POST", "/v1/enrolment/renewal", body | {field: "-----BEGIN"}, port=broker.enrolment)
    assert (reply.status, reply.problem) == (400, "malformed")


def test_a_good_certificate_is_given_again_to_whoever_has_its_key(
    broker: Broker, host: Host, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(host.files.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    reply = late(broker, host.files, key)
    assert reply.document["certificate"] == host.files.certificate.read_text()
    assert x509.load_pem_x509_certificate(reply.document["certificate"].encode()).public_key() == (
        key.public_key()
    )
