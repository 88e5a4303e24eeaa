"""The planner over any record and any sight: what must never happen does not, and each table row does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import cast, get_args

import pytest

from agent.plan.provision import REENCRYPTING, check_pinned, check_plain, next_step
from agent.plan.situation import Content, Mapping, Reach, Situation
from agent.plan.steps import (
    BOOT_STEPS,
    Ask,
    Claim,
    Deposit,
    Inscribe,
    Link,
    MakeFilesystem,
    Mark,
    Mount,
    Open,
    Ready,
    Step,
    SwapOn,
)
from keybroker.wire.names import KeyVersion
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import (
    FILESYSTEMS,
    STAGES,
    Device,
    Grant,
    Observation,
    Record,
    Refusal,
    SeenHeader,
    Stage,
)
from tests.crash.volumes import SIZE, key_of, record

WRITING = (Inscribe, MakeFilesystem, Mark)
"""The steps that write to a disk or through to it."""

KEY = {KeyVersion(1): key_of("data")}
PIN = Pin(record().luks_uuid, "sha256:" + "1" * 64, 4 * MIB, 512)
OTHER_PIN = replace(PIN, digest="sha256:" + "2" * 64)
HERE = Device(record().serial, SIZE)

PINS = (PIN, OTHER_PIN, replace(PIN, uuid="0" * 8 + PIN.uuid[8:]), replace(PIN, sector_size=4096))
DEVICES = (
    HERE,
    replace(HERE, size_bytes=SIZE + 1),
    replace(HERE, size_bytes=SIZE - 1),
    Device("another", SIZE),
)
REQUIREMENTS: tuple[tuple[str, ...], ...] = ((), ("online-reencrypt-v2",))

Decided = Step | KeybrokerError | None
Case = tuple[Grant, Situation, Decided]


def grants() -> Iterator[Grant]:
    for filesystem, stage, keys in product(sorted(FILESYSTEMS), sorted(STAGES), (KEY, {})):
        known = replace(record(filesystem=filesystem), stage=cast(Stage, stage))
        pinned = stage in ("deposited", "ready") and not known.is_swap
        for device in (None,) if stage == "new" else DEVICES[:3]:
            yield Grant(replace(known, device=device, pin=PIN if pinned else None), keys)


def observations() -> Iterator[Observation]:
    volume = record().volume
    yield Observation(volume, "absent")
    yield Observation(record("other").volume, "blank", HERE)
    for device in DEVICES:
        yield Observation(volume, "blank", device)
        yield Observation(volume, "other", device)
        yield Observation(volume, "swap-mark", device)
        for pin, requirements, degraded in product(PINS, REQUIREMENTS, (False, True)):
            yield Observation(volume, "luks2", device, SeenHeader(pin, 3, requirements, degraded))


def situations() -> Iterator[Situation]:
    elsewhere = Observation(record().volume, "other", HERE, detail="a moment ago")
    for reach, obstacle in product(get_args(Reach), ("", "not ours")):
        mapping = Mapping(reach, obstacle)
        for seen in (None, *observations()):
            for told in (seen, None, elsewhere):
                yield Situation(mapping, seen, told)
        for kind, untouched, unfinished in product(("", "ext4", "xfs", "swap"), (False, True), (False, True)):
            for mounted in (None, False, True):
                yield Situation(mapping, None, None, Content(kind, untouched, unfinished), mounted)


def decide(grant: Grant, here: Situation) -> Decided:
    try:
        return next_step(grant, here)
    except KeybrokerError as error:
        return error


@pytest.fixture(scope="module")
def every() -> list[Case]:
    """Every class of record with every class of situation, and what is decided: there is no other."""
    here = list(situations())
    return [(grant, now, decide(grant, now)) for grant in grants() for now in here]


def those(every: list[Case], *kinds: type) -> list[Case]:
    """Return the cases in which one of these is decided; of each there must be some."""
    found = [case for case in every if isinstance(case[2], kinds)]
    assert {type(decided) for _, _, decided in found} == set(kinds)
    return found


def test_every_step_is_decided_on_somewhere_and_says_why(every: list[Case]) -> None:
    for _, _, step in those(every, *BOOT_STEPS):
        assert not isinstance(step, KeybrokerError)
        assert step is not None
        assert step.reason


def test_at_ready_nothing_is_ever_written_claimed_or_deposited(every: list[Case]) -> None:
    for grant, _, _ in those(every, *WRITING, Claim, Deposit, Ready):
        assert grant.record.stage != "ready"


def test_what_the_broker_refuses_takes_no_step() -> None:
    no = Refusal(Problem.NOT_ALLOWED, "no")
    for grant in grants():
        for now in (here(), inside("ext4"), Situation(Mapping("crypt"), None, None)):
            decided = decide(replace(grant, refused=no), now)
            assert isinstance(decided, KeybrokerError)
            assert decided.problem is Problem.NOT_ALLOWED


def test_what_stands_in_the_way_is_left_alone(every: list[Case]) -> None:
    for _, now, decided in every:
        assert not now.mapping.obstacle or isinstance(decided, KeybrokerError)


def test_nothing_below_an_open_volume_is_done_on_another_disk(every: list[Case]) -> None:
    for grant, now, _ in those(every, Claim, Deposit, Inscribe, Open, Mark, SwapOn):
        known = grant.record
        meant = known.device or Device(known.serial, known.size_bytes)
        assert now.seen is not None
        assert now.seen.volume == known.volume
        assert now.seen.device is not None
        assert now.seen.device.serial == meant.serial
        assert now.seen.device.size_bytes >= meant.size_bytes


def test_a_filesystem_is_made_only_over_nothing_or_our_own_remains(every: list[Case]) -> None:
    for grant, now, _ in those(every, MakeFilesystem):
        assert grant.record.stage == "deposited"
        assert now.mapping == Mapping("open")
        assert now.content is not None
        assert now.content.unfinished or (now.content.kind == "" and now.content.untouched)


def test_before_a_header_is_deposited_only_a_blank_disk_is_gone_on_with(every: list[Case]) -> None:
    for grant, now, _ in those(every, Claim, Deposit, Mark):
        assert now.seen is not None
        assert now.seen.sight == "blank" or (now.seen.sight == "swap-mark" and grant.record.is_swap)


def test_a_header_is_inscribed_only_where_it_is_deposited_and_no_other_is_there(every: list[Case]) -> None:
    for grant, now, _ in those(every, Inscribe):
        assert grant.record.stage == "deposited"
        assert now.mapping == Mapping("closed")
        assert now.seen is not None
        assert now.seen.header is None or (now.seen.header.pin == PIN and now.seen.header.degraded)


def test_only_the_pinned_header_without_requirements_is_opened_and_only_with_a_key(every: list[Case]) -> None:
    for grant, now, _ in those(every, Open):
        assert now.seen is not None
        assert now.seen.header is not None
        assert now.seen.header.pin == grant.record.pin
        assert not now.seen.header.requirements
        assert grant.keys


def test_a_grant_counts_only_for_what_the_broker_had_been_told(every: list[Case]) -> None:
    for grant, now, step in those(every, Claim, Deposit, Inscribe, Open):
        assert now.told == now.seen or (isinstance(step, Claim) and grant.record.is_swap)


def at(stage: str, **changes: object) -> Record:
    pin = PIN if stage in ("deposited", "ready") else None
    known = {"pin": pin, "device": None if stage == "new" else HERE, **changes}
    return replace(record(), stage=stage, **known)  # type: ignore[arg-type]


def here(sight: str = "blank", pin: Pin = PIN, *, degraded: bool = False, told: bool = True) -> Situation:
    header = SeenHeader(pin, 3, (), degraded) if sight == "luks2" else None
    seen = Observation(record().volume, sight, HERE, header)  # type: ignore[arg-type]
    return Situation(Mapping(), seen, seen if told else None)


def inside(kind: str = "", *, untouched: bool = False, unfinished: bool = False) -> Situation:
    return Situation(Mapping("open"), None, None, Content(kind, untouched, unfinished))


def plain(content: str | None = "ext4", sight: str = "other", *, told: bool = True) -> Situation:
    now = here(sight, told=told)
    return replace(now, content=None if content is None else Content(content, False, False))


def midway(
    pin: Pin = PIN, sequence: int = 4, *, degraded: bool = False, others: tuple[str, ...] = ()
) -> Situation:
    header = SeenHeader(pin, sequence, (REENCRYPTING,), degraded, others)
    seen = Observation(record().volume, "luks2", HERE, header)
    return Situation(Mapping(), seen, seen)


PLAIN = at("plain", current=None, wanted=None, device=None)
BEGUN = at("plain", device=None, order=Order(1, "encrypt", "begun"))
HALF = replace(BEGUN, pin=PIN, sequence=3, order=Order(1, "encrypt", "begun", PIN.digest))
"""In the middle of its encryption in place: the broker has its header."""

ROWS: list[tuple[str, Record, Situation, type]] = [
    ("new", at("new"), here(), Claim),
    ("new, not told", at("new"), here(told=False), Ask),
    ("claimed", at("claimed"), here(), Deposit),
    ("deposited", at("deposited"), here(), Inscribe),
    ("deposited, torn beyond reading", at("deposited"), here("other"), Inscribe),
    ("deposited, torn", at("deposited"), here("luks2", degraded=True), Inscribe),
    ("deposited, whole", at("deposited"), here("luks2"), Open),
    ("ready", at("ready"), here("luks2"), Open),
    ("ready, one copy damaged", at("ready"), here("luks2", degraded=True), Open),
    ("half open", at("ready"), Situation(Mapping("crypt"), None, None), Link),
    ("open, empty", at("deposited"), inside(untouched=True), MakeFilesystem),
    ("open, cut", at("deposited"), inside("ext4", unfinished=True), MakeFilesystem),
    ("open, made", at("deposited"), inside("ext4"), Ready),
    ("open, raw", at("deposited", filesystem="none", mount=None), inside(), Ready),
    ("plain", PLAIN, plain(), Link),
    ("plain, not told", PLAIN, plain(told=False), Ask),
    ("plain, raw", replace(PLAIN, filesystem="none", mount=None), plain("", "blank"), Link),
    ("plain, to be moved", replace(PLAIN, order=Order(1, "migrate")), plain(), Link),
    ("plain, to be encrypted", replace(PLAIN, order=Order(1, "encrypt")), plain(), Link),
    ("plain, begun", BEGUN, plain(), Link),
    ("in place, not inscribed", HALF, here("other"), Inscribe),
    ("in place, not told", HALF, here("other", told=False), Ask),
    ("in place, inscribed in part", HALF, midway(sequence=3, degraded=True), Inscribe),
    ("in place, not encrypted yet", HALF, midway(sequence=3), Open),
    ("in place, in the middle", HALF, midway(), Open),
    ("in place, in the middle, one copy damaged", HALF, midway(degraded=True), Open),
    ("in place, encrypted", HALF, here("luks2"), Open),
    ("in place, half open", HALF, Situation(Mapping("crypt"), None, None), Link),
    ("in place, not mounted", HALF, Situation(Mapping("open"), None, None, mounted=False), Mount),
    ("plain, not mounted", PLAIN, Situation(Mapping("open"), None, None, mounted=False), Mount),
    ("open, not mounted", at("ready"), Situation(Mapping("open"), None, None, mounted=False), Mount),
]  # fmt: skip


@pytest.mark.parametrize(("known", "now", "step"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_each_row_of_the_table_has_its_step(known: Record, now: Situation, step: type) -> None:
    assert type(next_step(Grant(known, KEY), now)) is step


REFUSED: list[tuple[str, Record, Situation, Problem]] = [
    ("new, not blank", at("new"), here("other"), Problem.NOT_BLANK),
    ("new, a header", at("new"), here("luks2"), Problem.NOT_BLANK),
    ("claimed, not blank", at("claimed"), here("other"), Problem.NOT_BLANK),
    ("deposited, another header", at("deposited"), here("luks2", OTHER_PIN), Problem.HEADER_REFUSED),
    ("ready, another header", at("ready"), here("luks2", OTHER_PIN), Problem.HEADER_REFUSED),
    ("ready, blank", at("ready"), here("blank"), Problem.HEADER_REFUSED),
    ("ready, something else", at("ready"), here("other"), Problem.HEADER_REFUSED),
    ("open, another filesystem", at("deposited"), inside("xfs"), Problem.NOT_BLANK),
    ("open, unknown data", at("deposited"), inside(""), Problem.NOT_BLANK),
    ("open, but new", at("new"), inside(), Problem.CONFLICT),
    ("plain, another filesystem", PLAIN, plain("xfs"), Problem.WRONG_DEVICE),
    ("plain, partitions", PLAIN, plain("ext4 and a partition table (dos)"), Problem.WRONG_DEVICE),
    ("plain, RAID", PLAIN, plain("linux_raid_member"), Problem.WRONG_DEVICE),
    ("plain, blank", PLAIN, plain("", "blank"), Problem.WRONG_DEVICE),
    ("plain, LUKS2", PLAIN, plain(None, "luks2"), Problem.HEADER_REFUSED),
    ("plain, nobody looked at it", PLAIN, plain(None), Problem.INTERNAL),
    ("plain, begun, LUKS2", BEGUN, plain(None, "luks2"), Problem.HEADER_REFUSED),
    (
        "in place, another header",
        HALF,
        midway(replace(PIN, uuid=PIN.uuid[:-1] + "0")),
        Problem.HEADER_REFUSED,
    ),
    (
        "in place, another key",
        HALF,
        midway(replace(PIN, digest="sha256:" + "0" * 64)),
        Problem.HEADER_REFUSED,
    ),
    ("in place, two keys", HALF, midway(others=("sha256:" + "0" * 64,)), Problem.HEADER_REFUSED),
    ("in place, moved", HALF, midway(replace(PIN, data_offset=16 << 20)), Problem.HEADER_REFUSED),
    ("nobody looked inside", at("deposited"), Situation(Mapping("open"), None, None), Problem.INTERNAL),
    ("nobody looked", at("ready"), Situation(Mapping(), None, None), Problem.INTERNAL),
]


@pytest.mark.parametrize("kind", ["ext4", "xfs", ""])
def test_once_the_broker_has_its_header_it_is_never_taken_for_a_plain_disk(kind: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        check_plain(HALF, Content(kind, untouched=False, unfinished=False))
    assert caught.value.problem is Problem.CONFLICT


@pytest.mark.parametrize(
    ("known", "now", "problem"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_each_refusal_has_its_problem(known: Record, now: Situation, problem: Problem) -> None:
    with pytest.raises(KeybrokerError) as caught:
        next_step(Grant(known, KEY), now)
    assert caught.value.problem is problem


@pytest.mark.parametrize(
    "known",
    [at("claimed"), at("deposited"), at("ready"), at("claimed", current=None)],
    ids=lambda known: known.stage,
)
def test_without_a_key_nothing_is_made_or_opened(known: Record) -> None:
    now = here("blank" if known.stage == "claimed" else "luks2")
    with pytest.raises(KeybrokerError) as caught:
        next_step(Grant(known, KEY if known.current is None else {}), now)
    assert caught.value.problem is Problem.LOCKED_OUT


def test_a_header_from_before_the_disk_had_all_of_the_data_is_not_opened() -> None:
    known, now = at("ready"), here("luks2")
    assert now.seen is not None
    assert now.seen.header is not None
    sequence = now.seen.header.sequence
    whole = replace(known, complete_from=sequence)
    assert isinstance(next_step(Grant(whole, KEY), now), Open)
    half = replace(known, complete_from=sequence + 1)
    with pytest.raises(KeybrokerError, match="middle of the move") as caught:
        next_step(Grant(half, KEY), now)
    assert caught.value.problem is Problem.HEADER_REFUSED


def test_a_requirement_that_the_broker_does_not_know_of_is_refused() -> None:
    header = SeenHeader(PIN, 3, ("online-reencrypt-v2",))
    seen = Observation(record().volume, "luks2", HERE, header)
    with pytest.raises(KeybrokerError, match="online-reencrypt-v2"):
        next_step(Grant(at("ready"), KEY), Situation(Mapping(), seen, seen))


def test_a_record_without_a_pin_at_ready_is_corrupt() -> None:
    with pytest.raises(KeybrokerError) as caught:
        next_step(Grant(replace(at("ready"), pin=None), KEY), here("luks2"))
    assert caught.value.problem is Problem.CORRUPT


def test_a_plain_disk_takes_no_step_that_writes_and_none_that_needs_a_key(every: list[Case]) -> None:
    plain = [grant.record.stage == "plain" and not grant.record.is_swap for grant, _, _ in every]
    taken = {type(step) for (_, _, step), here in zip(every, plain, strict=True) if here}
    assert taken <= {Ask, Link, Mount, type(None), KeybrokerError}


def test_an_open_mounted_volume_needs_nothing() -> None:
    assert next_step(Grant(PLAIN), Situation(Mapping("open"), None, None, mounted=True)) is None
    assert next_step(Grant(at("ready")), Situation(Mapping("open"), None, None, mounted=True)) is None
    assert next_step(Grant(at("ready")), Situation(Mapping("open"), None, None, mounted=None)) is None


SWAP = replace(record("swap", filesystem="swap"), serial=HERE.serial)


@pytest.mark.parametrize(
    ("stage", "sight", "reach", "step"),
    [
        ("new", "blank", "closed", Claim),
        ("new", "swap-mark", "closed", Claim),
        ("claimed", "blank", "closed", Mark),
        ("claimed", "swap-mark", "closed", Ready),
        ("ready", "swap-mark", "closed", SwapOn),
        ("ready", "swap-mark", "crypt", SwapOn),
        ("ready", "swap-mark", "open", type(None)),
        ("claimed", "swap-mark", "open", Ready),
        ("new", "other", "closed", Problem.NOT_BLANK),
        ("claimed", "luks2", "closed", Problem.NOT_BLANK),
        ("ready", "blank", "closed", Problem.WRONG_DEVICE),
        ("ready", "other", "closed", Problem.WRONG_DEVICE),
        ("deposited", "swap-mark", "closed", Problem.CORRUPT),
    ],
)
def test_swap_goes_by_its_mark(stage: str, sight: str, reach: Reach, step: object) -> None:
    known = replace(SWAP, stage=stage, device=None if stage == "new" else HERE)  # type: ignore[arg-type]
    header = SeenHeader(PIN, 3) if sight == "luks2" else None
    seen = Observation(known.volume, sight, HERE, header)  # type: ignore[arg-type]
    decided = decide(Grant(known), Situation(Mapping(reach), seen, seen))
    assert (decided.problem if isinstance(decided, KeybrokerError) else type(decided)) is step


@pytest.mark.parametrize("there", ["cd", "ab"])
def test_a_header_in_between_leads_from_the_pinned_key_to_the_announced_one_alone(there: str) -> None:
    pin = Pin(record().luks_uuid, "sha256:" + "ab" * 32, 4 << 20, 512)
    begun = Order(1, "reencrypt", "begun", "sha256:" + "ef" * 32)
    midway = SeenHeader(
        replace(pin, digest="sha256:" + there * 32), 9, (REENCRYPTING,), False, ("sha256:" + "99" * 32,)
    )
    with pytest.raises(KeybrokerError, match="other digest"):
        check_pinned(replace(record(), stage="ready", pin=pin, order=begun), pin, midway)
