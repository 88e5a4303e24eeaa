"""The passphrase in our token, encrypted to the offline recovery key: when it is to be written. Pure.

| the broker's ciphertext | in our token | step |
|---|---|---|
| none | anything | – , and it stays |
| of a version that opens no keyslot yet | anything | – |
| of a version that opens one | that | – |
| of a version that opens one | none, or another | **Tag** if its versions are wrong too, else **Enclose** |

It stands before any Clear, so that what the token carries opens the volume at every instant: it goes from one
version's to the next while both open, and back before the keyslot of one that was given up is cleared.
"""

from __future__ import annotations

from agent.plan.keyslots import Keyslots
from agent.plan.steps import Enclose, Tag
from keybroker.wire.names import KeyVersion
from keybroker.wire.records import Record, SeenHeader


def next_step(record: Record, header: SeenHeader, keyslots: Keyslots) -> Enclose | Tag | None:
    """Name the step that writes the ciphertext; None where there is nothing to write."""
    if wanted(record, keyslots) is None or is_enclosed(record, header):
        return None
    if not keyslots.is_tagged():
        return Tag("our token does not say which keyslots have which of our keys")
    what = "another recovery ciphertext" if header.recovery else "no recovery ciphertext"
    return Enclose(f"our token carries {what}, and the broker has the current one")


def wanted(record: Record, keyslots: Keyslots) -> str | None:
    """Return the ciphertext that our token is to carry; None where what it carries is to stay."""
    recovery = record.recovery
    return recovery.ciphertext if recovery is not None and keyslots.opened_by(recovery.version) else None


def is_enclosed(record: Record, header: SeenHeader) -> bool:
    """Say whether our token carries the broker's ciphertext, or the broker has none."""
    return record.recovery is None or record.recovery.digest == header.recovery


def first(record: Record, version: KeyVersion) -> str | None:
    """Return the ciphertext for a new header, whose one keyslot ``version`` opens."""
    recovery = record.recovery
    return recovery.ciphertext if recovery is not None and recovery.version == version else None
