"""A host gets its own add-on's volumes and nothing of another's, whatever it asks for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tls.running import Broker, Host, device, unlock_request
from tests.tls.test_tls_roles import CHANGES


@pytest.fixture(scope="module")
def theirs(broker: Broker) -> dict[str, Any]:
    """A volume of another add-on, with a key that its own host has claimed."""
    broker.add_addon("bank")
    volume = broker.add_volume("bank", "data")
    broker.claim(broker.enrol("bank"), volume)
    return volume


def test_unlock_does_not_speak_of_it(broker: Broker, host: Host, theirs: dict[str, Any]) -> None:
    own = broker.add_volume("shop", "data")
    reply = broker.ask("POST", "/v1/unlock", unlock_request(own, theirs), who=host.files)
    assert reply.status == 200
    assert [grant["record"]["volume"] for grant in reply.document["grants"]] == [own["volume"]]
    assert theirs["luks_uuid"] not in reply.body.decode()


@pytest.mark.parametrize(
    ("method", "part", "body"),
    [
        ("PUT", "device", {"revision": 2}),
        ("GET", "header", None),
        ("PUT", "ready", {"revision": 2}),
        *CHANGES,
    ],
)
def test_its_calls_are_not_there(
    broker: Broker, host: Host, theirs: dict[str, Any], method: str, part: str, body: dict[str, Any] | None
) -> None:
    if part == "device":
        body = {"revision": 2, "device": device(theirs)}
    reply = broker.ask(method, f"/v1/volumes/{theirs['volume']}/{part}", body, who=host.files)
    assert (reply.status, reply.problem) == (404, "unknown")
    nowhere = broker.ask(method, f"/v1/volumes/kbv-aaaaaaaaaaaa/{part}", body, who=host.files)
    assert nowhere.problem == "unknown", "a host must not learn which volumes there are"
