"""A second machine with the same certificate gets no key unnoticed; an ordinary reboot is none."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.broker import BrokerClient, Clockwork, Limits
from agent.broker.connection import Credentials
from keybroker.wire.askingboot import HEADER
from keybroker.wire.fields import Fields
from keybroker.wire.messages import UnlockRequest
from tests.tls.forging import Files, signing_request
from tests.tls.running import BOOT, Broker, Host, Reply, ask, unlock_request
from tests.tls.test_review_greedy_clients import from_elsewhere
from tests.tls.test_tls_roles import REPORT

NEXT = "00000000-0000-4000-8000-000000000001"
CLONE = "1" * 32


@pytest.fixture
def volume(broker: Broker, request: pytest.FixtureRequest) -> dict[str, Any]:
    broker.add_addon("cloned")
    return broker.add_volume("cloned", f"data{abs(hash(request.node.name)) % 10**6}")


@pytest.fixture
def vm(broker: Broker, volume: dict[str, Any]) -> Host:
    """A VM that is up, and has its key."""
    host = broker.enrol("cloned")
    broker.claim(host, volume)
    assert keys(boot(broker, host.files, volume))
    return host


def boot(broker: Broker, who: Files, volume: dict[str, Any], **other: str) -> Reply:
    return broker.ask("POST", "/v1/unlock", unlock_request(volume, **other), who=who)


def keys(reply: Reply) -> bool:
    """Say whether a passphrase is in a reply."""
    if reply.status != 200:
        assert b"keys" not in reply.body
        return False
    return any(grant["keys"] for grant in reply.document["grants"])


def records(broker: Broker, host: Host) -> list[tuple[str, str, str | None]]:
    """Return verb, outcome and problem of the last records about a host."""
    entries = broker.ask("GET", "/v1/audit?after=-1&limit=50", who=broker.operator).document["audit"]
    own = [entry for entry in entries if entry["host"] == host.id]
    return [(entry["verb"], entry["outcome"], entry["detail"].get("problem")) for entry in own]


def boots(broker: Broker, host: Host) -> dict[str, str]:
    """Return the id of each boot of a host, by its state."""
    reply = broker.ask("GET", "/v1/boots?addon=cloned", who=broker.operator)
    return {one["state"]: one["boot"] for one in reply.document["boots"] if one["host"] == host.id}


def decide(broker: Broker, boot: str, decision: str, who: Files) -> Reply:
    return broker.ask("PUT", f"/v1/boots/{boot}/{decision}", {}, who=who)


def test_a_cloned_vm_gets_no_key_until_an_approver_says_yes(
    broker: Broker, vm: Host, volume: dict[str, Any]
) -> None:
    for _ in range(2):
        reply = boot(broker, vm.files, volume, boot=NEXT, machine=CLONE)
        assert (reply.status, reply.problem, keys(reply)) == (423, "pending", False)
        assert int(reply.headers["retry-after"]) == 10
    assert records(broker, vm).count(("unlock", "refused", "pending")) == 1
    assert keys(boot(broker, vm.files, volume))
    waiting = boots(broker, vm)["waiting"]
    only_operator, approver = broker.appoint("runs", "operator"), broker.appoint("says", "approver")
    assert decide(broker, waiting, "approval", only_operator).problem == "not-allowed"
    assert decide(broker, waiting, "approval", approver).document["state"] == "approved"
    assert keys(boot(broker, vm.files, volume, boot=NEXT, machine=CLONE))
    assert ("boot.approve", "done", None) in records(broker, vm)
    former = boot(broker, vm.files, volume)
    assert (former.status, former.problem) == (403, "boot-denied")


def test_a_clone_that_is_denied_gets_no_key(broker: Broker, vm: Host, volume: dict[str, Any]) -> None:
    boot(broker, vm.files, volume, machine=CLONE)
    assert decide(broker, boots(broker, vm)["waiting"], "denial", broker.operator).status == 200
    reply = boot(broker, vm.files, volume, machine=CLONE)
    assert (reply.status, reply.problem, keys(reply)) == (403, "boot-denied", False)
    assert keys(boot(broker, vm.files, volume))


def test_an_ordinary_reboot_gets_its_keys_at_once(broker: Broker, vm: Host, volume: dict[str, Any]) -> None:
    assert keys(boot(broker, vm.files, volume, boot=NEXT))
    assert set(boots(broker, vm)) == {"admitted", "replaced"}


def test_a_copy_at_another_address_gets_no_key(broker: Broker, vm: Host, volume: dict[str, Any]) -> None:
    for boot_id in (BOOT, NEXT):
        with closing(from_elsewhere(broker, broker.main, vm.files)) as thief:
            reply = ask(thief, "POST", "/v1/unlock", unlock_request(volume, boot=boot_id))
        assert (reply.status, reply.problem, keys(reply)) == (423, "pending", False)


def test_a_copy_that_looks_just_like_it_shows_when_the_other_reports(
    broker: Broker, vm: Host, volume: dict[str, Any]
) -> None:
    assert keys(boot(broker, vm.files, volume, boot=NEXT))
    assert broker.ask("POST", "/v1/report", REPORT, who=vm.files).status == 200
    assert ("report", "refused", "pending") in records(broker, vm)
    for boot_id in (BOOT, NEXT, "00000000-0000-4000-8000-000000000002"):
        assert not keys(boot(broker, vm.files, volume, boot=boot_id))


def test_an_add_on_may_refuse_second_boots(broker: Broker, vm: Host, volume: dict[str, Any]) -> None:
    broker.change_policy("cloned", on_clone="refuse")
    reply = boot(broker, vm.files, volume, machine=CLONE)
    broker.change_policy("cloned", on_clone="pend")
    assert (reply.status, reply.problem, keys(reply)) == (423, "second-boot", False)


def test_an_add_on_has_so_many_hosts_and_no_more(broker: Broker, volume: dict[str, Any]) -> None:
    broker.add_addon("pair")
    broker.change_policy("pair", hosts=2)
    hosts = [broker.enrol("pair") for _ in range(3)]
    said = [broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files).status for host in hosts]
    assert said == [200, 200, 423]
    reason = {"reason": "gone"}
    broker.ask("PUT", f"/v1/hosts/{hosts[0].id}/revocation", reason, who=broker.operator)
    assert broker.ask("POST", "/v1/unlock", unlock_request(), who=hosts[2].files).status == 200


def test_with_approval_each_boot_waits_unless_boots_are_expected(
    broker: Broker, vm: Host, volume: dict[str, Any]
) -> None:
    broker.change_policy("cloned", approve_boots=True)
    only_operator = broker.appoint("alone", "operator")
    try:
        reply = boot(broker, vm.files, volume, boot=NEXT)
        assert (reply.status, reply.problem, keys(reply)) == (423, "pending", False)
        at = "/v1/addons/cloned/expected"
        assert broker.ask("PUT", at, {"seconds": 60}, who=only_operator).problem == "not-allowed"
        assert broker.ask("PUT", at, {"seconds": 60}, who=broker.operator).status == 200
        assert keys(boot(broker, vm.files, volume, boot=NEXT))
        assert broker.ask("PUT", at, {"seconds": 0}, who=broker.operator).status == 200
        body = {"approve_boots": False}
        refused = broker.ask("PUT", "/v1/addons/cloned/policy", body, who=only_operator)
        assert (refused.status, refused.problem) == (403, "not-allowed")
    finally:
        broker.change_policy("cloned", approve_boots=False)


def test_a_key_does_not_leave_by_a_claim_of_a_clone(broker: Broker, vm: Host, volume: dict[str, Any]) -> None:
    asked = {"revision": 2, "device": {"serial": volume["serial"], "size_bytes": 1 << 30}}
    asked["boot"] = {"boot_id": NEXT, "machine_id": CLONE}
    reply = broker.ask("PUT", f"/v1/volumes/{volume['volume']}/device", asked, who=vm.files)
    assert (reply.status, reply.problem, keys(reply)) == (423, "pending", False)


def test_a_denied_clone_is_told_nothing_by_any_call_and_gets_no_key_by_another_name(
    broker: Broker, vm: Host, volume: dict[str, Any]
) -> None:
    boot(broker, vm.files, volume, machine=CLONE)
    assert decide(broker, boots(broker, vm)["waiting"], "denial", broker.operator).status == 200
    header = f"/v1/volumes/{volume['volume']}/header"
    denied = {HEADER: f"{BOOT} {CLONE}"}
    for method, path in (("GET", header), ("DELETE", f"/v1/volumes/{volume['volume']}/order/1")):
        reply = broker.ask(method, path, who=vm.files, headers=denied)
        assert (reply.status, reply.problem) == (403, "boot-denied")
        assert broker.ask(method, path, who=vm.files).problem == "pending", "it may be that one"
    csr = {"csr": signing_request(ec.generate_private_key(ec.SECP256R1()))}
    assert broker.ask("POST", "/v1/renewal", csr, who=vm.files, headers=denied).problem == "boot-denied"
    assert broker.ask("POST", "/v1/renewal", csr, who=vm.files).status == 200
    own = broker.ask("GET", header, who=vm.files, headers={HEADER: f"{BOOT} {'0' * 32}"})
    assert own.problem == "unknown", "nothing was deposited"
    for machine in (CLONE, "0" * 32):
        assert boot(broker, vm.files, volume, boot=NEXT, machine=machine).problem == "pending"


@pytest.mark.parametrize("said", ["", "x", BOOT, f"{BOOT}  {CLONE}", f"{BOOT} {CLONE}, {BOOT} {CLONE}"])
def test_what_is_no_name_of_a_boot_is_malformed(broker: Broker, vm: Host, said: str) -> None:
    reply = broker.ask("POST", "/v1/report", REPORT, who=vm.files, headers={HEADER: said})
    assert (reply.status, reply.problem) == (400, "malformed")


def test_the_agent_waits_for_the_approver_and_then_gets_its_answer(
    broker: Broker, vm: Host, volume: dict[str, Any]
) -> None:
    said = list[str]()

    def approve(seconds: float) -> None:
        # instead of sleeping: the approver answers meanwhile
        if waiting := boots(broker, vm).get("waiting"):
            decide(broker, waiting, "approval", broker.operator)

    agent = BrokerClient(
        (f"https://127.0.0.1:{broker.main}",),
        Credentials(broker.ca.read_text(), vm.files.key, vm.files.certificate),
        deadline=time.monotonic() + 30,
        limits=Limits(connect=5.0, whole=10.0),
        clockwork=Clockwork(monotonic=_leaping(), sleep=approve, tell=said.append),
    )
    try:
        asked = UnlockRequest.read(Fields(unlock_request(volume, machine=CLONE)))
        assert any(grant.keys for grant in agent.unlock(asked).grants)
    finally:
        agent.close()
    assert "another boot of this host is up" in said[0]


def _leaping() -> Any:
    """Return a clock that goes on by a second each time that it is read."""
    times = iter(range(10**6))
    begin = time.monotonic() - 1000
    return lambda: begin + next(times)
