"""A receipt: an audit record as it was told to somebody, who sees by it that the trail lost it.

Each reply to a boot or a report has one, and each request of these has the last one that the machine was
given. A broker that does not have that record was set back: its database is an older backup, or its trail was
cut.
"""

from __future__ import annotations

import re
from typing import Any, Final

from keybroker.wire.fields import Fields
from keybroker.wire.values import dataclass

_HASH: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Receipt:
    """An audit record, by its sequence number and its hash (SHA-256, hex)."""

    sequence: int
    hash: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"sequence": self.sequence, "hash": self.hash}

    @classmethod
    def read(cls, fields: Fields, *, calm: bool = False) -> Receipt:
        """Read the wire form (MALFORMED otherwise); with more in it only if ``calm``."""
        receipt = cls(fields.number("sequence", least=1), fields.text("hash", match=_HASH))
        fields.end(calm=calm)
        return receipt


def taken(fields: Fields) -> Receipt | None:
    """Take the receipt that may be in a message."""
    return fields.optional("receipt", lambda key: Receipt.read(fields.object(key)))


def given(receipt: Receipt | None) -> dict[str, Any]:
    """Return a message's field for a receipt; none where there is none, so that an older peer reads it."""
    return {} if receipt is None else {"receipt": receipt.as_json()}
