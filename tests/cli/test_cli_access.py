"""Where an operator's verb finds its broker and certificate, and what it will not be talked into."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.tls.forging import SERVER, Files, issue, new_ca
from tests.tls.running import CLI, LOOPBACK, Broker, free_ports, run_cli

NOBODY = 65534


def options(broker: Broker) -> dict[str, str]:
    return {
        "url": f"https://{LOOPBACK}:{broker.main}",
        "cert": str(broker.operator.certificate),
        "key": str(broker.operator.key),
        "ca": str(broker.ca),
    }


def flags(given: dict[str, str]) -> list[str]:
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def variables(given: dict[str, str]) -> dict[str, str]:
    return {f"KEYBROKER_{name.upper()}": value for name, value in given.items()}


def test_options_are_enough(broker: Broker) -> None:
    done = run_cli("addon", "list", "--json", *flags(options(broker)))
    assert done.returncode == 0, done.stderr
    assert "addons" in json.loads(done.stdout)


def test_the_environment_is_enough(broker: Broker) -> None:
    assert run_cli("addon", "list", **variables(options(broker))).returncode == 0


def test_a_file_in_the_users_home_is_enough(broker: Broker, tmp_path: Path) -> None:
    own = tmp_path / ".config/keybroker"
    own.mkdir(parents=True)
    (own / "alice.crt").write_bytes(broker.operator.certificate.read_bytes())
    given = options(broker) | {"cert": "alice.crt"}
    (own / "cli.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items()))
    assert run_cli("addon", "list", HOME=str(tmp_path)).returncode == 0


def test_options_come_before_the_environment_and_that_before_the_file(broker: Broker, tmp_path: Path) -> None:
    nowhere = f"https://{LOOPBACK}:1"
    own = tmp_path / ".config/keybroker"
    own.mkdir(parents=True)
    (own / "cli.toml").write_text(f'url = "{nowhere}"\n')
    good = options(broker)
    assert run_cli("addon", "list", HOME=str(tmp_path), **variables(good)).returncode == 0
    astray = variables(good | {"url": nowhere})
    assert run_cli("addon", "list", **astray).returncode == 75
    assert run_cli("addon", "list", "--url", good["url"], **astray).returncode == 0


def test_a_laptop_needs_nothing_of_the_brokers_machine(broker: Broker) -> None:
    """Another user, in a directory of their own, with nothing but what `operator add` wrote."""
    home = Path(tempfile.mkdtemp(prefix="keybroker-laptop-"))
    own = home / ".config/keybroker"
    made = run_cli(
        *("operator", "add", "carol", "--role", "auditor", "--to", str(own)), "--config", str(broker.config)
    )
    assert made.returncode == 0, made.stderr
    key = own / "carol.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for path in (home, home / ".config", own, *own.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    try:
        for words in (("operator", "show"), ("operator", "renew"), ("addon", "list")):
            done = subprocess.run(
                [*CLI, *words], cwd=home, env={"PATH": "/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"},
                user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, timeout=60,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        assert (own / "carol.crt").stat().st_uid == NOBODY
    finally:
        shutil.rmtree(home)


def test_a_configuration_that_is_named_comes_before_the_users_file(broker: Broker, tmp_path: Path) -> None:
    own = tmp_path / ".config/keybroker"
    own.mkdir(parents=True)
    (own / "cli.toml").write_text(f'url = "https://{LOOPBACK}:1"\n')
    for named in ({"KEYBROKER_CONFIG": str(broker.config)}, {}):
        words = () if named else ("--config", str(broker.config))
        assert run_cli("addon", "list", *words, HOME=str(tmp_path), **named).returncode == 0
    elsewhere = ("--url", f"https://{LOOPBACK}:1")
    assert run_cli("addon", "list", *elsewhere, "--config", str(broker.config)).returncode == 75


def refused(broker: Broker, status: int, **instead: str) -> str:
    done = run_cli("addon", "list", *flags(options(broker) | instead))
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert "Traceback" not in done.stderr
    for line in done.stderr.splitlines():
        assert line.startswith("keybroker: ")
    return done.stderr


def test_a_broker_of_another_ca_is_not_trusted(broker: Broker, tmp_path: Path) -> None:
    other = issue(tmp_path, None, common="other")
    assert "is" in refused(broker, 76, ca=str(other.certificate))


def test_a_broker_of_another_name_is_not_trusted(broker: Broker, tmp_path: Path) -> None:
    forged = issue(tmp_path, broker.signer, dns=["elsewhere.example"], usages=(SERVER,))
    with answering(forged, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as url:
        assert "mismatch" in refused(broker, 76, url=url)


def test_nobody_there_is_worth_another_try(broker: Broker) -> None:
    (port,) = free_ports(1)
    assert "connection refused" in refused(broker, 75, url=f"https://{LOOPBACK}:{port}")


def test_a_certificate_that_the_broker_refuses_is_named(broker: Broker, tmp_path: Path) -> None:
    forged = issue(tmp_path, new_ca(), uris=["spiffe://test.internal/operator/alice"])
    said = refused(broker, 77, cert=str(forged.certificate), key=str(forged.key))
    assert str(forged.certificate) in said


def test_a_certificate_that_is_over_comes_with_the_way_to_the_next(broker: Broker, tmp_path: Path) -> None:
    over = issue(
        tmp_path, broker.signer, uris=["spiffe://test.internal/operator/alice"], ends=timedelta(minutes=-1)
    )
    said = refused(broker, 77, cert=str(over.certificate), key=str(over.key))
    assert "operator renew NAME --csr" in said


@pytest.mark.parametrize(
    ("field", "value", "status", "says"),
    [
        ("url", "http://127.0.0.1:8443", 78, "is not https://"),
        ("url", "broker.example", 78, "is not https://"),
        ("cert", "/nonexistent/alice.crt", 77, "cannot be read"),
        ("ca", "/etc/hostname", 77, "is not PEM"),
    ],
)
def test_what_cannot_work_is_said_before_it_is_tried(
    broker: Broker, field: str, value: str, status: int, says: str
) -> None:
    assert says in refused(broker, status, **{field: value})


def test_a_key_that_is_open_to_others_is_not_used(broker: Broker, tmp_path: Path) -> None:
    key = tmp_path / "alice.key"
    key.write_bytes(broker.operator.key.read_bytes())
    key.chmod(0o640)
    assert f"chmod 0400 {key}" in refused(broker, 77, key=str(key))


def test_a_key_of_another_certificate_is_named(broker: Broker, tmp_path: Path) -> None:
    other = issue(tmp_path, new_ca())
    assert "go with" in refused(broker, 77, key=str(other.key))


@contextmanager
def answering(certificate: Files, answer: bytes) -> Iterator[str]:
    """Run a TLS server that gives one answer to whatever it is asked, and yield its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    with socket.create_server((LOOPBACK, 0)) as listening:
        listening.settimeout(20)

        def serve() -> None:
            try:
                plain, _ = listening.accept()
                with plain, context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(answer)
            except OSError:
                pass

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield f"https://{LOOPBACK}:{listening.getsockname()[1]}"
        finally:
            server.join(30)


def test_redirects_are_not_followed(broker: Broker) -> None:
    own = Files(broker.directory / "config/server.crt", broker.directory / "config/server.key")
    target = f"https://{LOOPBACK}:{broker.main}/v1/addons"
    away = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
    with answering(own, away.encode()) as url:
        assert "answered 302" in refused(broker, 75, url=url)


def test_proxies_and_other_peoples_cas_in_the_environment_are_ignored(broker: Broker, tmp_path: Path) -> None:
    astray = {
        "HTTPS_PROXY": f"http://{LOOPBACK}:1",
        "ALL_PROXY": f"http://{LOOPBACK}:1",
        "REQUESTS_CA_BUNDLE": "/nonexistent",
        "CURL_CA_BUNDLE": "/nonexistent",
        "SSL_CERT_FILE": "/nonexistent",
    }
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {LOOPBACK} login eve password eve\n")
    netrc.chmod(0o600)
    done = run_cli("addon", "list", *flags(options(broker)), HOME=str(tmp_path), **astray)
    assert done.returncode == 0, done.stderr


def test_a_second_operator_must_say_who_they_are(broker: Broker) -> None:
    second = broker.directory / "config/operators/bob.crt"
    second.write_bytes(broker.operator.certificate.read_bytes())
    try:
        done = run_cli("addon", "list", "--config", str(broker.config))
        assert done.returncode == 78
        assert "has 2 certificates" in done.stderr
        assert "--cert" in done.stderr
    finally:
        second.unlink()
