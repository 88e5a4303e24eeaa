"""One suite for each Protocol: what the fakes of the crash tests promise, the real things promise too."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.plan.situation import Content
from agent.world import Composed, Disks
from keybroker.wire.messages import ClaimRequest, DepositRequest, ReadyRequest, UnlockRequest
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import Device, Grant, Observation, Record, SeenHeader
from keybroker.wire.secret import Secret
from tests.crash.file_world import FileWorld
from tests.crash.memory_broker import MemoryBroker
from tests.crash.memory_world import MemoryWorld
from tests.crash.service_broker import ServiceBroker, Wanted
from tests.crash.volumes import SIZE, key_of, record

AnyBroker = MemoryBroker | ServiceBroker


@pytest.fixture(params=["memory", "service"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyBroker]:
    if request.param == "memory":
        yield MemoryBroker([record(), record("swap", filesystem="swap")])
        return
    wanted = Wanted("data", SIZE, "ext4", "/srv/data"), Wanted("swap", SIZE, "swap")
    service = ServiceBroker(tmp_path / "broker", *wanted)
    yield service
    service.close()


def ask(broker: AnyBroker, *seen: Observation) -> dict[str, Grant]:
    request = UnlockRequest("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "0" * 32, "0.1.0", seen)
    return {grant.record.name: grant for grant in broker.unlock(request).grants}


def known(broker: AnyBroker, name: str = "data") -> Record:
    return ask(broker)[name].record


def disk(of: Record) -> Device:
    return Device(of.serial, of.size_bytes)


def blank(of: Record) -> Observation:
    return Observation(of.volume, "blank", disk(of))


def luks(of: Record, digest: str = "1") -> Observation:
    return Observation(of.volume, "luks2", disk(of), header(of, digest))


def header(of: Record, digest: str = "1") -> SeenHeader:
    return SeenHeader(Pin(of.luks_uuid, "sha256:" + digest * 64, 4 * MIB, 512), 3)


def claimed(broker: AnyBroker) -> Record:
    start = known(broker)
    return broker.claim(start.volume, ClaimRequest(start.revision, disk(start))).record


def deposited(broker: AnyBroker) -> Record:
    start = claimed(broker)
    return broker.deposit(start.volume, DepositRequest(start.revision, header(start), Secret(b"copy")))


def ready(broker: AnyBroker) -> Record:
    start = deposited(broker)
    return broker.ready(start.volume, ReadyRequest(start.revision))


STAGES = {"new": known, "claimed": claimed, "deposited": deposited, "ready": ready}


@pytest.mark.parametrize(
    ("stage", "sight", "keys", "refused"),
    [
        ("new", "blank", False, None),
        ("new", "other", False, Problem.NOT_BLANK),
        ("new", "luks2", False, Problem.NOT_BLANK),
        ("new", "absent", False, Problem.NO_DEVICE),
        ("claimed", "blank", True, None),
        ("claimed", "other", False, Problem.NOT_BLANK),
        ("deposited", "blank", False, None),
        ("deposited", "other", False, None),
        ("deposited", "luks2", True, None),
        ("deposited", "another", False, Problem.HEADER_REFUSED),
        ("ready", "luks2", True, None),
        ("ready", "another", False, Problem.HEADER_REFUSED),
        ("ready", "blank", False, Problem.HEADER_REFUSED),
        ("ready", "other", False, Problem.HEADER_REFUSED),
        ("ready", "smaller", False, Problem.WRONG_DEVICE),
        ("ready", "elsewhere", False, Problem.WRONG_DEVICE),
        ("ready", "unnamed", False, None),
    ],
)
def test_a_broker_gives_keys_for_what_is_its_own_only(
    broker: AnyBroker, stage: str, sight: str, keys: bool, refused: Problem | None
) -> None:
    of = STAGES[stage](broker)
    seen = {
        "blank": blank(of),
        "other": Observation(of.volume, "other", disk(of), detail="ext4"),
        "luks2": luks(of),
        "another": luks(of, "2"),
        "absent": Observation(of.volume, "absent"),
        "smaller": replace(luks(of), device=Device(of.serial, of.size_bytes - 1)),
        "elsewhere": replace(luks(of), device=Device("another-disk", of.size_bytes)),
        "unnamed": None,
    }[sight]
    grant = ask(broker, *([seen] if seen else []))["data"]
    assert bool(grant.keys) is keys
    assert (grant.refused.problem if grant.refused else None) is refused


def test_a_broker_takes_each_call_again_without_a_change(broker: AnyBroker) -> None:
    start = known(broker)
    claim = ClaimRequest(start.revision, disk(start))
    first = broker.claim(start.volume, claim)
    assert first.record.stage == "claimed"
    assert list(first.keys) == [1]
    assert broker.claim(start.volume, claim).record == first.record

    deposit = DepositRequest(first.record.revision, header(start), Secret(b"copy"))
    second = broker.deposit(start.volume, deposit)
    assert second.stage == "deposited"
    assert second.pin == header(start).pin
    assert broker.deposit(start.volume, deposit) == second
    assert broker.header_copy(start.volume).copy == Secret(b"copy")

    third = broker.ready(start.volume, ReadyRequest(second.revision))
    assert third.stage == "ready"
    assert broker.ready(start.volume, ReadyRequest(second.revision)) == third


def test_a_broker_hands_out_no_key_with_a_claim_once_the_header_is_there(broker: AnyBroker) -> None:
    of = deposited(broker)
    again = broker.claim(of.volume, ClaimRequest(of.revision, disk(of)))
    assert (again.record.stage, again.keys) == ("deposited", {})


def claim_of_another_revision(broker: AnyBroker) -> None:
    of = known(broker)
    broker.claim(of.volume, ClaimRequest(of.revision + 1, disk(of)))


def header_without_a_claim(broker: AnyBroker) -> None:
    of = known(broker)
    broker.deposit(of.volume, DepositRequest(of.revision, header(of), Secret(b"copy")))


def ready_without_a_header(broker: AnyBroker) -> None:
    of = claimed(broker)
    broker.ready(of.volume, ReadyRequest(of.revision))


def second_header(broker: AnyBroker) -> None:
    of = deposited(broker)
    broker.deposit(of.volume, DepositRequest(of.revision, header(of, "2"), Secret(b"copy")))


def second_device(broker: AnyBroker) -> None:
    of = claimed(broker)
    broker.claim(of.volume, ClaimRequest(of.revision, Device(of.serial, of.size_bytes + 1)))


@pytest.mark.parametrize(
    "call",
    [
        claim_of_another_revision,
        header_without_a_claim,
        ready_without_a_header,
        second_header,
        second_device,
    ],
)
def test_a_broker_refuses_what_does_not_fit_the_record(
    broker: AnyBroker, call: Callable[[AnyBroker], None]
) -> None:
    with pytest.raises(KeybrokerError) as caught:
        call(broker)
    assert caught.value.problem is Problem.CONFLICT


def test_a_broker_takes_swap_from_claimed_to_ready_and_gives_it_no_key(broker: AnyBroker) -> None:
    of = known(broker, "swap")
    grant = broker.claim(of.volume, ClaimRequest(of.revision, disk(of)))
    assert grant.keys == {}
    done = broker.ready(of.volume, ReadyRequest(grant.record.revision))
    assert done.stage == "ready"
    marked = Observation(of.volume, "swap-mark", disk(of))
    assert ask(broker, marked)["swap"].refused is None
    refused = ask(broker, blank(of))["swap"].refused
    assert refused is not None
    assert refused.problem is Problem.WRONG_DEVICE


@pytest.mark.parametrize("which", ["another", "without a header"])
def test_a_broker_has_no_header_of_other_volumes_or_of_new_ones(broker: AnyBroker, which: str) -> None:
    volume = VolumeId("kbv-" + "z" * 12) if which == "another" else known(broker).volume
    with pytest.raises(KeybrokerError) as caught:
        broker.header_copy(volume)
    assert caught.value.problem is Problem.UNKNOWN


@pytest.fixture(params=["memory", "files"])
def disks(request: pytest.FixtureRequest, tmp_path: Path) -> Disks:
    records = [record()]
    if request.param == "memory":
        return MemoryWorld(records).world().disks
    return FileWorld(tmp_path, MemoryBroker(records), records).world().disks


def pinned(made: Composed) -> Record:
    return replace(record(), stage="deposited", pin=made.header.pin, sequence=made.header.sequence)


def test_disks_see_what_was_inscribed_and_give_its_copy(disks: Disks) -> None:
    assert disks.look(record()).observation == Observation(record().volume, "blank", disk(record()))
    made = disks.compose(record(), key_of("data"))
    assert disks.look(record()).observation.sight == "blank"
    of = pinned(made)
    disks.inscribe(of, made.copy)
    seen = disks.look(of)
    assert (seen.observation.sight, seen.observation.header, seen.copy) == ("luks2", made.header, made.copy)
    disks.inscribe(of, made.copy)
    assert disks.look(of) == seen


def test_disks_make_another_volume_key_each_time_and_refuse_the_second_header(disks: Disks) -> None:
    first, second = (disks.compose(record(), key_of("data")) for _ in range(2))
    assert first.header.pin.digest != second.header.pin.digest
    disks.inscribe(pinned(first), first.copy)
    with pytest.raises(KeybrokerError) as caught:
        disks.inscribe(pinned(second), second.copy)
    assert caught.value.problem is Problem.NOT_BLANK
    assert disks.look(pinned(first)).observation.header == first.header


@pytest.fixture
def volume(tmp_path: Path) -> FileWorld:
    """One opened volume, without anything in it."""
    of = replace(record(), stage="deposited", pin=header(record()).pin)
    return FileWorld(tmp_path, MemoryBroker([of]), [of])


def test_making_a_filesystem_looks_for_itself_and_writes_over_nothing_foreign(volume: FileWorld) -> None:
    of = volume.layout[0]
    inside = volume.inside(of)
    subprocess.run(["mkswap", inside], check=True, capture_output=True)
    before = inside.read_bytes()
    with pytest.raises(KeybrokerError) as caught:
        volume.world().filesystems.make(of)
    assert caught.value.problem is Problem.NOT_BLANK
    assert inside.read_bytes() == before


def test_making_a_filesystem_over_data_that_nobody_recognises_is_refused(volume: FileWorld) -> None:
    of = volume.layout[0]
    volume.leave_a_trace(of)
    with pytest.raises(KeybrokerError) as caught:
        volume.world().filesystems.make(of)
    assert caught.value.problem is Problem.NOT_BLANK
    assert not any(volume.inside(of).read_bytes())


def test_the_mark_is_there_before_mkfs_runs_and_gone_after(volume: FileWorld) -> None:
    ext4 = volume.layout[0]
    xfs = replace(ext4, filesystem="xfs")  # which needs more room than there is, so that its mkfs fails
    filesystems = volume.world().filesystems
    assert filesystems.look(xfs) == Content("", untouched=True, unfinished=False)
    with pytest.raises(KeybrokerError, match=r"mkfs\.xfs"):
        filesystems.make(xfs)
    assert filesystems.look(xfs).unfinished
    filesystems.make(ext4)
    made = filesystems.look(ext4)
    assert (made.kind, made.unfinished) == ("ext4", False)
    before = volume.inside(ext4).read_bytes()
    filesystems.make(ext4)
    assert volume.inside(ext4).read_bytes() == before
