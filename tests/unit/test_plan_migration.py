"""A move to another disk: the planner's rows that no crash leads to, and what the kernel says of a mirror."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.change.disks import undertakings
from agent.luks import mirror
from agent.plan import erasure, growth, migration
from agent.plan.growth import Sizes
from agent.plan.migration import Seen, Side
from agent.plan.situation import Mapping, Situation, Stable
from agent.plan.steps import (
    Ask,
    Backup,
    Close,
    Copy,
    Drop,
    Erased,
    Finish,
    Grow,
    Mirror,
    Raise,
    Ready,
    Switch,
    Unlink,
    Verify,
    Wipe,
)
from keybroker.wire.names import KeyVersion, VolumeName
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import Device, Grant, Observation, Record, SeenHeader
from tests.crash.volumes import SIZE, key_of, record

OLD, NEW = record("data"), record("target")
PIN = Pin(OLD.luks_uuid, "sha256:" + "0" * 64, 4 * MIB, 512)
HOLDER = replace(
    OLD,
    stage="ready",
    partner=NEW.volume,
    order=Order(1, "migrate"),
    pin=PIN,
    device=Device(OLD.serial, SIZE),
)
SUCCESSOR = replace(
    NEW, name=VolumeName("data"), stage="ready", partner=OLD.volume, role="successor",
    pin=replace(PIN, uuid=NEW.luks_uuid), sequence=3, device=Device(NEW.serial, SIZE),
)  # fmt: skip
BOTH = (OLD.volume, NEW.volume)
UNSEEN = Seen(asked=True)


def side(of: Record, reach: str = "crypt", seen: Observation | None = None) -> Side:
    return Side(Grant(of), Situation(Mapping(reach), seen, None))  # type: ignore[arg-type]


def step(
    stable: Stable, seen: Seen = UNSEEN, *, holder: Record = HOLDER, other: Record = SUCCESSOR
) -> object:
    turn = migration.next_step(side(holder, "open"), side(other), stable, seen)
    return None if turn is None else turn.step


def refused(stable: Stable, seen: Seen = UNSEEN, **records: Record) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        step(stable, seen, **records)
    return caught.value


def test_the_rows_of_a_live_move() -> None:
    assert isinstance(step(Stable((OLD.volume,))), Mirror)
    assert isinstance(step(Stable(BOTH)), Copy)
    assert isinstance(step(Stable(BOTH, in_sync=True)), Verify)
    assert isinstance(step(Stable(BOTH, in_sync=True), Seen(asked=True, compared=1)), Raise)
    deposited = replace(SUCCESSOR, stage="deposited")
    assert isinstance(step(Stable((OLD.volume,)), other=deposited), Ready)
    assert isinstance(step(Stable(BOTH), Seen(asked=True, compared=1)), Copy), (
        "what is not in sync was not compared"
    )


ALIKE = Stable(BOTH, in_sync=True)
RAISED = Seen(asked=True, compared=1, raised=4)


def committing(
    sequence: int | None, *, known: int = 3, keys: bool = True, told: bool = True, of: Seen = RAISED
) -> object:
    """Say what follows on a header of a sequence, of which the broker knows one."""
    successor = replace(SUCCESSOR, sequence=known)
    pin = successor.pin
    assert pin is not None
    header = None if sequence is None else SeenHeader(pin, sequence)
    seen = Observation(NEW.volume, "other" if header is None else "luks2", successor.device, header)
    grant = Grant(successor, {KeyVersion(1): key_of("target")} if keys else {})
    other = Side(grant, Situation(Mapping("crypt"), seen, seen if told else None))
    turn = migration.next_step(side(HOLDER, "open"), other, ALIKE, of)
    return None if turn is None else turn.step


def test_the_rows_of_what_comes_between_verify_and_switch() -> None:
    assert isinstance(committing(4, known=4), Switch)
    assert isinstance(committing(4, known=4, keys=False), Switch)
    assert isinstance(committing(4), Backup)
    assert isinstance(committing(4, told=False), Backup)
    assert isinstance(committing(4, keys=False, told=False), Ask)
    assert isinstance(committing(5, known=5), Raise), "somebody else wrote to it"
    assert isinstance(committing(3, known=3), Raise), "it is an older disk"
    assert isinstance(committing(9, known=9, of=Seen(asked=True, compared=1)), Raise), (
        "what an agent before this one raised it to tells nothing"
    )
    with pytest.raises(KeybrokerError, match="nobody read"):
        committing(None)
    with pytest.raises(KeybrokerError, match="no key"):
        committing(4, keys=False)


def test_nothing_moves_before_the_broker_was_asked() -> None:
    for stable in (Stable((OLD.volume,)), Stable(BOTH), Stable(BOTH, failure="the target: a write failed")):
        assert isinstance(step(stable, Seen()), Ask)


@pytest.mark.parametrize("in_sync", [False, True])
def test_a_leg_that_failed_or_differs_sends_the_volume_back_to_its_holder(in_sync: bool) -> None:
    assert isinstance(step(Stable(BOTH, in_sync, failure="the target: a write failed")), Drop)
    assert isinstance(step(Stable(BOTH, in_sync), Seen(asked=True, compared=1, differs="at 0")), Drop)


def test_what_was_given_up_is_not_begun_again_by_the_same_run() -> None:
    alone = Stable((OLD.volume,))
    assert refused(alone, Seen(asked=True, failed="the target: a write failed")).problem is Problem.NO_DEVICE
    assert refused(alone, Seen(asked=True, differs="they differ at 0")).problem is Problem.MISMATCH


def test_a_volume_that_stands_on_the_disk_that_does_not_hold_it_is_left_alone() -> None:
    assert refused(Stable((NEW.volume,))).problem is Problem.MISMATCH
    now, former = replace(SUCCESSOR, role="holder", stage="ready"), replace(HOLDER, role="former")
    assert refused(Stable((OLD.volume,)), holder=now, other=former).problem is Problem.MISMATCH


def test_two_volumes_that_do_not_belong_together_are_none_of_a_migration() -> None:
    assert refused(Stable(), other=replace(SUCCESSOR, partner=None)).problem is Problem.CORRUPT
    assert refused(Stable(), other=replace(SUCCESSOR, role="holder")).problem is Problem.CORRUPT
    assert refused(Stable(), other=replace(SUCCESSOR, name=VolumeName("else"))).problem is Problem.CORRUPT


@pytest.mark.parametrize("after", [None, "migrate", "erase"])
def test_a_disk_that_was_left_is_wiped_whatever_became_of_the_volume_since(after: str | None) -> None:
    order = Order(2, "migrate") if after == "migrate" else Order(2, "erase") if after else None
    third = record("third").volume if after == "migrate" else None
    now = replace(SUCCESSOR, role="holder", stage="ready", order=order, partner=third)
    former = replace(HOLDER, role="former", order=Order(2, "erase"))
    assert isinstance(step(Stable((NEW.volume,)), holder=now, other=former), Close)
    wanted = list(undertakings([now, former]))
    assert wanted == [(now, former), *([(now,)] if after == "erase" else [])]


def test_a_volume_that_is_closed_is_not_moved_live() -> None:
    assert refused(Stable()).problem is Problem.NO_DEVICE


def test_an_offline_move_takes_the_stable_device_away_before_anything_is_copied() -> None:
    order = Order(1, "migrate", offline=True)
    holder = replace(HOLDER, order=order)
    used = Stable((OLD.volume,), used_by="the mount on /srv/data")
    assert refused(used, holder=holder).problem is Problem.IN_USE
    assert isinstance(step(Stable((OLD.volume,)), holder=holder), Unlink)


def test_without_an_order_nothing_moves_and_a_mirror_ends() -> None:
    holder = replace(HOLDER, order=None)
    assert step(Stable((OLD.volume,)), holder=holder) is None
    assert isinstance(step(Stable(BOTH, in_sync=True), Seen(asked=True, compared=1), holder=holder), Drop)


def test_a_disk_cannot_be_moved_to_itself() -> None:
    seen = Observation(NEW.volume, "blank", Device(OLD.serial, SIZE))
    with pytest.raises(KeybrokerError, match="to itself"):
        migration.next_step(
            side(HOLDER, "open"), side(replace(SUCCESSOR, stage="new"), "closed", seen), Stable(), UNSEEN
        )


def test_a_disk_that_was_never_written_to_is_told_erased_without_a_wipe() -> None:
    former = replace(NEW, role="former")
    found = erasure.next_step(former, Situation(Mapping(), None, None), Stable(), wiped=None)
    assert isinstance(found, Erased)
    assert (
        erasure.next_step(
            replace(former, stage="erased"), Situation(Mapping(), None, None), Stable(), wiped=None
        )
        is None
    )


@pytest.mark.parametrize("serial", ["", "another"])
def test_a_disk_that_is_not_there_or_another_is_not_erased(serial: str) -> None:
    device = Device(serial, SIZE) if serial else None
    seen = Observation(OLD.volume, "other" if device else "absent", device)
    with pytest.raises(KeybrokerError) as caught:
        erasure.next_step(
            replace(HOLDER, role="former"), Situation(Mapping(), seen, None), Stable(), wiped=None
        )
    assert caught.value.problem is (Problem.WRONG_DEVICE if serial else Problem.NO_DEVICE)


def test_layers_grow_from_the_bottom_up_and_never_shrink() -> None:
    assert growth.next_step(Sizes(100, 90, 80, 70)) == Grow(
        "crypt", "the disk has 10 bytes that are not encrypted"
    )
    assert growth.next_step(Sizes(80, 90, 80, None)).layer == "linear"  # type: ignore[union-attr]
    assert growth.next_step(Sizes(80, 90, 100, None)) is None
    assert growth.next_step(Sizes(64 * MIB, 64 * MIB, 64 * MIB, 63 * MIB)) is None
    assert growth.next_step(Sizes(64 * MIB, 64 * MIB, 64 * MIB, 60 * MIB)).layer == "filesystem"  # type: ignore[union-attr]
    assert isinstance(growth.resize(1, Sizes(9, 9, 9, None), has_keys=False), Finish)
    assert isinstance(growth.resize(1, Sizes(9, 8, 8, None), has_keys=False), Ask)
    assert isinstance(growth.resize(1, Sizes(9, 8, 8, None), has_keys=True), Grow)


def test_a_volume_that_is_closed_is_not_grown() -> None:
    with pytest.raises(KeybrokerError) as caught:
        growth.resize(1, None, has_keys=True)
    assert caught.value.problem is Problem.NO_DEVICE


def test_disks_that_were_left_come_before_one_that_is_moved_to() -> None:
    given_up = replace(record("given-up"), name=VolumeName("data"), role="former", stage="deposited")
    groups = list(undertakings([HOLDER, SUCCESSOR, given_up, record("logs")]))
    assert groups == [(HOLDER, given_up), (HOLDER, SUCCESSOR)]


TABLE = "0 90112 mirror core 1 4096 2 254:0 0 254:1 0 1 handle_errors"
STATUS = "0 90112 mirror 2 254:0 254:1 17/22 1 AA 1 core"


def test_a_mirrors_table_has_one_form() -> None:
    table = mirror.read_table(TABLE)
    assert (table.sectors, table.legs, table.line) == (90112, ("254:0", "254:1"), TABLE)
    assert mirror.is_mirror(TABLE)
    assert not mirror.is_mirror("0 90112 linear 254:0 0")
    for wrong in (
        TABLE.replace("handle_errors", "keep_log"),
        TABLE.replace("1 handle_errors", "2 handle_errors keep_log"),
        TABLE.replace("core 1 4096", "core 2 4096 nosync"),
        TABLE.replace("core 1 4096", "disk 2 254:9 4096"),
        TABLE.replace("254:1 0", "254:1 8"),
        f"{TABLE}\n{TABLE}",
        "",
    ):
        with pytest.raises(KeybrokerError):
            mirror.read_table(wrong)


def test_a_mirrors_status_is_in_sync_only_if_all_is_copied_and_no_leg_failed() -> None:
    assert not mirror.read_status(STATUS).in_sync
    whole = STATUS.replace("17/22", "22/22")
    assert mirror.read_status(whole).in_sync
    for letters, said in (("AD", "the target: a write failed"), ("DA", "the source: a write failed")):
        failed = mirror.read_status(whole.replace("AA", letters))
        assert (failed.in_sync, failed.failure) == (False, said)
    assert "copying to it failed" in mirror.read_status(STATUS.replace("AA", "AS")).failure
    for wrong in (STATUS.replace("17/22", "23/22"), STATUS.replace("AA", "AX"), STATUS + " 1", "", TABLE):
        with pytest.raises(KeybrokerError):
            mirror.read_status(wrong)


@pytest.mark.parametrize("changes", [{"order": Order(1, "erase")}, {"role": "former"}])
def test_a_disk_that_the_stable_device_stands_on_in_use_is_not_erased(changes: dict[str, object]) -> None:
    of = replace(HOLDER, **changes)  # type: ignore[arg-type]
    here = Situation(Mapping("open"), None, None)
    stands = Stable((OLD.volume,), used_by="/srv/data" if of.role == "holder" else "")
    with pytest.raises(KeybrokerError) as caught:
        erasure.next_step(of, here, stands, wiped=None)
    assert caught.value.problem is Problem.IN_USE


def erased(mapping: Mapping, *, wiped: int | None = None) -> object:
    """Return the step of a former volume whose disk is there."""
    former = replace(HOLDER, role="former", order=Order(2, "erase"))
    assert former.device is not None
    seen = Observation(former.volume, "luks2", former.device)
    return erasure.next_step(former, Situation(mapping, seen, None), Stable(), wiped=wiped)


def test_a_disk_is_closed_then_wiped_and_only_then_called_erased() -> None:
    assert isinstance(erased(Mapping("crypt")), Close)
    assert isinstance(erased(Mapping("crypt"), wiped=4 * MIB), Close), "it was opened again since"
    assert isinstance(erased(Mapping()), Wipe)
    assert isinstance(erased(Mapping(), wiped=4 * MIB), Erased)


def test_a_disk_under_a_device_that_is_not_ours_is_not_wiped() -> None:
    with pytest.raises(KeybrokerError) as caught:
        erased(Mapping(obstacle="kb-data-crypt has another table"))
    assert caught.value.problem is Problem.WRONG_DEVICE


NOW = replace(SUCCESSOR, role="holder", stage="ready")
LEFT = replace(HOLDER, role="former", order=Order(2, "erase"))


def test_after_the_switch_the_disk_that_was_left_is_dropped_first() -> None:
    assert isinstance(step(Stable(BOTH, in_sync=True), holder=NOW, other=LEFT), Drop)


def test_the_disk_that_was_left_is_not_closed_before_the_new_one_is_open() -> None:
    with pytest.raises(KeybrokerError, match="is not erased before"):
        migration.next_step(side(NOW, "closed"), side(LEFT), Stable(), UNSEEN)


def test_a_disk_with_too_few_bytes_for_the_data_and_a_header_is_refused() -> None:
    seen = Observation(NEW.volume, "blank", Device(NEW.serial, SIZE - 1))
    with pytest.raises(KeybrokerError, match="too few"):
        migration.next_step(
            side(HOLDER, "open"), side(replace(SUCCESSOR, stage="new"), "closed", seen), Stable(), UNSEEN
        )


def test_offline_nothing_is_compared_before_it_was_copied() -> None:
    offline = replace(HOLDER, order=Order(1, "migrate", offline=True))
    assert isinstance(step(Stable(), holder=offline), Copy)
    assert isinstance(step(Stable(), replace(UNSEEN, copied=True), holder=offline), Verify)
