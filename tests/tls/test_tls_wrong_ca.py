"""A certificate of another CA is refused, whatever it says, even if the CA calls itself as ours does."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.tls.forging import Signer, issue, new_ca
from tests.tls.running import LOOPBACK, OPERATOR, Broker, curl, refusal

ALICE = f"spiffe://test.internal/operator/{OPERATOR}"


def namesake(genuine: x509.Certificate) -> Signer:
    """Return another CA with all the names and identifiers of the genuine one."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(genuine.subject)
        .issuer_name(genuine.issuer)
        .public_key(key.public_key())
        .serial_number(genuine.serial_number)
        .not_valid_before(genuine.not_valid_before_utc)
        .not_valid_after(genuine.not_valid_after_utc)
    )
    for extension in genuine.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return Signer(builder.sign(key, hashes.SHA256()), key)


def test_another_ca_is_refused(broker: Broker, tmp_path: Path) -> None:
    assert refusal(broker, issue(tmp_path, new_ca(), uris=[ALICE])) == "TLSV1_ALERT_UNKNOWN_CA"


def test_another_ca_of_the_same_name_is_refused(broker: Broker, tmp_path: Path) -> None:
    forged = issue(tmp_path, namesake(broker.signer.certificate), uris=[ALICE])
    assert "ALERT" in refusal(broker, forged)


def test_curl_is_refused_too(broker: Broker, tmp_path: Path) -> None:
    forged = issue(tmp_path, new_ca(), uris=[ALICE])
    done = curl(
        "--cacert", str(broker.ca), "--cert", str(forged.certificate), "--key", str(forged.key),
        f"https://{LOOPBACK}:{broker.main}/v1/volumes",
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stdout == b""


def test_a_client_does_not_take_this_broker_for_another(broker: Broker, tmp_path: Path) -> None:
    elsewhere = issue(tmp_path, None, common="other-ca")
    done = curl("--cacert", str(elsewhere.certificate), f"https://{LOOPBACK}:{broker.enrolment}/v1/enrolment")
    assert done.returncode == 60
