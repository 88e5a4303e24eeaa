"""Every transition of keybroker/model: what it needs, what it makes, and that twice is once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keybroker.model import Keyring, Volume, moving, orders, rotation
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Device, SeenHeader
from tests.unit.test_broker_volume import CLAIMED, DEPOSITED, DEVICE, HEADER, NEW, PIN, READY, SWAP

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=30)
V = KeyVersion
NEXT = "sha256:" + "ef" * 32

FOREIGN = replace(NEW, stage="foreign")
PLAIN = replace(NEW, stage="plain", keyring=None)
FORMER = replace(READY, role="former")
ERASED = moving.give_up(READY, LATER)
WANTED = rotation.want(READY)
STAGED = rotation.stage(WANTED, WANTED.revision)
PROMOTED = rotation.promote(STAGED, STAGED.revision, V(2))
RETIRED = rotation.retire(PROMOTED, V(1), V(2), LATER)
ORDERED = orders.place(READY, Order(1, "reencrypt"))
BEGUN = replace(READY, order=Order(1, "reencrypt", "begun"), last_order=1)
ANNOUNCED = replace(READY, order=Order(1, "reencrypt", "begun", NEXT), last_order=1)
ENCRYPTING = orders.place(PLAIN, Order(1, "encrypt", rate=1 << 20, backed_up=True))
FREE = orders.announce(ENCRYPTING, ENCRYPTING.revision, 1, None)
IN_PLACE = SeenHeader(PIN, 4, ("online-reencrypt-v2",))
PREPARED = orders.prepare(FREE, FREE.revision, IN_PLACE)
ENCRYPTED = rotation.back_up(PREPARED, PREPARED.revision, replace(HEADER, sequence=9))
TO_ERASE = orders.place(READY, Order(1, "erase"))
NEW_HEADER = SeenHeader(replace(PIN, digest=NEXT), 20)
REENCRYPTED = rotation.back_up(ANNOUNCED, ANNOUNCED.revision, NEW_HEADER)

HOLDER = replace(orders.place(READY, Order(1, "migrate")), partner=VolumeId("kbv-aaaaaaaaaaaa"))
SUCCESSOR = replace(READY, id=VolumeId("kbv-aaaaaaaaaaaa"), role="successor", partner=READY.id, order=None)
COPIED = SUCCESSOR.sequence or 0

EVERY = {
    "new": NEW, "claimed": CLAIMED, "deposited": DEPOSITED, "ready": READY, "foreign": FOREIGN,
    "plain": PLAIN, "former": FORMER, "erased": ERASED, "wanted": WANTED, "staged": STAGED,
    "promoted": PROMOTED, "retired": RETIRED, "ordered": ORDERED, "begun": BEGUN, "announced": ANNOUNCED,
    "reencrypted": REENCRYPTED, "encrypting": ENCRYPTING, "begun in place": FREE, "prepared": PREPARED,
    "encrypted": ENCRYPTED, "to erase": TO_ERASE, "holder": HOLDER, "successor": SUCCESSOR, "swap": SWAP,
}  # fmt: skip
"""A volume in every state that a transition may meet."""

TRANSITIONS: dict[str, tuple[Callable[[Volume], Volume], set[str], set[str]]] = {
    # name: the transition at the volume's own revision; where it changes; where it changes nothing
    "want": (
        rotation.want,
        {
            *("ready", "promoted", "retired", "begun", "announced", "reencrypted", "encrypted", "to erase"),
            "holder",
        },
        {"wanted", "staged", "ordered"},
    ),
    "stage": (lambda one: rotation.stage(one, one.revision), {"wanted", "ordered"}, {"staged"}),
    "promote": (lambda one: rotation.promote(one, one.revision, V(2)), {"staged"}, {"promoted", "retired"}),
    "retire": (lambda one: rotation.retire(one, V(1), V(2), LATER), {"promoted"}, {"retired", "erased"}),
    "back up": (
        lambda one: rotation.back_up(one, one.revision, replace(HEADER, sequence=9)),
        {
            *("ready", "wanted", "staged", "promoted", "retired", "ordered", "begun", "announced", "holder"),
            *("to erase", "successor", "prepared"),
        },
        {"encrypted"},
    ),
    "prepare": (
        lambda one: orders.prepare(one, one.revision, IN_PLACE), {"begun in place"}, {"prepared"}
    ),
    "back up the new volume key": (
        lambda one: rotation.back_up(one, one.revision, NEW_HEADER),
        {"announced"},
        {"reencrypted"},
    ),
    "adopt": (lambda one: rotation.adopt(one, one.revision, DEVICE, HEADER), {"foreign"},
              {"ready", "wanted", "staged", "promoted", "retired", "ordered", "begun", "announced",
               "to erase", "holder", "former", "successor"}),
    "begin": (lambda one: orders.announce(one, one.revision, 1, None), {"encrypting"},
              {"begun", "announced", "reencrypted", "begun in place", "prepared", "encrypted"}),
    "announce": (lambda one: orders.announce(one, one.revision, 1, NEXT), {"begun"},
                 {"announced", "reencrypted"}),
    "finish": (lambda one: orders.finish(one, 1), {"reencrypted", "encrypted"}, set()),
    "cancel": (orders.cancel, {"ordered", "to erase", "holder", "encrypting", "begun in place"},
               {"new", "claimed", "deposited", "ready", "foreign", "plain", "former", "erased", "wanted",
                "staged", "promoted", "retired", "successor", "swap"}),
    "erased": (lambda one: moving.erased(one, one.revision, DEVICE, 4 << 20, LATER), {"to erase", "former"},
               {"erased"}),
    "drop": (lambda one: moving.drop(one, LATER), {"successor"}, set()),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSITIONS)
@pytest.mark.parametrize("state", EVERY)
def test_a_transition_changes_where_it_must_nothing_where_it_has_and_else_is_refused(
    name: str, state: str
) -> None:
    transition, changes, stays = TRANSITIONS[name]
    before = EVERY[state]
    if state in changes:
        after = transition(before)
        assert after.revision == before.revision + 1
    elif state in stays:
        assert transition(before) is before
    else:
        with pytest.raises(KeybrokerError):
            transition(before)


@pytest.mark.parametrize("name", [name for name in TRANSITIONS if name != "drop"])
def test_a_lost_reply_is_repeated_and_changes_nothing(name: str) -> None:
    """The same request, with the revision that it had: the very same volume, whatever was done by it."""
    transition, changes, _ = TRANSITIONS[name]
    for state in changes:
        before = EVERY[state]
        after = transition(before)
        stale = replace(after, revision=before.revision)
        again = transition(stale) if name not in ("back up", "adopt") else None
        if again is not None:
            assert again is stale, state


REVISED: dict[str, tuple[Volume, Callable[[Volume, int], Volume]]] = {
    "stage": (WANTED, rotation.stage),
    "promote": (STAGED, lambda one, revision: rotation.promote(one, revision, V(2))),
    "back up": (READY, lambda one, revision: rotation.back_up(one, revision, replace(HEADER, sequence=9))),
    "adopt": (FOREIGN, lambda one, revision: rotation.adopt(one, revision, DEVICE, HEADER)),
    "prepare": (FREE, lambda one, revision: orders.prepare(one, revision, IN_PLACE)),
    "announce": (BEGUN, lambda one, revision: orders.announce(one, revision, 1, NEXT)),
    "erased": (TO_ERASE, lambda one, revision: moving.erased(one, revision, DEVICE, 4 << 20, LATER)),
    "switch": (
        SUCCESSOR,
        lambda one, revision: moving.switch(one, HOLDER, revision, HOLDER.revision, 1 << 30, COPIED)[0],
    ),
}


@pytest.mark.parametrize("name", REVISED)
def test_another_revision_is_a_conflict(name: str) -> None:
    volume, transition = REVISED[name]
    for revision in (volume.revision - 1, volume.revision + 1):
        with pytest.raises(KeybrokerError) as caught:
            transition(volume, revision)
        assert caught.value.problem is Problem.CONFLICT
    assert transition(volume, volume.revision).revision == volume.revision + 1


def test_a_key_is_retired_only_when_the_newest_copy_is_from_after_its_promotion() -> None:
    for copied in (None, V(1)):
        with pytest.raises(KeybrokerError):
            rotation.retire(PROMOTED, V(1), copied, LATER)
    assert RETIRED.keyring is not None
    assert [old.version for old in RETIRED.keyring.retired] == [1]


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        ("reencrypt", {"ready", "wanted", "staged", "promoted", "retired"}),
        ("migrate", {"ready", "wanted", "staged", "promoted", "retired", "plain"}),
        ("encrypt", {"plain"}),
        ("resize", {"ready", "wanted", "staged", "promoted", "retired"}),
        (
            "erase",
            {
                *("new", "claimed", "deposited", "ready", "foreign", "plain", "wanted", "staged", "promoted"),
                *("retired", "swap"),
            },
        ),
    ],
)
def test_an_order_is_placed_where_it_makes_sense(kind: str, states: set[str]) -> None:
    wish = Order(9, kind, backed_up=True)  # type: ignore[arg-type]
    placed = set()
    for state, volume in EVERY.items():
        try:
            after = orders.place(volume, wish)
        except KeybrokerError:
            continue
        placed.add(state)
        assert after.order == replace(wish, number=volume.last_order + 1)
        assert orders.place(after, wish) is after
    assert placed == states


def test_nothing_is_encrypted_in_place_without_a_backup_or_a_filesystem() -> None:
    for volume, wish in (
        (PLAIN, Order(1, "encrypt")),
        (replace(PLAIN, filesystem="none"), Order(1, "encrypt", backed_up=True)),
    ):
        with pytest.raises(KeybrokerError) as caught:
            orders.place(volume, wish)
        assert caught.value.problem is Problem.CONFLICT
        assert "--size" in (caught.value.hint or "")


def test_a_key_that_was_minted_for_an_order_that_was_taken_back_serves_the_next_one() -> None:
    assert ENCRYPTING.keyring is not None
    cancelled = orders.cancel(FREE)
    assert (cancelled.stage, cancelled.order, cancelled.keyring) == ("plain", None, ENCRYPTING.keyring)
    again = orders.place(cancelled, Order(1, "encrypt", backed_up=True))
    assert again.keyring is cancelled.keyring


def test_once_the_broker_has_its_header_it_is_only_ever_finished() -> None:
    for volume in (PREPARED, ENCRYPTED):
        with pytest.raises(KeybrokerError, match="only ever finished"):
            orders.cancel(volume)


@pytest.mark.parametrize(
    "header",
    [
        replace(IN_PLACE, requirements=()),
        replace(IN_PLACE, requirements=("offline-reencrypt",)),
        replace(IN_PLACE, requirements=("online-reencrypt-v2", "more")),
        replace(IN_PLACE, degraded=True),
        replace(IN_PLACE, others=(NEXT,)),
        replace(IN_PLACE, pin=replace(PIN, uuid="0f2d3c1a-5b6e-4d7c-8f90-000000000000")),
        replace(IN_PLACE, pin=replace(PIN, data_offset=64 << 20)),
        replace(IN_PLACE, pin=replace(PIN, sector_size=1024)),
    ],
)
def test_a_header_that_no_encryption_in_place_begins_with_is_refused(header: SeenHeader) -> None:
    with pytest.raises(KeybrokerError) as caught:
        orders.prepare(FREE, FREE.revision, header)
    assert caught.value.problem is Problem.HEADER_REFUSED


def test_another_header_is_not_taken_for_the_one_that_may_be_on_the_disk() -> None:
    other = replace(IN_PLACE, pin=replace(PIN, digest=NEXT))
    with pytest.raises(KeybrokerError) as caught:
        orders.prepare(PREPARED, PREPARED.revision, other)
    assert caught.value.problem is Problem.CONFLICT


def test_its_volume_key_is_not_announced_without_its_header() -> None:
    with pytest.raises(KeybrokerError) as caught:
        orders.announce(FREE, FREE.revision, 1, NEXT)
    assert caught.value.problem is Problem.CONFLICT


def test_a_volume_is_ready_only_with_the_header_that_all_is_encrypted_under() -> None:
    for header in (IN_PLACE, replace(NEW_HEADER, sequence=9)):
        with pytest.raises(KeybrokerError) as caught:
            rotation.back_up(PREPARED, PREPARED.revision, header)
        assert caught.value.problem is Problem.HEADER_REFUSED
    with pytest.raises(KeybrokerError):
        orders.finish(PREPARED, 1)
    assert ENCRYPTED.stage == "ready"


def test_numbers_of_orders_are_never_used_again() -> None:
    first = orders.place(READY, Order(1, "resize"))
    second = orders.place(orders.finish(first, 1), Order(1, "resize"))
    assert second.order is not None
    assert second.order.number == 2
    assert orders.finish(second, 1) is second
    with pytest.raises(KeybrokerError) as caught:
        orders.finish(second, 3)
    assert caught.value.problem is Problem.UNKNOWN


def test_switch_changes_both_or_neither() -> None:
    asked = (SUCCESSOR.revision, HOLDER.revision, 1 << 30, COPIED)
    new, former = moving.switch(SUCCESSOR, HOLDER, *asked)
    assert (new.role, former.role, new.complete_from) == ("holder", "former", COPIED)
    assert moving.switch(new, former, *asked) == (new, former)
    for successor, holder in (
        (replace(SUCCESSOR, stage="deposited"), HOLDER),
        (replace(SUCCESSOR, sequence=COPIED + 1), HOLDER),
        (SUCCESSOR, replace(HOLDER, order=None)),
        (SUCCESSOR, rotation.want(HOLDER)),
        (replace(SUCCESSOR, partner=None), HOLDER),
        (replace(SUCCESSOR, role="former"), HOLDER),
    ):
        with pytest.raises(KeybrokerError):
            moving.switch(successor, holder, successor.revision, holder.revision, 1 << 30, COPIED)


def test_an_erased_volume_has_no_key_that_would_be_handed_out() -> None:
    keys = ERASED.keyring
    assert keys is not None
    assert (keys.live, keys.current, keys.wanted) == ((), None, None)
    assert [old.destroy_after for old in keys.retired] == [LATER]
    assert moving.give_up(ERASED, LATER) is ERASED
    assert moving.erased(ERASED, 1, Device("any", 1), 0, LATER) is ERASED


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["want", "unwant", "stage", "promote", "abandon", "retire", "end", "destroy"]))
)
def test_in_whatever_order_no_version_is_lost_and_none_comes_back(steps: list[str]) -> None:
    keys = Keyring.first()
    minted = {V(1)}
    for step in steps:
        try:
            if step == "want":
                keys = keys.want()
            elif step == "unwant":
                keys = keys.unwant()
            elif step == "stage":
                keys = keys.stage()
                minted |= {keys.staged} - {None}  # type: ignore[arg-type]
            elif step == "promote" and keys.staged is not None:
                keys = keys.promote(keys.staged)
            elif step == "abandon" and keys.staged is not None:
                keys = keys.abandon(keys.staged, NOW)
            elif step == "retire" and keys.retiring is not None:
                keys = keys.retire(keys.retiring, NOW)
            elif step == "end":
                keys = keys.end(NOW)
            elif step == "destroy" and keys.due(NOW):
                keys = keys.destroy(keys.due(NOW)[0], NOW)
        except KeybrokerError:
            continue
        assert set(keys.kept) | set(keys.destroyed) == minted
        assert not set(keys.kept) & set(keys.destroyed)
        assert keys.newest == max(minted)
        assert (keys.current is None) == (keys.live == ())


@pytest.mark.parametrize("began", [BEGUN, ANNOUNCED])
def test_no_key_changes_while_a_reencryption_is_in_progress(began: Volume) -> None:
    wanted = rotation.want(began)
    staged = replace(wanted, keyring=STAGED.keyring)
    changes: tuple[Callable[[], Volume], ...] = (
        lambda: rotation.stage(wanted, wanted.revision),
        lambda: rotation.promote(staged, staged.revision, V(2)),
    )
    for change in changes:
        with pytest.raises(KeybrokerError, match="a re-encryption has begun") as caught:
            change()
        assert caught.value.problem is Problem.CONFLICT


@pytest.mark.parametrize("moved", [{"data_offset": PIN.data_offset + 4096}, {"sector_size": 512}])
def test_a_copy_of_a_header_whose_data_begins_elsewhere_is_refused(moved: dict[str, int]) -> None:
    pin = replace(PIN, **moved)  # type: ignore[arg-type]
    wide = replace(READY.profile, data_offsets=(0, 1 << 40), sector_sizes=(512, 4096))
    volume = replace(READY, profile=wide)
    with pytest.raises(KeybrokerError, match="is not the pinned one") as caught:
        rotation.back_up(volume, volume.revision, SeenHeader(pin, 20))
    assert caught.value.problem is Problem.HEADER_REFUSED


@pytest.mark.parametrize("order", [None, Order(1, "erase")])
def test_nothing_is_switched_where_no_migration_is_ordered(order: Order | None) -> None:
    successor = replace(SUCCESSOR, partner=HOLDER.id)
    holder = replace(HOLDER, partner=successor.id, order=order)
    with pytest.raises(KeybrokerError, match="no migration is ordered"):
        moving.switch(successor, holder, successor.revision, holder.revision, holder.size_bytes, COPIED)
