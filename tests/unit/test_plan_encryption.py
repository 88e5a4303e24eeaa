"""The planner of an encryption in place, row by row; tests/crash takes the whole way."""

from __future__ import annotations

import pytest

from agent.plan.encryption import ROOM_BYTES, is_wanted, next_step
from agent.plan.provision import REENCRYPTING
from agent.plan.settling import has_course, is_at_rest
from agent.plan.situation import Ground, Mapping
from agent.plan.steps import Announce, Ask, Deposit, Inscribe, Link, Open, Shelve, Unlink
from agent.plan.survey import Survey
from keybroker.wire.names import KeyVersion
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import Device, Grant, Observation, Record, Refusal, SeenHeader
from keybroker.wire.values import replace
from tests.crash.volumes import SIZE, key_of, record

ORDERED = replace(record(), stage="plain", order=Order(1, "encrypt", backed_up=True))
BEGUN = replace(ORDERED, order=Order(1, "encrypt", "begun", backed_up=True))
PIN = Pin(ORDERED.luks_uuid, "sha256:" + "1" * 64, 4 * MIB, 512)
HALF = replace(BEGUN, pin=PIN, sequence=4, order=Order(1, "encrypt", "begun", PIN.digest))
KEYS = {KeyVersion(1): key_of("data")}
HERE = Device(ORDERED.serial, SIZE)
FREE = Ground("ext4", SIZE, SIZE - ROOM_BYTES, is_shelved=False)
SHELVED = replace(FREE, is_shelved=True)


def survey(
    of: Record,
    ground: Ground | None = None,
    header: SeenHeader | None = None,
    *,
    reach: str = "closed",
    keys: bool = True,
    fresh: bool = True,
    **changes: object,
) -> Survey:
    seen = Observation(of.volume, "luks2" if header else "other", HERE, header)
    grant = Grant(of, KEYS if keys else {})
    made = Survey(grant, Mapping(reach), seen, seen if fresh else None, None, ground)  # type: ignore[arg-type]
    return replace(made, **changes)  # type: ignore[arg-type]


def midway(sequence: int = 4, *, degraded: bool = False, pin: Pin = PIN) -> SeenHeader:
    return SeenHeader(pin, sequence, (REENCRYPTING,), degraded)


OTHER = midway(pin=replace(PIN, digest="sha256:" + "0" * 64))
PARTITIONS = replace(FREE, kind="ext4 and a partition table (dos)")

ROWS = [
    ("open", survey(ORDERED, FREE, reach="open"), Unlink),
    ("begun, and a boot has linked it again", survey(BEGUN, SHELVED, reach="open"), Unlink),
    ("ordered", survey(ORDERED, FREE, keys=False, fresh=False), Announce),
    ("begun, no key", survey(BEGUN, FREE, keys=False, fresh=False), Ask),
    ("begun, an older key", survey(BEGUN, FREE, fresh=False), Ask),
    ("begun", survey(BEGUN, FREE), Shelve),
    ("shelved", survey(BEGUN, SHELVED), Deposit),
    ("deposited", survey(HALF, fresh=False), Inscribe),
    ("inscribed in part", survey(HALF, header=midway(degraded=True)), Inscribe),
    ("inscribed, not told", survey(HALF, header=midway(), fresh=False), Ask),
    ("inscribed", survey(HALF, header=midway()), Open),
    ("in the middle, one copy damaged", survey(HALF, header=midway(9, degraded=True)), Open),
    ("opened", survey(HALF, header=midway(), reach="crypt"), Link),
]


@pytest.mark.parametrize(("now", "step"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_each_row_has_its_step(now: Survey, step: type) -> None:
    found = next_step(now)
    assert type(found) is step
    assert found is not None
    assert found.reason


REFUSED = [
    ("a partition table", survey(ORDERED, PARTITIONS), "WRONG_DEVICE"),
    ("another filesystem", survey(BEGUN, replace(FREE, kind="xfs")), "WRONG_DEVICE"),
    ("no room", survey(ORDERED, replace(FREE, taken_bytes=SIZE - ROOM_BYTES + 512)), "CONFLICT"),
    ("no room any more", survey(BEGUN, replace(FREE, taken_bytes=SIZE)), "CONFLICT"),
    ("no room, and in use", survey(ORDERED, replace(FREE, taken_bytes=SIZE), reach="open"), "CONFLICT"),
    ("nobody knows what is free", survey(ORDERED, replace(FREE, taken_bytes=None)), "CONFLICT"),
    ("nobody looked", survey(ORDERED), "INTERNAL"),
    ("a header that nobody asked for", survey(BEGUN, FREE, midway()), "HEADER_REFUSED"),
    ("another header", survey(HALF, header=OTHER), "HEADER_REFUSED"),
    ("no key though asked", survey(BEGUN, FREE, keys=False), "LOCKED_OUT"),
    (
        "an obstacle",
        survey(ORDERED, FREE, mapping=Mapping(obstacle="its DM UUID is missing")),
        "WRONG_DEVICE",
    ),
    (
        "a refusal",
        survey(BEGUN, FREE, grant=Grant(BEGUN, {}, Refusal(Problem.HEADER_REFUSED, "its data is lost"))),
        "HEADER_REFUSED",
    ),
    (
        "another disk",
        survey(BEGUN, FREE, seen=Observation(BEGUN.volume, "other", Device("another", SIZE))),
        "WRONG_DEVICE",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("now", "problem"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_each_refusal_has_its_problem(now: Survey, problem: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        next_step(now)
    assert caught.value.problem is Problem[problem]


@pytest.mark.parametrize(
    "other",
    [
        replace(ORDERED, order=None),
        replace(ORDERED, order=Order(1, "migrate")),
        replace(ORDERED, role="former"),
        replace(HALF, stage="ready"),
    ],
)
def test_for_any_other_volume_it_has_no_step(other: Record) -> None:
    assert not is_wanted(other)
    assert next_step(survey(other, FREE)) is None


def test_once_it_is_open_the_rest_is_a_re_encryptions() -> None:
    assert next_step(survey(HALF, header=midway(), reach="open")) is None


def test_a_plain_disk_has_a_course_only_while_it_is_to_be_encrypted_in_place() -> None:
    assert has_course(ORDERED)
    assert not is_at_rest(ORDERED, None)
    assert not has_course(replace(ORDERED, order=None))
    assert not has_course(replace(ORDERED, order=Order(1, "migrate")))
    assert is_at_rest(replace(ORDERED, order=None), None)


def test_what_cannot_shrink_is_sent_to_a_new_disk() -> None:
    full = replace(ORDERED, filesystem="xfs")
    with pytest.raises(KeybrokerError) as caught:
        next_step(survey(full, Ground("xfs", SIZE, SIZE, is_shelved=False)))
    assert "cannot shrink" in (caught.value.hint or "")
    assert "--size" in (caught.value.hint or "")
