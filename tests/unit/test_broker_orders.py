"""Orders as the broker sees them: re-encryption, migration, encryption in place, adoption, erasure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keybroker import statement
from keybroker.policy import Peer
from keybroker.service import endings, inventory, moving, orders, provisioning, rotation
from keybroker.service.views import OrderSpec, VolumeSpec
from keybroker.wire.changes import (
    AdoptionRequest,
    ErasedRequest,
    PhaseRequest,
    StageRequest,
    SwitchRequest,
)
from keybroker.wire.messages import ClaimRequest, DepositRequest, ReadyRequest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import Device, Grant, Observation, Record, SeenHeader
from keybroker.wire.secret import Secret
from tests.contract.broker_house import GIB, House, deposit_request, device, header, luks2

NEW_DIGEST = "sha256:" + "ef" * 32
BUSY = ("online-reencrypt-v2",)


def problem(ask: Callable[[], object]) -> Problem:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value.problem


@pytest.fixture
def peer(house: House) -> Peer:
    house.addon()
    record = house.volume()
    peer, _ = house.enrol()
    house.provision(peer, record)
    return peer


@pytest.fixture
def data(house: House, peer: Peer) -> VolumeId:
    return inventory.volume(house.broker, house.operator, "shop-db", "data").record.volume


def order(house: House, kind: str, name: str = "data", **options: Any) -> Record:
    spec = OrderSpec(kind, **options)  # type: ignore[arg-type]
    return orders.order(house.broker, house.operator, "shop-db", name, spec)[0].record


def reencrypted(record: Record, sequence: int) -> SeenHeader:
    return replace(header(record, sequence), pin=replace(header(record).pin, digest=NEW_DIGEST))


def finish_rotation(house: House, peer: Peer, data: VolumeId) -> Record:
    return house.rotated(peer, data, 7)


def test_a_re_encryption_rotates_first_then_begins_and_ends_with_the_announced_volume_key(
    house: House, peer: Peer, data: VolumeId
) -> None:
    ordered = order(house, "reencrypt")
    assert ordered.order is not None
    number = ordered.order.number
    assert (ordered.wanted, ordered.order.phase) == (2, "ordered")
    begin = PhaseRequest(ordered.revision, number)
    assert problem(lambda: orders.announce(house.broker, peer, data, begin)) is Problem.CONFLICT
    rotated = finish_rotation(house, peer, data)
    begun = orders.announce(house.broker, peer, data, PhaseRequest(rotated.revision, number))
    assert orders.announce(house.broker, peer, data, PhaseRequest(rotated.revision, number)) == begun
    assert problem(lambda: rotation.stage(house.broker, peer, data, StageRequest(begun.revision))) is (
        Problem.CONFLICT
    )
    told = PhaseRequest(begun.revision, number, NEW_DIGEST)
    announced = orders.announce(house.broker, peer, data, told)
    assert orders.announce(house.broker, peer, data, told) == announced
    assert problem(lambda: orders.finish(house.broker, peer, data, number)) is Problem.CONFLICT
    pinned = house.back_up(peer, data, reencrypted(announced, 20))
    assert pinned.pin is not None
    assert pinned.pin.digest == NEW_DIGEST
    copies = house.broker.store.read(lambda reading: reading.headers(data))
    assert [copy.sequence for copy in copies] == [20]
    done = orders.finish(house.broker, peer, data, number)
    assert done.order is None
    assert orders.finish(house.broker, peer, data, number) == done


def test_a_volume_key_that_nobody_announced_is_not_pinned(house: House, peer: Peer, data: VolumeId) -> None:
    record = house.record(data)
    ask = lambda: house.back_up(peer, data, reencrypted(record, 20))  # noqa: E731
    assert problem(ask) is Problem.HEADER_REFUSED
    order(house, "reencrypt")
    rotated = finish_rotation(house, peer, data)
    orders.announce(house.broker, peer, data, PhaseRequest(rotated.revision, 1))
    assert problem(ask) is Problem.HEADER_REFUSED


def test_the_same_order_again_is_the_same_and_another_one_is_a_conflict(house: House, data: VolumeId) -> None:
    first = order(house, "reencrypt", rate=1 << 20)
    assert order(house, "reencrypt", rate=1 << 20) == first
    assert problem(lambda: order(house, "reencrypt")) is Problem.CONFLICT
    assert problem(lambda: order(house, "erase")) is Problem.CONFLICT
    assert problem(lambda: order(house, "reencrypt", rate=1)) is Problem.MALFORMED


def test_an_order_is_cancelled_until_it_has_begun(house: House, peer: Peer, data: VolumeId) -> None:
    before = house.record(data)
    order(house, "reencrypt")
    cancelled = orders.cancel(house.broker, house.operator, "shop-db", "data")[0].record
    assert (cancelled.order, cancelled.wanted) == (None, before.wanted)
    again = order(house, "reencrypt")
    assert again.order is not None
    assert again.order.number == 2
    rotated = finish_rotation(house, peer, data)
    orders.announce(house.broker, peer, data, PhaseRequest(rotated.revision, 2))
    assert problem(lambda: orders.cancel(house.broker, house.operator, "shop-db", "data")) is Problem.CONFLICT


def migration(house: House, peer: Peer, data: VolumeId) -> tuple[Record, Record]:
    """Order a migration, and take its successor as far as it goes before Switch; return holder, successor."""
    holder = order(house, "migrate", serial="new-disk", size_bytes=2 * GIB)
    assert holder.partner is not None
    successor = house.record(holder.partner)
    claim = ClaimRequest(successor.revision, device(successor))
    claimed = provisioning.claim(house.broker, peer, successor.volume, claim).record
    deposited = provisioning.deposit(house.broker, peer, successor.volume, deposit_request(claimed))
    provisioning.ready(house.broker, peer, successor.volume, ReadyRequest(deposited.revision))
    return holder, house.back_up(peer, successor.volume, header(deposited, 4))


def test_a_migration_makes_a_successor_with_a_key_and_an_id_of_its_own(house: House, data: VolumeId) -> None:
    holder = order(house, "migrate", serial="new-disk", size_bytes=2 * GIB)
    assert holder.partner is not None
    successor = house.record(holder.partner)
    assert (successor.role, successor.stage, successor.partner) == ("successor", "new", data)
    assert (successor.name, successor.mount, successor.serial) == (holder.name, holder.mount, "new-disk")
    assert successor.luks_uuid != holder.luks_uuid
    assert successor.profile.sector_sizes == (4096,)
    assert house.keys(successor.volume)[KeyVersion(1)].reveal() != house.keys(data)[KeyVersion(1)].reveal()
    assert order(house, "migrate", serial="new-disk", size_bytes=2 * GIB) == holder
    assert problem(lambda: order(house, "migrate", serial="third")) is Problem.CONFLICT


def test_a_successor_that_is_too_small_or_on_a_known_disk_is_refused(house: House, data: VolumeId) -> None:
    assert problem(lambda: order(house, "migrate", size_bytes=GIB - 1)) is Problem.MALFORMED
    assert problem(lambda: order(house, "migrate", serial=data)) is Problem.EXISTS
    assert house.record(data).order is None


def test_switch_moves_the_name_at_both_revisions_or_not_at_all(
    house: House, peer: Peer, data: VolumeId
) -> None:
    holder, successor = migration(house, peer, data)
    ask = SwitchRequest(successor.revision, holder.revision, 2 * GIB, 4)
    for wrong, says in (
        (replace(ask, revision=ask.revision - 1), Problem.CONFLICT),
        (replace(ask, holder_revision=ask.holder_revision + 1), Problem.CONFLICT),
        (replace(ask, compared=MIB), Problem.MISMATCH),
        (replace(ask, sequence=3), Problem.MISMATCH),
        (replace(ask, sequence=5), Problem.MISMATCH),
    ):
        broken = lambda wrong=wrong: moving.switch(house.broker, peer, successor.volume, wrong)  # noqa: E731
        assert problem(broken) is says
    assert house.record(data) == holder
    reply = moving.switch(house.broker, peer, successor.volume, ask)
    assert moving.switch(house.broker, peer, successor.volume, ask) == reply
    assert (reply.holder.role, reply.holder.stage, reply.holder.order) == ("holder", "ready", None)
    assert reply.former.role == "former"
    assert reply.former.order is not None
    assert reply.former.order.kind == "erase"
    shown = inventory.volume(house.broker, house.operator, "shop-db", "data").record
    assert shown.volume == successor.volume
    boot = house.unlock(peer, luks2(reply.former), luks2(reply.holder, sequence=4))
    keys = {grant.record.volume: set(grant.keys) for grant in boot.grants}
    assert keys == {data: set(), successor.volume: {1}}


def test_a_header_from_before_all_of_the_data_was_there_gets_no_key_and_is_not_taken_for_a_copy(
    house: House, peer: Peer, data: VolumeId
) -> None:
    _, successor = migration(house, peer, data)
    before = house.unlock(peer, luks2(successor)).grants
    assert {1} in [set(grant.keys) for grant in before if grant.record.volume == successor.volume]
    revision = house.record(data).revision
    ask = SwitchRequest(successor.revision, revision, 2 * GIB, 4)
    now = moving.switch(house.broker, peer, successor.volume, ask).holder
    assert now.complete_from == 4
    (half,) = [grant for grant in house.unlock(peer, luks2(now)).grants if grant.record.volume == now.volume]
    assert not half.keys
    assert half.refused is not None
    assert "from the middle of the move" in half.refused.detail
    copied = lambda: house.back_up(peer, now.volume, header(now))  # noqa: E731
    assert problem(copied) is Problem.HEADER_REFUSED
    house.rotated(peer, now.volume, 7)
    (older,) = [
        grant
        for grant in house.unlock(peer, luks2(now, sequence=5)).grants
        if grant.record.volume == now.volume
    ]
    assert set(older.keys) == {1, 2}, "a snapshot from after the move is served"


def test_a_switch_that_was_sent_before_a_boot_comes_too_late(
    house: House, peer: Peer, data: VolumeId
) -> None:
    holder, successor = migration(house, peer, data)
    sent = SwitchRequest(successor.revision, holder.revision, 2 * GIB, 4)
    boot = house.unlock(peer, luks2(holder))  # it opens the old disk now, and writes to it alone
    assert problem(lambda: moving.switch(house.broker, peer, successor.volume, sent)) is Problem.CONFLICT
    told = {grant.record.volume: grant.record for grant in boot.grants}
    assert told == {data: house.record(data), successor.volume: house.record(successor.volume)}
    again = replace(sent, holder_revision=told[data].revision)
    assert moving.switch(house.broker, peer, successor.volume, again).holder.volume == successor.volume
    now = house.record(successor.volume)
    house.unlock(peer, luks2(now, sequence=4))
    assert house.record(successor.volume) == now, "nothing moves any more, so a boot changes nothing"


def test_what_was_moved_away_is_wiped_and_its_keys_wait_out_the_retention(
    house: House, peer: Peer, data: VolumeId
) -> None:
    holder, successor = migration(house, peer, data)
    ask = SwitchRequest(successor.revision, holder.revision, 2 * GIB, 4)
    former = moving.switch(house.broker, peer, successor.volume, ask).former
    wiped = ErasedRequest(former.revision, device(former), 4 * MIB, "zeros, read back")
    for wrong, says in (
        (replace(wiped, wiped=MIB), Problem.MISMATCH),
        (replace(wiped, device=Device("another", GIB)), Problem.WRONG_DEVICE),
        (replace(wiped, revision=1), Problem.CONFLICT),
    ):
        broken = lambda wrong=wrong: moving.erased(house.broker, peer, data, wrong)  # noqa: E731
        assert problem(broken) is says
    gone = moving.erased(house.broker, peer, data, wiped)
    assert moving.erased(house.broker, peer, data, wiped) == gone
    assert (gone.stage, gone.current, gone.order) == ("erased", None, None)
    assert house.broker.store.read(lambda reading: reading.headers(data)) == []
    assert house.record(successor.volume).partner is None
    house.clock.forward(days=31)
    assert endings.sweep(house.broker) == ((data, KeyVersion(1)),)
    assert house.keys(data) == {}
    stated = inventory.statements(house.broker, house.operator, "shop-db", "data")
    assert [json.loads(each.row.document)["what"] for each in stated] == ["erased", "keys destroyed"]
    for each in stated:
        facts = statement.check(each.row.document, each.row.signature, each.row.public)
        assert facts["volume"] == data
        forged = each.row.document.replace("keys", "toys")
        with pytest.raises(KeybrokerError):
            statement.check(forged, each.row.signature, each.row.public)


def test_a_cancelled_migration_leaves_the_holder_alone_and_its_successor_to_be_wiped(
    house: House, peer: Peer, data: VolumeId
) -> None:
    _, successor = migration(house, peer, data)
    cancelled = orders.cancel(house.broker, house.operator, "shop-db", "data")[0].record
    assert (cancelled.order, cancelled.partner, cancelled.role) == (None, None, "holder")
    dropped = house.record(successor.volume)
    assert dropped.role == "former"
    assert dropped.order is not None
    assert dropped.order.kind == "erase"
    ask = SwitchRequest(dropped.revision, cancelled.revision, 2 * GIB, 4)
    assert problem(lambda: moving.switch(house.broker, peer, successor.volume, ask)) is Problem.CONFLICT


def test_a_volume_that_moves_on_is_not_parted_from_its_successor_by_the_disk_before(
    house: House, peer: Peer, data: VolumeId
) -> None:
    holder, successor = migration(house, peer, data)
    ask = SwitchRequest(successor.revision, holder.revision, 2 * GIB, 4)
    former = moving.switch(house.broker, peer, successor.volume, ask).former
    second = order(house, "migrate", serial="newest-disk").partner
    assert second is not None
    wiped = ErasedRequest(former.revision, device(former), 4 * MIB, "zeros, read back")
    assert moving.erased(house.broker, peer, data, wiped).stage == "erased"
    assert house.record(successor.volume).partner == second
    orders.cancel(house.broker, house.operator, "shop-db", "data")
    assert house.record(second).stage == "erased"


def test_an_order_that_is_taken_back_does_not_part_a_volume_from_the_disk_that_it_left(
    house: House, peer: Peer, data: VolumeId
) -> None:
    holder, successor = migration(house, peer, data)
    ask = SwitchRequest(successor.revision, holder.revision, 2 * GIB, 4)
    moving.switch(house.broker, peer, successor.volume, ask)
    order(house, "resize")
    assert orders.cancel(house.broker, house.operator, "shop-db", "data")[0].record.partner == data


def test_a_migration_that_is_cancelled_before_anything_was_written_leaves_nothing(
    house: House, data: VolumeId
) -> None:
    partner = order(house, "migrate").partner
    assert partner is not None
    orders.cancel(house.broker, house.operator, "shop-db", "data")
    assert house.record(partner).stage == "erased"
    again = order(house, "migrate").partner
    assert again not in (None, partner)


def test_erasing_is_ordered_done_and_stated_and_frees_the_name(
    house: House, peer: Peer, data: VolumeId
) -> None:
    ordered = order(house, "erase")
    ask = ErasedRequest(ordered.revision, device(ordered), 4 * MIB, "zeros, read back")
    assert moving.erased(house.broker, peer, data, ask).stage == "erased"
    assert house.unlock(peer).grants == ()
    refused = house.unlock(peer, luks2(ordered)).grants[0]
    assert refused.refused is not None
    assert not refused.keys
    made = house.volume()
    assert made.volume != data


def test_a_volume_whose_disk_is_gone_is_erased_at_the_broker_alone(house: House, data: VolumeId) -> None:
    erased = order(house, "erase", disk_gone=True)
    assert (erased.stage, erased.current) == ("erased", None)
    (said,) = inventory.statements(house.broker, house.operator, "shop-db", "data")
    assert "disk is gone" in json.loads(said.row.document)["method"]


def test_a_disk_that_is_gone_is_the_one_that_was_left_before_the_one_that_has_the_data(
    house: House, peer: Peer, data: VolumeId
) -> None:
    holder, successor = migration(house, peer, data)
    ask = SwitchRequest(successor.revision, holder.revision, 2 * GIB, 4)
    moving.switch(house.broker, peer, successor.volume, ask)
    assert order(house, "erase", disk_gone=True).volume == data
    left, now = house.record(data), house.record(successor.volume)
    assert (left.stage, left.order) == ("erased", None)
    assert (now.role, now.stage, now.partner, now.current) == ("holder", "ready", None, 1)
    assert house.broker.store.read(lambda reading: reading.headers(data)) == []
    assert order(house, "erase", disk_gone=True).volume == successor.volume
    assert house.record(successor.volume).stage == "erased"


def test_nobody_erases_what_was_not_ordered(house: House, peer: Peer, data: VolumeId) -> None:
    record = house.record(data)
    ask = ErasedRequest(record.revision, device(record), 4 * MIB, "zeros")
    assert problem(lambda: moving.erased(house.broker, peer, data, ask)) is Problem.CONFLICT


FOREIGN_UUID = "0c7a2c1e-7d0b-4f57-9a3c-52b1b7a6a001"


def foreign(house: House) -> Record:
    spec = VolumeSpec(
        GIB, "aes-xts-plain64", "/srv/old", "ext4", "old-disk", "foreign", FOREIGN_UUID, 1 << 20
    )
    return inventory.put_volume(house.broker, house.operator, "shop-db", "old", spec)[0].record


def test_a_foreign_volume_gets_a_key_for_its_own_header_and_is_adopted_on_a_proof(
    house: House, peer: Peer
) -> None:
    record = foreign(house)
    assert (record.stage, record.profile.foreign_tokens) == ("foreign", True)
    assert record.profile.argon2_memory_kib == 1 << 20
    seen = SeenHeader(Pin(FOREIGN_UUID, "sha256:" + "12" * 32, 16 * MIB, 512), 9)
    disk = Device("old-disk", GIB)
    grant = {
        each.record.volume: each
        for each in house.unlock(peer, Observation(record.volume, "luks2", disk, seen)).grants
    }[record.volume]
    assert set(grant.keys) == {1}
    proof = house.proof(record.volume, 1, seen)
    ask = AdoptionRequest(record.revision, disk, seen, Secret(b"KBH1"), proof)
    bad = replace(ask, proof=replace(proof, proof="0" * 64))
    adopt = rotation.adopt
    assert problem(lambda: adopt(house.broker, peer, record.volume, bad)) is Problem.HEADER_REFUSED
    adopted = adopt(house.broker, peer, record.volume, ask)
    assert (adopted.stage, adopted.pin, adopted.sequence) == ("ready", seen.pin, 9)
    assert adopt(house.broker, peer, record.volume, ask) == adopted
    assert house.record(record.volume) == adopted


def plain(house: House) -> Record:
    spec = VolumeSpec(GIB, "aes-xts-plain64", "/srv/old", "ext4", "old-disk", "plain")
    return inventory.put_volume(house.broker, house.operator, "shop-db", "old", spec)[0].record


def test_a_plain_disk_moves_to_a_new_one_and_says_what_remains(house: House, peer: Peer) -> None:
    record = plain(house)
    assert (record.stage, record.current) == ("plain", None)
    assert problem(lambda: order(house, "encrypt", "old", serial="new", size_bytes=GIB)) is Problem.MALFORMED
    holder = order(house, "encrypt", "old", serial="new", size_bytes=2 * GIB)
    assert holder.order is not None
    assert holder.order.kind == "migrate"
    assert holder.partner is not None
    successor = house.record(holder.partner)
    claim = ClaimRequest(successor.revision, device(successor))
    claimed = provisioning.claim(house.broker, peer, successor.volume, claim).record
    request = deposit_request(claimed)
    fits = replace(request, header=replace(request.header, pin=replace(request.header.pin, sector_size=512)))
    deposited = provisioning.deposit(house.broker, peer, successor.volume, fits)
    provisioning.ready(house.broker, peer, successor.volume, ReadyRequest(deposited.revision))
    raised = replace(fits.header, sequence=4)
    successor = house.back_up(peer, successor.volume, raised)
    ask = SwitchRequest(successor.revision, holder.revision, GIB, 4)
    former = moving.switch(house.broker, peer, successor.volume, ask).former
    wiped = ErasedRequest(former.revision, Device("old-disk", GIB), GIB, "zeros")
    less = replace(wiped, wiped=GIB - 4096)
    assert problem(lambda: moving.erased(house.broker, peer, record.volume, less)) is Problem.MISMATCH
    assert moving.erased(house.broker, peer, record.volume, wiped).stage == "erased"
    (said,) = inventory.statements(house.broker, house.operator, "shop-db", "old")
    assert json.loads(said.row.document)["born_encrypted"] is False


def test_a_disk_is_encrypted_in_place_only_if_there_is_a_backup(house: House) -> None:
    house.addon()
    before = plain(house)
    with pytest.raises(KeybrokerError) as caught:
        order(house, "encrypt", "old")
    assert caught.value.problem is Problem.CONFLICT
    assert "--backed-up" in (caught.value.hint or "")
    assert "keybroker volume encrypt shop-db old --size SIZE" in (caught.value.hint or "")
    after = house.record(before.volume)
    assert (after, house.keys(before.volume)) == (before, {})
    assert order(house, "encrypt", "old", size_bytes=2 * GIB).order is not None


def seen_in(house: House, peer: Peer, record: Record, sight: str, of: SeenHeader | None = None) -> Grant:
    seen = Observation(record.volume, sight, Device("old-disk", GIB), of)  # type: ignore[arg-type]
    grants = house.unlock(peer, seen).grants
    return {each.record.volume: each for each in grants}[record.volume]


def test_a_disk_is_encrypted_in_place_with_its_header_at_the_broker_first(house: House, peer: Peer) -> None:
    before = plain(house)
    volume = before.volume
    ordered = order(house, "encrypt", "old", backed_up=True)
    assert order(house, "encrypt", "old", backed_up=True) == ordered
    assert (ordered.stage, ordered.current, set(house.keys(volume))) == ("plain", 1, {1})
    assert seen_in(house, peer, before, "other").keys == {}, "nothing has begun"
    begun = orders.announce(house.broker, peer, volume, PhaseRequest(ordered.revision, 1))
    assert set(seen_in(house, peer, begun, "other").keys) == {1}
    pin = Pin(before.luks_uuid, NEW_DIGEST, 4 * MIB, 512)
    midway = SeenHeader(pin, 4, BUSY)
    assert seen_in(house, peer, begun, "luks2", replace(midway, requirements=())).refused is not None
    ask = DepositRequest(begun.revision, midway, Secret(b"the header before"))
    prepared = provisioning.deposit(house.broker, peer, volume, ask)
    assert provisioning.deposit(house.broker, peer, volume, ask) == prepared
    assert prepared.order is not None
    assert (prepared.stage, prepared.order.digest, prepared.sequence) == ("plain", NEW_DIGEST, 4)
    copied = provisioning.header_copy(house.broker, peer, volume)
    assert copied.copy.reveal() == b"the header before"
    assert problem(lambda: orders.cancel(house.broker, house.operator, "shop-db", "old")) is Problem.CONFLICT
    for sight, of in (("other", None), ("luks2", midway), ("luks2", replace(midway, sequence=80))):
        assert set(seen_in(house, peer, prepared, sight, of).keys) == {1}
    for forged in (
        replace(midway, pin=replace(pin, digest="sha256:" + "0" * 64)),
        replace(midway, others=("sha256:" + "0" * 64,)),
        replace(midway, requirements=("another",)),
    ):
        assert seen_in(house, peer, prepared, "luks2", forged).refused is not None
    assert seen_in(house, peer, prepared, "blank").refused is not None
    assert problem(lambda: orders.finish(house.broker, peer, volume, 1)) is Problem.CONFLICT
    ready = house.back_up(peer, volume, replace(midway, sequence=90, requirements=()))
    assert (ready.stage, ready.pin, ready.sequence) == ("ready", pin, 90)
    copies = house.broker.store.read(lambda reading: reading.headers(volume))
    assert [copy.sequence for copy in copies] == [90], "what nothing was encrypted by is of no use any more"
    assert orders.finish(house.broker, peer, volume, 1).order is None
    assert not inventory.volume(house.broker, house.operator, "shop-db", "old").volume.born_encrypted


def test_a_plain_disk_whose_encryption_was_taken_back_is_wiped_as_plaintext(house: House, peer: Peer) -> None:
    record = plain(house)
    order(house, "encrypt", "old", backed_up=True)
    orders.cancel(house.broker, house.operator, "shop-db", "old")
    erasing = order(house, "erase", "old")
    wiped = ErasedRequest(erasing.revision, Device("old-disk", GIB), GIB, "zeros")
    assert moving.erased(house.broker, peer, record.volume, wiped).stage == "erased"
    (said,) = inventory.statements(house.broker, house.operator, "shop-db", "old")
    assert "was never encrypted" in said.row.document
