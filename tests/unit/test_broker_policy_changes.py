"""The tables of keybroker/policy.py for volumes that change, that others made, and that are gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from keybroker.model import Keyring, Volume
from keybroker.policy import Release, release
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.orders import Order
from keybroker.wire.problems import Problem
from keybroker.wire.records import Device, Observation, Refusal, SeenHeader
from tests.unit.test_broker_volume import CLAIMED, DEPOSITED, DEVICE, HEADER, NEW, PIN, READY

V = KeyVersion
KEYS, NOTHING = "keys", None
REFUSED, NO_DEVICE = Problem.HEADER_REFUSED, Problem.NO_DEVICE

OLD, NEXT, STRANGE = PIN.digest, "sha256:" + "ef" * 32, "sha256:" + "99" * 32
BUSY = ("online-reencrypt-v2",)

FOREIGN = replace(NEW, stage="foreign")
PLAIN = replace(NEW, stage="plain", keyring=None)
ENCRYPTING = replace(PLAIN, keyring=Keyring.first(), order=Order(1, "encrypt", "begun"), last_order=1)
ERASED = replace(READY, stage="erased", keyring=Keyring.first().end(datetime(2026, 1, 1, tzinfo=UTC)))


def sees(sight: str, header: SeenHeader | None = None) -> Observation:
    device = None if sight == "absent" else DEVICE
    return Observation(NEW.id, sight, device, header)  # type: ignore[arg-type]


def of(digest: str, *others: str, requirements: tuple[str, ...] = (), **pin: object) -> Observation:
    changed = replace(PIN, digest=digest, **pin)  # type: ignore[arg-type]
    return sees("luks2", SeenHeader(changed, HEADER.sequence, requirements, others=others))


def told(volume: Volume, seen: Observation | None) -> str | Problem | None:
    decided = release(volume, seen)
    if isinstance(decided, Refusal):
        return decided.problem
    if decided is None:
        return NOTHING
    assert decided.versions == (1,)
    return KEYS


OTHERS = {
    "nothing": (None, (NOTHING, NOTHING, NOTHING, NOTHING)),
    "absent": (sees("absent"), (NO_DEVICE, NO_DEVICE, NO_DEVICE, REFUSED)),
    "blank": (sees("blank"), (REFUSED, NOTHING, REFUSED, REFUSED)),
    "its own": (of(STRANGE), (KEYS, REFUSED, REFUSED, REFUSED)),
    "its own, in between": (of(STRANGE, requirements=BUSY), (REFUSED, REFUSED, KEYS, REFUSED)),
    "another": (of(OLD, uuid="0" * 8 + PIN.uuid[8:]), (REFUSED, REFUSED, REFUSED, REFUSED)),
    "clear": (sees("other"), (REFUSED, NOTHING, KEYS, REFUSED)),
    "mark": (sees("swap-mark"), (REFUSED, NOTHING, KEYS, REFUSED)),
}


@pytest.mark.parametrize(
    ("volume", "seen", "wanted"),
    [
        pytest.param(volume, seen, wanted, id=f"{name}-{what}")
        for name, (seen, row) in OTHERS.items()
        for what, volume, wanted in zip(
            ("foreign", "plain", "encrypting", "erased"),
            (FOREIGN, PLAIN, ENCRYPTING, ERASED),
            row,
            strict=True,
        )
    ],
)
def test_a_cell_of_the_table_of_what_others_made(
    volume: Volume, seen: Observation | None, wanted: str | Problem | None
) -> None:
    assert told(volume, seen) == wanted


ORDERED = replace(READY, order=Order(1, "reencrypt"), last_order=1)
BEGUN = replace(READY, order=Order(1, "reencrypt", "begun"), last_order=1)
ANNOUNCED = replace(READY, order=Order(1, "reencrypt", "begun", NEXT), last_order=1)

IN_BETWEEN = {
    # header: at rest, ordered, begun, announced
    "pinned, at rest": (of(OLD), (KEYS, KEYS, KEYS, KEYS)),
    "announced, at rest": (of(NEXT), (REFUSED, REFUSED, REFUSED, KEYS)),
    "both, at rest": (of(OLD, NEXT), (REFUSED, REFUSED, REFUSED, REFUSED)),
    "pinned, busy": (of(OLD, requirements=BUSY), (REFUSED, REFUSED, KEYS, KEYS)),
    "both, busy": (of(OLD, NEXT, requirements=BUSY), (REFUSED, REFUSED, KEYS, KEYS)),
    "both, the new one first": (of(NEXT, OLD, requirements=BUSY), (REFUSED, REFUSED, KEYS, KEYS)),
    "announced, busy": (of(NEXT, requirements=BUSY), (REFUSED, REFUSED, REFUSED, KEYS)),
    "pinned and a stranger": (of(OLD, STRANGE, requirements=BUSY), (REFUSED, REFUSED, KEYS, REFUSED)),
    "a stranger alone": (of(STRANGE, requirements=BUSY), (REFUSED, REFUSED, REFUSED, REFUSED)),
    "a stranger, at rest": (of(STRANGE), (REFUSED, REFUSED, REFUSED, REFUSED)),
    "a newer requirement": (
        of(OLD, NEXT, requirements=("online-reencrypt-v3",)),
        (REFUSED, REFUSED, KEYS, KEYS),
    ),
    "another requirement": (of(OLD, NEXT, requirements=("integrity",)), (REFUSED,) * 4),
    "two requirements": (of(OLD, NEXT, requirements=(*BUSY, "integrity")), (REFUSED,) * 4),
    "another offset": (of(OLD, NEXT, requirements=BUSY, data_offset=8 << 20), (REFUSED,) * 4),
    "another sector size": (of(OLD, NEXT, requirements=BUSY, sector_size=512), (REFUSED,) * 4),
    "another UUID": (of(OLD, NEXT, requirements=BUSY, uuid="0" * 8 + PIN.uuid[8:]), (REFUSED,) * 4),
    "lost": (sees("other"), (REFUSED,) * 4),
}


@pytest.mark.parametrize(
    ("volume", "seen", "wanted"),
    [
        pytest.param(volume, seen, wanted, id=f"{name}-{what}")
        for name, (seen, row) in IN_BETWEEN.items()
        for what, volume, wanted in zip(
            ("rest", "ordered", "begun", "announced"), (READY, ORDERED, BEGUN, ANNOUNCED), row, strict=True
        )
    ],
)
def test_a_cell_of_the_table_of_headers_in_between(
    volume: Volume, seen: Observation, wanted: str | Problem | None
) -> None:
    assert told(volume, seen) == wanted


@pytest.mark.parametrize("volume", [NEW, CLAIMED, DEPOSITED], ids=lambda volume: volume.stage)
@pytest.mark.parametrize("seen", [None, sees("absent"), sees("blank"), of(OLD), sees("other")])
def test_a_successor_goes_by_its_own_stage(volume: Volume, seen: Observation | None) -> None:
    successor = replace(volume, role="successor", partner=VolumeId("kbv-aaaaaaaaaaaa"))
    assert release(successor, seen) == release(volume, seen)


@pytest.mark.parametrize("seen", [None, sees("absent"), sees("blank"), of(OLD), of(STRANGE), sees("other")])
def test_a_former_volume_gets_neither_keys_nor_a_refusal(seen: Observation | None) -> None:
    assert release(replace(READY, role="former"), seen) is None


def test_a_restored_snapshot_gets_what_is_still_kept_unless_older_headers_are_blocked() -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    keys = Keyring.first().want().stage().promote(V(2)).retire(V(1), when)
    volume = replace(READY, keyring=keys, sequence=10)
    older = sees("luks2", replace(HEADER, sequence=9))
    decided = release(volume, older)
    assert isinstance(decided, Release)
    assert decided.versions == (1, 2)
    assert "older header" in decided.notes[0]
    assert isinstance(release(replace(volume, block_older=True), older), Refusal)
    same = release(replace(volume, block_older=True), sees("luks2", replace(HEADER, sequence=10)))
    assert same == Release((V(2),))
    destroyed = replace(volume, keyring=keys.destroy(V(1), when))
    decided = release(destroyed, older)
    assert isinstance(decided, Release)
    assert decided.versions == (2,)


@pytest.mark.parametrize("begun", [False, True], ids=["at rest", "in mid re-encryption"])
def test_a_header_from_before_the_disk_had_all_of_the_data_gets_no_key(begun: bool) -> None:
    requirements = BUSY if begun else ()
    volume = replace(ANNOUNCED if begun else READY, sequence=10, complete_from=6)
    half = replace(of(OLD, NEXT, requirements=BUSY) if begun else of(OLD))
    assert half.header is not None
    for sequence, is_served in ((3, False), (5, False), (6, True), (9, True), (10, True), (11, True)):
        seen = replace(half, header=replace(half.header, sequence=sequence))
        decided = release(volume, seen)
        assert isinstance(decided, Release) is is_served, sequence
        assert is_served or (isinstance(decided, Refusal) and "middle of the move" in decided.detail)
    assert half.header.requirements == requirements


def test_another_device_is_refused_in_whatever_state() -> None:
    wrong = Observation(NEW.id, "other", Device("another", 1 << 30))
    for volume in (FOREIGN, PLAIN, ENCRYPTING, ANNOUNCED):
        assert told(volume, wrong) is Problem.WRONG_DEVICE
