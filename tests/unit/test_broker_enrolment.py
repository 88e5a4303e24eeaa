"""One token, one VM: whatever races, whatever is lost on the way, whatever the CSR says of itself."""

from __future__ import annotations

import base64
import hashlib
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from keybroker.ca import new_key
from keybroker.service import enrolment, inventory
from keybroker.wire.messages import TOKEN, Certified, EnrolmentRequest, RenewalRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from tests.contract.broker_house import TRUST_DOMAIN, House, csr


def enrol(house: House, token: Secret, request: str) -> Certified:
    return enrolment.enrol(house.broker, "192.0.2.1", EnrolmentRequest(token, request))


def problem(ask: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value.problem


def invite(house: House, lifetime_seconds: int = 3600) -> inventory.Invitation:
    house.addon()
    return inventory.invite(house.broker, house.operator, "shop-db", lifetime_seconds)


def test_a_token_has_192_bits_and_the_ca_s_fingerprint_and_only_its_hash_is_kept(house: House) -> None:
    invited = invite(house)
    text = invited.token.reveal().decode()
    match = TOKEN.fullmatch(text)
    assert match is not None
    assert len(base64.urlsafe_b64decode(match[1])) == 24
    offered = x509.load_pem_x509_certificate(enrolment.offer(house.broker).ca.encode())
    digest = hashlib.sha256(offered.public_bytes(Encoding.DER)).digest()
    assert base64.urlsafe_b64decode(match[2] + "=") == digest
    house.broker.close()
    stored = house.installation.database.read_bytes()
    assert match[1].encode() not in stored
    assert hashlib.sha256(text.encode()).hexdigest().encode() in stored
    house.broker = house.open()


def test_the_certificate_names_the_invited_host_and_comes_with_its_volumes(house: House) -> None:
    invited = invite(house)
    record = house.volume()
    certified = enrol(house, invited.token, csr())
    leaf = x509.load_pem_x509_certificate(certified.certificate.encode())
    sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sans.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://{TRUST_DOMAIN}/host/{invited.host}"
    ]
    assert certified.host == invited.host
    assert certified.records == (record,)
    assert certified.brokers == house.broker.settings.brokers
    view = inventory.host(house.broker, house.operator, invited.host)
    assert (view.state, view.expires) == ("enrolled", leaf.not_valid_after_utc)


def test_what_a_request_says_of_itself_does_not_count(house: House) -> None:
    key = new_key()
    boastful = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alice")]))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/operator/alice")]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    certified = enrol(house, invite(house).token, boastful)
    leaf = x509.load_pem_x509_certificate(certified.certificate.encode())
    assert b"alice" not in leaf.public_bytes(Encoding.DER)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_same_key_gets_the_same_certificate_until_the_token_ends(house: House) -> None:
    invited = invite(house)
    key = new_key()
    first = enrol(house, invited.token, csr(key))
    house.clock.forward(minutes=59)
    assert enrol(house, invited.token, csr(key)).certificate == first.certificate
    house.clock.forward(minutes=2)
    assert problem(lambda: enrol(house, invited.token, csr(key))) is Problem.TOKEN_REFUSED


def test_another_key_is_refused_and_that_is_on_record(house: House) -> None:
    invited = invite(house)
    enrol(house, invited.token, csr())
    assert problem(lambda: enrol(house, invited.token, csr())) is Problem.TOKEN_REFUSED
    entry = list(house.broker.store.audit_records())[-1]
    assert (entry.verb, entry.outcome, entry.host) == ("enrol", "denied", invited.host)
    assert "used by another key" in entry.detail


def test_an_expired_an_unknown_and_a_revoked_host_s_token_are_told_apart_by_nobody_outside(
    house: House,
) -> None:
    expired, revoked = invite(house, 60), invite(house)
    inventory.revoke(house.broker, house.operator, revoked.host, "typo")
    house.clock.forward(seconds=60)
    text = expired.token.reveal()
    unknown = Secret(text[:-60] + (b"A" if text[-60:-59] != b"A" else b"B") + text[-59:])
    said = set()
    for token in (expired.token, revoked.token, unknown):
        with pytest.raises(KeybrokerError) as caught:
            enrol(house, token, csr())
        said.add((caught.value.problem, caught.value.detail))
    assert said == {(Problem.TOKEN_REFUSED, "token: is unknown, used or expired")}


def test_strangers_who_guess_leave_no_record(house: House) -> None:
    before = house.audit()
    for i in range(5):
        token = Secret(b"kbe1." + str(i).encode() * 32 + b"." + b"A" * 43)
        assert problem(lambda token=token: enrol(house, token, csr())) is Problem.TOKEN_REFUSED  # type: ignore[misc]
    assert house.audit() == before


def test_of_many_vms_that_race_for_a_token_exactly_one_gets_it(house: House) -> None:
    house.addon()
    for _ in range(5):
        invited = inventory.invite(house.broker, house.operator, "shop-db")
        requests = [csr() for _ in range(24)]
        gate = threading.Barrier(len(requests))
        won: list[str] = []
        lost: list[Problem] = []

        def race(
            text: str,
            token: Secret = invited.token,
            gate: threading.Barrier = gate,
            won: list[str] = won,
            lost: list[Problem] = lost,
        ) -> None:
            gate.wait(timeout=20)
            try:
                won.append(enrol(house, token, text).certificate)
            except KeybrokerError as error:
                lost.append(error.problem)

        threads = [threading.Thread(target=race, args=(text,)) for text in requests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert (len(won), lost) == (1, [Problem.TOKEN_REFUSED] * 23)
    house.broker.close()
    with closing(sqlite3.connect(house.installation.database)) as database:
        (issued,) = database.execute("SELECT count(*) FROM certificates WHERE host IS NOT NULL").fetchone()
    assert issued == 5
    house.broker = house.open()


def test_one_vm_that_asks_many_times_at_once_gets_one_certificate(house: House) -> None:
    invited = invite(house)
    request = csr()
    got: list[str] = []
    threads = [
        threading.Thread(target=lambda: got.append(enrol(house, invited.token, request).certificate))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert (len(got), len(set(got))) == (12, 1)


def test_a_renewed_host_has_both_certificates_until_the_old_one_ends(house: House) -> None:
    house.addon()
    old, first = house.enrol()
    house.clock.forward(days=61)
    renewed = enrolment.renew(house.broker, old, RenewalRequest(csr()))
    new = house.peer(renewed.host, renewed.certificate)
    assert renewed.host == first.host
    assert renewed.certificate != first.certificate
    house.unlock(old)
    house.unlock(new)
    house.clock.forward(days=30)
    assert problem(lambda: house.unlock(old)) is Problem.CERTIFICATE
    house.unlock(new)


def test_a_renewal_whose_reply_was_lost_gives_the_same_certificate_again(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    house.clock.forward(days=61)
    key = new_key()
    first = enrolment.renew(house.broker, peer, RenewalRequest(csr(key)))
    house.clock.forward(days=1)
    again = enrolment.renew(house.broker, peer, RenewalRequest(csr(key)))
    assert again.certificate == first.certificate


def test_a_host_that_keeps_its_key_is_renewed_all_the_same(house: House) -> None:
    house.addon()
    key = new_key()
    peer, first = house.enrol(key=key)
    house.clock.forward(days=61)
    renewed = enrolment.renew(house.broker, peer, RenewalRequest(csr(key)))
    assert renewed.certificate != first.certificate


def test_a_revoked_host_and_an_operator_are_not_renewed(house: House) -> None:
    house.addon()
    peer, _certified = house.enrol()
    inventory.revoke(house.broker, house.operator, peer.identity.name, "gone")
    asks = RenewalRequest(csr())
    assert problem(lambda: enrolment.renew(house.broker, peer, asks)) is Problem.REVOKED
    assert problem(lambda: enrolment.renew(house.broker, house.operator, asks)) is Problem.NOT_ALLOWED
