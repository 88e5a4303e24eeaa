"""A volume goes from stage to stage by the one call that leads there, once, and never back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from keybroker.model import Keyring, Volume
from keybroker.wire.fields import Fields
from keybroker.wire.names import AddonName, KeyVersion, VolumeId, VolumeName
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin, first_profile
from keybroker.wire.records import Device, Record, SeenHeader, Stage

UUID = "5f0e63b1-3c0f-4f0a-9d3e-2f6d3c9b1a77"
PIN = Pin(UUID, "sha256:" + "ab" * 32, 4 * MIB, 4096)
HEADER = SeenHeader(PIN, 3)
DEVICE = Device("kbv-q3m5x7abcdef", 1 << 30)

NEW = Volume(
    id=VolumeId("kbv-q3m5x7abcdef"),
    addon=AddonName("shop-db"),
    name=VolumeName("data"),
    stage="new",
    revision=1,
    size_bytes=1 << 30,
    filesystem="ext4",
    mount="/data",
    serial="kbv-q3m5x7abcdef",
    luks_uuid=UUID,
    profile=first_profile("aes-xts-plain64"),
    keyring=Keyring.first(),
)
SWAP = replace(NEW, filesystem="swap", mount=None, keyring=None)

CLAIMED = NEW.claim(1, DEVICE)
DEPOSITED = CLAIMED.deposit(2, HEADER)
READY = DEPOSITED.ready(3)


def problem(transition: Callable[[], Volume]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        transition()
    return caught.value.problem


def test_the_way_of_a_data_volume() -> None:
    stages = [(volume.stage, volume.revision) for volume in (NEW, CLAIMED, DEPOSITED, READY)]
    assert stages == [("new", 1), ("claimed", 2), ("deposited", 3), ("ready", 4)]
    assert CLAIMED.device == DEVICE
    assert (READY.pin, READY.sequence) == (PIN, 3)
    assert READY.keyring == NEW.keyring


def test_the_way_of_a_swap_volume_has_no_header() -> None:
    claimed = SWAP.claim(1, DEVICE)
    assert problem(lambda: claimed.deposit(2, HEADER)) is Problem.CONFLICT
    assert problem(lambda: SWAP.ready(1)) is Problem.CONFLICT
    assert claimed.ready(2).stage == "ready"
    assert (SWAP.is_swap, NEW.is_swap) == (True, False)


@pytest.mark.parametrize("volume", [CLAIMED, DEPOSITED, READY], ids=lambda volume: volume.stage)
@pytest.mark.parametrize("revision", [1, 2, 3, 4, 99])
def test_a_repeated_claim_changes_nothing_at_any_revision(volume: Volume, revision: int) -> None:
    assert volume.claim(revision, DEVICE) is volume


def test_a_repeated_deposit_and_a_repeated_ready_change_nothing() -> None:
    assert DEPOSITED.deposit(2, HEADER) is DEPOSITED
    assert READY.deposit(2, HEADER) is READY
    assert READY.ready(3) is READY


@pytest.mark.parametrize(
    "transition",
    [
        lambda: NEW.claim(2, DEVICE),
        lambda: CLAIMED.claim(2, replace(DEVICE, serial="other")),
        lambda: CLAIMED.claim(2, replace(DEVICE, size_bytes=1 << 31)),
        lambda: NEW.deposit(1, HEADER),
        lambda: CLAIMED.deposit(1, HEADER),
        lambda: DEPOSITED.deposit(3, replace(HEADER, sequence=4)),
        lambda: READY.deposit(4, replace(HEADER, pin=replace(PIN, digest="sha256:" + "cd" * 32))),
        lambda: NEW.ready(1),
        lambda: CLAIMED.ready(2),
        lambda: DEPOSITED.ready(2),
    ],
)
def test_no_stage_is_skipped_and_no_other_revision_taken(transition: Callable[[], Volume]) -> None:
    assert problem(transition) is Problem.CONFLICT


@pytest.mark.parametrize("device", [Device("other", 1 << 30), Device(NEW.serial, (1 << 30) - 1)])
def test_another_device_is_not_claimed(device: Device) -> None:
    assert problem(lambda: NEW.claim(1, device)) is Problem.WRONG_DEVICE


@pytest.mark.parametrize("stage", ["foreign", "plain", "erased"])
def test_a_disk_is_never_claimed_for_a_volume_that_is_not_new(stage: Stage) -> None:
    """A claim is the authorisation to format; what others made has no claimed device either."""
    assert problem(lambda: replace(NEW, stage=stage).claim(1, DEVICE)) is Problem.CONFLICT


def test_a_larger_device_is_claimed_with_its_own_size() -> None:
    volume = NEW.claim(1, Device(NEW.serial, 1 << 40))
    assert volume.wrong_device(Device(NEW.serial, 1 << 30)) is not None
    assert volume.wrong_device(Device(NEW.serial, 1 << 41)) is None


@pytest.mark.parametrize(
    "header",
    [
        replace(HEADER, pin=replace(PIN, uuid=UUID.replace("5", "6"))),
        replace(HEADER, pin=replace(PIN, data_offset=MIB - 512)),
        replace(HEADER, pin=replace(PIN, data_offset=32 * MIB + 512)),
        replace(HEADER, pin=replace(PIN, sector_size=2048)),
        replace(HEADER, requirements=("online-reencrypt-v2",)),
        replace(HEADER, degraded=True),
        replace(HEADER, others=("sha256:" + "cd" * 32,)),
    ],
)
def test_a_header_that_the_profile_does_not_allow_is_not_pinned(header: SeenHeader) -> None:
    assert problem(lambda: CLAIMED.deposit(2, header)) is Problem.HEADER_REFUSED


@pytest.mark.parametrize("volume", [NEW, CLAIMED, DEPOSITED, READY, SWAP])
def test_its_record_goes_over_the_wire_whole(volume: Volume) -> None:
    record = volume.record
    assert Record.read(Fields(record.as_json())) == record
    assert (record.current, record.wanted) == ((None, None) if volume.is_swap else (1, 1))


def test_its_record_names_the_keys_of_a_rotation() -> None:
    keys = Keyring.first().want().stage()
    record = replace(READY, keyring=keys.promote(KeyVersion(2))).record
    assert (record.current, record.wanted, record.staged, record.retiring) == (2, 2, None, 1)
