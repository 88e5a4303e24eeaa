"""The API is fuzzed against its own document by schemathesis, over mutual TLS, against the real server.

Nothing that it thinks up gets a 5xx, an answer that the document does not have, or a key that is not its own.
KEYBROKER_FUZZ_SECONDS makes each of these runs longer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.tls.forging import Files
from tests.tls.running import LOOPBACK, Broker, running
from tests.tls.test_tls_roles import REPORT

SECONDS = int(os.environ.get("KEYBROKER_FUZZ_SECONDS", "10"))

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance"
)
"""Not among them: that whatever the schema allows is accepted (what a volume is decides that, too), and what
presumes accounts and passwords."""

CONFIGURATION = """
[checks.negative_data_rejection]
expected-statuses = [400, 403, 404, 405, 409, 413, 429]
"""
"""What refuses a request that is not as the document says; 5xx would be among it by default, and 413 not."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running broker that has something to lose.

    Attributes:
        secrets: the passphrases of its two volumes.
    """

    broker: Broker
    secrets: list[str] = field(repr=False)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with running(tmp_path_factory.mktemp("broker")) as broker:
        broker.add_addon("shop")
        host = broker.enrol("shop")
        secrets = [broker.make_ready(host, broker.add_volume("shop", "data"))]
        secrets.append(broker.claim(host, broker.add_volume("shop", "more")))
        yield Target(broker, secrets)


def fuzz(target: Target, who: Files | None, where: Path, *options: str) -> list[dict[str, Any]]:
    """Run schemathesis for some seconds, and return all exchanges (HAR 1.2)."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    broker = target.broker
    (where / "schemathesis.toml").write_text(CONFIGURATION)
    certificate = ("--request-cert", str(who.certificate), "--request-cert-key", str(who.key)) if who else ()
    done = subprocess.run(
        [
            program, "run", *options,
            "--tls-verify", str(broker.ca),
            *certificate,
            "--checks", CHECKS,
            "--max-time", str(SECONDS),
            "--max-examples", "20",
            "--seed", "1",
            "--no-shrink",
            "--continue-on-failure",
            "--output-sanitize", "false",
            "--report", "har",
            "--report-har-path", "run.har",
        ],
        cwd=where, capture_output=True, text=True, timeout=SECONDS * 3 + 60, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(where), "LANG": "C.UTF-8", "NO_COLOR": "1"},
    )  # fmt: skip
    said = [line[:400] for line in (done.stdout + done.stderr).splitlines()]
    assert done.returncode == 0, "\n".join(said[-120:])
    exchanges: list[dict[str, Any]] = json.loads((where / "run.har").read_text())["log"]["entries"]
    assert len(exchanges) > 20  # so few in 10 s where the machine is busy
    return exchanges


def at(port: int) -> str:
    return f"https://{LOOPBACK}:{port}"


def text(exchange: dict[str, Any]) -> str:
    content = exchange["response"]["content"]
    said: str = content.get("text") or ""
    return b64decode(said).decode(errors="replace") if content.get("encoding") == "base64" else said


def statuses(exchanges: list[dict[str, Any]]) -> set[int]:
    return {exchange["response"]["status"] for exchange in exchanges}


@pytest.mark.parametrize("phases", ["coverage,fuzzing", "stateful"])
def test_an_operator_gets_no_key_and_no_error_of_the_brokers(
    target: Target, tmp_path: Path, phases: str
) -> None:
    """Alice is the last who can manage operators, so that she cannot revoke herself by the way."""
    main = at(target.broker.main)
    exchanges = fuzz(
        target, target.broker.operator, tmp_path, f"{main}/openapi.json", "--url", main, "--phases", phases,
        "--exclude-path", "/v1/enrolment",
    )  # fmt: skip
    assert {200, 201, 400, 403, 404} <= statuses(exchanges)
    for exchange in exchanges:
        if exchange["request"]["url"].endswith("/reveal"):
            continue  # its purpose: an approver is shown one, for a reason, and Alice is one
        said = text(exchange)
        assert not any(secret in said for secret in target.secrets), exchange["request"]["url"]
        assert re.search(r'"keys": *\{|"copy"|PRIVATE KEY', said) is None


def test_a_host_gets_no_error_of_the_brokers(target: Target, tmp_path: Path) -> None:
    main, broker = at(target.broker.main), target.broker
    broker.add_addon("quiet")
    host = broker.enrol("quiet")
    exchanges = fuzz(
        target, host.files, tmp_path, f"{main}/openapi.json", "--url", main,
        "--phases", "fuzzing,stateful", "--exclude-path", "/v1/enrolment",
    )  # fmt: skip
    assert {400, 403, 404} <= statuses(exchanges)
    for exchange in exchanges:  # all volumes are of another add-on
        said = text(exchange)
        assert not any(secret in said for secret in target.secrets), exchange["request"]["url"]
    # the broker still works, and the host is still welcome
    assert broker.ask("POST", "/v1/report", REPORT, who=host.files).status == 200


def test_a_stranger_gets_nothing_but_the_ca(target: Target, tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_text(
        target.broker.ask("GET", "/openapi.json", who=target.broker.operator).body.decode()
    )
    exchanges = fuzz(
        target, None, tmp_path, "openapi.json", "--url", at(target.broker.enrolment),
        "--include-path", "/v1/enrolment", "--phases", "coverage,fuzzing",
    )  # fmt: skip
    assert statuses(exchanges) <= {200, 400, 403, 405, 413}
    for exchange in exchanges:
        assert '"records"' not in text(exchange)


def test_nothing_unexpected_was_logged(target: Target) -> None:
    assert "unexpected" not in target.broker.log.read_text()
