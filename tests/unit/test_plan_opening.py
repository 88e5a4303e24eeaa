"""Which key is tried on which keyslot, and what an operator hears of an opening that is not the usual one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import cast

import pytest

from agent.luks.header import Area, Header, Kdf, Keyslot, Token
from agent.opening import Way, attempts, crypt_uuid, notes, stable_uuid
from keybroker.wire.names import KeyVersion, luks_label
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import SeenHeader
from tests.crash.volumes import key_of, record

PIN = Pin(record().luks_uuid, "sha256:" + "0" * 64, 4 * MIB, 512)


QUICK = Kdf("pbkdf2", "sha256", 1000)
SLOW = Kdf("argon2id", "", 4, 1 << 20, 4)


@dataclass(frozen=True)
class Slots:
    """As much of a header as the order of attempts looks at."""

    keyslots: dict[int, Keyslot]
    token: Token | None

    @property
    def metadata(self) -> SimpleNamespace:
        """Return what says that all of them are bound to the data."""
        return SimpleNamespace(data_digest=SimpleNamespace(keyslots=tuple(self.keyslots)))


def keyslot(number: int, kdf: Kdf) -> Keyslot:
    return Keyslot(number, "luks2", 64, Area("raw", 0, 4096), kdf)


def tried(
    *slots: int,
    token: Token | None = None,
    versions: tuple[int, ...] = (7, 8),
    current: int = 8,
    slow: tuple[int, ...] = (),
) -> list[tuple[int, int]]:
    held = {number: keyslot(number, SLOW if number in slow else QUICK) for number in slots}
    header = cast(Header, Slots(held, token))
    known = replace(record(), current=KeyVersion(current))
    keys = {KeyVersion(version): key_of("data", version) for version in versions}
    return [(int(version), keyslot) for version, keyslot in attempts(known, header, keys)]


def token(version: int, *slots: int, volume: str = record().volume) -> Token:
    return Token(0, "keybroker", slots, volume, dict.fromkeys(slots, version))


def test_the_tokens_keyslot_is_tried_first_with_the_version_it_names() -> None:
    assert tried(0, 1, token=token(7, 1))[0] == (7, 1)
    assert tried(0, 1, token=token(8, 0))[0] == (8, 0)


def test_without_a_token_the_current_version_is_tried_everywhere_first() -> None:
    assert tried(0, 1) == [(8, 0), (8, 1), (7, 0), (7, 1)]
    assert tried(0, 1, current=7) == [(7, 0), (7, 1), (8, 0), (8, 1)]


@pytest.mark.parametrize("hint", [token(7, 5), token(9, 0), token(7, 1, volume=record("logs").volume)])
def test_a_token_that_is_wrong_changes_nothing(hint: Token) -> None:
    assert tried(0, 1, token=hint) == tried(0, 1)


def test_while_two_keys_are_in_the_header_the_token_names_both_and_the_current_one_goes_first() -> None:
    both = Token(0, "keybroker", (0, 1), record().volume, {0: 7, 1: 8})
    assert tried(0, 1, token=both)[:2] == [(8, 1), (7, 0)]


def test_each_pair_is_tried_once() -> None:
    assert sorted(tried(0, 1, 2, token=token(7, 2))) == [(v, k) for v in (7, 8) for k in (0, 1, 2)]


def test_the_usual_opening_has_nothing_to_say() -> None:
    known = replace(record(), sequence=3)
    assert notes(known, Way(KeyVersion(1), 0, 3), SeenHeader(PIN, 3)) == ()


def test_an_old_or_damaged_header_and_an_old_key_are_said() -> None:
    known = replace(record(), sequence=9, current=KeyVersion(8))
    said = " ".join(notes(known, Way(KeyVersion(7), 0, 3), SeenHeader(PIN, 3, (), degraded=True)))
    assert "damaged" in said
    assert "(3 < 9)" in said
    assert "key version 7" in said


def test_the_devices_of_a_volume_are_named_by_what_cannot_be_mixed_up() -> None:
    known = record()
    assert stable_uuid(known) == f"KEYBROKER-{known.name}"
    assert (
        crypt_uuid(known.luks_uuid, "kb-data-1")
        == f"CRYPT-LUKS2-{known.luks_uuid.replace('-', '')}-kb-data-1"
    )
    assert luks_label(known.volume) == "kb-" + known.volume[4:]


def test_a_keyslot_that_costs_a_lot_is_tried_only_where_our_token_names_it() -> None:
    assert tried(0, 1, slow=(0,)) == [(8, 1), (7, 1)]
    assert tried(0, 1, slow=(0,), token=token(8, 0))[0] == (8, 0)
    assert tried(0, slow=(0,)) == []


@pytest.mark.parametrize(("iterations", "quick"), [(1000, True), (100_000, True), (100_001, False)])
def test_many_iterations_cost_a_lot_too(iterations: int, quick: bool) -> None:
    assert keyslot(0, Kdf("pbkdf2", "sha256", iterations)).is_quick is quick
