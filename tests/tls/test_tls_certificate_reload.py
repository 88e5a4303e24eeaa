"""SIGHUP takes new certificates for new connections; broken ones change nothing and stop nothing."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from keybroker.ca import key_pem, pem_of
from tests.tls.forging import SERVER, issue, new_ca
from tests.tls.running import LOOPBACK, Broker, Host, ask, client_context, unlock_request


@pytest.fixture
def files(broker: Broker, tmp_path: Path) -> Iterator[Path]:
    """Yield the installation's directory; its server certificate is put back afterwards."""
    directory = broker.directory / "config"
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("server.crt", "server.key", "ca.crt"):
        shutil.copy2(directory / name, kept / name)
    yield directory
    for name in ("server.crt", "server.key", "ca.crt"):
        replace(directory / name, (kept / name).read_bytes())
    reload(broker)


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o400)


def reload(broker: Broker) -> str:
    broker.signal(signal.SIGHUP)
    broker.wait_for("RELOADING=1")
    return broker.wait_for("READY=1")


def served(broker: Broker, port: int | None = None) -> bytes:
    """Return the certificate, in DER, that a new connection is shown."""
    context = client_context(broker.ca, None)
    context.check_hostname = False
    with (
        socket.create_connection((LOOPBACK, port or broker.main), timeout=10) as plain,
        context.wrap_socket(plain) as secure,
    ):
        found = secure.getpeercert(binary_form=True)
        assert found is not None
        return found


def test_a_new_certificate_is_shown_to_new_connections_and_open_ones_live_on(
    broker: Broker, host: Host, files: Path, tmp_path: Path
) -> None:
    before = served(broker)
    fresh = issue(tmp_path, broker.signer, dns=["localhost"], usages=(SERVER,))
    with broker.connect(host.files) as connection:
        assert ask(connection, "POST", "/v1/unlock", unlock_request()).status == 200
        held = connection.sock
        replace(files / "server.crt", fresh.certificate.read_bytes())
        replace(files / "server.key", fresh.key.read_bytes())
        assert "refused" not in reload(broker)
        expected = ssl.PEM_cert_to_DER_cert(fresh.certificate.read_text())
        assert served(broker) == served(broker, broker.enrolment) == expected != before
        assert ask(connection, "POST", "/v1/unlock", unlock_request()).status == 200
        assert connection.sock is held


@pytest.mark.parametrize(
    "defect",
    [
        "no file",
        "not PEM",
        "other key",
        "expired",
        "other CA",
        "for clients",
        "no CA",
        "empty CA",
        "binary CA",
        "world's CA",
    ],
)
def test_a_broken_one_changes_nothing(
    broker: Broker, host: Host, files: Path, tmp_path: Path, defect: str
) -> None:
    import datetime as dt

    from tests.tls.forging import CLIENT

    before, signer = served(broker), broker.signer
    authority = (files / "ca.crt").read_bytes()
    if defect == "no file":
        (files / "server.crt").rename(files / "elsewhere.crt")
    elif defect == "not PEM":
        replace(files / "server.crt", b"-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n")
    elif defect == "no CA":
        (files / "ca.crt").unlink()
    elif defect in ("empty CA", "binary CA"):
        replace(files / "ca.crt", b"" if defect == "empty CA" else b"\xff\xfe")
    elif defect == "world's CA":
        other = issue(tmp_path, None, common="world")
        replace(files / "ca.crt", other.certificate.read_bytes())
    else:
        forged = {
            "other key": lambda: issue(tmp_path, signer, usages=(SERVER,)),
            "expired": lambda: issue(
                tmp_path, signer, usages=(SERVER,), begins=dt.timedelta(days=-2), ends=dt.timedelta(days=-1)
            ),
            "other CA": lambda: issue(tmp_path, new_ca(), usages=(SERVER,)),
            "for clients": lambda: issue(tmp_path, signer, usages=(CLIENT,)),
        }[defect]()
        replace(files / "server.crt", forged.certificate.read_bytes())
        if defect != "other key":
            replace(files / "server.key", forged.key.read_bytes())
    said = len(broker.log.read_text())
    assert "refused" in reload(broker)
    log = broker.log.read_text()[said:]
    assert "ERROR" in log
    if defect.endswith(" CA") and defect != "other CA":
        assert f"{files / 'ca.crt'}: " in log
        (files / "ca.crt").unlink(missing_ok=True)
        (files / "ca.crt").write_bytes(authority)  # the clients here read it too
    assert str(files) in log
    assert served(broker) == before
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files).status == 200
    assert broker.probe("/readyz").status == 200
    if defect == "no file":
        (files / "elsewhere.crt").rename(files / "server.crt")


def test_another_installation_s_ca_is_refused_though_all_its_files_fit(
    broker: Broker, host: Host, files: Path, tmp_path: Path
) -> None:
    before, kept = served(broker), {name: (files / name).read_bytes() for name in ("ca.crt", "ca.key")}
    other = new_ca()
    fresh = issue(tmp_path, other, dns=["localhost"], usages=(SERVER,))
    replace(files / "server.crt", fresh.certificate.read_bytes())
    replace(files / "server.key", fresh.key.read_bytes())
    replace(files / "ca.crt", pem_of(other.certificate).encode())
    replace(files / "ca.key", key_pem(other.key).reveal())
    try:
        said = len(broker.log.read_text())
        assert "refused" in reload(broker)
        assert f"{files / 'ca.crt'}: is not the CA" in broker.log.read_text()[said:]
    finally:
        for name, content in kept.items():
            replace(files / name, content)
    assert served(broker) == before
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files).status == 200


def test_a_service_manager_that_does_not_listen_holds_up_nobody(broker: Broker, host: Host) -> None:
    for _ in range(20):
        broker.signal(signal.SIGHUP)
        assert broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files).status == 200
    broker.drain()


def test_many_hangups_in_a_row_do_no_harm(broker: Broker, host: Host) -> None:
    for _ in range(20):
        broker.signal(signal.SIGHUP)
        assert broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files).status == 200
        broker.drain()
    assert "Traceback" not in broker.log.read_text()
