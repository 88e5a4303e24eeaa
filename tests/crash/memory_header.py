"""A LUKS2 header as a value: keyslots that hold a passphrase or were wiped, our token, a sequence id."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from agent.plan.keyslots import Keyslot, Keyslots
from agent.plan.provision import REENCRYPTING
from keybroker.wire.names import KeyVersion
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.records import Record, SeenHeader
from keybroker.wire.recovery import digest
from keybroker.wire.secret import Secret

WIPED = ""


@dataclass(frozen=True, slots=True)
class Luks:
    """A header.

    Attributes:
        volume_key: 64 hex digits; all that a digest is made of here.
        keyslots: the passphrase of each; ``WIPED`` where it is listed and its area is not what it was.
        token: what our token says; it may name keyslots that are gone.
        unbound: the keyslots whose volume key is not that of the data: a re-encryption that was cut early
            leaves such; they open, and what they open is noise.
        next_key: the volume key that a re-encryption leads to; empty where there is none.
        moved: how much of the data is under ``next_key``: None before the re-encryption is in the segments.
        recovery: the recovery ciphertext in our token.
        in_place: the data was in the clear before; then ``next_key`` is empty.
    """

    uuid: str
    volume_key: str
    sequence: int
    keyslots: dict[int, str] = field(default_factory=dict)
    token: dict[int, int] | None = None
    unbound: frozenset[int] = frozenset()
    next_key: str = ""
    moved: int | None = None
    recovery: str | None = None
    in_place: bool = False

    @classmethod
    def read(cls, held: bytes) -> Luks:
        said = json.loads(held)
        token = said["token"] and {int(number): version for number, version in said["token"].items()}
        keyslots = {int(number): text for number, text in said["keyslots"].items()}
        unbound = frozenset(said["unbound"])
        return cls(
            said["uuid"], said["volume_key"], said["sequence"], keyslots, token, unbound, said["next_key"],
            said["moved"], said["recovery"], said["in_place"],
        )  # fmt: skip

    def written(self) -> Secret:
        """Return the bytes that stand for it, on a disk and in a copy."""
        said = {
            "uuid": self.uuid, "volume_key": self.volume_key, "sequence": self.sequence,
            "keyslots": self.keyslots, "token": self.token, "unbound": sorted(self.unbound),
            "next_key": self.next_key, "moved": self.moved, "recovery": self.recovery,
            "in_place": self.in_place,
        }  # fmt: skip
        return Secret(json.dumps(said, sort_keys=True).encode())

    def changed(self, **changes: object) -> Luks:
        """Return the header after a change by cryptsetup."""
        return replace(self, sequence=self.sequence + 1, **changes)  # type: ignore[arg-type]

    def without(self, keyslot: int) -> Luks:
        """Return it after a kill: cryptsetup takes the keyslot out of every token, too."""
        rest = {number: text for number, text in self.keyslots.items() if number != keyslot}
        token = self.token and {number: one for number, one in self.token.items() if number != keyslot}
        return self.changed(keyslots=rest, token=token, unbound=self.unbound - {keyslot})

    def wiped(self, keyslot: int) -> Luks:
        """Return it after a kill that was cut: the keyslot is listed, and its area is not what it was."""
        return replace(self, keyslots={**self.keyslots, keyslot: WIPED})

    def torn(self, volume_key: str, by: Secret) -> Luks:
        """Return it when the beginning of a re-encryption is cut: a keyslot of a key without a segment."""
        free = next(number for number in range(32) if number not in self.keyslots)
        return self.changed(
            next_key=volume_key,
            keyslots={**self.keyslots, free: by.reveal().decode()},
            unbound=self.unbound | {free},
        )

    def begun(self, volume_key: str, by: Secret) -> Luks:
        """Return it in the middle of a re-encryption, with nothing done yet."""
        return self.torn(volume_key, by).changed(moved=0)

    def reencrypted(self) -> Luks:
        """Return it under the new volume key; our token does not know the version of its keyslot."""
        if self.in_place:
            return self.changed(moved=None, in_place=False)
        kept = {number: text for number, text in self.keyslots.items() if number in self.unbound}
        return self.changed(
            volume_key=self.next_key, keyslots=kept, unbound=frozenset(), next_key="", moved=None, token={}
        )

    @property
    def pin(self) -> Pin:
        """Its pin: by the key that the data begins under."""
        return Pin(
            self.uuid,
            "sha256:" + (self.next_key if self.moved and self.next_key else self.volume_key),
            4 * MIB,
            512,
        )

    def seen(self, *, degraded: bool) -> SeenHeader:
        enclosed = self.recovery and digest(self.recovery)
        if self.moved is None:
            return SeenHeader(self.pin, self.sequence, (), degraded, (), enclosed)
        if self.in_place:
            return SeenHeader(self.pin, self.sequence, (REENCRYPTING,), degraded)
        other = "sha256:" + (self.volume_key if self.moved else self.next_key)
        return SeenHeader(self.pin, self.sequence, (REENCRYPTING,), degraded, (other,), enclosed)

    def opened_by(self, key: Secret) -> int | None:
        """Return a keyslot that keeps the data and that a passphrase opens."""
        text = key.reveal().decode()
        bound = {number: held for number, held in self.keyslots.items() if number not in self.unbound}
        return next((number for number, held in bound.items() if held == text), None)

    def probed(self, record: Record, keys: dict[KeyVersion, Secret]) -> Keyslots:
        """Return which of the keys opens which keyslot."""
        versions = {key.reveal().decode(): version for version, key in keys.items()}
        found = tuple(
            Keyslot(
                number=number,
                bound=number not in self.unbound,
                tagged=KeyVersion((self.token or {}).get(number, 0)) or None,
                opened_by=versions.get(text),
            )
            for number, text in sorted(self.keyslots.items())
        )
        return Keyslots(found, frozenset(keys), record.profile.most_keyslots)
