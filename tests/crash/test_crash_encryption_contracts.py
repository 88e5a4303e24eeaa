"""One suite for what a broker does for an encryption in place: in memory, and the real one on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.change.workshop import Broker
from keybroker.wire.changes import PhaseRequest
from keybroker.wire.messages import DepositRequest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.proof import GivenProof, prove
from keybroker.wire.records import Device, Grant, Observation, Record, SeenHeader
from keybroker.wire.secret import Secret
from keybroker.wire.values import replace
from tests.crash.memory_broker import MemoryBroker
from tests.crash.service_broker import ServiceBroker
from tests.crash.test_crash_memory import BOOT
from tests.crash.test_crash_plain import PLAIN
from tests.crash.volumes import SIZE

ONE = KeyVersion(1)
BUSY = ("online-reencrypt-v2",)


@dataclass
class Plain:
    """A broker with one plain volume that is to be encrypted in place, as its host sees it."""

    broker: Broker
    volume: VolumeId

    @property
    def record(self) -> Record:
        (grant,) = self.broker.unlock(BOOT.request([])).grants
        return grant.record

    @property
    def pin(self) -> Pin:
        return Pin(self.record.luks_uuid, "sha256:" + "1" * 64, 4 * MIB, 512)

    def told(self, sight: str, header: SeenHeader | None = None) -> Grant:
        of = self.record
        seen = Observation(of.volume, sight, Device(of.serial, of.size_bytes), header)  # type: ignore[arg-type]
        (grant,) = self.broker.unlock(BOOT.request([seen])).grants
        return grant

    def begin(self) -> Record:
        return self.broker.announce(self.volume, PhaseRequest(self.record.revision, 1))

    def prepare(self, header: SeenHeader | None = None) -> Record:
        header = header or SeenHeader(self.pin, 4, BUSY)
        return self.broker.deposit(
            self.volume, DepositRequest(self.record.revision, header, Secret(b"first"))
        )


@pytest.fixture(params=["memory", "service"])
def use(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plain]:
    if request.param == "memory":
        memory = MemoryBroker([PLAIN])
        memory.encrypt(PLAIN.volume)
        yield Plain(memory, PLAIN.volume)
        return
    service = ServiceBroker(tmp_path / "broker")
    declared = service.declare("data", SIZE, origin="plain", serial="OLD-1", mount="/srv/data")
    service.order("data", "encrypt", backed_up=True)
    yield Plain(service, declared.volume)
    service.close()


def refused(call: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        call()
    return caught.value.problem


def test_the_key_is_minted_with_the_order_and_leaves_once_it_has_begun(use: Plain) -> None:
    assert (use.record.stage, use.record.current, use.told("other").keys) == ("plain", 1, {})
    assert refused(use.prepare) is Problem.CONFLICT
    begun = use.begin()
    assert begun.order is not None
    assert (begun.stage, begun.order.phase, begun.order.digest) == ("plain", "begun", None)
    assert set(use.told("other").keys) == {1}
    assert use.told("blank").refused is not None


def test_the_broker_has_the_header_before_the_disk(use: Plain) -> None:
    revision = use.begin().revision
    made = use.prepare()
    assert made.order is not None
    assert (made.stage, made.order.digest, made.pin, made.sequence) == ("plain", use.pin.digest, use.pin, 4)
    again = DepositRequest(revision, SeenHeader(use.pin, 4, BUSY), Secret(b"first"))
    assert use.broker.deposit(use.volume, again) == made
    assert use.broker.header_copy(use.volume).copy.reveal() == b"first"
    other = SeenHeader(replace(use.pin, digest="sha256:" + "2" * 64), 4, BUSY)
    assert refused(lambda: use.prepare(other)) is Problem.CONFLICT


def test_a_header_that_is_at_rest_is_none_that_it_begins_with(use: Plain) -> None:
    use.begin()
    assert refused(lambda: use.prepare(SeenHeader(use.pin, 4))) is Problem.HEADER_REFUSED
    assert refused(lambda: use.prepare(SeenHeader(use.pin, 4, BUSY, degraded=True))) is Problem.HEADER_REFUSED
    digest = PhaseRequest(use.record.revision, 1, use.pin.digest)
    assert refused(lambda: use.broker.announce(use.volume, digest)) is Problem.CONFLICT


def test_a_key_leaves_for_that_header_wherever_it_is_on_its_way(use: Plain) -> None:
    use.begin()
    use.prepare()
    assert set(use.told("other").keys) == {1}
    for header in (SeenHeader(use.pin, 4, BUSY), SeenHeader(use.pin, 99, BUSY), SeenHeader(use.pin, 120)):
        assert set(use.told("luks2", header).keys) == {1}
    other = SeenHeader(replace(use.pin, digest="sha256:" + "2" * 64), 4, BUSY)
    assert use.told("luks2", other).refused is not None


def test_it_is_ready_once_all_is_encrypted_and_proven(use: Plain) -> None:
    use.begin()
    use.prepare()
    assert refused(lambda: use.broker.finish(use.volume, 1)) is Problem.CONFLICT
    key = use.told("luks2", SeenHeader(use.pin, 120)).keys[ONE]
    digest = use.pin.digest
    made = prove(key, volume=use.volume, version=ONE, digest=digest, sequence=120)
    proof = GivenProof(ONE, digest, 120, made)
    ask = DepositRequest(use.record.revision, SeenHeader(use.pin, 120), Secret(b"last"), proof)
    assert use.broker.deposit(use.volume, ask).stage == "ready"
    done = use.broker.finish(use.volume, 1)
    assert (done.stage, done.order, done.sequence) == ("ready", None, 120)
    assert use.broker.finish(use.volume, 1) == done
