"""The planner of rotations over every record and every header within small bounds.

Three keyslots, three key versions, any tags, any record that the broker can have: from each of them steps are
taken until none is left, each one whole and, with every cut that it can have, in part; and what must hold at
every instant is looked at after each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest

from agent.plan.keyslots import Keyslot, Keyslots
from agent.plan.rotation import live, next_step
from agent.plan.situation import Mapping
from agent.plan.steps import Ask, Backup, Clear, Fill, Promote, Retire, Stage, Tag
from agent.plan.survey import Survey
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import Device, Grant, Observation, Record, SeenHeader
from keybroker.wire.values import replace as changed
from tests.crash.volumes import SIZE, key_of, record

PIN = Pin(record().luks_uuid, "sha256:" + "1" * 64, 4 * MIB, 512)
BASE = changed(
    record(), stage="ready", pin=PIN, device=Device(record().serial, SIZE), sequence=5, newest=KeyVersion(3)
)
KEYS = {version: key_of("data", version) for version in range(1, 5)}
MOST = 3

FOREIGN = 0
"""What a keyslot of somebody else is opened by: no version of ours."""

WIPED = -1
"""What a keyslot is opened by that a cut kill has left."""


@dataclass(frozen=True)
class World:
    """A broker's record and a header.

    Attributes:
        slots: number, what opens it, and what our token says of it (0 for nothing).
        sequence: of the header; ``told`` of the one that the broker was told of when it gave the keys.
        held: the versions whose keys the agent has.
    """

    record: Record
    slots: tuple[tuple[int, int, int], ...]
    sequence: int
    told: int | None = None
    held: frozenset[int] = frozenset()

    def survey(self) -> Survey:
        seen = _seen(self.sequence)
        told = None if self.told is None else _seen(self.told)
        keys = {KeyVersion(version): KEYS[version] for version in self.held}
        found = tuple(
            Keyslot(
                number,
                bound=True,
                tagged=KeyVersion(tag) if tag else None,
                opened_by=KeyVersion(opener) if opener in self.held else None,
            )
            for number, opener, tag in self.slots
        )
        keyslots = Keyslots(found, frozenset(keys), MOST) if keys else None
        return Survey(Grant(self.record, keys), Mapping("open"), seen, told, keyslots)

    @property
    def openers(self) -> set[int]:
        return {opener for _, opener, _ in self.slots}

    @property
    def opens(self) -> bool:
        """The invariant: a key that the broker hands out opens the volume."""
        return bool(self.openers & live(self.record))

    @property
    def foreign(self) -> set[int]:
        return {number for number, opener, tag in self.slots if opener == FOREIGN and not tag}

    def write(self, *slots: tuple[int, int, int]) -> World:
        return replace(self, slots=tuple(sorted(slots)), sequence=self.sequence + 1)

    def hear(self, **news: Any) -> World:
        now = changed(self.record, revision=self.record.revision + 1, **news)
        return replace(self, record=now, held=self.held & live(now))


def _seen(sequence: int) -> Observation:
    header = SeenHeader(PIN, sequence)
    return Observation(BASE.volume, "luks2", Device(BASE.serial, SIZE), header)


def taken(world: World, step: object) -> World:
    """Return the world after a step; what the broker or cryptsetup would refuse fails the test."""
    now = world.record
    match step:
        case Ask():
            return replace(world, told=world.sequence, held=frozenset(live(now)))
        case Stage():
            assert now.staged is None
            assert now.retiring is None
            assert now.wanted != now.current
            staged = world.hear(staged=now.wanted, newest=max(now.newest or 1, now.wanted or 1))
            return replace(staged, held=staged.held | live(staged.record))
        case Fill(version, by):
            assert by in world.openers & world.held
            assert version == now.staged
            free = next(number for number in range(MOST) if number not in {slot[0] for slot in world.slots})
            return world.write(*world.slots, (free, version, 0))
        case Tag():
            keyslots = world.survey().keyslots
            assert keyslots is not None
            token = keyslots.token()
            return world.write(*((number, opener, token.get(number, 0)) for number, opener, _ in world.slots))
        case Backup():
            assert now.current in world.openers
            return world.hear(sequence=world.sequence)
        case Promote(version):
            assert world.told == world.sequence == now.sequence, (
                "the proof is of another header, or of an old key"
            )
            assert version == now.staged
            assert version in world.openers & world.held
            return world.hear(current=version, staged=None, retiring=now.current)
        case Clear(keyslot, by):
            assert world.told == world.sequence, "by a key that was not fetched anew"
            assert keyslot not in world.foreign
            rest = [slot for slot in world.slots if slot[0] != keyslot]
            assert by in {opener for _, opener, _ in rest} & world.held, "the last one is cleared"
            return world.write(*rest)
        case Retire(version):
            assert version == now.retiring
            assert version not in world.openers
            assert now.sequence == world.sequence, "the broker's copy is from before"
            return world.hear(retiring=None)
        case _:
            raise AssertionError(step)


def cuts(world: World, step: object) -> Iterator[World]:
    """Yield what a step can leave that is cut: what the broker does is whole or not at all."""
    after = taken(world, step)
    lost = frozenset[int]()  # the process is gone, and the keys with it
    yield replace(world, told=None, held=lost)
    yield replace(after, told=None, held=lost)
    if isinstance(step, Clear):  # the area goes first, and the header does not tell of it
        slots = tuple(
            (number, WIPED if number == step.keyslot else opener, tag) for number, opener, tag in world.slots
        )
        yield replace(world, slots=slots, told=None, held=lost)


def records() -> Iterator[Record]:
    """Every keyring that the model can have within three versions."""
    one, two, three = KeyVersion(1), KeyVersion(2), KeyVersion(3)
    yield changed(BASE, current=one, wanted=one, newest=one)
    yield changed(BASE, current=one, wanted=two, newest=one)
    yield changed(BASE, current=one, wanted=two, staged=two, newest=two)
    yield changed(BASE, current=one, wanted=one, newest=two)  # version 2 was given up
    yield changed(BASE, current=one, wanted=three, newest=two)
    yield changed(BASE, current=two, wanted=two, retiring=one, newest=two)
    yield changed(BASE, current=two, wanted=three, retiring=one, newest=two)
    yield changed(BASE, current=two, wanted=two, newest=two)
    yield changed(BASE, current=two, wanted=three, staged=three, newest=three)


def headers() -> Iterator[tuple[tuple[int, int, int], ...]]:
    kinds = [*product((FOREIGN, 1, 2), (0, 1, 2)), (WIPED, 1), (WIPED, 2), (WIPED, 3), (3, 0), (3, 3)]
    for count in range(MOST + 1):
        for chosen in product(kinds, repeat=count):
            if list(chosen) == sorted(chosen):  # which number a keyslot has makes no difference
                yield tuple((number, *kind) for number, kind in enumerate(chosen))


HEADERS = tuple(headers())
STOPS = (Problem.LOCKED_OUT, Problem.CONFLICT, Problem.FOREIGN_KEYSLOTS)


def decided(world: World) -> object:
    try:
        return next_step(world.survey())
    except KeybrokerError as error:
        return error


def settled(world: World, *, also_cut: bool) -> tuple[World, object]:
    """Take steps until none is left; with ``also_cut``, look at what each of them leaves when it is cut."""
    begun = world
    for _ in range(24):
        step = decided(world)
        if step is None or isinstance(step, KeybrokerError):
            return world, step
        if also_cut:
            for cut in cuts(world, step):
                check(world, cut, step)
                end, last = settled(cut, also_cut=False)
                check(begun, end, step)
                assert last is None or isinstance(last, KeybrokerError)
        after = taken(world, step)
        check(world, after, step)
        world = after
    raise AssertionError(f"it does not end: {begun}")


def check(before: World, after: World, step: object) -> None:
    assert after.opens or not before.opens, f"nothing opens any more after {step}"
    assert before.foreign <= after.foreign | _named(after), f"a foreign keyslot was touched by {step}"


def _named(world: World) -> set[int]:
    return {number for number, opener, _ in world.slots if opener == FOREIGN}


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("sequence", [4, 5, 6])
def test_whatever_the_header_the_volume_opens_at_every_instant_and_it_ends(
    number: int, sequence: int
) -> None:
    kept = list(records())[number]
    stopped = dict.fromkeys(STOPS, 0)
    for slots in HEADERS:
        world = World(kept, slots, sequence)
        end, last = settled(world, also_cut=True)
        if isinstance(last, KeybrokerError):
            assert last.problem in STOPS, last
            stopped[last.problem] += 1
            # what stops is stopped before it touches anything: nothing but questions, debris and copies
            if last.problem is not Problem.FOREIGN_KEYSLOTS:
                assert (end.slots, end.sequence) == (slots, sequence)
            continue
        now = end.record
        assert kept.current in world.openers
        assert (now.staged, now.retiring, now.current) == (None, None, kept.wanted)
        # what no key of ours opens and our token does not name may be anybody's, and stays
        ours = [(opener, tag) for _, opener, tag in end.slots if opener == now.current or tag]
        assert {opener for opener, _ in ours} == {now.current}
        assert all(opener == tag for opener, tag in ours)
        assert now.sequence == end.sequence
    assert stopped[Problem.LOCKED_OUT] > 0


@pytest.mark.parametrize("number", range(9))
def test_a_current_key_that_opens_nothing_stops_everything(number: int) -> None:
    kept = list(records())[number]
    for slots in HEADERS:
        world = World(kept, slots, 5, told=5, held=frozenset(live(kept)))
        step = decided(world)
        if kept.current not in world.openers:
            assert isinstance(step, KeybrokerError)
            assert step.problem in (Problem.LOCKED_OUT, Problem.CONFLICT)


@pytest.mark.parametrize("ahead", [2, 3])
def test_a_token_that_is_ahead_of_the_broker_stops_everything(ahead: int) -> None:
    kept = changed(BASE, current=KeyVersion(1), wanted=KeyVersion(1), newest=KeyVersion(1))
    world = World(kept, ((0, 1, 1), (1, ahead, ahead)), 7, told=7, held=frozenset({1}))
    step = decided(world)
    assert isinstance(step, KeybrokerError)
    assert step.problem is Problem.CONFLICT
    assert "older backup" in (step.hint or "")


@pytest.mark.parametrize(
    "record_of",
    [
        changed(BASE, stage="deposited"),
        changed(BASE, role="successor"),
        changed(BASE, role="former"),
        record("swap", filesystem="swap"),
    ],
    ids=["deposited", "successor", "former", "swap"],
)
def test_only_a_holder_that_is_ready_gets_new_keys(record_of: Record) -> None:
    assert decided(World(changed(record_of, wanted=KeyVersion(2)), ((0, 1, 1),), 5)) is None


def surveyed(**odd: Any) -> Survey:
    survey = World(BASE, ((0, 1, 1),), 5, told=5, held=frozenset({1})).survey()
    return changed(survey, **odd)


ODD_HEADER = SeenHeader(changed(PIN, digest="sha256:" + "2" * 64), 5)


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        ({"mapping": Mapping(obstacle="its linear device has another name")}, Problem.WRONG_DEVICE),
        ({"seen": Observation(BASE.volume, "absent")}, Problem.NO_DEVICE),
        ({"seen": changed(_seen(5), device=Device("another", SIZE))}, Problem.WRONG_DEVICE),
        ({"seen": changed(_seen(5), sight="other", header=None)}, Problem.HEADER_REFUSED),
        ({"seen": changed(_seen(5), header=ODD_HEADER)}, Problem.HEADER_REFUSED),
        (
            {"seen": changed(_seen(5), header=SeenHeader(PIN, 5, ("online-reencrypt-v2",)))},
            Problem.HEADER_REFUSED,
        ),
    ],
    ids=["obstacle", "absent", "other disk", "no header", "other volume key", "requirement"],
)
def test_what_is_not_the_volumes_own_header_stops_everything(
    odd: dict[str, object], problem: Problem
) -> None:
    with pytest.raises(KeybrokerError) as caught:
        next_step(surveyed(**odd))
    assert caught.value.problem is problem


def test_the_broker_is_asked_once_for_a_key_and_not_again() -> None:
    kept = changed(BASE, wanted=KeyVersion(2), staged=KeyVersion(2))
    assert isinstance(decided(World(kept, ((0, 1, 1),), 5)), Ask)
    step = decided(World(kept, ((0, 1, 1),), 5, told=5, held=frozenset({1})))
    assert isinstance(step, KeybrokerError)
    assert step.problem is Problem.LOCKED_OUT
