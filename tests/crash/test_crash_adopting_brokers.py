"""What a broker does with a volume of others: one suite for the real one and for the one in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keybroker.wire.changes import AdoptionRequest
from keybroker.wire.messages import UnlockRequest
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin, adopted_profile
from keybroker.wire.proof import GivenProof, prove
from keybroker.wire.records import Device, Grant, Observation, Record, SeenHeader
from keybroker.wire.secret import Secret
from keybroker.wire.values import replace
from tests.crash.memory_broker import MemoryBroker
from tests.crash.service_broker import ServiceBroker
from tests.crash.volumes import SIZE, record

UUID = "0f2d3c1a-5b6e-4d7c-8f90-a1b2c3d4e5f6"
FIRST = KeyVersion(1)

AnyBroker = MemoryBroker | ServiceBroker


@pytest.fixture(params=["memory", "service"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyBroker]:
    if request.param == "memory":
        declared = replace(
            record(), stage="foreign", luks_uuid=UUID, profile=adopted_profile("aes-xts-plain64")
        )
        yield MemoryBroker([declared])
        return
    service = ServiceBroker(tmp_path / "broker")
    service.declare("data", SIZE, origin="foreign", luks_uuid=UUID, serial="WD-1")
    yield service
    service.close()


def ask(broker: AnyBroker, *seen: Observation) -> Grant:
    request = UnlockRequest("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "0" * 32, "0.1.0", seen)
    (grant,) = broker.unlock(request).grants
    return grant


def header(uuid: str = UUID, sequence: int = 5) -> SeenHeader:
    return SeenHeader(Pin(uuid, "sha256:" + "1" * 64, 16 * MIB, 512), sequence)


def seen(of: Record, what: SeenHeader) -> Observation:
    return Observation(of.volume, "luks2", Device(of.serial, of.size_bytes), what)


def request(broker: AnyBroker, what: SeenHeader, *, key: Secret | None = None) -> AdoptionRequest:
    of = ask(broker).record
    key = key or ask(broker, seen(of, header())).keys[FIRST]
    made = prove(key, volume=of.volume, version=FIRST, digest=what.pin.digest, sequence=what.sequence)
    proof = GivenProof(FIRST, what.pin.digest, what.sequence, made)
    return AdoptionRequest(of.revision, Device(of.serial, of.size_bytes), what, Secret(b"copy"), proof)


def test_the_key_comes_with_the_declared_header_and_with_no_other(broker: AnyBroker) -> None:
    of = ask(broker).record
    assert of.stage == "foreign"
    assert ask(broker).keys == {}
    assert list(ask(broker, seen(of, header())).keys) == [FIRST]
    refused = ask(broker, seen(of, header("6f4d3b52-7f0a-4a0e-9b6a-3d8f2c1e5a70")))
    assert refused.keys == {}
    assert refused.refused is not None
    assert refused.refused.problem is Problem.HEADER_REFUSED


def test_an_adoption_pins_the_header_and_is_taken_again_without_a_change(broker: AnyBroker) -> None:
    asked = request(broker, header())
    of = broker.adopt(ask(broker).record.volume, asked)
    assert (of.stage, of.pin, of.sequence) == ("ready", header().pin, 5)
    assert broker.adopt(of.volume, asked) == of
    assert broker.header_copy(of.volume).copy == Secret(b"copy")
    assert list(ask(broker, seen(of, header())).keys) == [FIRST]


def test_an_adoption_without_a_proof_of_our_key_is_refused(broker: AnyBroker) -> None:
    of = ask(broker).record
    with pytest.raises(KeybrokerError):
        broker.adopt(of.volume, request(broker, header(), key=Secret(b"C" * 43)))
    assert ask(broker).record == of
