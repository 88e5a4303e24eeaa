"""A receipt: an audit record as it was told to somebody, who sees by it that the trail lost it.

Each reply to a boot or a report has one, and each request of these has the last one that the machine was
given. A broker that does not have that record was set back: its database is an older backup, or its trail was
cut.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from keybroker.wire.fields import Fields
from keybroker.wire.values import dataclass

MAIN: Final = "main"
"""The writer of a trail that has only one, if nobody names it otherwise."""

WRITER: Final = re.compile("[a-z0-9-]{1,40}")
"""What a writer may be called."""

_HASH: Final = re.compile("[0-9a-f]{64}")


def name_of(writer: str, sequence: int) -> str:
    """Return what a record is called, for people: ``1200``, or ``b2/33`` of another writer than ``main``."""
    return str(sequence) if writer == MAIN else f"{writer}/{sequence}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """An audit record, by its sequence number, its hash (SHA-256, hex), and the writer whose chain it is in.

    ``main`` is not named on the wire, so that an older peer reads it. One that names none may be of any
    chain: an older agent leaves the writer out. No two chains have a record with the same hash.
    """

    sequence: int
    hash: str
    writer: Literal["main"] | str = MAIN  # which one says whether it is on the wire

    @property
    def name(self) -> str:
        """What the record is called (``name_of``)."""
        return name_of(self.writer, self.sequence)

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        own = {} if self.writer == MAIN else {"writer": self.writer}
        return {"sequence": self.sequence, "hash": self.hash, **own}

    @classmethod
    def read(cls, fields: Fields, *, calm: bool = False) -> Receipt:
        """Read the wire form (MALFORMED otherwise); with more in it only if ``calm``."""
        writer = fields.optional("writer", lambda key: fields.text(key, match=WRITER))
        receipt = cls(fields.number("sequence", least=1), fields.text("hash", match=_HASH), writer or MAIN)
        fields.end(calm=calm)
        return receipt


def taken(fields: Fields) -> Receipt | None:
    """Take the receipt that may be in a message."""
    return fields.optional("receipt", lambda key: Receipt.read(fields.object(key)))


def given(receipt: Receipt | None) -> dict[str, Any]:
    """Return a message's field for a receipt; none where there is none, so that an older peer reads it."""
    return {} if receipt is None else {"receipt": receipt.as_json()}
