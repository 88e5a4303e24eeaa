"""The cuts of a re-encryption on real LUKS2 headers, by cryptsetup's offline one, and at the real broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.plan.steps import Ask, Evict
from agent.process import run
from keybroker.wire.records import Record
from tests.crash.mortal import MOMENTS, Death
from tests.crash.test_crash_reencryption import WAY
from tests.crash.test_crash_rotation import ROTATION
from tests.crash.test_crash_rotation_files import Rotated

FULL_WAY = (*ROTATION, WAY[1], Ask, *WAY[2:])
"""The broker has the key rotated first; its copy of the header is newer than what it was asked about then."""

LETTING_GO = (*ROTATION, WAY[1], Ask, Evict, Ask, *WAY[2:])
"""With a keyslot of somebody else's in the header, which the order lets go."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="re-encrypting a file needs root")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Rotated]:
    made = Rotated(tmp_path)
    made.broker.order()
    yield made
    made.broker.close()


def digest(record: Record) -> str:
    assert record.pin is not None
    return record.pin.digest


def check_done(volume: Rotated, before: str) -> None:
    kept, luks = volume.record, volume.world.luks(volume.record)
    assert kept.order is None
    assert luks.pin == kept.pin
    assert digest(kept) != before
    assert kept.sequence == luks.sequence
    assert volume.opens(2)
    assert luks.token is not None
    assert [luks.token.version(keyslot) for keyslot in luks.keyslots] == [2]
    volume.boot()


def test_a_reencryption_takes_each_step_once(volume: Rotated) -> None:
    before = digest(volume.record)
    outcome = volume.run()
    assert outcome.error is None, outcome.error
    assert tuple(type(step) for step in outcome.steps) == FULL_WAY
    check_done(volume, before)


@pytest.mark.parametrize("moment", ["after", "twice", "unanswered"])
@pytest.mark.parametrize("effect", range(len(ROTATION), len(FULL_WAY)))
def test_a_reencryption_that_is_cut_is_finished_by_the_next_run(
    volume: Rotated, effect: int, moment: str
) -> None:
    """Before a step is after the one before it, and in the middle of one is the kernel tier's."""
    before = digest(volume.record)
    assert not volume.run_until_death(Death(effect, moment)).survived
    outcome = volume.run()
    assert outcome.error is None, outcome.error
    check_done(volume, before)


@pytest.mark.parametrize("first", range(len(ROTATION), len(FULL_WAY)))
def test_two_cuts_in_a_row_are_survived(volume: Rotated, first: int) -> None:
    """The second one right after the step that the next run goes on with; the model has each pair of them."""
    before = digest(volume.record)
    volume.run_until_death(Death(first, "after"))
    assert volume.run_until_death(Death(1, "after")).survived == (first == len(FULL_WAY) - 1)
    outcome = volume.run()
    assert outcome.error is None, outcome.error
    check_done(volume, before)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_foreign_keyslot_that_is_let_go_is_out_before_anything_begins(tmp_path: Path, moment: str) -> None:
    volume = Rotated(tmp_path)
    volume.broker.order(drop_foreign=True)
    (tmp_path / "ours").write_bytes(volume.key(1).reveal())
    (tmp_path / "theirs").write_bytes(b"a recovery passphrase")
    run(
        "cryptsetup", "luksAddKey", "--batch-mode", "--key-file", tmp_path / "ours", "--pbkdf", "pbkdf2",
        "--pbkdf-force-iterations", "1000", volume.world.disk(volume.record), tmp_path / "theirs",
    )  # fmt: skip
    before = digest(volume.record)
    mortal = volume.run_until_death(Death(LETTING_GO.index(Evict), moment))
    assert tuple(mortal.journey) == LETTING_GO[: len(mortal.journey)]
    volume.boot()
    outcome = volume.run()
    assert outcome.error is None, outcome.error
    check_done(volume, before)
    volume.broker.close()
