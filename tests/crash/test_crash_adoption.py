"""Volumes that others formatted: adopted by our key, their own ways in kept; cut anywhere, gone on with.

The headers are those that the real tools made (``tests.header.strangers``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from agent.change.adoption import Adopting
from agent.change.course import Course
from agent.driver import Driver
from agent.luks import copy
from agent.luks.header import read_header
from agent.plan.steps import Adopt, Ask, Backup, Detach, Evict, Fill, Tag
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import adopted_profile
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import replace
from tests.crash.file_world import FileWorld
from tests.crash.memory_broker import MemoryBroker
from tests.crash.mortal import MOMENTS, Crash, Death, Mortal
from tests.crash.test_crash_memory import BOOT
from tests.crash.volumes import key_of, record
from tests.header import strangers
from tests.header.strangers import STRANGERS, Stranger

ADOPTION: Final = (Ask, Fill, Tag, Ask, Adopt)
REMOVAL: Final = (Detach, Ask, Evict, Ask, Evict, Backup)
"""Of a volume that clevis is bound to; the key was fetched for Adopt."""


class Adopted:
    """A disk that somebody else formatted, and a broker in memory at which it is declared."""

    def __init__(self, directory: Path, made: Stranger, tool: str = "") -> None:
        directory.mkdir(exist_ok=True)
        cipher = strangers.CIPHERS.get(tool, "aes-xts-plain64")
        held = made.path.read_bytes()
        header = read_header(lambda offset, length: held[offset : offset + length], len(held))
        self.declared = replace(
            record(filesystem="none", mount=None, size=strangers.SIZE),
            stage="foreign", luks_uuid=header.uuid, profile=adopted_profile(cipher),
        )  # fmt: skip
        self.broker = MemoryBroker([self.declared])
        self.world = FileWorld(directory, self.broker, [self.declared])
        self.path = self.world.disk(self.declared)
        shutil.copyfile(made.path, self.path)
        self.made = made
        self.passphrase = Secret(made.passphrase)

    @property
    def record(self) -> Record:
        return self.broker.records[self.declared.volume]

    def opens(self) -> bool:
        """Say whether the way of its tool opens the disk that was adopted."""
        return strangers.takes(self.path, self.made.other(self.path))

    def ours(self) -> bool:
        current = self.record.current
        assert current is not None
        return strangers.takes(self.path, key_of(self.record.name, current).reveal())

    def adopting(self, given: Secret | None, mortal: Mortal | None = None) -> Adopting:
        workshop = mortal.workshop if mortal else self.world.workshop(self.broker)
        return Adopting(workshop, BOOT, self.record, given)

    def mortal(self, death: Death | None = None) -> Mortal:
        return Mortal(self.world.workshop(self.broker), self.world, death)

    def boot(self) -> None:
        """Hold that the agent opens it as any other volume."""
        self.world.power_cut()
        report = Driver(self.world.world(), BOOT, keep=self.world.keep).unlock([self.record])
        (outcome,) = report.outcomes
        assert outcome.error is None, outcome.error

    def check(self) -> None:
        kept = self.record
        luks = self.world.luks(kept)
        assert (kept.stage, kept.pin, kept.sequence) == ("ready", luks.pin, luks.sequence)
        assert self.ours()
        assert luks.token is not None
        assert list(luks.token.versions.values()) == [1]
        held = copy.unpack(self.broker.copies[kept.volume])
        assert read_header(held.read, held.total).sequence == luks.sequence
        self.boot()

    def rotate(self) -> None:
        self.broker.rotate(self.record.volume)
        outcome = Course(self.world.workshop(self.broker), BOOT, self.record).settle()
        assert outcome.error is None, outcome.error
        assert self.record.current == 2


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with strangers.tang(tmp_path_factory.mktemp("tang")) as port:
        yield port


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory, port: int) -> Stranger:
    return strangers.clevis(tmp_path_factory.mktemp("bound") / "disk", port)


@pytest.fixture
def volume(tmp_path: Path, bound: Stranger) -> Adopted:
    return Adopted(tmp_path / "world", bound)


@pytest.mark.parametrize("tool", STRANGERS)
def test_what_others_made_is_adopted_rotated_and_still_opened_their_way(
    tool: str, tmp_path: Path, port: int
) -> None:
    volume = Adopted(tmp_path / "world", STRANGERS[tool](tmp_path / "disk", port), tool)
    assert volume.opens()
    mortal = volume.mortal()
    volume.adopting(volume.passphrase, mortal).adopt()
    assert tuple(mortal.journey) == ADOPTION
    volume.check()
    assert volume.opens()
    volume.rotate()
    assert volume.ours()
    assert volume.opens()
    volume.boot()


@pytest.mark.limit(400)
def test_a_keyslot_that_takes_1_gib_of_memory_is_tried_for_the_adoption_and_never_again(
    tmp_path: Path,
) -> None:
    made = strangers.by_hand(tmp_path / "disk", 0, memory_kib=1 << 20)
    volume = Adopted(tmp_path / "world", made)
    volume.adopting(volume.passphrase).adopt()
    volume.check()
    volume.rotate()
    assert volume.opens()


def test_clevis_that_is_bound_to_a_volume_of_ours_still_opens_it_after_rotation(
    tmp_path: Path, port: int
) -> None:
    ours = record(filesystem="none", mount=None)
    ours = replace(ours, profile=replace(ours.profile, foreign_tokens=True))
    broker = MemoryBroker([ours])
    world = FileWorld(tmp_path, broker, [ours])
    assert Driver(world.world(), BOOT, keep=world.keep).unlock([ours]).outcomes[0].error is None
    made = strangers.bind(world.disk(ours), port, key_of(ours.name).reveal())
    for version in (2, 3):
        broker.rotate(ours.volume)
        outcome = Course(world.workshop(broker), BOOT, broker.records[ours.volume]).settle()
        assert outcome.error is None, outcome.error
        assert broker.records[ours.volume].current == version
        assert strangers.takes(made.path, key_of(ours.name, version).reveal())
        assert not strangers.takes(made.path, key_of(ours.name, version - 1).reveal())
        assert made.opens()


def test_adopting_again_changes_nothing_and_needs_no_passphrase(volume: Adopted) -> None:
    volume.adopting(volume.passphrase).adopt()
    before = volume.path.read_bytes()
    mortal = volume.mortal()
    volume.adopting(None, mortal).adopt()
    assert mortal.journey == []
    assert volume.path.read_bytes() == before


def test_the_others_are_named_and_taken_out_only_when_asked_for(volume: Adopted) -> None:
    adopting = volume.adopting(volume.passphrase)
    adopting.adopt()
    others = adopting.others()
    assert (others.keyslots, dict(others.tokens)) == ((0, 1), {0: "clevis"})
    adopting.remove_others()
    volume.check()
    luks = volume.world.luks(volume.record)
    assert (list(luks.keyslots), len(luks.tokens)) == ([2], 1)
    assert not strangers.takes(volume.path, volume.made.passphrase)
    assert not adopting.others()
    volume.rotate()


@pytest.mark.parametrize("removing", [False, True], ids=["adopting", "removing"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(REMOVAL)))
def test_an_adoption_that_is_cut_anywhere_is_finished_by_the_next_run(
    volume: Adopted, removing: bool, effect: int, moment: str
) -> None:
    journey = REMOVAL if removing else ADOPTION
    if effect >= len(journey):
        return
    if removing:
        volume.adopting(volume.passphrase).adopt()
        effect += 1  # the Ask that brings the key
    assert not die(volume, Death(effect, moment), removing=removing).survived
    finish(volume, removing=removing)


@pytest.mark.parametrize("moments", [("after", "during"), ("during", "after")], ids="-".join)
@pytest.mark.parametrize(
    ("removing", "effect"),
    [(False, number) for number in range(len(ADOPTION))]
    + [(True, 1 + number) for number in range(len(REMOVAL))],
)
def test_two_cuts_in_a_row_of_an_adoption_are_survived(
    volume: Adopted, removing: bool, effect: int, moments: tuple[str, str]
) -> None:
    """The second one at the first effect that the next run has beyond its Ask."""
    if removing:
        volume.adopting(volume.passphrase).adopt()
    earlier, later = moments
    die(volume, Death(effect, earlier), removing=removing)
    die(volume, Death(1, later), removing=removing)
    finish(volume, removing=removing)


def die(volume: Adopted, death: Death, *, removing: bool) -> Mortal:
    """Adopt, or take the others out, with a cut; whoever could open the volume still can."""
    mortal = volume.mortal(death)
    adopting = volume.adopting(volume.passphrase, mortal)
    try:
        adopting.remove_others() if removing else adopting.adopt()
    except Crash:
        assert death.moment in ("before", "during", "after")
    except KeybrokerError as error:
        assert (death.moment, error.problem) == ("unanswered", Problem.UNREACHABLE)
    assert volume.ours() if removing else volume.opens()
    return mortal


def finish(volume: Adopted, *, removing: bool) -> None:
    """Let the same command go on, to its end."""
    again = volume.adopting(volume.passphrase)
    again.adopt()
    if removing:
        again.remove_others()
        assert not again.others()
    else:
        assert volume.opens()
    volume.check()


def test_a_passphrase_that_opens_nothing_changes_nothing(volume: Adopted) -> None:
    before = volume.path.read_bytes()
    with pytest.raises(KeybrokerError) as caught:
        volume.adopting(Secret(volume.made.passphrase + b"\n")).adopt()
    assert caught.value.problem is Problem.LOCKED_OUT
    assert caught.value.hint is not None
    assert "newline" in caught.value.hint
    assert volume.path.read_bytes() == before
    assert volume.record.stage == "foreign"


def test_another_volume_s_disk_is_refused_and_no_passphrase_is_tried_on_it(
    volume: Adopted, tmp_path: Path
) -> None:
    other = strangers.azure(tmp_path / "other", 0)
    shutil.copyfile(other.path, volume.path)
    with pytest.raises(KeybrokerError) as caught:
        volume.adopting(Secret(other.passphrase)).adopt()
    assert caught.value.problem is Problem.HEADER_REFUSED
    assert volume.path.read_bytes() == other.path.read_bytes()


def test_a_volume_whose_keyslots_are_all_filled_is_refused_without_a_write(
    tmp_path: Path, bound: Stranger
) -> None:
    volume = Adopted(tmp_path / "world", bound)
    volume.broker.records[volume.declared.volume] = replace(
        volume.record, profile=replace(volume.record.profile, most_keyslots=2)
    )
    before = volume.path.read_bytes()
    with pytest.raises(KeybrokerError) as caught:
        volume.adopting(volume.passphrase).adopt()
    assert caught.value.problem is Problem.FOREIGN_KEYSLOTS
    assert volume.path.read_bytes() == before


def test_nothing_is_taken_out_of_a_volume_that_our_key_does_not_open(volume: Adopted) -> None:
    volume.adopting(volume.passphrase).adopt()
    ours = next(iter(volume.world.luks(volume.record).token.versions))  # type: ignore[union-attr]
    strangers.cryptsetup(
        "luksKillSlot", "-q", "--key-file", "-", volume.path, str(ours), given=volume.made.passphrase
    )
    before = volume.path.read_bytes()
    with pytest.raises(KeybrokerError) as caught:
        volume.adopting(volume.passphrase).remove_others()
    assert caught.value.problem is Problem.LOCKED_OUT
    assert volume.path.read_bytes() == before
    assert volume.opens()
