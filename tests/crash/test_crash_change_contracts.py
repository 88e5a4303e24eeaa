"""One suite for what a broker does for a volume in use: the one in memory, and the real one on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.change.workshop import Broker
from keybroker.wire.changes import PromoteRequest, StageRequest
from keybroker.wire.messages import ClaimRequest, DepositRequest, ReadyRequest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.proof import GivenProof, prove
from keybroker.wire.records import Device, Observation, Record, SeenHeader
from keybroker.wire.reports import ReportRequest, VolumeReport
from keybroker.wire.secret import Secret
from tests.crash.memory_broker import MemoryBroker
from tests.crash.service_broker import ServiceBroker, Wanted
from tests.crash.test_crash_memory import BOOT
from tests.crash.volumes import SIZE, record

ONE, TWO = KeyVersion(1), KeyVersion(2)


@dataclass
class InUse:
    """A broker with one volume that is ready, as its host sees it."""

    broker: Broker
    rotate: Callable[[], object]
    volume: VolumeId
    sequence: int = 3

    @property
    def pin(self) -> Pin:
        return Pin(self.record.luks_uuid, "sha256:" + "1" * 64, 4 * MIB, 512)

    @property
    def record(self) -> Record:
        (grant,) = self.broker.unlock(BOOT.request([])).grants
        return grant.record

    def keys(self) -> dict[KeyVersion, Secret]:
        """Ask for the keys that fit the header on the disk."""
        of = self.record
        header = SeenHeader(of.pin or self.pin, self.sequence)
        seen = Observation(of.volume, "luks2", Device(of.serial, of.size_bytes), header)
        (grant,) = self.broker.unlock(BOOT.request([seen])).grants
        assert grant.refused is None
        return grant.keys

    def proof(self, version: KeyVersion, key: Secret | None = None) -> GivenProof:
        digest = self.pin.digest
        made = prove(
            key or self.keys()[version],
            volume=self.volume, version=version, digest=digest, sequence=self.sequence,
        )  # fmt: skip
        return GivenProof(version, digest, self.sequence, made)

    def stage(self) -> Record:
        self.rotate()
        return self.broker.stage(self.volume, StageRequest(self.record.revision)).record

    def back_up(self, proof: GivenProof | None = None) -> Record:
        current = self.record.current
        assert current is not None
        given = proof or self.proof(current)
        copy = Secret(b"copy %d" % self.sequence)
        header = SeenHeader(self.pin, self.sequence)
        return self.broker.deposit(self.volume, DepositRequest(self.record.revision, header, copy, given))

    def promote(self) -> Record:
        return self.broker.promote(self.volume, PromoteRequest(self.record.revision, self.proof(TWO)))


@pytest.fixture(params=["memory", "service"])
def use(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InUse]:
    if request.param == "memory":
        memory = MemoryBroker([record()])
        volume = record().volume
        yield _made(InUse(memory, lambda: memory.rotate(volume), volume))
        return
    service = ServiceBroker(tmp_path / "broker", Wanted("data", SIZE, "ext4", "/srv/data"))
    yield _made(InUse(service, service.rotate, service.records[0].volume))
    service.close()


def _made(use: InUse) -> InUse:
    of, broker = use.record, use.broker
    claimed = broker.claim(of.volume, ClaimRequest(of.revision, Device(of.serial, of.size_bytes))).record
    header = SeenHeader(use.pin, 3)
    deposited = broker.deposit(of.volume, DepositRequest(claimed.revision, header, Secret(b"copy 3")))
    broker.ready(of.volume, ReadyRequest(deposited.revision))
    return use


def conflicts(call: Callable[[], object]) -> None:
    with pytest.raises(KeybrokerError) as caught:
        call()
    assert caught.value.problem is Problem.CONFLICT


def test_a_wish_is_heard_with_the_next_report(use: InUse) -> None:
    request = ReportRequest(
        BOOT.boot_id, BOOT.machine_id, BOOT.agent_version, (VolumeReport(use.volume, "open"),)
    )
    assert [(each.current, each.wanted) for each in use.broker.report(request).records] == [(1, 1)]
    use.rotate()
    use.rotate()
    assert [(each.current, each.wanted) for each in use.broker.report(request).records] == [(1, 2)]


def test_a_wanted_key_is_minted_once_and_given_with_the_current_one(use: InUse) -> None:
    conflicts(lambda: use.broker.stage(use.volume, StageRequest(use.record.revision)))
    use.rotate()
    revision = use.record.revision
    conflicts(lambda: use.broker.stage(use.volume, StageRequest(revision - 1)))
    first = use.broker.stage(use.volume, StageRequest(revision))
    again = use.broker.stage(use.volume, StageRequest(revision))
    assert first == again
    assert set(first.keys) == {ONE, TWO}
    assert (first.record.current, first.record.staged, first.record.newest) == (1, 2, 2)
    assert use.keys() == first.keys


def test_a_key_is_promoted_on_its_own_proof_alone(use: InUse) -> None:
    staged = use.stage()
    forged = PromoteRequest(staged.revision, use.proof(TWO, Secret(b"x" * 43)))
    with pytest.raises(KeybrokerError) as caught:
        use.broker.promote(use.volume, forged)
    assert caught.value.problem is Problem.HEADER_REFUSED
    done = use.promote()
    assert (done.current, done.staged, done.retiring) == (2, None, 1)
    assert use.promote() == done
    assert set(use.keys()) == {ONE, TWO}


def test_a_copy_wants_the_proof_that_the_current_key_opens_it(use: InUse) -> None:
    use.stage()
    use.sequence = 5
    with pytest.raises(KeybrokerError):
        use.back_up(use.proof(TWO))
    first = use.back_up()
    assert first.sequence == 5
    assert use.back_up() == first
    assert use.broker.header_copy(use.volume).copy == Secret(b"copy 5")


def test_a_key_retires_once_the_header_without_it_is_backed_up(use: InUse) -> None:
    use.stage()
    use.sequence = 5
    use.back_up()
    use.promote()
    conflicts(lambda: use.broker.retire(use.volume, ONE))
    use.sequence = 6
    use.back_up()
    conflicts(lambda: use.broker.retire(use.volume, TWO))
    done = use.broker.retire(use.volume, ONE)
    assert (done.current, done.wanted, done.retiring) == (2, 2, None)
    assert use.broker.retire(use.volume, ONE) == done
    assert set(use.keys()) == {TWO}


def test_an_older_header_is_given_retired_keys_too(use: InUse) -> None:
    """So that an agent can say that the disk is a snapshot from before."""
    test_a_key_retires_once_the_header_without_it_is_backed_up(use)
    use.sequence = 5
    assert set(use.keys()) == {ONE, TWO}


def test_the_next_key_waits_until_the_one_before_is_retired(use: InUse) -> None:
    use.stage()
    use.promote()
    use.rotate()
    assert use.record.wanted == 3
    conflicts(lambda: use.broker.stage(use.volume, StageRequest(use.record.revision)))
