"""Requests have a largest size, and what is larger is refused before it is kept anywhere."""

from __future__ import annotations

import base64
import resource
from pathlib import Path

from keybroker.config import LARGEST_BODY
from keybroker.wire.messages import LARGEST_HEADER_COPY
from tests.tls.running import LOOPBACK, Broker, Host, curl


def test_a_body_above_the_bound_is_refused_on_every_path(broker: Broker, host: Host) -> None:
    body = b" " * (LARGEST_BODY + 1)
    for method, path in (("POST", "/v1/unlock"), ("PUT", "/v1/volumes/kbv-aaaaaaaaaaaa/device")):
        reply = broker.ask(method, path, body, who=host.files)
        assert (reply.status, reply.problem) == (413, "too-large")


def test_a_stranger_may_bring_far_less(broker: Broker) -> None:
    reply = broker.ask("POST", "/v1/enrolment", b" " * 65537, port=broker.enrolment)
    assert (reply.status, reply.problem) == (413, "too-large")


def test_the_largest_header_passes_on_its_own_path(broker: Broker, host: Host) -> None:
    volume = broker.add_volume("shop", "data")
    copy = base64.b64encode(b"\0" * LARGEST_HEADER_COPY).decode()
    reply = broker.ask(
        "PUT", f"/v1/volumes/{volume['volume']}/header", {"revision": 1, "copy": copy}, who=host.files
    )
    assert reply.problem == "malformed"  # its header is missing; but it was read
    assert "header" in reply.document["detail"]
    larger = {"revision": 1, "copy": copy + "A" * 131072}
    reply = broker.ask("PUT", f"/v1/volumes/{volume['volume']}/header", larger, who=host.files)
    assert (reply.status, reply.problem) == (413, "too-large")


def test_curl_can_read_the_refusal(broker: Broker, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (8 << 20))
    done = curl(
        "--cacert", str(broker.ca), "--header", "Content-Type: application/json",
        "--data-binary", f"@{large}",
        f"https://{LOOPBACK}:{broker.enrolment}/v1/enrolment",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b'"too-large"' in done.stdout


def test_header_fields_above_the_bound_are_refused(broker: Broker, host: Host) -> None:
    import http.client
    import ssl

    for fields in ({"X-Large": "x" * 20000}, {f"X-{i}": "y" * 100 for i in range(90)} | {"X": "z" * 9000}):
        try:
            reply = broker.ask("GET", "/v1/volumes", who=host.files, headers=fields)
        except (ConnectionError, ssl.SSLError, http.client.HTTPException):
            continue
        assert reply.status in (400, 413, 431)


def test_a_flood_of_large_bodies_does_not_grow_the_server(broker: Broker) -> None:
    assert broker.process is not None

    def resident() -> int:
        fields = Path(f"/proc/{broker.process.pid}/statm").read_text().split()  # type: ignore[union-attr]
        return int(fields[1]) * resource.getpagesize()

    before = resident()
    for _ in range(20):
        broker.ask("POST", "/v1/enrolment", b" " * (4 << 20), port=broker.enrolment)
    assert resident() - before < 40 << 20
