"""Certificates that OpenSSL takes for their one purpose; signing requests that are not believed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keybroker.ca import Authority, Leaf, key_pem, new_key, serial_number, spki_digest
from keybroker.csr import read_request
from keybroker.wire.names import Identity
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from tests.contract.broker_house import csr

NOW = datetime.now(UTC)
DAYS = timedelta(days=90)
HOST = Identity("example.org", "host", "kbh-q3m5x7abcdef")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("Keybroker CA example.org", NOW, serial_number(bytes(16)))


def host_leaf(authority: Authority, now: datetime = NOW) -> Leaf:
    return authority.certify_client(new_key().public_key(), HOST, now, serial_number(b"\x01" * 16), DAYS)


def server_leaf(authority: Authority) -> Leaf:
    return authority.certify_server(
        new_key().public_key(),
        ["broker.example.org", "broker"],
        ["192.0.2.1", "2001:db8::1"],
        NOW,
        serial_number(b"\x02" * 16),
        DAYS,
    )


def openssl(tmp_path: Path, authority: Authority, leaf: Leaf, *options: str) -> bool:
    (tmp_path / "ca.crt").write_text(authority.pem)
    (tmp_path / "leaf.crt").write_text(leaf.pem)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", *options, "leaf.crt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=20)
    return done.returncode == 0


def test_a_host_s_certificate_is_a_client_s_and_nothing_else(tmp_path: Path, authority: Authority) -> None:
    leaf = host_leaf(authority)
    assert openssl(tmp_path, authority, leaf, "-purpose", "sslclient")
    assert not openssl(tmp_path, authority, leaf, "-purpose", "sslserver")
    assert not openssl(tmp_path, authority, leaf, "-purpose", "crlsign")


def test_a_server_s_certificate_is_good_for_its_names_and_addresses(
    tmp_path: Path, authority: Authority
) -> None:
    leaf = server_leaf(authority)
    for option, value in (
        ("-verify_hostname", "broker.example.org"),
        ("-verify_hostname", "broker"),
        ("-verify_ip", "192.0.2.1"),
        ("-verify_ip", "2001:db8::1"),
    ):
        assert openssl(tmp_path, authority, leaf, "-purpose", "sslserver", option, value)
    assert not openssl(tmp_path, authority, leaf, "-purpose", "sslserver", "-verify_ip", "192.0.2.2")
    assert not openssl(tmp_path, authority, leaf, "-purpose", "sslclient")


def test_a_leaf_is_not_a_ca(tmp_path: Path, authority: Authority) -> None:
    key = new_key()
    leaf = authority.certify_client(key.public_key(), HOST, NOW, serial_number(b"\x03" * 16), DAYS)
    false = Authority(x509.load_pem_x509_certificate(leaf.pem.encode()), key)
    forged = host_leaf(false)
    (tmp_path / "between.crt").write_text(leaf.pem)
    assert not openssl(tmp_path, authority, forged, "-untrusted", "between.crt")


def test_a_leaf_has_one_uri_and_what_the_store_records_of_it(authority: Authority) -> None:
    key = new_key()
    leaf = authority.certify_client(key.public_key(), HOST, NOW, serial_number(b"\xff" * 16), DAYS)
    loaded = x509.load_pem_x509_certificate(leaf.pem.encode())
    san = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(san) == [x509.UniformResourceIdentifier(HOST.uri)]
    assert leaf.fingerprint == loaded.fingerprint(hashes.SHA256()).hex()
    assert int(leaf.serial, 16) == loaded.serial_number
    assert loaded.serial_number.bit_length() <= 159
    assert leaf.spki == spki_digest(key.public_key())
    assert leaf.not_before < NOW < leaf.not_after == loaded.not_valid_after_utc
    assert leaf.not_after - NOW <= DAYS


def test_no_leaf_outlives_its_ca(authority: Authority) -> None:
    leaf = host_leaf(authority, NOW + timedelta(days=20 * 365 - 1))
    assert leaf.not_after == authority.certificate.not_valid_after_utc


@pytest.mark.parametrize("names", [([], []), (["a"], ["not an address"])])
def test_a_server_without_a_name_or_with_a_false_address_is_not_certified(
    authority: Authority, names: tuple[list[str], list[str]]
) -> None:
    with pytest.raises(ValueError, match="address"):
        authority.certify_server(new_key().public_key(), *names, NOW, 1, DAYS)


def test_a_ca_is_read_back_with_its_own_key_only(authority: Authority) -> None:
    again = Authority.load(authority.pem, key_pem(authority.signer))
    assert again.fingerprint == authority.fingerprint
    assert "key=" not in repr(again)
    for pem, key in (
        (authority.pem, key_pem(new_key())),
        (authority.pem, Secret(b"nonsense")),
        ("nonsense", key_pem(authority.signer)),
    ):
        with pytest.raises(KeybrokerError) as caught:
            Authority.load(pem, key)
        assert caught.value.problem is Problem.CONFIGURATION


def request_with(key: object) -> Callable[[], str]:
    def made() -> str:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()  # type: ignore[arg-type]

    return made


def _p256(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    key = request.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def tampered() -> str:
    """Return a request whose key was exchanged for another after it was signed."""
    one, other = (x509.load_pem_x509_csr(csr().encode()) for _ in range(2))
    der = one.public_bytes(Encoding.DER)
    mine, theirs = (
        _p256(request).public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) for request in (one, other)
    )
    assert der.count(mine) == 1
    changed = der.replace(mine, theirs)
    return x509.load_der_x509_csr(changed).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    "make",
    [
        lambda: "",
        lambda: "nonsense",
        lambda: csr()[:200],
        lambda: csr().replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        lambda: csr().replace("-----BEGIN", "----BEGIN"),
        request_with(ec.generate_private_key(ec.SECP384R1())),
        request_with(ec.generate_private_key(ec.SECP256K1())),
        request_with(rsa.generate_private_key(65537, 2048)),
        request_with(ed25519.Ed25519PrivateKey.generate()),
        tampered,
    ],
    ids=["empty", "text", "cut", "label", "dashes", "p384", "k1", "rsa", "ed25519", "tampered"],
)
def test_a_request_that_is_not_a_signed_p256_key_is_refused(make: Callable[[], str]) -> None:
    with pytest.raises(KeybrokerError) as caught:
        read_request(make())
    assert caught.value.problem is Problem.MALFORMED


def test_of_a_good_request_the_key_is_taken() -> None:
    key = new_key()
    assert read_request(csr(key)).spki == spki_digest(key.public_key())
