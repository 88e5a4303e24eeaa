"""The passphrase in our token, for a day without a broker: cut anywhere, what is there opens the volume."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from agent.plan.steps import Ask, Backup, Clear, Enclose, Promote, Tag
from keybroker.wire.names import KeyVersion
from keybroker.wire.records import Record
from keybroker.wire.recovery import CIPHERTEXT, Recovery
from keybroker.wire.values import replace
from tests.crash.memory_world import MemoryWorld
from tests.crash.mortal import MOMENTS, Death, Mortal
from tests.crash.test_crash_rotation import (
    DATA,
    ROTATION,
    check_key,
    check_rotated,
    header,
    now,
    opened,
    run,
    run_until_death,
)
from tests.crash.volumes import key_of

ENCLOSURE = (Ask, Enclose, Backup)


def ciphertext_of(version: int) -> str:
    """Return what stands for a version's passphrase, encrypted; of the right form."""
    made = base64.b64encode(b"age-encryption.org/v1\n-> X25519 " + b"%06d" % version * 40).decode()
    assert CIPHERTEXT.fullmatch(made)
    return made


BY_CIPHERTEXT = {ciphertext_of(version): version for version in range(1, 9)}


class Entrusted(dict[Any, Record]):
    """A broker's records: each with the ciphertext of its staged or current key, as the real one has it."""

    def __setitem__(self, volume: Any, record: Record) -> None:
        version = record.staged or record.current
        assert version is not None
        sealed = Recovery(version, ciphertext_of(version))
        super().__setitem__(volume, replace(record, recovery=sealed))

    def update(self, *others: Any, **named: Any) -> None:
        for volume, record in dict(*others, **named).items():
            self[volume] = record


def entrust(world: MemoryWorld) -> None:
    """Set an offline recovery key."""
    records = Entrusted()
    records.update(world.broker.records)
    world.broker.records = records


def check_recoverable(world: MemoryWorld) -> None:
    """Hold the invariant: what our token carries opens a keyslot that keeps the data."""
    carried = header(world).recovery
    if carried is not None:
        key = key_of(DATA.name, BY_CIPHERTEXT[carried])
        assert header(world).opened_by(key) is not None


def settle(world: MemoryWorld, version: int) -> None:
    outcome = run(world)
    assert outcome.error is None, outcome.error
    assert header(world).recovery == ciphertext_of(version)
    check_rotated(world, version)
    check_recoverable(world)


def test_a_volume_that_lacks_it_gets_it_by_a_step_of_its_own() -> None:
    world = opened()
    assert [type(step) for step in run(world).steps] == [Ask]
    entrust(world)
    mortal = Mortal(world.workshop(), world)
    assert run(world, mortal).error is None
    assert tuple(mortal.journey) == ENCLOSURE
    settle(world, 1)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(ENCLOSURE)))
def test_that_step_is_survived_wherever_it_is_cut(effect: int, moment: str) -> None:
    world = opened()
    entrust(world)
    run_until_death(world, Death(effect, moment))
    check_key(world)
    check_recoverable(world)
    settle(world, 1)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(ROTATION)))
def test_a_rotation_renews_it_without_a_step_more_and_at_every_instant_it_opens(
    effect: int, moment: str
) -> None:
    world = opened()
    entrust(world)
    settle(world, 1)
    world.broker.rotate(DATA.volume)
    mortal = run_until_death(world, Death(effect, moment))
    assert mortal.journey == list(ROTATION)[: len(mortal.journey)]
    check_key(world)
    check_recoverable(world)
    assert header(world).recovery is not None
    settle(world, 2)


def test_two_cuts_in_a_row_leave_what_opens() -> None:
    for (first, second), earlier in itertools.product(
        itertools.product(range(2, len(ROTATION)), range(len(ROTATION))), ("during", "after")
    ):
        world = opened()
        entrust(world)
        world.broker.rotate(DATA.volume)
        run_until_death(world, Death(first, earlier))
        check_recoverable(world)
        run_until_death(world, Death(second, "during"))
        check_recoverable(world)
        settle(world, 2)


def test_a_key_that_is_given_up_leaves_the_token_before_its_keyslot_goes() -> None:
    world = opened()
    entrust(world)
    settle(world, 1)
    world.broker.rotate(DATA.volume)
    run_until_death(world, Death(ROTATION.index(Promote), "before"))
    kept = now(world)
    assert header(world).recovery == ciphertext_of(2)
    world.broker.records[DATA.volume] = replace(
        kept, staged=None, wanted=kept.current, newest=KeyVersion(2), recovery=None
    )
    outcome = run(world)
    assert [type(step) for step in outcome.steps] == [Ask, Enclose, Ask, Clear, Backup]
    settle(world, 1)


def test_a_first_header_carries_it_from_the_beginning() -> None:
    from tests.crash.test_crash_memory import settle as boot

    world = MemoryWorld([DATA])
    entrust(world)
    world.layout = tuple(world.broker.records.values())
    boot(world)
    assert header(world).recovery == ciphertext_of(1)
    assert [type(step) for step in run(world).steps] == [Ask]


@pytest.mark.parametrize("damage", ["token", "recovery"])
def test_what_others_do_to_the_token_is_put_right(damage: str) -> None:
    world = opened()
    entrust(world)
    settle(world, 1)
    wrong: dict[str, Callable[[], Any]] = {
        "token": lambda: header(world).changed(token={}, recovery=None),
        "recovery": lambda: header(world).changed(recovery=ciphertext_of(8)),
    }
    world.write_header(now(world), wrong[damage]())
    step = Tag if damage == "token" else Enclose
    assert [type(each) for each in run(world).steps] == [Ask, step, Backup]
    settle(world, 1)
