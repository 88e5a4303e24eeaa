"""The end of keys: a volume is erased and forgotten, and what is due is destroyed.

Destroyed means: overwritten with zeros in the database, the log beside it cut to nothing, and a signed
statement of it kept. What that does not reach is in the statement (``statements.remains``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from keybroker.audit import AuditEvent, rfc3339
from keybroker.model import Keyring, Volume
from keybroker.service import setback
from keybroker.service.broker import Broker
from keybroker.service.statements import remains, state
from keybroker.store import Writing
from keybroker.store.rows import VolumeRow
from keybroker.wire.names import KeyVersion, VolumeId

_ALL = 1 << 62


def forget(
    broker: Broker, writing: Writing, now: datetime, volume: Volume, *, method: str, wiped: int | None
) -> int:
    """Forget every header copy of a volume that is erased, and state it; return the statement's number.

    Args:
        method: how its disk was wiped, in words.
        wiped: bytes from its start; None where no disk was touched.
    """
    copies = len(writing.headers(volume.id))
    writing.drop_headers(volume.id, below=_ALL)
    return state(
        broker,
        writing,
        volume,
        now,
        what="erased",
        method=method,
        wiped_bytes=wiped,
        header_copies_destroyed=copies,
        remains=remains(volume, wiped),
    )


def sweep(broker: Broker) -> tuple[tuple[VolumeId, KeyVersion], ...]:
    """Destroy every key whose time has come, and the header copies that it opens.

    Returns:
        What was destroyed. Where nothing was due, nothing is written.

    Raises:
        KeybrokerError: UNAVAILABLE, CORRUPT; what was destroyed until then stays so.
    """
    now = broker.clock()
    due = broker.store.read(
        lambda reading: [row.volume.id for row in reading.volumes() if _due(row.volume, now)]
    )
    destroyed = tuple(
        (volume, version)
        for volume in due
        for version in broker.store.write(
            lambda writing, volume=volume: _destroy(broker, writing, volume, now)  # type: ignore[misc]
        )
    )
    if destroyed:
        broker.store.scrub()
    return destroyed


def _due(volume: Volume, now: datetime) -> tuple[KeyVersion, ...]:
    return () if volume.keyring is None else volume.keyring.due(now)


def _destroy(broker: Broker, writing: Writing, volume: VolumeId, now: datetime) -> tuple[KeyVersion, ...]:
    row = writing.volume(volume)
    keys = None if row is None else row.volume.keyring
    # Looked up once more: in the meantime an old snapshot may have turned up, and called it off. And of a
    # database that was set back nobody knows yet whether that key opens the disk.
    versions = () if keys is None else keys.due(now)
    if row is None or keys is None or not versions or setback.held(writing, [row]):
        return ()
    if _is_pending(writing, row.volume):
        return ()
    left: Keyring = keys
    for version in versions:
        left = left.destroy(version, now)
    changed = _with(row.volume, left)
    writing.change_volume(VolumeRow(changed, row.created, row.wrapped, row.minted), changed.revision, {}, now)
    copies = _drop_copies(writing, changed, max(versions))
    number = state(
        broker,
        writing,
        changed,
        now,
        what="keys destroyed",
        method="overwritten in the broker's database; its write-ahead log is cut",
        destroyed_now=list(versions),
        header_copies_destroyed=copies,
        remains=remains(changed),
    )
    writing.append(
        AuditEvent(
            at=now,
            actor="broker",
            fingerprint="",
            address="local",
            verb="destroy",
            outcome="done",
            addon=changed.addon,
            volume=changed.id,
            detail={"versions": list(versions), "copies": copies, "statement": number, "due": rfc3339(now)},
        )
    )
    return versions


def _is_pending(writing: Writing, volume: Volume) -> bool:
    """Say whether a volume, or its add-on, is to be destroyed: no host can say that it needs a key."""
    owner = writing.addon(volume.addon)
    return volume.deletion is not None or (owner is not None and owner.deletion is not None)


def _with(volume: Volume, keys: Keyring) -> Volume:
    # Not another revision: no record says anything else, and no host is made to look again.
    return replace(volume, keyring=keys)


def _drop_copies(writing: Writing, volume: Volume, version: KeyVersion) -> int:
    """Forget the header copies that a destroyed key may open; return how many those were.

    The newest stays as long as the volume has a current key: it is what a destroyed header is mended from.
    """
    copies = writing.headers(volume.id)
    dead = [copy for copy in copies if copy.key_version <= version]
    keys = volume.keyring
    if keys is not None and keys.current is not None:
        dead = [copy for copy in dead if copy is not copies[-1]]
    if dead:
        # they are in order: none that lives is older than one that dies
        writing.drop_headers(volume.id, below=dead[-1].number + 1)
    return len(dead)
