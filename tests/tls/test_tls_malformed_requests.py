"""Thousands of requests that make no sense: each is refused as the caller's fault, and none gets a key.

KEYBROKER_MALFORMED=500 is enough while something is being written.
"""

from __future__ import annotations

import json
import os
import random
import socket
import ssl
from typing import Any

import pytest

from tests.tls.running import LOOPBACK, Broker, Host, ask, client_context, device, unlock_request

COUNT = int(os.environ.get("KEYBROKER_MALFORMED", "10000"))
WRONG: list[Any] = [None, True, 0, -1, 1.5, 2**70, "", "x" * 5000, "\0", "../..", [], [[]], {}, {"a": 1}]


@pytest.fixture(scope="module")
def passphrase(broker: Broker, host: Host) -> str:
    return broker.claim(host, broker.add_volume("shop", "data"))


def mutants(good: dict[str, Any], chance: random.Random, count: int) -> list[bytes]:
    """Return bodies with one defect each: a wrong value, a field missing, unknown or doubled, or a cut."""
    found = []
    for _ in range(count):
        document = json.loads(json.dumps(good))
        place = document
        while True:
            key = chance.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and chance.random() < 0.7:
                place = inner
                continue
            break
        defect = chance.randrange(5)
        if defect == 0:
            place[key] = chance.choice([value for value in WRONG if value != inner])
        elif defect == 1 and isinstance(place, dict):
            del place[key]
        elif defect == 2 and isinstance(place, dict):
            place[f"{key}_more"] = inner
        text = json.dumps(document)
        if defect == 3:
            text = text[: chance.randrange(len(text))]
        elif defect == 4:
            first = next(iter(document))
            text = text[:-1] + f", {json.dumps(first)}: {json.dumps(document[first])}" + "}"
        if text != json.dumps(good):
            found.append(text.encode())
    return found


def test_no_defect_of_a_request_makes_the_broker_fail_or_talk(
    broker: Broker, host: Host, passphrase: str
) -> None:
    volume = broker.ask("GET", "/v1/addons/shop/volumes/data", who=broker.operator).document
    chance = random.Random(20261121)
    pin = {"uuid": volume["luks_uuid"], "digest": "sha256:" + "0" * 64, "data_offset": 0, "sector_size": 512}
    header = {"pin": pin, "sequence": 1, "requirements": [], "degraded": False}
    path = f"/v1/volumes/{volume['volume']}"
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/unlock", unlock_request(volume)),
        ("PUT", f"{path}/device", {"revision": 1, "device": device(volume)}),
        ("PUT", f"{path}/header", {"revision": 2, "header": header, "copy": "AAAA"}),
        ("PUT", f"{path}/ready", {"revision": 2}),
        ("POST", "/v1/renewal", {"csr": "x"}),
    ]
    statuses, mark = [], len(broker.log.read_text())
    with broker.connect(host.files) as connection:
        for method, where, good in calls:
            for body in mutants(good, chance, COUNT // len(calls)):
                reply = ask(connection, method, where, body)
                if reply.status != 200:
                    assert passphrase not in reply.body.decode(), body
                assert b"Traceback" not in reply.body
                # A mutant may still be a request that makes sense: another serial, another boot id.
                assert reply.status in (200, 400, 403, 404, 409), (method, where, body, reply.body)
                statuses.append(reply.status)
    print(f"{len(statuses)} malformed requests: {statuses.count(400)} times 400, none of them a 5xx")
    assert statuses.count(400) > COUNT * 0.6
    said = [line for line in broker.log.read_text()[mark:].splitlines() if " INFO main: " in line]
    assert [int(line.split(" INFO main: ")[1].split()[2]) for line in said] == statuses


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"],
)
def test_a_body_must_say_that_it_is_json(broker: Broker, host: Host, content_type: str) -> None:
    reply = broker.ask(
        "POST", "/v1/unlock", unlock_request(), who=host.files, headers={"Content-Type": content_type}
    )
    assert (reply.status, reply.problem) == (400, "malformed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b"{",
        b"\xff\xfe",
        b"\x00" * 100,
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"boot_id": 1e999}',
        ("9" * 5000).encode(),
    ],
)
def test_a_body_that_is_no_object_is_refused(broker: Broker, host: Host, body: bytes) -> None:
    reply = broker.ask("POST", "/v1/unlock", body, who=host.files)
    assert (reply.status, reply.problem) == (400, "malformed")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/volumes/../../etc/passwd/device",
        "/v1/volumes/%2e%2e/device",
        "/v1/volumes/kbv-aaaaaaaaaaaa%00/ready",
        "/v1/volumes/kbv-aaaaaaaaaaaa%0a/ready",
        "/v1/volumes/KBV-AAAAAAAAAAAA/ready",
        "/v1/volumes/%ff%fe/ready",
        "/v1/volumes//ready",
        "/V1/unlock",
        "/v1/unlock/",
        "/v1/unlock;x=1",
        "//v1/unlock",
        "*",
        "/" + "a" * 8000,
    ],
)
def test_a_path_that_leads_nowhere_is_not_found(broker: Broker, host: Host, path: str) -> None:
    reply = broker.ask("PUT", path, {"revision": 1}, who=host.files)
    assert (reply.status, reply.problem) in ((404, "unknown"), (405, "method"))


@pytest.mark.parametrize("query", ["addon=a&addon=b", "nosuch=1", "addon=%ff", "addon=" + "x" * 500])
def test_a_query_that_makes_no_sense_is_refused(broker: Broker, query: str) -> None:
    reply = broker.ask("GET", f"/v1/volumes?{query}", who=broker.operator)
    assert reply.status in (400, 404)


@pytest.mark.parametrize("query", ["after=x", "after=1.0", "limit=0", "limit=1001", "limit=", "after=1e3"])
def test_a_tail_of_the_audit_trail_has_bounds(broker: Broker, query: str) -> None:
    reply = broker.ask("GET", f"/v1/audit?{query}", who=broker.operator)
    assert (reply.status, reply.problem) == (400, "malformed")


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost : b\r\n\r\n",
        b"POST /v1/unlock HTTP/1.1\r\nHost: b\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/unlock HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/unlock HTTP/1.1\r\nHost: b\r\nContent-Length: 0x2\r\n\r\n{}",
        b"POST /v1/unlock HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /v1/unlock HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/unlock HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"GET /v1/volumes HTTP/1.1\r\nHost: b\r\nX: a\r\n folded\r\n\r\n",
        b"GET /v1/volumes HTTP/1.1\r\nHost: b\r\nX\x00: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
        b"GET http://elsewhere/v1/volumes HTTP/1.1\r\nHost: b\r\n\r\n",
    ],
)
def test_raw_nonsense_is_answered_with_400_or_not_at_all(broker: Broker, host: Host, raw: bytes) -> None:
    context = client_context(broker.ca, host.files)
    with (
        socket.create_connection((LOOPBACK, broker.main), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=LOOPBACK) as secure,
    ):
        secure.sendall(raw)
        secure.settimeout(2)
        said = b""
        try:
            while piece := secure.recv(65536):
                said += piece
        except (TimeoutError, ssl.SSLError, ConnectionError):
            pass
    assert said == b"" or said.split()[1] in (b"400", b"404", b"405"), said
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files).status == 200


def test_nothing_of_all_this_is_an_unexpected_error(broker: Broker) -> None:
    """Runs last in this file: what the tests above did must not be in the log as a failure of ours."""
    log = broker.log.read_text()
    assert "unexpected" not in log
    assert "Traceback" not in log
