"""Hosts do what hosts do and operators what operators do; neither gets the other's replies."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keybroker.rights import MAY, Verb
from keybroker.wire.names import ROLES, Role
from tests.tls.forging import Files, signing_request
from tests.tls.running import Broker, Host, ask, unlock_request

DIGEST = "sha256:" + "ab" * 32
PROOF = {"version": 1, "digest": DIGEST, "sequence": 3, "proof": "0" * 64}
DEVICE = {"serial": "a", "size_bytes": 1}
SEEN = {
    "pin": {
        "uuid": "5f0e63b1-3c0f-4f0a-9d3e-2f6d3c9b1a77",
        "digest": DIGEST,
        "data_offset": 4 << 20,
        "sector_size": 4096,
    },
    "sequence": 3,
    "requirements": [],
    "degraded": False,
    "others": [],
}
CHANGES: list[tuple[str, str, Any]] = [
    ("PUT", "staged", {"revision": 1}),
    ("PUT", "current", {"revision": 1, "proof": PROOF}),
    ("DELETE", "keys/1", None),
    ("PUT", "header", {"revision": 1, "header": SEEN, "copy": "S0JIMQ==", "proof": PROOF}),
    ("PUT", "order", {"revision": 1, "number": 1, "digest": None}),
    ("DELETE", "order/1", None),
    ("PUT", "holder", {"revision": 1, "holder_revision": 1, "compared": 1, "sequence": 3}),
    ("PUT", "erased", {"revision": 1, "device": DEVICE, "wiped": 1, "method": "zeros"}),
    (
        "PUT",
        "adoption",
        {"revision": 1, "device": DEVICE, "header": SEEN, "copy": "S0JIMQ==", "proof": PROOF},
    ),
]
"""Every call by which a volume in use changes: method, the end of its path, a body that is well formed."""

REPORT = {
    "boot_id": "00000000-0000-4000-8000-000000000000",
    "machine_id": "0" * 32,
    "agent_version": "0.1.0",
    "volumes": [],
}

HOST_CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/unlock", unlock_request()),
    ("POST", "/v1/renewal", {"csr": signing_request(ec.generate_private_key(ec.SECP256R1()))}),
    (
        "PUT",
        "/v1/volumes/kbv-aaaaaaaaaaaa/device",
        {"revision": 1, "device": {"serial": "a", "size_bytes": 1}},
    ),
    ("GET", "/v1/volumes/kbv-aaaaaaaaaaaa/header", None),
    ("PUT", "/v1/volumes/kbv-aaaaaaaaaaaa/ready", {"revision": 1}),
    ("POST", "/v1/report", REPORT),
    *((method, f"/v1/volumes/kbv-aaaaaaaaaaaa/{part}", body) for method, part, body in CHANGES),
]
VOLUME = {
    "size_bytes": 1 << 30,
    "cipher": "aes-xts-plain64",
    "mount": None,
    "filesystem": "none",
    "serial": None,
}
CSR = signing_request(ec.generate_private_key(ec.SECP256R1()))
RECIPIENT = "age1n7x7um8gucwduv28u440sc59mpcv52jekdft8lwst57erd5upvqq9dvr2c"
BROUGHT = {"version": 2, "passphrase": "x" * 43}
DUE = "2026-01-31T12:00:00.000000Z"
CHECK = {"version": 1, "digest": DIGEST, "proof": "0" * 64}
OPERATOR_CALLS: list[tuple[Verb, str, str, Any]] = [
    ("addon.add", "PUT", "/v1/addons/mine", {"engine": "redis"}),
    ("addon.read", "GET", "/v1/addons", None),
    ("addon.read", "GET", "/v1/addons/shop", None),
    ("addon.policy", "PUT", "/v1/addons/shop/policy", {}),
    ("volume.add", "PUT", "/v1/addons/shop/volumes/more", VOLUME),
    ("volume.read", "GET", "/v1/addons/shop/volumes/data", None),
    ("volume.read", "GET", "/v1/volumes", None),
    ("volume.rotate", "PUT", "/v1/addons/shop/volumes/data/wanted", {}),
    ("volume.order", "PUT", "/v1/addons/shop/volumes/data/order", {"kind": "erase", "disk_gone": True}),
    ("volume.cancel", "DELETE", "/v1/addons/shop/volumes/data/order", None),
    ("volume.read", "GET", "/v1/addons/shop/volumes/data/statements", None),
    ("volume.reveal", "POST", "/v1/addons/shop/volumes/data/reveal", {"reason": "x"}),
    ("volume.delete", "PUT", "/v1/addons/shop/volumes/data/deletion", {"reason": "x"}),
    ("volume.approve", "PUT", "/v1/addons/shop/volumes/data/deletion/approval", {"due": DUE}),
    ("volume.undelete", "DELETE", "/v1/addons/shop/volumes/data/deletion", None),
    ("addon.delete", "PUT", "/v1/addons/shop/deletion", {"reason": "x"}),
    ("addon.approve", "PUT", "/v1/addons/shop/deletion/approval", {"due": DUE}),
    ("addon.undelete", "DELETE", "/v1/addons/shop/deletion", None),
    ("addon.read", "GET", "/v1/addons/shop/statements", None),
    ("recovery.read", "GET", "/v1/recovery", None),
    ("recovery.read", "GET", "/v1/recovery/volumes", None),
    ("recovery.set", "PUT", "/v1/recovery", {"recipients": [RECIPIENT]}),
    ("recovery.set", "POST", "/v1/recovery/renewal", {}),
    ("recovery.import", "PUT", "/v1/addons/shop/volumes/data/recovery/key", BROUGHT),
    ("recovery.check", "PUT", "/v1/addons/shop/volumes/data/recovery/check", CHECK),
    ("master.read", "GET", "/v1/master", None),
    ("master.rotate", "PUT", "/v1/master/wrapping", {"uri": "file:/nonexistent"}),
    ("master.forget", "PUT", "/v1/master/keys/nosuch/forgotten", {}),
    ("addon.read", "GET", "/v1/addons/nosuch/key", None),
    ("addon.rekey", "PUT", "/v1/addons/nosuch/key", {"generation": 2}),
    ("host.invite", "POST", "/v1/addons/shop/enrolments", {"lifetime_seconds": 600}),
    ("host.read", "GET", "/v1/hosts", None),
    ("host.read", "GET", "/v1/hosts/kbh-aaaaaaaaaaaa", None),
    ("host.revoke", "PUT", "/v1/hosts/kbh-aaaaaaaaaaaa/revocation", {"reason": "x"}),
    ("boot.read", "GET", "/v1/boots", None),
    ("boot.approve", "PUT", "/v1/boots/kbb-0a1b2c3d4e5f/approval", {}),
    ("boot.deny", "PUT", "/v1/boots/kbb-0a1b2c3d4e5f/denial", {}),
    ("boot.clear", "PUT", "/v1/hosts/kbh-aaaaaaaaaaaa/clearance", {"reason": "it is gone"}),
    ("boot.expect", "PUT", "/v1/addons/shop/expected", {"seconds": 60}),
    ("operator.add", "PUT", "/v1/operators/mallory", {"roles": ["metrics"], "csr": CSR}),
    ("operator.read", "GET", "/v1/operators", None),
    ("operator.read", "GET", "/v1/operators/nobody", None),
    ("operator.roles", "PUT", "/v1/operators/nobody/roles", {"roles": ["metrics"]}),
    ("operator.certify", "PUT", "/v1/operators/nobody/certificate", {"csr": CSR}),
    ("operator.revoke", "PUT", "/v1/operators/nobody/revocation", {"reason": "x"}),
    ("self.read", "GET", "/v1/self", None),
    ("self.renew", "PUT", "/v1/self/certificate", {"csr": CSR}),
    ("audit.read", "GET", "/v1/audit", None),
    ("audit.read", "GET", "/v1/audit/checkpoints", None),
    ("metrics.read", "GET", "/metrics", None),
]
"""Every call of operators: what it is, and a request that is well formed."""


@pytest.mark.parametrize(("method", "path", "body"), HOST_CALLS)
def test_an_operator_gets_no_keys(broker: Broker, method: str, path: str, body: object) -> None:
    reply = broker.ask(method, path, body, who=broker.operator)
    assert (reply.status, reply.problem) == (403, "not-allowed")


@pytest.fixture(scope="module")
def people(broker: Broker) -> dict[str, Files]:
    """An operator for each role who has that one alone, and one who has them all."""
    return {role: broker.appoint(f"only-{role}", role) for role in sorted(ROLES)}


@pytest.mark.parametrize(("method", "path", "body"), HOST_CALLS)
@pytest.mark.parametrize("role", sorted(ROLES))
def test_no_role_makes_a_host_of_an_operator(
    broker: Broker, people: dict[str, Files], role: str, method: str, path: str, body: object
) -> None:
    reply = broker.ask(method, path, body, who=people[role])
    assert (reply.status, reply.problem) == (403, "not-allowed")


@pytest.mark.parametrize(("verb", "method", "path", "body"), OPERATOR_CALLS)
@pytest.mark.parametrize("role", sorted(ROLES))
def test_each_role_may_what_the_table_says_and_no_more(
    broker: Broker, people: dict[str, Files], role: Role, verb: Verb, method: str, path: str, body: object
) -> None:
    reply = broker.ask(method, path, body, who=people[role])
    if role in MAY[verb]:
        assert reply.status in (200, 201, 404, 409)
    else:
        assert (reply.status, reply.problem) == (403, "not-allowed")
        assert reply.document["hint"].startswith("that takes the role ")


def test_a_change_of_roles_and_a_revocation_hold_on_a_connection_that_is_open(broker: Broker) -> None:
    files = broker.appoint("shifty", "auditor")
    with broker.connect(files) as connection:
        assert ask(connection, "PUT", "/v1/addons/mine", {"engine": "redis"}).problem == "not-allowed"
        given = broker.ask("PUT", "/v1/operators/shifty/roles", {"roles": ["operator"]}, who=broker.operator)
        assert given.document["roles"] == ["operator"]
        assert ask(connection, "PUT", "/v1/addons/mine", {"engine": "redis"}).status in (200, 201)
        reason = {"reason": "left"}
        broker.ask("PUT", "/v1/operators/shifty/revocation", reason, who=broker.operator)
        assert ask(connection, "GET", "/v1/self").problem == "revoked"


def test_every_verb_of_an_operator_is_tried() -> None:
    tried = {verb for verb, *_call in OPERATOR_CALLS}
    assert {verb for verb in MAY if "host" not in MAY[verb]} - tried == set()


@pytest.mark.parametrize(("verb", "method", "path", "body"), OPERATOR_CALLS)
def test_a_host_changes_and_lists_nothing(
    broker: Broker, host: Host, verb: Verb, method: str, path: str, body: object
) -> None:
    reply = broker.ask(method, path, body, who=host.files)
    assert (reply.status, reply.problem) == (403, "not-allowed")


def test_a_host_does_not_revoke_or_see_hosts(broker: Broker, host: Host) -> None:
    other = broker.enrol("shop")
    path = f"/v1/hosts/{other.id}"
    assert broker.ask("GET", path, who=host.files).problem == "not-allowed"
    assert broker.ask("PUT", f"{path}/revocation", {"reason": "x"}, who=host.files).problem == "not-allowed"
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=other.files).status == 200


def test_a_key_goes_with_its_certificate(broker: Broker, host: Host) -> None:
    import ssl

    other = broker.enrol("shop")
    with pytest.raises(ssl.SSLError):
        broker.ask("GET", "/v1/volumes", who=Files(other.files.certificate, host.files.key))
