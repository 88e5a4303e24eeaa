"""An outside CA: what waits for it, what is taken from it, and nothing lost or given away meanwhile."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pyrage
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keybroker import age
from keybroker.ca import Authority, new_key, spki_digest
from keybroker.csr import signing_request
from keybroker.outside import Wanted, accept, check_ca, check_request
from keybroker.policy import Peer
from keybroker.service import (
    archive,
    backup,
    courier,
    enrolment,
    grace,
    inventory,
    restoring,
    rollover,
    roster,
)
from keybroker.service.broker import Broker
from keybroker.service.drill import rehearse
from keybroker.service.installation import create, open_broker
from keybroker.service.signing import MOST
from keybroker.wire.messages import Certified, EnrolmentRequest, LateRenewalRequest, RenewalRequest
from keybroker.wire.names import HostId, Identity
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from tests.contract.broker_house import TRUST_DOMAIN, Clock, House, fingerprint, installation, plan

NOW = Clock().now
CA = Authority.create("Somebody's CA", NOW, 1, timedelta(days=900))
OFFLINE = pyrage.x25519.Identity.generate()


def signed(
    key: ec.EllipticCurvePublicKey,
    wanted: Wanted,
    now: datetime,
    *,
    by: Authority = CA,
    days: float = 90,
    begins: float = 0,
    common: str | None = None,
    sans: list[x509.GeneralName] | None = None,
    usages: list[x509.ObjectIdentifier] | None = None,
    is_ca: bool = False,
    signs: bool = True,
) -> bytes:
    """Return a certificate in PEM as a CA elsewhere makes it: what is wanted, but for what is said."""
    name = wanted.common_name if common is None else common
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []))
        .issuer_name(by.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=begins + days))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=signs, content_commitment=False, key_encipherment=not signs,
                data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if names := wanted.sans() if sans is None else sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not name)
    if purposes := [wanted.usage] if usages is None else usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(by.signer, hashes.SHA256()).public_bytes(Encoding.PEM)


@dataclass
class Outside:
    """A broker whose CA is ``CA``, with everything signed that ``init`` asks for."""

    root: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.root.mkdir()
        self.random = random.Random(1)
        create(replace(plan(self.root), outside_ca=CA.pem), clock=self.clock, entropy=self.random.randbytes)
        self.installation = replace(installation(self.root), outside_ca=True)
        self.broker: Broker = self.open()
        self.sign_all()
        alice = (self.root / "etc/operators/alice.crt").read_text()
        self.operator = Peer(Identity(TRUST_DOMAIN, "operator", "alice"), fingerprint(alice), "192.0.2.9")

    def open(self) -> Broker:
        return open_broker(self.installation, clock=self.clock, entropy=self.random.randbytes)

    def asked(self) -> dict[str, courier.Asked]:
        return {one.who: one for one in courier.requests(self.broker, self.installation)}

    def sign(self, one: courier.Asked, days: float = 90) -> bytes:
        key = x509.load_pem_x509_csr(one.csr.encode()).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return signed(key, one.wanted, self.clock.now, days=days)

    def take(self, pem: bytes) -> courier.Taken:
        return courier.take(self.broker, self.installation, pem, "root")

    def sign_all(self, days: float = 90) -> None:
        for one in self.asked().values():
            assert self.take(self.sign(one, days)).changed

    def invite(self) -> inventory.Invitation:
        inventory.put_addon(self.broker, self.operator, "shop-db", "postgresql")
        return inventory.invite(self.broker, self.operator, "shop-db", 3600)

    def enrol(self, token: Secret, key: ec.EllipticCurvePrivateKey) -> Certified:
        return enrolment.enrol(self.broker, "192.0.2.1", EnrolmentRequest(token, signing_request(key)))

    def host(self, days: float = 90) -> tuple[Peer, Certified, ec.EllipticCurvePrivateKey]:
        invited, key = self.invite(), new_key()
        assert pends(lambda: self.enrol(invited.token, key))
        self.sign_all(days)
        certified = self.enrol(invited.token, key)
        return self.peer(certified), certified, key

    def peer(self, certified: Certified) -> Peer:
        who = Identity(TRUST_DOMAIN, "host", certified.host)
        return Peer(who, fingerprint(certified.certificate), "192.0.2.1")

    def renew(self, peer: Peer, key: ec.EllipticCurvePrivateKey) -> Certified:
        return enrolment.renew(self.broker, peer, RenewalRequest(signing_request(key)))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    made = Outside(tmp_path / "outside")
    yield made
    made.broker.close()


def problem(ask: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value.problem


def pends(ask: Callable[[], object]) -> bool:
    return problem(ask) is Problem.PENDING


# what is taken

KEY = new_key()
HOST = Wanted(
    spki_digest(KEY.public_key()), "kbh-aaaaaaaaaaaa", "client",
    uris=("spiffe://example.org/host/kbh-aaaaaaaaaaaa",),
)  # fmt: skip
SERVER = Wanted(
    HOST.spki, "broker.example", "server", dns=("broker.example", "localhost"), addresses=("::1",)
)
OTHER = x509.UniformResourceIdentifier("spiffe://example.org/host/kbh-bbbbbbbbbbbb")
MINE, NAME = x509.UniformResourceIdentifier(HOST.uris[0]), x509.DNSName("broker.example")
BOTH = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]


def taken(pem: bytes, wanted: Wanted = HOST, ca: Authority = CA) -> str:
    """Return why a certificate is not taken; nothing where it is."""
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        accept(certificate, wanted, ca.certificate, NOW)
    except KeybrokerError as error:
        assert error.problem is Problem.CERTIFICATE
        return error.detail
    return ""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, ""),
        ({"common": ""}, ""),
        ({"days": 899}, ""),
        ({"sans": [OTHER]}, "names"),
        ({"sans": [MINE, OTHER]}, "names"),
        ({"sans": [MINE, MINE]}, "names"),
        ({"sans": [MINE, NAME]}, "names"),
        ({"sans": []}, "names"),
        ({"common": "kbh-bbbbbbbbbbbb"}, "common name"),
        ({"usages": []}, "extended key usage"),
        ({"usages": [ExtendedKeyUsageOID.SERVER_AUTH]}, "extended key usage"),
        ({"usages": BOTH}, "extended key usage"),
        ({"is_ca": True}, "a CA's"),
        ({"signs": False}, "may not sign"),
        ({"begins": 1}, "begins"),
        ({"begins": -2, "days": 1}, "ended"),
        ({"days": 901}, "ends after its CA"),
        ({"by": Authority.create("Somebody's CA", NOW, 2)}, "not signed by the CA"),
    ],
)
def test_only_the_certificate_that_was_asked_for_is_taken(options: dict[str, object], why: str) -> None:
    said = taken(signed(KEY.public_key(), HOST, NOW, **options))  # type: ignore[arg-type]
    assert why in said
    assert bool(why) == bool(said)


def test_one_for_another_key_is_not_taken() -> None:
    assert "another key" in taken(signed(new_key().public_key(), HOST, NOW))


def test_a_server_s_has_all_names_and_no_other() -> None:
    assert taken(signed(KEY.public_key(), SERVER, NOW), SERVER) == ""
    for names in (SERVER.sans()[:-1], [*SERVER.sans(), x509.DNSName("*.example")]):
        assert "names" in taken(signed(KEY.public_key(), SERVER, NOW, sans=names), SERVER)


def test_what_may_not_sign_is_no_ca() -> None:
    leaf = x509.load_pem_x509_certificate(signed(KEY.public_key(), HOST, NOW))
    for certificate, now in ((leaf, NOW), (CA.certificate, NOW + timedelta(days=901))):
        with pytest.raises(KeybrokerError, match="file"):
            check_ca(certificate, now, "file")
    check_ca(CA.certificate, NOW, "file")


@pytest.mark.parametrize(
    ("common", "sans", "purpose", "good"),
    [
        ("", [], None, True),
        (HOST.common_name, [MINE], HOST.usage, True),
        ("root", [], None, False),
        ("", [OTHER], None, False),
        ("", [MINE, NAME], None, False),
        ("", [MINE], ExtendedKeyUsageOID.SERVER_AUTH, False),
    ],
)
def test_a_request_asks_for_its_own_names_or_none(
    common: str, sans: list[x509.GeneralName], purpose: x509.ObjectIdentifier | None, good: bool
) -> None:
    request = signing_request(KEY, common, sans, purpose)
    if good:
        check_request(request, HOST)
    else:
        assert problem(lambda: check_request(request, HOST)) is Problem.MALFORMED


def test_a_request_for_another_extension_is_refused() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    assert problem(lambda: check_request(pem, HOST)) is Problem.MALFORMED


# hosts


def test_a_token_is_spent_on_the_first_key_and_lasts_until_that_is_signed(outside: Outside) -> None:
    invited, key, other = outside.invite(), new_key(), new_key()
    assert pends(lambda: outside.enrol(invited.token, key))
    assert problem(lambda: outside.enrol(invited.token, other)) is Problem.TOKEN_REFUSED
    outside.clock.forward(hours=30)
    assert pends(lambda: outside.enrol(invited.token, key)), "signing takes its time"
    (one,) = outside.asked().values()
    assert one.wanted.uris == (f"spiffe://{TRUST_DOMAIN}/host/{invited.host}",)
    assert outside.take(outside.sign(one)).who == f"host {invited.host}"
    assert problem(lambda: outside.enrol(invited.token, other)) is Problem.TOKEN_REFUSED
    first, again = outside.enrol(invited.token, key), outside.enrol(invited.token, key)
    assert first.certificate == again.certificate
    assert first.ca == CA.pem
    outside.clock.forward(days=91)
    assert problem(lambda: outside.enrol(invited.token, key)) is Problem.TOKEN_REFUSED


def test_a_token_that_nobody_came_with_ends_as_ever(outside: Outside) -> None:
    invited = outside.invite()
    outside.clock.forward(hours=2)
    assert problem(lambda: outside.enrol(invited.token, new_key())) is Problem.TOKEN_REFUSED


def test_asking_again_is_recorded_once(outside: Outside) -> None:
    invited, key = outside.invite(), new_key()
    for _ in range(3):
        assert pends(lambda: outside.enrol(invited.token, key))
    records = outside.broker.store.read(lambda reading: reading.audit({}, 1000))
    assert [entry.outcome for entry in records if entry.verb == "enrol"] == ["done"]


def test_a_renewal_waits_and_the_certificate_before_stays_good(outside: Outside) -> None:
    peer, certified, _key = outside.host()
    fresh = new_key()
    assert pends(lambda: outside.renew(peer, fresh))
    outside.sign_all()
    renewed = outside.renew(peer, fresh)
    assert renewed.certificate != certified.certificate
    outside.clock.forward(days=59)
    assert outside.renew(outside.peer(renewed), fresh).certificate == renewed.certificate
    outside.clock.forward(days=2)
    assert pends(lambda: outside.renew(outside.peer(renewed), fresh)), "a third is left"


def late(outside: Outside, certified: Certified, key: ec.EllipticCurvePrivateKey) -> Certified:
    request = LateRenewalRequest(certified.certificate, signing_request(key))
    return grace.renew(outside.broker, "192.0.2.1", request)


def test_a_renewal_after_the_end_waits_too(outside: Outside) -> None:
    _peer, certified, key = outside.host()
    outside.clock.forward(days=91)
    assert pends(lambda: late(outside, certified, key))
    assert problem(lambda: late(outside, certified, new_key())) is Problem.NO_IDENTITY
    outside.sign_all()
    assert late(outside, certified, key).certificate != certified.certificate


def test_a_revoked_host_gets_nothing_that_was_signed_meanwhile(outside: Outside) -> None:
    invited, key = outside.invite(), new_key()
    assert pends(lambda: outside.enrol(invited.token, key))
    (one,) = outside.asked().values()
    inventory.revoke(outside.broker, outside.operator, invited.host, "lost")
    assert outside.asked() == {}
    with pytest.raises(KeybrokerError, match="was revoked"):
        outside.take(outside.sign(one))
    assert problem(lambda: outside.enrol(invited.token, key)) is Problem.TOKEN_REFUSED


def test_of_one_host_so_many_wait_and_no_more(outside: Outside) -> None:
    peer, _certified, _key = outside.host()
    keys = [new_key() for _ in range(MOST + 2)]
    for key in keys:
        assert pends(lambda key=key: outside.renew(peer, key))  # type: ignore[misc]
        outside.clock.forward(minutes=1)
    waiting = [one.wanted.spki for one in courier.requests(outside.broker, outside.installation)]
    assert waiting == [spki_digest(key.public_key()) for key in keys[-MOST:]]


def test_a_key_waits_for_one_certificate(outside: Outside) -> None:
    (first, _, _), (second, _, _) = outside.host(), outside.host()
    key = new_key()
    assert pends(lambda: outside.renew(first, key))
    assert problem(lambda: outside.renew(second, key)) is Problem.CONFLICT


# what comes in


def test_a_certificate_comes_in_once_and_only_for_a_request_that_waits(outside: Outside) -> None:
    invited, key = outside.invite(), new_key()
    assert pends(lambda: outside.enrol(invited.token, key))
    (one,) = outside.asked().values()
    pem = outside.sign(one)
    assert outside.take(pem).changed
    assert not outside.take(pem).changed
    with pytest.raises(KeybrokerError, match="nobody waits"):
        outside.take(outside.sign(one))
    with pytest.raises(KeybrokerError, match="nobody waits"):
        outside.take(signed(KEY.public_key(), HOST, outside.clock.now))
    assert problem(lambda: outside.take(b"nonsense")) is Problem.CERTIFICATE


def test_the_certificate_that_a_host_has_is_not_its_next_one(outside: Outside) -> None:
    peer, certified, key = outside.host()
    outside.clock.forward(days=61)
    assert pends(lambda: outside.renew(peer, key))
    with pytest.raises(KeybrokerError, match="is the one that"):
        outside.take(certified.certificate.encode())
    assert pends(lambda: outside.renew(peer, key))


def test_the_server_s_is_asked_for_again_before_it_ends(outside: Outside) -> None:
    assert outside.asked() == {}
    (forced,) = courier.requests(outside.broker, outside.installation, server=True)
    outside.clock.forward(days=61)
    assert list(outside.asked()) == ["server"]
    assert outside.asked()["server"].wanted == forced.wanted
    assert forced.wanted.dns == ("broker.example.org",)
    pem = outside.sign(forced)
    assert (outside.take(pem).changed, outside.take(pem).changed) == (True, False)
    assert outside.installation.server_certificate.read_bytes() == pem


def test_an_operator_s_certificate_is_put_beside_its_key_also_after_a_crash(outside: Outside) -> None:
    path = outside.root / "etc/operators/alice.crt"
    pem = path.read_bytes()
    path.unlink()
    assert not outside.take(pem).changed
    assert path.read_bytes() == pem


def test_our_own_ca_asks_nobody_and_an_outside_one_is_not_rolled_over(house: House, outside: Outside) -> None:
    assert problem(lambda: courier.requests(house.broker, house.installation)) is Problem.CONFLICT
    assert problem(lambda: courier.take(house.broker, house.installation, b"", "root")) is Problem.CONFLICT
    for change in (rollover.rotate, rollover.renew_server):
        call = lambda change=change: change(outside.broker, outside.installation, "root")  # noqa: E731
        assert problem(call) is Problem.CONFLICT
    found = rollover.trust(outside.broker, outside.installation)
    assert (found.outside, found.server) == (True, CA.fingerprint)


# operators


def test_an_operator_waits_and_a_replaced_one_is_cut_off_at_once(outside: Outside) -> None:
    key, lost = new_key(), new_key()

    def add() -> object:
        return roster.add(outside.broker, outside.operator, "bob", ["auditor"], signing_request(lost))

    assert pends(add)
    assert pends(add)
    outside.clock.forward(minutes=1)
    outside.sign_all()
    appointment, created = roster.add(
        outside.broker, outside.operator, "bob", ["auditor"], signing_request(lost)
    )
    assert not created
    bob = Peer(Identity(TRUST_DOMAIN, "operator", "bob"), fingerprint(appointment.certificate), "192.0.2.9")
    assert roster.myself(outside.broker, bob).name == "bob"
    outside.clock.forward(minutes=1)

    def replace_it() -> object:
        return roster.certify(outside.broker, outside.operator, "bob", signing_request(key))

    assert pends(replace_it)
    assert problem(lambda: roster.myself(outside.broker, bob)) is Problem.REVOKED, "the old key was lost"
    outside.clock.forward(minutes=1)
    outside.sign_all()
    again = roster.certify(outside.broker, outside.operator, "bob", signing_request(key))
    bob = replace(bob, fingerprint=fingerprint(again.certificate))
    assert roster.myself(outside.broker, bob).name == "bob"
    assert roster.renew(outside.broker, bob, signing_request(key)).certificate == again.certificate


# backups


def test_a_backup_is_signed_by_the_server_and_comes_back(outside: Outside, tmp_path: Path) -> None:
    invited, key = outside.invite(), new_key()
    assert pends(lambda: outside.enrol(invited.token, key))
    target = io.BytesIO()
    backup.make(outside.installation, target, (str(OFFLINE.to_public()),), now=outside.clock.now, who="root")
    (tmp_path / "offline").write_text(f"{OFFLINE}\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o700)
    target.seek(0)
    manifest = archive.read(target, age.Identities.read(tmp_path / "offline"), scratch)
    assert "ca.key" not in manifest.files
    results = rehearse(scratch, manifest, outside.installation)
    assert {one.state for one in results} == {"good"}
    assert "outside" in results[0].detail
    outside.broker.close()
    for name in ("etc", "var"):
        (outside.root / name).rename(outside.root / f"{name}.lost")
    restoring.restore(
        scratch, manifest, outside.installation, master_keys=[outside.root / "etc.lost/master.key"],
        owner=None, source="backup.age", who="root", now=outside.clock.now,
    )  # fmt: skip
    outside.broker = outside.open()
    outside.sign_all()
    assert outside.enrol(invited.token, key).host == HostId(invited.host)
