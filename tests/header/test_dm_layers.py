"""The tables that cryptsetup 2.6.1 was seen to make while it re-encrypts, and what they may not be."""

from __future__ import annotations

import pytest

from agent.luks.layers import Helper, check_layers, helper_uuid
from agent.luks.table import CryptTable
from keybroker.wire.problems import KeybrokerError, Problem

UUID = "6ff747ce-583e-44f2-a418-8c7081dc2f73"
KEY = f":64:logon:cryptsetup:{UUID}-d"
WHOLE = CryptTable(811008, "aes-xts-plain64", 64, KEY, "7:0", 8192, 4096)


def target(start: int, length: int, key: int, device: str, offset: int, cipher: str = WHOLE.cipher) -> str:
    return f"{start} {length} crypt {cipher} {KEY}{key} {start} {device} {offset} 1 sector_size:4096"


REST = "\n".join([target(0, 7424, 1, "7:0", 8192), target(7424, 803584, 0, "7:0", 15616)])
TOP = "0 811008 linear 254:3 0"
OVERLAY = "\n".join(
    [
        target(0, 7424, 1, "7:0", 8192),
        target(7424, 128, 1, "254:2", 7424),
        target(7552, 803456, 0, "7:0", 15744),
    ]
)
HOTZONE = "0 811008 linear 7:0 8192"
RUNNING = {"overlay": Helper("254:3", OVERLAY), "hotzone-forward": Helper("254:2", HOTZONE)}


def test_every_state_that_was_seen_is_taken() -> None:
    check_layers(target(0, 811008, 0, "7:0", 8192), WHOLE, {})  # not begun, or done
    check_layers(REST, WHOLE, {})
    check_layers(TOP, WHOLE, RUNNING)
    check_layers(target(0, 811008, 0, "7:0", 8192), WHOLE, RUNNING)  # helpers made, not yet stood upon


def running(**changes: str) -> dict[str, Helper]:
    return {
        "overlay": Helper("254:3", changes.get("overlay", OVERLAY)),
        "hotzone-forward": Helper("254:2", changes.get("hotzone", HOTZONE)),
    }


NULL_REST = OVERLAY.replace("803456 crypt aes-xts-plain64", "803456 crypt cipher_null-ecb")

WRONG = {
    "over nothing that is ours": ("0 811008 linear 254:9 0", running()),
    "no overlay": (TOP, {}),
    "shorter": ("0 811000 linear 254:3 0", running()),
    "another disk below the hot stretch": (TOP, running(hotzone="0 811008 linear 7:9 8192")),
    "another place below the hot stretch": (TOP, running(hotzone="0 811008 linear 7:0 0")),
    "no encryption of the rest": (TOP, running(overlay=NULL_REST)),
    "a plain rest": ("\n".join([target(0, 7424, 1, "7:0", 8192), "7424 803584 linear 7:0 15616"]), {}),
    "a gap": ("\n".join([target(0, 7424, 1, "7:0", 8192), target(7552, 803456, 0, "7:0", 15744)]), {}),
    "an end too early": (target(0, 7424, 1, "7:0", 8192), {}),
    "another place": (REST.replace("7:0 15616", "7:0 15624"), {}),
    "another disk": (REST.replace("7:0 15616", "7:1 15616"), {}),
    "other IVs": (REST.replace(" 7424 7:0 15616", " 0 7:0 15616"), {}),
    "another volume's key": (REST.replace(f"{KEY}0", ":64:logon:cryptsetup:another-d0"), {}),
    "nothing": ("", {}),
    "a table of zeros": ("0 811008 zero", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_anything_else_is_refused(case: str) -> None:
    text, helpers = WRONG[case]
    with pytest.raises(KeybrokerError) as refused:
        check_layers(text, WHOLE, helpers)
    assert refused.value.problem in (Problem.WRONG_DEVICE, Problem.HEADER_REFUSED)
    assert "another-d0" not in refused.value.detail


def test_a_helper_is_known_by_its_uuid() -> None:
    assert helper_uuid(UUID, "kb-data-00", "overlay") == (
        "CRYPT-SUBDEV-6ff747ce583e44f2a4188c7081dc2f73-kb-data-00-overlay"
    )
