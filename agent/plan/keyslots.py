"""What is known of a header's keyslots: which is listed, which our token names, which a known key opens.

*Listed* is not *opens*: a kill that was cut leaves a keyslot whose area is wiped. *Opens* is not *counts*: a
re-encryption that was cut early leaves keyslots that open and that no segment belongs to. Only a keyslot that
is bound to the data's volume key, and that a key of the broker's opens, keeps the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from keybroker.wire.names import KeyVersion
from keybroker.wire.values import dataclass

GIVEN: Final = KeyVersion(0)
"""Stands for a passphrase that is not the broker's: the one by which a volume is adopted. Never tagged."""


@dataclass(frozen=True, slots=True)
class Keyslot:
    """One keyslot of the header on the disk.

    Attributes:
        bound: it belongs to the digest of the data segment's volume key.
        tagged: the key version that our token says it was filled with; None where the token does not name it.
        opened_by: the key version that was seen to open it; None where none of those that were tried does.
    """

    number: int
    bound: bool
    tagged: KeyVersion | None
    opened_by: KeyVersion | None

    @property
    def is_foreign(self) -> bool:
        """Say whether it is an operator's or another tool's: our token does not name it, no key opens it."""
        return self.tagged is None and self.opened_by is None


@dataclass(frozen=True, slots=True)
class Keyslots:
    """All keyslots of a header.

    Attributes:
        all: by number, the lowest first.
        tried: the key versions that were tried on each.
        most: how many the volume's profile allows.
    """

    all: tuple[Keyslot, ...]
    tried: frozenset[KeyVersion]
    most: int

    def opened_by(self, version: KeyVersion | None) -> tuple[Keyslot, ...]:
        """Return the keyslots that keep the data and that ``version`` opens."""
        return tuple(
            each for each in self.all if each.bound and version is not None and each.opened_by == version
        )

    @property
    def foreign(self) -> tuple[Keyslot, ...]:
        """The keyslots of others."""
        return tuple(each for each in self.all if each.is_foreign)

    @property
    def debris(self) -> tuple[Keyslot, ...]:
        """What cut kills left: ours by token, and the key that it was filled with does not open it.

        A keyslot of a version that was not tried is none: it may be what opens the volume tomorrow.
        """
        return tuple(each for each in self.all if each.opened_by is None and each.tagged in self.tried)

    def token(self) -> dict[int, KeyVersion]:
        """Return what our token should say: every keyslot that a key of ours opens, with its version.

        Debris stays named, or nobody would know any more that it is ours to clear.
        """
        named = {each.number: each.opened_by or each.tagged for each in self.all if not each.is_foreign}
        return {number: version for number, version in named.items() if version is not None}

    def is_tagged(self) -> bool:
        """Say whether our token says just that."""
        return self.token() == {each.number: each.tagged for each in self.all if each.tagged is not None}


def numbers(keyslots: Iterable[Keyslot]) -> str:
    """Return keyslots in words: ``1, 3``."""
    return ", ".join(str(each.number) for each in keyslots)
