"""Which volumes an agent takes on a course at all, and which are at rest: no key leaves for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from agent.plan.settling import has_course, is_at_rest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.orders import Order
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import Device, SeenHeader
from keybroker.wire.recovery import Recovery
from keybroker.wire.values import replace
from tests.crash.volumes import record

NEW = record()
PIN = Pin(NEW.luks_uuid, "sha256:" + "1" * 64, 16 * MIB, 512)
READY = replace(
    NEW,
    stage="ready",
    device=Device(NEW.serial, NEW.size_bytes),
    pin=PIN,
    sequence=7,
    current=KeyVersion(1),
    wanted=KeyVersion(1),
)
HEADER = SeenHeader(PIN, 7)


def test_a_holder_is_taken_on_a_course() -> None:
    assert has_course(READY)


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "successor"},
        {"role": "former"},
        {"order": Order(1, "erase")},
        {"stage": "plain"},
        {"stage": "plain", "order": Order(1, "erase")},
    ],
)
def test_the_keys_of_any_other_volume_are_left_alone(changes: dict[str, Any]) -> None:
    assert not has_course(replace(READY, **changes))


def test_a_volume_of_which_nothing_is_wanted_is_at_rest() -> None:
    assert is_at_rest(READY, HEADER)


@pytest.mark.parametrize(
    "changes",
    [
        {"wanted": KeyVersion(2)},
        {"staged": KeyVersion(2)},
        {"retiring": KeyVersion(3)},
        {"order": Order(1, "reencrypt")},
        {"partner": VolumeId("kbv-q3m5x7abcdef")},
        {"role": "former"},
        {"recovery": Recovery(KeyVersion(1), "age-encryption.org/v1")},
    ],
)
def test_a_volume_of_which_something_is_wanted_is_not(changes: dict[str, Any]) -> None:
    assert not is_at_rest(replace(READY, **changes), HEADER)


@pytest.mark.parametrize(
    "header", [None, replace(HEADER, sequence=8), replace(HEADER, sequence=6), replace(HEADER, degraded=True)]
)
def test_nor_is_one_whose_header_the_broker_has_no_copy_of(header: SeenHeader | None) -> None:
    assert not is_at_rest(READY, header)
