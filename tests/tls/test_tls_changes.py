"""A volume in use changes over the real listener: the calls, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.proof import prove
from keybroker.wire.secret import Secret
from tests.tls.running import Broker, Host, header
from tests.tls.test_tls_roles import CHANGES, REPORT


@pytest.fixture(scope="module")
def used(broker: Broker, host: Host) -> tuple[dict[str, Any], str]:
    volume = broker.add_volume("shop", "used")
    return volume, broker.make_ready(host, volume)


@pytest.fixture(scope="module")
def idle(broker: Broker, host: Host) -> dict[str, Any]:
    volume = broker.add_volume("shop", "idle")
    broker.make_ready(host, volume)
    return volume


def proof(volume: dict[str, Any], version: int, key: str, sequence: int) -> dict[str, Any]:
    digest = header(volume)["pin"]["digest"]
    made = prove(
        Secret(key.encode()), volume=VolumeId(volume["volume"]), version=KeyVersion(version), digest=digest,
        sequence=sequence,
    )  # fmt: skip
    return {"version": version, "digest": digest, "sequence": sequence, "proof": made}


def test_a_rotation_and_a_re_encryption_s_beginning(
    broker: Broker, host: Host, used: tuple[dict[str, Any], str]
) -> None:
    volume, _old = used
    at = f"/v1/volumes/{volume['volume']}"
    operators = "/v1/addons/shop/volumes/used"

    def call(method: str, path: str, body: Any = None) -> Any:
        reply = broker.ask(method, path, body, who=host.files)
        assert reply.status == 200, reply.body
        return reply.document

    ordered = broker.ask("PUT", f"{operators}/order", {"kind": "reencrypt"}, who=broker.operator)
    assert ordered.status == 201
    again = broker.ask("PUT", f"{operators}/order", {"kind": "reencrypt"}, who=broker.operator)
    assert (again.status, again.document["revision"]) == (200, ordered.document["revision"])
    told = call("POST", "/v1/report", REPORT)
    (record,) = (one for one in told["records"] if one["volume"] == volume["volume"])
    assert (record["wanted"], record["order"]["kind"]) == (2, "reencrypt")

    grant = call("PUT", f"{at}/staged", {"revision": record["revision"]})
    new = grant["keys"]["2"]
    proven = proof(volume, 2, new, 4)
    promoted = call("PUT", f"{at}/current", {"revision": grant["record"]["revision"], "proof": proven})
    assert (promoted["current"], promoted["retiring"]) == (2, 1)
    early = broker.ask("DELETE", f"{at}/keys/1", who=host.files)
    assert (early.status, early.problem) == (409, "conflict")
    copy = {"revision": promoted["revision"], "header": header(volume, 5), "copy": "S0JIMQ=="}
    bare = broker.ask("PUT", f"{at}/header", copy, who=host.files)
    assert bare.status == 409
    call("PUT", f"{at}/header", {**copy, "proof": proof(volume, 2, new, 5)})
    retired = call("DELETE", f"{at}/keys/1")
    assert call("DELETE", f"{at}/keys/1") == retired

    begun = call("PUT", f"{at}/order", {"revision": retired["revision"], "number": 1, "digest": None})
    assert begun["order"]["phase"] == "begun"
    unfinished = broker.ask("DELETE", f"{at}/order/1", who=host.files)
    assert unfinished.problem == "conflict"
    stopped = broker.ask("DELETE", f"{operators}/order", who=broker.operator)
    assert stopped.problem == "conflict"
    stale = broker.ask("PUT", f"{at}/staged", {"revision": 1}, who=host.files)
    assert stale.problem == "conflict"


def test_an_erasure_leaves_a_signed_record(broker: Broker, host: Host) -> None:
    volume = broker.add_volume("shop", "gone")
    broker.make_ready(host, volume)
    at = "/v1/addons/shop/volumes/gone"
    ordered = broker.ask("PUT", f"{at}/order", {"kind": "erase"}, who=broker.operator).document
    body = {
        "revision": ordered["revision"],
        "device": {"serial": volume["serial"], "size_bytes": 1 << 30},
        "wiped": 4 << 20,
        "method": "zeros, read back",
    }
    reply = broker.ask("PUT", f"/v1/volumes/{volume['volume']}/erased", body, who=host.files)
    assert (reply.status, reply.document["stage"]) == (200, "erased")
    (said,) = broker.ask("GET", f"{at}/statements", who=broker.operator).document["statements"]
    assert said["volume"] == volume["volume"]
    assert said["signer"].startswith("-----BEGIN PUBLIC KEY-----")


@pytest.mark.parametrize(("method", "part", "body"), [call for call in CHANGES if call[2] is not None])
def test_bodies_that_are_not_whole_are_malformed(
    broker: Broker, host: Host, used: tuple[dict[str, Any], str], method: str, part: str, body: dict[str, Any]
) -> None:
    path = f"/v1/volumes/{used[0]['volume']}/{part}"
    less = dict(list(body.items())[1:])
    for wrong in (less, {**body, "extra": 1}, {**body, "revision": "1"}):
        reply = broker.ask(method, path, wrong, who=host.files)
        assert (reply.status, reply.problem) == (400, "malformed")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("order", {}),
        ("order", {"kind": "format"}),
        ("order", {"kind": "reencrypt", "rate": 1}),
        ("order", {"kind": "reencrypt", "serial": "x"}),
        ("order", {"kind": "migrate", "size_bytes": 1}),
        ("order", {"kind": "erase", "yes": True}),
        ("wanted", {"compromised": 1}),
    ],
)
def test_wishes_that_make_no_sense_are_malformed(
    broker: Broker, idle: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    at = f"/v1/addons/shop/volumes/{idle['name']}/{path}"
    reply = broker.ask("PUT", at, body, who=broker.operator)
    assert (reply.status, reply.problem) == (400, "malformed")


@pytest.mark.parametrize("part", ["keys/x", "keys/0", "keys/-1", "order/x", "order/99999999999999999999"])
def test_numbers_in_a_path_are_numbers(
    broker: Broker, host: Host, used: tuple[dict[str, Any], str], part: str
) -> None:
    reply = broker.ask("DELETE", f"/v1/volumes/{used[0]['volume']}/{part}", who=host.files)
    assert (reply.status, reply.problem) == (404, "unknown")
