"""The journal's copy of the audit trail: one entry a record, with a field for each of its fields.

    journalctl -t keybroker-audit KEYBROKER_HOST=kbh-q3m5x7abcdef
    journalctl -t keybroker-audit -o json --output-fields=KEYBROKER_SEQUENCE,KEYBROKER_HASH

Whoever cuts or rewrites the database's trail would have to reach every machine that the journal is sent to.

Source: systemd.journal-fields(7); sd_journal_sendv(3).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import fields
from typing import Final, Protocol

from keybroker.audit import AuditEntry
from keybroker.checkpoint import Checkpoint

IDENTIFIER: Final = "keybroker-audit"

_SOCKET: Final = "/run/systemd/journal/socket"
_NAMES: Final = tuple((one.name, f"KEYBROKER_{one.name.upper()}") for one in fields(AuditEntry))
_INFO, _WARNING = 6, 4
"""Of syslog(3)."""


class Journal(Protocol):
    """Takes copies of records that are durable already."""

    def send(self, *told: str) -> None:
        """Take one entry, ``FIELD=value`` each; blocks while the journal is busy.

        Raises:
            OSError: it cannot be told.
        """
        ...


class SystemdJournal:
    """The journal of this machine."""

    def send(self, *told: str) -> None:
        """Hand an entry to journald."""
        from systemd import journal

        # libsystemd takes a journal that is not there for one that has been told (sd_journal_print(3))
        if not os.path.exists(_SOCKET):
            raise FileNotFoundError(errno.ENOENT, "there is no journal", _SOCKET)
        journal.sendv(*told)


def of_record(entry: AuditEntry) -> Iterator[str]:
    """Yield the fields of a record's entry; a field that a record does not have is left out."""
    about = " ".join(value for value in (entry.addon, entry.volume, entry.host) if value)
    yield f"MESSAGE={entry.verb} {entry.outcome}: {entry.actor} from {entry.address}{about and f': {about}'}"
    odd = entry.outcome in ("refused", "denied") or '"problem":' in entry.detail
    yield f"PRIORITY={_WARNING if odd else _INFO}"
    yield f"SYSLOG_IDENTIFIER={IDENTIFIER}"
    for name, field in _NAMES:
        value = getattr(entry, name)
        if value is not None:
            yield f"{field}={value}"


def of_checkpoint(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield the fields of a checkpoint's entry."""
    yield f"MESSAGE=checkpoint {checkpoint.number}: the trail ends at record {checkpoint.ends}"
    yield f"PRIORITY={_INFO}"
    yield f"SYSLOG_IDENTIFIER={IDENTIFIER}"
    yield f"KEYBROKER_CHECKPOINT={checkpoint.text}"
