"""A certificate that vouches for itself is refused, whatever it claims to be."""

from __future__ import annotations

from pathlib import Path

from tests.tls.forging import issue
from tests.tls.running import OPERATOR, Broker, refusal


def test_a_self_signed_certificate_is_refused(broker: Broker, tmp_path: Path) -> None:
    forged = issue(tmp_path, None, uris=[f"spiffe://test.internal/operator/{OPERATOR}"])
    assert refusal(broker, forged) == "TLSV1_ALERT_UNKNOWN_CA"


def test_the_certificate_of_the_ca_is_nobody(broker: Broker) -> None:
    from tests.tls.forging import Files

    ca = Files(broker.ca, broker.directory / "config/ca.key")
    try:
        said = refusal(broker, ca)
    except AssertionError as let_in:
        said = str(let_in)
        assert "let in: 403" in said
        assert "no-identity" in said
    else:
        assert "ALERT" in said
