"""Who a certificate names: one URI SAN of our trust domain, meant for clients, and in time."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest

from keybroker.web.peer import read_peer
from keybroker.wire.names import Identity
from keybroker.wire.problems import KeybrokerError, Problem
from tests.tls.forging import CLIENT, SERVER, Files, issue, new_ca, now

DOMAIN = "test.internal"
HOST = f"spiffe://{DOMAIN}/host/kbh-q3m5x7abcdef"
CA = new_ca()


def der(files: Files) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files.certificate.read_text())


def test_a_certificate_names_its_host(tmp_path: Path) -> None:
    peer = read_peer(der(issue(tmp_path, CA, uris=[HOST])), "192.0.2.7", DOMAIN, now())
    assert peer.identity == Identity(DOMAIN, "host", "kbh-q3m5x7abcdef")
    assert peer.address == "192.0.2.7"
    assert len(peer.fingerprint) == 64


def test_a_certificate_names_its_operator(tmp_path: Path) -> None:
    files = issue(tmp_path, CA, uris=[f"spiffe://{DOMAIN}/operator/alice"])
    assert read_peer(der(files), "::1", DOMAIN, now()).identity.kind == "operator"


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [HOST, f"spiffe://{DOMAIN}/operator/alice"],
        [HOST, "https://elsewhere.example/"],
        ["spiffe://other.internal/host/kbh-q3m5x7abcdef"],
        [f"spiffe://{DOMAIN}/host/kbh-q3m5x7abcdef/"],
        [f"spiffe://{DOMAIN}/host/kbh-q3m5x7abcdef?operator"],
        [f"spiffe://{DOMAIN}/host/../operator/alice"],
        [f"spiffe://{DOMAIN}/host/KBH-Q3M5X7ABCDEF"],
        [f"spiffe://{DOMAIN}/admin/alice"],
        [f"https://{DOMAIN}/operator/alice"],
        [f"spiffe://{DOMAIN}/operator/alice\0"],
        [f"spiffe://{DOMAIN}/operator/"],
        [f" spiffe://{DOMAIN}/operator/alice"],
        [f"SPIFFE://{DOMAIN}/operator/alice"],
    ],
)
def test_any_other_name_is_nobody(tmp_path: Path, uris: list[str]) -> None:
    with pytest.raises(KeybrokerError) as caught:
        read_peer(der(issue(tmp_path, CA, uris=uris)), "::1", DOMAIN, now())
    assert caught.value.problem is Problem.NO_IDENTITY


def test_the_common_name_names_nobody(tmp_path: Path) -> None:
    with pytest.raises(KeybrokerError, match="names nobody"):
        read_peer(der(issue(tmp_path, CA, common="operator alice")), "::1", DOMAIN, now())


@pytest.mark.parametrize("usages", [(), (SERVER,)])
def test_a_certificate_that_is_not_meant_for_clients_names_nobody(tmp_path: Path, usages: tuple) -> None:  # type: ignore[type-arg]
    with pytest.raises(KeybrokerError, match="names nobody"):
        read_peer(der(issue(tmp_path, CA, uris=[HOST], usages=usages)), "::1", DOMAIN, now())


def test_a_certificate_ends_while_its_connection_lives_on(tmp_path: Path) -> None:
    certificate = der(issue(tmp_path, CA, uris=[HOST], usages=(CLIENT,), ends=dt.timedelta(hours=1)))
    assert read_peer(certificate, "::1", DOMAIN, now()).identity.name == "kbh-q3m5x7abcdef"
    for elsewhen in (dt.timedelta(hours=2), dt.timedelta(hours=-2)):
        with pytest.raises(KeybrokerError) as caught:
            read_peer(certificate, "::1", DOMAIN, now() + elsewhen)
        assert caught.value.problem is Problem.CERTIFICATE


def test_a_connection_without_a_certificate_is_nobody() -> None:
    with pytest.raises(KeybrokerError) as caught:
        read_peer(None, "::1", DOMAIN, now())
    assert caught.value.problem is Problem.NO_IDENTITY
