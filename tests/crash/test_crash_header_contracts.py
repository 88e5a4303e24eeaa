"""One suite for ``Headers``: in memory, and on files with cryptsetup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.change.workshop import Workshop
from agent.plan.keyslots import Keyslots
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.crash.file_world import FileWorld
from tests.crash.memory_broker import MemoryBroker
from tests.crash.memory_world import MemoryWorld
from tests.crash.volumes import key_of, record

ONE, TWO, THREE = KeyVersion(1), KeyVersion(2), KeyVersion(3)
KEYS = {version: key_of("data", version) for version in (ONE, TWO)}


@dataclass
class Volume:
    """A header with keyslot 0 on its disk."""

    workshop: Workshop
    record: Record

    def look(self) -> Keyslots:
        sighting = self.workshop.world.disks.look(self.record)
        return self.workshop.headers.probe(self.record, KEYS, sighting)

    @property
    def sequence(self) -> int:
        header = self.workshop.world.disks.look(self.record).observation.header
        assert header is not None
        return header.sequence

    @property
    def said(self) -> list[tuple[int, int | None, int | None]]:
        """What is seen: number, tag, opener of each."""
        return [(each.number, each.tagged, each.opened_by) for each in self.look().all]

    def fill(self, version: KeyVersion = TWO, by: KeyVersion = ONE) -> None:
        keys = {version: key_of("data", version), by: key_of("data", by)}
        self.workshop.headers.fill(self.record, keys, version=version, by=by)

    def tag(self, versions: dict[int, KeyVersion]) -> None:
        self.workshop.headers.tag(self.record, versions)

    def clear(self, keyslot: int, by: KeyVersion) -> None:
        self.workshop.headers.clear(self.record, KEYS, keyslot=keyslot, by=by)


@pytest.fixture(params=["memory", "files"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    records = [record()]
    broker = MemoryBroker(records)
    if request.param == "memory":
        workshop = MemoryWorld(records).workshop()
    else:
        workshop = FileWorld(tmp_path, broker, records).workshop(broker)
    made = workshop.world.disks.compose(record(), key_of("data"))
    of = replace(record(), stage="ready", pin=made.header.pin, sequence=made.header.sequence)
    workshop.world.disks.inscribe(of, made.copy)
    return Volume(workshop, of)


def test_a_new_header_has_one_keyslot_that_our_token_names(volume: Volume) -> None:
    assert volume.said == [(0, 1, 1)]
    found = volume.look()
    assert (found.tried, found.most) == (frozenset({ONE, TWO}), volume.record.profile.most_keyslots)
    assert all(each.bound for each in found.all)


def test_a_keyslot_is_filled_once_and_is_not_named_yet(volume: Volume) -> None:
    before = volume.sequence
    volume.fill()
    assert volume.said == [(0, 1, 1), (1, None, 2)]
    assert volume.sequence > before
    filled = volume.sequence
    volume.fill()
    assert (volume.said, volume.sequence) == ([(0, 1, 1), (1, None, 2)], filled)


def test_a_keyslot_is_filled_by_means_of_a_key_that_opens_one(volume: Volume) -> None:
    before = volume.sequence
    with pytest.raises(KeybrokerError) as caught:
        volume.fill(THREE, TWO)
    assert caught.value.problem is Problem.LOCKED_OUT
    assert volume.sequence == before


def test_the_token_says_what_it_is_told_and_is_written_once(volume: Volume) -> None:
    volume.fill()
    volume.tag({0: ONE, 1: TWO})
    assert volume.said == [(0, 1, 1), (1, 2, 2)]
    before = volume.sequence
    volume.tag({0: ONE, 1: TWO})
    assert volume.sequence == before


def test_a_sequence_is_raised_each_time_and_nothing_else_is_changed(volume: Volume) -> None:
    volume.fill()
    before, said = volume.sequence, volume.said
    raised = volume.workshop.headers.raise_sequence(volume.record)
    assert before < raised == volume.sequence
    assert volume.workshop.headers.raise_sequence(volume.record) > raised
    assert volume.said == said


def test_a_killed_keyslot_is_gone_from_the_token_too_and_stays_gone(volume: Volume) -> None:
    volume.fill()
    volume.tag({0: ONE, 1: TWO})
    volume.clear(0, TWO)
    assert volume.said == [(1, 2, 2)]
    before = volume.sequence
    volume.clear(0, TWO)
    assert (volume.said, volume.sequence) == ([(1, 2, 2)], before)
    volume.fill(ONE, TWO)
    assert volume.said == [(0, None, 1), (1, 2, 2)]


def last(volume: Volume) -> None:
    volume.clear(0, ONE)


def by_a_key_that_opens_nothing(volume: Volume) -> None:
    volume.clear(0, TWO)


def its_own(volume: Volume) -> None:
    volume.fill()
    volume.clear(1, TWO)


@pytest.mark.parametrize("attempt", [last, by_a_key_that_opens_nothing, its_own])
def test_no_keyslot_is_killed_that_no_other_stands_in_for(
    volume: Volume, attempt: Callable[[Volume], None]
) -> None:
    with pytest.raises(KeybrokerError) as caught:
        attempt(volume)
    assert caught.value.problem is Problem.LOCKED_OUT
    assert (0, 1, 1) in volume.said


def test_a_keyslot_of_somebody_else_is_not_killed(volume: Volume) -> None:
    volume.fill(THREE, ONE)
    assert volume.said == [(0, 1, 1), (1, None, None)]
    with pytest.raises(KeybrokerError) as caught:
        volume.clear(1, ONE)
    assert caught.value.problem is Problem.FOREIGN_KEYSLOTS
    assert volume.said == [(0, 1, 1), (1, None, None)]


@pytest.mark.parametrize("change", ["probe", "fill", "tag", "clear"])
def test_a_header_that_is_not_the_pinned_one_is_not_touched(volume: Volume, change: str) -> None:
    volume.fill()
    before, pin = volume.sequence, volume.record.pin
    assert pin is not None
    other = Volume(volume.workshop, replace(volume.record, pin=replace(pin, digest="sha256:" + "9" * 64)))
    attempts: dict[str, Callable[[], object]] = {
        "probe": other.look,
        "fill": lambda: other.fill(THREE),
        "tag": lambda: other.tag({0: TWO}),
        "clear": lambda: other.clear(0, TWO),
    }
    with pytest.raises(KeybrokerError) as caught:
        attempts[change]()
    assert caught.value.problem is Problem.HEADER_REFUSED
    assert volume.sequence == before
